//! DEVICE_SET_IRQS.

use uvfio_core::{IrqAction, IrqData, SetIrqs};

use super::Request;
use crate::error::Refusal;
use crate::message::{self, SetIrqsFlags};

const DATA: SetIrqsFlags = SetIrqsFlags::NONE
    .union(SetIrqsFlags::BOOL)
    .union(SetIrqsFlags::EVENTFD);

impl Request<'_> {
    /// Checks what the message says of itself; indices and vectors are the device's to judge.
    #[inline(never)]
    pub(super) fn set_irqs(&mut self) -> Result<(), Refusal> {
        let (asked, bytes) = self.read::<message::SetIrqs>("it must have at least 20: a vfio_irq_set")?;
        // Clients differ in whether it counts the data; these are found by the message's own length.
        self.check_argsz(
            asked.argsz,
            size_of::<message::SetIrqs>(),
            "a vfio_irq_set has 20 bytes",
        )?;
        let Some(flags) = SetIrqsFlags::from_bits(asked.flags) else {
            return Err(self.field("flags", asked.flags, "only bits 0 to 5 have a meaning"));
        };
        let action = if flags.difference(DATA) == SetIrqsFlags::MASK {
            IrqAction::Mask
        } else if flags.difference(DATA) == SetIrqsFlags::UNMASK {
            IrqAction::Unmask
        } else if flags.difference(DATA) == SetIrqsFlags::TRIGGER {
            IrqAction::Trigger
        } else {
            return Err(self.field("flags", asked.flags, "one of MASK, UNMASK, TRIGGER must be set"));
        };
        let kind = flags.intersection(DATA);
        let data = if kind == SetIrqsFlags::NONE {
            IrqData::None
        } else if kind == SetIrqsFlags::BOOL {
            match bytes.get(..asked.count as usize) {
                Some(bytes) => IrqData::Bool(bytes.to_vec()),
                None => return Err(self.field("count", asked.count, "a byte must follow for each vector")),
            }
        } else if kind == SetIrqsFlags::EVENTFD {
            if self.fds.len() as u64 > u64::from(asked.count) {
                return Err(Refusal::Descriptors {
                    command: self.command,
                    have: self.fds.len(),
                    most: asked.count.into(),
                });
            }
            IrqData::EventFd(self.fds.drain(..).map(Some).collect())
        } else {
            return Err(self.field(
                "flags",
                asked.flags,
                "one of DATA_NONE, DATA_BOOL, DATA_EVENTFD must be set",
            ));
        };
        if asked.count == 0 && !matches!((&data, action), (IrqData::None, IrqAction::Trigger)) {
            return Err(self.field(
                "count",
                asked.count,
                "0 goes with DATA_NONE and TRIGGER only, and disables",
            ));
        }
        self.device.set_irqs(SetIrqs {
            index: asked.index,
            start: asked.start,
            count: asked.count,
            action,
            data,
        })?;
        Ok(())
    }
}
