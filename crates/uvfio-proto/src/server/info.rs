//! What the device is: DEVICE_GET_INFO, DEVICE_GET_IRQ_INFO.

use uvfio_core::{IrqIndex, region_index};

use super::Request;
use crate::error::Refusal;
use crate::message::{DeviceFlags, DeviceInfo, IrqFlags, IrqInfo};

/// Interrupt indices of a PCI function: INTx to REQ.
const IRQ_INDICES: u32 = IrqIndex::Req as u32 + 1;

impl Request<'_> {
    #[inline(never)]
    pub(super) fn get_info(&mut self) -> Result<(), Refusal> {
        let (asked, _) = self.read::<DeviceInfo>("it must have 16: argsz, flags, num_regions, num_irqs")?;
        self.check_argsz(asked.argsz, size_of::<DeviceInfo>(), "the reply has 16 bytes")?;
        let mut flags = DeviceFlags::PCI;
        flags.set(DeviceFlags::RESET, self.device.resettable());
        self.reply.put(&DeviceInfo {
            argsz: size_of::<DeviceInfo>() as u32,
            flags: flags.bits(),
            regions: region_index::COUNT,
            irqs: IRQ_INDICES,
        });
        Ok(())
    }

    #[inline(never)]
    pub(super) fn get_irq_info(&mut self) -> Result<(), Refusal> {
        let (asked, _) = self.read::<IrqInfo>("it must have 16: argsz, flags, index, count")?;
        self.check_argsz(asked.argsz, size_of::<IrqInfo>(), "the reply has 16 bytes")?;
        let info = self.device.irq_info(asked.index)?;
        let mut flags = IrqFlags::empty();
        flags.set(IrqFlags::EVENTFD, info.eventfd);
        flags.set(IrqFlags::MASKABLE, info.maskable);
        flags.set(IrqFlags::AUTOMASKED, info.automasked);
        flags.set(IrqFlags::NORESIZE, info.noresize);
        self.reply.put(&IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            flags: flags.bits(),
            index: asked.index,
            count: info.count,
        });
        Ok(())
    }
}
