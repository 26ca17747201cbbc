//! A made-up configuration space for tests, whose bytes do as written unless a test says otherwise.

use std::sync::{Arc, Mutex};

use super::declare::{Declared, PAGE, Seen};
use super::registers::{Config, Registers};
use super::verify::HardwareConfig;
use crate::vfio::Result;

/// Bytes, and what was written where.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) page: Mutex<Vec<u8>>,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Config for Arc<Bytes> {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let page = self.page.lock().unwrap();
        data.copy_from_slice(&page[offset as usize..][..data.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.page.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
        self.written.lock().unwrap().push((offset, data.to_vec()));
        Ok(())
    }
}

impl Bytes {
    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        self.page.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn written(&self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

/// A function with a 32-bit memory BAR, power management at 0x40 and PCI Express at 0x50, whose kernel answers with
/// what the hardware holds.
pub(super) fn function() -> (Arc<Bytes>, Registers) {
    let bytes = page();
    let registers = registers(&bytes, None);
    (bytes, registers)
}

/// The same with a `config` in `/sys`, of which `readable` bytes may be read: the kernel's answers, the hardware's, and
/// both together.
pub(super) fn function_with_sysfs(readable: u64, writable: bool) -> (Arc<Bytes>, Arc<Bytes>, Registers) {
    let (kernel, hardware) = (page(), page());
    let file = HardwareConfig {
        config: Box::new(hardware.clone()),
        bytes: readable,
        writable,
    };
    let registers = registers(&kernel, Some(file));
    (kernel, hardware, registers)
}

fn page() -> Arc<Bytes> {
    let bytes = Arc::new(Bytes {
        page: Mutex::new(vec![0; PAGE]),
        written: Mutex::default(),
    });
    bytes.put(0x00, &[0x34, 0x12, 0xe8, 0x11, 0x44, 0x01, 0x10, 0x00]);
    bytes.put(0x08, &[0x10, 0x00, 0xff, 0x00]);
    bytes.put(0x10, &[0x00, 0x00, 0x00, 0xfe]);
    bytes.put(0x34, &[0x40]);
    bytes.put(0x40, &[0x01, 0x50, 0x03, 0x00, 0x00, 0x00]);
    bytes.put(0x50, &[0x10, 0x00, 0x02, 0x00]);
    bytes
}

fn registers(bytes: &Arc<Bytes>, hardware: Option<HardwareConfig>) -> Registers {
    Registers::new(Box::new(bytes.clone()), hardware, &declared(bytes))
}

/// What is declared of it.
pub(super) fn declared(bytes: &Arc<Bytes>) -> Declared {
    let page = bytes.page.lock().unwrap().clone();
    let declared = Declared::new(&Seen {
        page: &page,
        bars: [0x1000, 0, 0, 0, 0, 0],
        messages: 0,
        vectors: 0,
        line: false,
        resettable: true,
    });
    declared.unwrap()
}
