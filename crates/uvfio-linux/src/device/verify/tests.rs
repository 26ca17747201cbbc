use crate::device::made_up::{function, function_with_sysfs};
use crate::device::registers::Switches;

#[test]
fn a_register_that_a_reset_has_changed_is_named_with_both_values() {
    for (at, byte, says) in [
        (0x02, 0xe9, "Device ID (register 0x02) is 0x11e9, and was 0x11e8"),
        (
            0x04,
            0x46,
            "Memory Space Enable (register 0x04) is 0x1, and was 0x0",
        ),
        (0x05, 0x00, "SERR# Enable (register 0x04) is 0x0, and was 0x1"),
        (0x0c, 0x08, "Cache Line Size (register 0x0c) is 0x8, and was 0x0"),
        (
            0x13,
            0x00,
            "Base Address Register (register 0x10) is 0x0, and was 0xfe000000",
        ),
        (0x42, 0x02, "Version (register 0x42) is 0x2, and was 0x3"),
        (0x44, 0x03, "PowerState (register 0x44) is 0x3, and was 0x0"),
        (0x58, 0x20, "Max_Payload_Size (register 0x58) is 0x1, and was 0x0"),
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
    // Interrupt disable, STATUS, PME status, device status.
    for (at, byte) in [(0x05, 0x05), (0x07, 0xf9), (0x45, 0x80), (0x5a, 0x0f)] {
        bytes.put(at, &[byte]);
    }
    assert_eq!(registers.same(&before).unwrap(), Ok(()));
}

#[test]
fn a_setting_must_be_after_a_reset_what_it_was_before_it() {
    let (bytes, registers) = function();
    let quiet = registers.held().unwrap();
    bytes.put(0x0c, &[0x10]);
    let expected = quiet.with_settings_of(&registers.held().unwrap());
    assert_eq!(registers.same(&expected).unwrap(), Ok(()));
    bytes.put(0x0c, &[0x00]);
    let why = registers.same(&expected).unwrap().unwrap_err();
    assert_eq!(why, "Cache Line Size (register 0x0c) is 0x0, and was 0x10");
}

#[test]
fn an_address_and_the_identity_must_be_what_they_were_at_first_whatever_they_were_before_the_reset() {
    let (bytes, registers) = function();
    let quiet = registers.held().unwrap();
    bytes.put(0x13, &[0xfc]);
    let expected = quiet.with_settings_of(&registers.held().unwrap());
    let why = registers.same(&expected).unwrap().unwrap_err();
    assert!(
        why.contains("register 0x10) is 0xfc000000, and was 0xfe000000"),
        "{why}"
    );
}

#[test]
fn a_device_that_reads_all_ones_does_not_answer() {
    let (bytes, registers) = function();
    let before = registers.held().unwrap();
    // The kernel answers for the vendor and device ID even then.
    bytes.put(0x08, &[0xff; 4]);
    let why = registers.put_back(&before).unwrap().unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
    assert_eq!(bytes.written(), [], "nothing is written to what is not there");
}

#[test]
fn what_the_kernel_remembers_of_bars_is_not_taken_for_what_the_hardware_holds() {
    let (kernel, hardware, registers) = function_with_sysfs(64, false);
    let quiet = registers.held().unwrap();
    hardware.put(0x10, &[0; 4]);
    assert!(!registers.has_bars_of(&quiet).unwrap());
    let why = registers.same(&quiet).unwrap().unwrap_err();
    assert!(why.contains("register 0x10) is 0x0, and was 0xfe000000"), "{why}");
    hardware.put(0x13, &[0xfe]);
    kernel.put(0x10, &[0xff; 4]);
    assert_eq!(registers.same(&quiet).unwrap(), Ok(()));
}

#[test]
fn behind_the_bytes_that_may_be_read_of_the_hardware_the_kernels_answer_counts() {
    let payload_of = |readable| {
        let (_kernel, hardware, registers) = function_with_sysfs(readable, false);
        let quiet = registers.held().unwrap();
        hardware.put(0x58, &[0x20]);
        registers.same(&quiet).unwrap()
    };
    assert_eq!(payload_of(64), Ok(()));
    assert!(
        payload_of(256)
            .unwrap_err()
            .contains("Max_Payload_Size (register 0x58)")
    );
}

#[test]
fn lost_bars_are_put_back_by_the_kernel_when_command_is_written_or_by_a_descriptor_that_may() {
    for (writable, back) in [(false, false), (true, true)] {
        let (kernel, hardware, registers) = function_with_sysfs(64, writable);
        // As for a device that is quiet.
        registers.set_command(Switches::QUIET).unwrap();
        hardware.put(0x04, &[0x42, 0x05]);
        let quiet = registers.held().unwrap();
        kernel.written();
        hardware.put(0x10, &[0; 4]);
        // This kernel puts nothing back.
        assert_eq!(registers.put_back(&quiet).unwrap().is_ok(), back);
        let command = [(4, vec![0x42, 0x05])];
        assert_eq!(kernel.written(), command, "a kernel's chance");
        assert_eq!(registers.has_bars_of(&quiet).unwrap(), back);
    }
}

#[test]
fn settings_that_were_lost_are_written_again_and_what_stands_beside_them_stays() {
    let (bytes, registers) = function();
    registers.set_command(Switches::QUIET).unwrap();
    bytes.put(0x58, &[0x07, 0x28]);
    let quiet = registers.held().unwrap();
    bytes.put(0x04, &[0x00, 0x00]);
    bytes.put(0x58, &[0x00, 0x00]);
    assert_eq!(registers.put_back(&quiet).unwrap(), Ok(()));
    let page = bytes.page.lock().unwrap();
    assert_eq!(
        (&page[0x04..0x06], &page[0x58..0x5a]),
        (&[0x42, 0x05][..], &[0x07, 0x28][..])
    );
}
