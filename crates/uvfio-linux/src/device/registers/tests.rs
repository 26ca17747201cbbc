//! Over a made-up configuration space, whose bytes do as written unless a test says otherwise.

use std::sync::Mutex;

use super::*;
use crate::device::declare::{PAGE, Seen};

/// Bytes, and what was written where.
#[derive(Debug)]
struct Bytes {
    page: Mutex<Vec<u8>>,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Config for std::sync::Arc<Bytes> {
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
    fn put(&self, at: usize, bytes: &[u8]) {
        self.page.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn written(&self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

/// A function with a 32-bit memory BAR, power management at 0x40 and PCI Express at 0x50.
fn function() -> (std::sync::Arc<Bytes>, Registers) {
    let bytes = std::sync::Arc::new(Bytes {
        page: Mutex::new(vec![0; PAGE]),
        written: Mutex::default(),
    });
    bytes.put(0x00, &[0x34, 0x12, 0xe8, 0x11, 0x44, 0x01, 0x10, 0x00]);
    bytes.put(0x08, &[0x10, 0x00, 0xff, 0x00]);
    bytes.put(0x34, &[0x40]);
    bytes.put(0x40, &[0x01, 0x50, 0x03, 0x00, 0x00, 0x00]);
    bytes.put(0x50, &[0x10, 0x00, 0x02, 0x00]);
    let page = bytes.page.lock().unwrap().clone();
    let declared = Declared::new(&Seen {
        page: &page,
        bars: [0x1000, 0, 0, 0, 0, 0],
        messages: 0,
        vectors: 0,
        resettable: true,
    });
    let registers = Registers::new(Box::new(bytes.clone()), &declared.unwrap());
    (bytes, registers)
}

#[test]
fn command_has_intx_off_and_memory_as_told_and_what_is_not_ours_stays() {
    let (bytes, registers) = function();
    // Before: parity, SERR#, bus master; no memory.
    registers.set_command(true, true).unwrap();
    registers.set_command(false, true).unwrap();
    registers.set_command(true, false).unwrap();
    let expected = [
        (4, vec![0x46, 0x05]),
        (4, vec![0x42, 0x05]),
        (4, vec![0x44, 0x05]),
    ];
    assert_eq!(bytes.written(), expected);
}

#[test]
fn a_power_state_is_written_without_clearing_a_pending_power_event() {
    let (bytes, registers) = function();
    bytes.put(0x44, &[0x00, 0x81]);
    assert!(registers.set_power(PowerState::D3hot).unwrap());
    assert_eq!(bytes.written(), [(0x44, vec![0x03, 0x01])]);
}

#[test]
fn transactions_that_do_not_end_are_not_waited_for_without_end() {
    let (bytes, registers) = function();
    assert!(registers.wait_for_transactions().unwrap());
    bytes.put(0x5a, &[0x20]);
    assert!(!registers.wait_for_transactions().unwrap());
}

#[test]
fn a_register_that_a_reset_has_changed_is_named_with_both_values() {
    for (at, byte, says) in [
        (0x02, 0xe9, "Device ID (register 0x02) is 0x11e9, and was 0x11e8"),
        (
            0x04,
            0x46,
            "Memory Space Enable (register 0x04) is 0x1, and was 0x0",
        ),
        (
            0x05,
            0x05,
            "Interrupt Disable (register 0x04) is 0x1, and was 0x0",
        ),
        (
            0x13,
            0xfe,
            "Base Address Register (register 0x10) is 0xfe000000, and was 0x0",
        ),
        (0x44, 0x03, "PowerState (register 0x44) is 0x3, and was 0x0"),
    ] {
        let (bytes, registers) = function();
        let before = registers.held().unwrap();
        assert_eq!(registers.same(&before).unwrap(), Ok(()));
        bytes.put(at, &[byte]);
        assert_eq!(registers.same(&before).unwrap(), Err(says.to_owned()), "{at:#x}");
    }
}

#[test]
fn what_is_not_compared_may_change() {
    let (bytes, registers) = function();
    let before = registers.held().unwrap();
    // STATUS, interrupt line, device status.
    for (at, byte) in [(0x07, 0xf9), (0x3c, 0x0b), (0x5a, 0x0f)] {
        bytes.put(at, &[byte]);
    }
    assert_eq!(registers.same(&before).unwrap(), Ok(()));
}

#[test]
fn a_device_that_reads_all_ones_does_not_answer() {
    let (bytes, registers) = function();
    let before = registers.held().unwrap();
    // The kernel answers for the vendor and device ID even then.
    bytes.put(0x08, &[0xff; 4]);
    let why = registers.same(&before).unwrap().unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
}
