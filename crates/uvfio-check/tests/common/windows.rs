//! A device whose BARs can be mapped, one whole and one in two parts, as neither edu nor nvme has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uvfio_core::{Device, DeviceError, Host, Mappable, Mapped, Width};
use uvfio_pci::{Bar, Blueprint, Capability, Identity, InterruptMode, ResetKind};

/// BAR 1: whole. BAR 2: these parts.
const WHOLE: u64 = 0x1000;
const PARTED: u64 = 0x1_0000;
const PARTS: [(u64, u64); 2] = [(0x1000, 0x1000), (0x4000, 0x8000)];

pub(crate) struct Windows([OwnedFd; 2]);

impl Windows {
    pub(crate) fn new() -> Self {
        let memory = |bytes| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let memory = memfd_create("bar", flags).expect("a memfd");
            ftruncate(&memory, bytes).expect("its size");
            fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
                .expect("its seals");
            memory
        };
        Self([memory(WHOLE), memory(PARTED)])
    }
}

impl Device for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[1] = Bar::Memory32 {
            bytes: WHOLE as u32,
            prefetchable: false,
        };
        bars[2] = Bar::Memory64 {
            bytes: PARTED,
            prefetchable: true,
        };
        Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0x5678,
                revision: 1,
                class: [0xff, 0, 0],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &[Capability::Express {
                flr: true,
                integrated: true,
            }],
            extended: &[],
        }
    }

    fn attach(&self, _host: Host) {}

    fn detach(&self) {}

    fn read(&self, _bar: u8, _offset: u64, _width: Width) -> u64 {
        0
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, _value: u64) {}

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let [whole, parted] = &self.0;
        let (parts, memory): (&[(u64, u64)], _) = match bar {
            1 => (&[(0, WHOLE)], whole),
            2 => (&PARTS, parted),
            _ => return Vec::new(),
        };
        let area = |&(offset, bytes)| Mappable {
            offset,
            bytes,
            file: Arc::new(memory.try_clone().expect("a duplicate")),
            bar_at: 0,
            kind: Mapped::Memory,
        };
        parts.iter().map(area).collect()
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Ok(())
    }

    fn interrupts_changed(&self, _mode: InterruptMode) {}
}
