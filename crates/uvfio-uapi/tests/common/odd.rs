//! A conventional function that has something of everything, and does nothing: its registers are bytes.
//!
//! | BAR | |
//! |---|---|
//! | 0 | 16 KiB of memory: registers, the MSI-X table of 4 vectors at 4096, the pending bits at 8192 |
//! | 1 | 64 bytes of I/O ports |
//! | 2 | 256 bytes of memory |
//! | 3 | 12 KiB of 16 can be mapped: all but the second page |
//! | 4, 5 | none |
//!
//! The ROM has 4 KiB, of which 100 bytes are filled.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};
use uvfio_core::{Device, DeviceError, Host, Mappable, Mapped, Width};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, ResetKind};

pub(crate) struct Odd {
    registers: Mutex<[[u8; 16384]; 6]>,
    memory: Arc<OwnedFd>,
    resettable: AtomicBool,
    express: AtomicBool,
    slow: AtomicBool,
    rom: [u8; 100],
    host: Mutex<Option<Host>>,
}

impl Odd {
    pub(crate) fn new() -> Arc<Self> {
        let memory = memfd_create("bar 3", MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&memory, BAR3_AT + 16384).expect("its size");
        Arc::new(Self {
            registers: Mutex::new([[0; 16384]; 6]),
            memory: Arc::new(memory),
            resettable: AtomicBool::new(true),
            express: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            rom: [0x55; 100],
            host: Mutex::new(None),
        })
    }

    /// Its way to its user, who is there.
    pub(crate) fn host(&self) -> Host {
        let host = self.host.lock().expect("not poisoned");
        host.clone().expect("there is a user")
    }

    /// The same, but PCI Express.
    pub(crate) fn express() -> Arc<Self> {
        let odd = Self::new();
        odd.express.store(true, Ordering::Relaxed);
        odd
    }

    /// PCI Express, with resets that take their time.
    pub(crate) fn slow() -> Arc<Self> {
        let odd = Self::express();
        odd.slow.store(true, Ordering::Relaxed);
        odd
    }

    pub(crate) fn without_reset() -> Arc<Self> {
        let odd = Self::new();
        odd.resettable.store(false, Ordering::Relaxed);
        odd
    }
}

/// Where BAR 3 begins in the file that parts of it are mapped from.
pub(crate) const BAR3_AT: u64 = 8192;

const CAPABILITIES: [Capability<'static>; 3] = [
    Capability::Msi {
        messages: 4,
        wide: true,
        maskable: true,
    },
    Capability::MsiX {
        vectors: 4,
        table: BarSpan { bar: 0, offset: 4096 },
        pba: BarSpan { bar: 0, offset: 8192 },
    },
    Capability::Express {
        flr: true,
        integrated: false,
    },
];

const fn memory(bytes: u32) -> Bar {
    Bar::Memory32 {
        bytes,
        prefetchable: false,
    }
}

impl Device for Odd {
    fn name(&self) -> &'static str {
        "odd"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0x0dd0,
                revision: 0,
                class: [0, 0xff, 0],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 1,
            },
            bars: [
                memory(16384),
                Bar::Io { bytes: 64 },
                memory(256),
                memory(16384),
                Bar::None,
                Bar::None,
            ],
            rom_bytes: 4096,
            capabilities: if self.express.load(Ordering::Relaxed) {
                &CAPABILITIES
            } else {
                &CAPABILITIES[..2]
            },
            extended: &[],
        }
    }

    fn attach(&self, host: Host) {
        *self.host.lock().expect("not poisoned") = Some(host);
    }

    fn detach(&self) {
        *self.host.lock().expect("not poisoned") = None;
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        let registers = self.registers.lock().expect("not poisoned");
        let mut value = [0; 8];
        let (at, n) = (offset as usize, width as usize);
        value[..n].copy_from_slice(&registers[usize::from(bar)][at..at + n]);
        u64::from_le_bytes(value)
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        let mut registers = self.registers.lock().expect("not poisoned");
        let (at, n) = (offset as usize, width as usize);
        registers[usize::from(bar)][at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let part = |offset, bytes| Mappable {
            offset,
            bytes,
            file: Arc::clone(&self.memory),
            bar_at: BAR3_AT,
            kind: Mapped::Memory,
        };
        match bar {
            3 => vec![part(0, 4096), part(8192, 8192)],
            _ => Vec::new(),
        }
    }

    fn rom(&self) -> &[u8] {
        &self.rom
    }

    fn resettable(&self) -> bool {
        self.resettable.load(Ordering::Relaxed)
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        if self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Ok(())
    }
}
