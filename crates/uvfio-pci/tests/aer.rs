//! Errors that the function reports: PCI Express Base 5.0, 6.2.4 and 7.8.4.

mod common;

use common::{Device, EVERYTHING, NVME};
use uvfio_pci::{Blueprint, Input, ResetKind};

// Registers of the NVMe controller.
const STATUS: u16 = 0x06;
const DEVSTA: u16 = 0x5e;
const UNCORRECTABLE: u16 = 0x104;
const MASK: u16 = 0x108;
const SEVERITY: u16 = 0x10c;
const CORRECTABLE: u16 = 0x110;
const CORRECTABLE_MASK: u16 = 0x114;
const FIRST: u16 = 0x118;
const LOG: u16 = 0x11c;

// Bits of Device Status.
const CORRECTABLE_DETECTED: u16 = 1;
const NONFATAL_DETECTED: u16 = 2;
const FATAL_DETECTED: u16 = 4;
const UNSUPPORTED_DETECTED: u16 = 8;

const HEADER: [u32; 4] = [0x4000_0001, 0x0100_000f, 0xfee0_0000, 0xcafe_f00d];

const fn uncorrectable(bit: u8) -> Input {
    Input::Error {
        correctable: false,
        bit,
        header: HEADER,
    }
}
const fn correctable(bit: u8) -> Input {
    Input::Error {
        correctable: true,
        bit,
        header: HEADER,
    }
}

fn log(device: &Device) -> [u32; 4] {
    [0, 4, 8, 12].map(|n| device.r32(LOG + n))
}

#[test]
fn an_uncorrectable_error_is_logged_with_its_header() {
    let mut device = Device::new(&NVME);
    assert_eq!(device.input(uncorrectable(12)), []);
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 12);
    assert_eq!(device.r32(FIRST), 12);
    assert_eq!(log(&device), HEADER);
    assert_eq!(device.r16(DEVSTA), NONFATAL_DETECTED);
    assert_eq!(device.r32(CORRECTABLE), 0);
}

#[test]
fn severity_decides_whether_an_error_is_fatal() {
    for (bit, severity, told) in [
        (18, None, FATAL_DETECTED), // malformed TLP, fatal at power-on
        (14, None, NONFATAL_DETECTED),
        (18, Some(0), NONFATAL_DETECTED),
        (14, Some(1 << 14), FATAL_DETECTED),
    ] {
        let mut device = Device::new(&NVME);
        if let Some(severity) = severity {
            device.w32(SEVERITY, severity);
        }
        device.input(uncorrectable(bit));
        let got = device.r16(DEVSTA);
        assert_eq!(
            got, told,
            "bit {bit}, severity {severity:?}: DEVSTA {got:04x}, wanted {told:04x}"
        );
    }
}

#[test]
fn an_unsupported_request_is_told_by_its_own_bit_too() {
    let mut device = Device::new(&NVME);
    device.input(uncorrectable(20));
    assert_eq!(device.r16(DEVSTA), NONFATAL_DETECTED | UNSUPPORTED_DETECTED);
}

#[test]
fn the_log_belongs_to_the_first_error_until_that_is_cleared() {
    let mut device = Device::new(&NVME);
    device.input(uncorrectable(12));
    device.input(Input::Error {
        correctable: false,
        bit: 15,
        header: [9; 4],
    });
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 12 | 1 << 15);
    assert_eq!((device.r32(FIRST), log(&device)), (12, HEADER));
    device.w32(UNCORRECTABLE, 1 << 12);
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 15);
    device.input(Input::Error {
        correctable: false,
        bit: 16,
        header: [7; 4],
    });
    assert_eq!((device.r32(FIRST), log(&device)), (16, [7; 4]));
}

#[test]
fn a_masked_error_is_noted_but_neither_logged_nor_signalled() {
    let mut device = Device::new(&NVME);
    device.w16(0x04, 0x0100);
    device.w32(MASK, 1 << 12);
    device.input(uncorrectable(12));
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 12);
    assert_eq!((device.r32(FIRST), log(&device)), (0, [0; 4]));
    assert_eq!(device.r16(STATUS) & 0x4000, 0, "Signaled System Error");
    assert_eq!(
        device.r16(DEVSTA),
        NONFATAL_DETECTED,
        "Device Status takes no mask"
    );
}

#[test]
fn signaled_system_error_needs_serr() {
    let mut device = Device::new(&NVME);
    device.input(uncorrectable(12));
    assert_eq!(device.r16(STATUS) & 0x4000, 0);
    device.w16(0x04, 0x0100);
    device.input(uncorrectable(13));
    assert_eq!(device.r16(STATUS) & 0x4000, 0x4000);
    device.w16(STATUS, 0x4000);
    assert_eq!(device.r16(STATUS) & 0x4000, 0, "write 1 to clear");
}

#[test]
fn a_correctable_error_has_a_register_of_its_own() {
    let mut device = Device::new(&NVME);
    device.input(correctable(6));
    assert_eq!(device.r32(CORRECTABLE), 1 << 6);
    assert_eq!(device.r32(UNCORRECTABLE), 0);
    assert_eq!(device.r16(DEVSTA), CORRECTABLE_DETECTED);
    assert_eq!(log(&device), [0; 4]);
    device.w32(CORRECTABLE_MASK, u32::MAX);
    device.input(correctable(7));
    assert_eq!(device.r32(CORRECTABLE), 1 << 6 | 1 << 7, "also when masked");
}

#[test]
fn each_status_bit_is_cleared_alone_by_its_lane() {
    let mut device = Device::new(&NVME);
    for bit in [4, 12, 20] {
        device.input(uncorrectable(bit));
    }
    device.w8(UNCORRECTABLE + 1, 0xff);
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 4 | 1 << 20);
    device.w32(UNCORRECTABLE, 1 << 4);
    assert_eq!(device.r32(UNCORRECTABLE), 1 << 20);
    device.w16(DEVSTA, NONFATAL_DETECTED);
    assert_eq!(device.r16(DEVSTA), FATAL_DETECTED | UNSUPPORTED_DETECTED);
}

#[test]
fn bits_that_the_specification_does_not_define_change_nothing() {
    let mut device = Device::new(&NVME);
    let before = device.state.clone();
    for bit in [0, 3, 6, 11, 21, 27, 31, 32, 64, 255] {
        assert_eq!(device.input(uncorrectable(bit)), []);
        assert_eq!(device.state, before, "uncorrectable {bit}");
    }
    for bit in [1, 5, 9, 11, 16, 31, 32, 255] {
        assert_eq!(device.input(correctable(bit)), []);
        assert_eq!(device.state, before, "correctable {bit}");
    }
}

#[test]
fn errors_survive_resets() {
    for kind in [ResetKind::FunctionLevel, ResetKind::Conventional] {
        let mut device = Device::new(&NVME);
        device.input(uncorrectable(12));
        device.input(correctable(6));
        device.w32(SEVERITY, 0);
        device.input(Input::Reset { kind });
        assert_eq!(device.r32(UNCORRECTABLE), 1 << 12, "{kind:?}");
        assert_eq!(device.r32(CORRECTABLE), 1 << 6, "{kind:?}");
        assert_eq!(device.r32(SEVERITY), 0, "{kind:?}");
        assert_eq!((device.r32(FIRST), log(&device)), (12, HEADER), "{kind:?}");
        assert_eq!(
            device.r16(DEVSTA) & 0xf,
            0,
            "{kind:?}: Device Status is not sticky"
        );
    }
}

#[test]
fn without_aer_device_status_alone_tells() {
    let mut device = Device::new(&Blueprint {
        extended: &[],
        ..NVME
    });
    device.input(uncorrectable(12));
    assert_eq!(device.r16(DEVSTA), NONFATAL_DETECTED);
    device.input(correctable(0));
    assert_eq!(device.r16(DEVSTA), NONFATAL_DETECTED | CORRECTABLE_DETECTED);
    device.input(uncorrectable(255));
    assert_eq!(device.r16(DEVSTA), NONFATAL_DETECTED | CORRECTABLE_DETECTED);
}

#[test]
fn an_integrated_endpoint_reports_errors_as_well() {
    let mut device = Device::new(&EVERYTHING);
    device.input(uncorrectable(22));
    assert_eq!(device.r32(0x104), 1 << 22);
    assert_eq!(device.r16(0x8e), FATAL_DETECTED);
    assert_eq!(device.r32(0x118), 0, "internal errors are masked at power-on");
}
