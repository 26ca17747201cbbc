//! The function's own registers, for the views that show them.
//!
//! They are read as the hardware holds them: through `config` in `/sys` as far as its descriptor reaches, and beyond
//! that through the kernel's VFIO, which answers for some from copies. Under `filtered` they are written through VFIO,
//! so that whoever has this process can do no more than the kernel lets any owner do; under `raw` through `/sys`, where
//! nothing lies between a write and the hardware.

use uvfio_pci::tables::header;
use uvfio_pci::{ByteEnables, View};

use super::Hardware;
use super::registers::{Config, Registers, Switches};
use crate::vfio::{Result, VfioError};

impl Registers {
    /// Configuration space as the hardware has it, but for vendor and device ID: of a virtual function it reads ones.
    pub(super) fn page(&self, bytes: u64) -> Result<Vec<u8>> {
        let mut page = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.config.read(0, &mut page)?;
        if let Some(hardware) = &self.hardware {
            let first = usize::from(header::VENDOR.bytes + header::DEVICE.bytes);
            let end = page
                .len()
                .min(usize::try_from(hardware.bytes).unwrap_or(usize::MAX));
            if let Some(real) = page.get_mut(first..end) {
                hardware.config.read(first as u64, real)?;
            }
        }
        Ok(page)
    }

    /// What a read of these bytes asks.
    pub(super) fn shown(&self, offset: u64, bytes: u8) -> &dyn Config {
        match &self.hardware {
            Some(hardware) if offset + u64::from(bytes) <= hardware.bytes => hardware.config.as_ref(),
            _ => self.config.as_ref(),
        }
    }

    /// What a user's write goes through.
    fn through(&self, view: View) -> &dyn Config {
        match &self.hardware {
            Some(hardware) if view == View::Raw && hardware.writable => hardware.config.as_ref(),
            _ => self.config.as_ref(),
        }
    }

    /// Switches bus mastering and, where it is not the user's own to switch, INTx, and nothing else of COMMAND: memory
    /// is the user's own here. By the way that the user's writes go: the kernel's VFIO puts BARs back that a user of
    /// `raw` has moved.
    pub(super) fn switch(&self, view: View, to: Switches) -> Result<()> {
        let (master, no_line) = (header::BUS_MASTER.mask(), header::INTX_DISABLE.mask());
        let mine = if view == View::Raw {
            master
        } else {
            master | no_line
        };
        let set = if to.bus_master { master } else { 0 } | if to.line { 0 } else { no_line };
        self.change_command(self.through(view), mine, set)
    }

    /// Switches memory and I/O off: the user has not switched them on yet.
    pub(super) fn stop_decoding(&self, view: View) -> Result<()> {
        self.change_command(self.through(view), header::MEMORY.mask() | header::IO.mask(), 0)
    }
}

impl Hardware {
    pub(super) fn read_register(&self, register: u16, enables: ByteEnables) -> u32 {
        let mut value = [0xff; 4];
        for (lane, bytes) in enables.natural() {
            let offset = u64::from(register) * 4 + u64::from(lane);
            let Some(part) = value.get_mut(usize::from(lane)..usize::from(lane + bytes)) else {
                continue;
            };
            if let Err(error) = self.registers.shown(offset, bytes).read(offset, part) {
                self.note(&error);
                part.fill(0xff);
            }
        }
        u32::from_le_bytes(value)
    }

    pub(super) fn write_register(&self, register: u16, enables: ByteEnables, value: u32, keep: u32) {
        // Held, so that nobody switches bus mastering or messages between our reading and our writing.
        let wanted = self.wanted();
        if wanted.is_quiet() {
            return;
        }
        if let Err(error) = self.try_to_write(register, enables, value, keep) {
            self.note(&error);
        }
    }

    fn try_to_write(
        &self,
        register: u16,
        enables: ByteEnables,
        value: u32,
        keep: u32,
    ) -> std::result::Result<(), VfioError> {
        let through = self.registers.through(self.view);
        for (lane, bytes) in enables.natural() {
            let offset = u64::from(register) * 4 + u64::from(lane);
            let lanes = usize::from(lane)..usize::from(lane + bytes);
            let mut part = [0; 4];
            let part = part.get_mut(..usize::from(bytes)).unwrap_or_default();
            let of = |word: u32| word.to_le_bytes().get(lanes.clone()).map(<[u8]>::to_vec);
            let (Some(value), Some(keep)) = (of(value), of(keep)) else {
                continue;
            };
            if keep.iter().any(|bits| *bits != 0) {
                self.registers.shown(offset, bytes).read(offset, part)?;
            }
            for ((byte, value), keep) in part.iter_mut().zip(value).zip(keep) {
                *byte = value | *byte & keep;
            }
            through.write(offset, part)?;
        }
        Ok(())
    }
}
