//! Whole configuration pages at power-on, as the specifications lay them out. The bytes are written by hand.

mod common;

use common::{Device, EDU, EVERYTHING, NVME, PLAIN};

/// Rows of 16 bytes: (offset, bytes). What is not in a row is 0.
type Rows = &'static [(usize, [u8; 16])];

fn check(device: &Device, bytes: usize, rows: Rows) {
    let page = device.page();
    assert_eq!(page.len(), bytes, "size of configuration space");
    for (n, got) in page.chunks(16).enumerate() {
        let expected = rows
            .iter()
            .find(|row| row.0 == n * 16)
            .map_or([0; 16], |row| row.1);
        assert_eq!(
            got,
            expected,
            "row {:#05x}:\n     is {got:02x?}\n wanted {expected:02x?}\n",
            n * 16
        );
    }
    for (offset, _) in rows {
        assert!(
            *offset < bytes && offset % 16 == 0,
            "row {offset:#x} of the expected page"
        );
    }
}

#[test]
#[rustfmt::skip]
fn the_page_of_a_conventional_function_with_one_msi_message() {
    check(
        &Device::new(&EDU),
        256,
        &[
            // vendor 1234, device 11e8; COMMAND 0; STATUS: capabilities list; revision 10; class 00ff00
            (0x00, [0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0, 0x10, 0x00, 0xff, 0x00, 0, 0, 0, 0]),
            // subsystem 1af4:1100
            (0x20, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0x1a, 0x00, 0x11]),
            // first capability 40; INTA
            (0x30, [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0]),
            // MSI: last, 64-bit, 1 message; address, upper address, data 0
            (0x40, [0x05, 0x00, 0x80, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ],
    );
}

#[test]
#[rustfmt::skip]
fn the_page_of_an_nvme_controller() {
    check(
        &Device::new(&NVME),
        4096,
        &[
            // class 010802: NVM Express
            (0x00, [0x36, 0x1b, 0x10, 0x00, 0, 0, 0x10, 0, 0x02, 0x02, 0x08, 0x01, 0, 0, 0, 0]),
            // BAR 0: memory, 64-bit
            (0x10, [0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (0x20, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0x1a, 0x00, 0x11]),
            (0x30, [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0]),
            // Power management version 3, next 48; PMCSR: No_Soft_Reset. MSI-X: next 54, 33 vectors,
            // table at 2000 of BAR 0
            (0x40, [0x01, 0x48, 0x03, 0, 0x08, 0, 0, 0, 0x11, 0x54, 0x20, 0x00, 0x00, 0x20, 0, 0]),
            // pending bits at 3000 of BAR 0. PCI Express: last, version 2, endpoint. DEVCAP: 8-bit tags,
            // role-based errors, FLR. DEVCTL: relaxed ordering, no snoop, reads of 512 bytes (all as 7.5.3.4
            // says they are after a reset)
            (0x50, [0x00, 0x30, 0, 0, 0x10, 0x00, 0x02, 0x00, 0x20, 0x80, 0x00, 0x10, 0x10, 0x28, 0, 0]),
            // LNKCAP: x1, 2.5 GT/s; LNKSTA the same
            (0x60, [0x11, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // DEVCAP2: completion timeout disable
            (0x70, [0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]),
            // LNKCAP2: 2.5 GT/s; LNKCTL2: target 2.5 GT/s
            (0x80, [0x02, 0, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // AER version 2, next 12c. Mask: internal error. Severity fatal: data link, surprise down, flow
            // control, receiver overflow, malformed, internal (7.8.4.3, 7.8.4.4)
            (0x100, [0x01, 0x00, 0xc2, 0x12, 0, 0, 0, 0, 0, 0, 0x40, 0, 0x30, 0x20, 0x46, 0]),
            // correctable mask: advisory non-fatal, corrected internal (7.8.4.6)
            (0x110, [0, 0, 0, 0, 0x00, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // serial number, last
            (0x120, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x03, 0x00, 0x01, 0x00]),
            (0x130, [0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]),
        ],
    );
}

#[test]
#[rustfmt::skip]
fn the_page_of_a_function_with_one_of_everything() {
    check(
        &Device::new(&EVERYTHING),
        4096,
        &[
            (0x00, [0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0, 0x10, 0x00, 0xff, 0x00, 0, 0, 0, 0]),
            // prefetchable memory; I/O; prefetchable 64-bit memory in two; memory
            (0x10, [0x08, 0, 0, 0, 0x01, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0]),
            (0x20, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0x1a, 0x00, 0x11]),
            (0x30, [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0]),
            // Power management without No_Soft_Reset; VPD
            (0x40, [0x01, 0x48, 0x03, 0, 0, 0, 0, 0, 0x03, 0x50, 0, 0, 0, 0, 0, 0]),
            // MSI: 64-bit, maskable, 32 messages; 24 bytes
            (0x50, [0x05, 0x68, 0x8a, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // MSI-X: 100 vectors, table at 0 of BAR 0
            (0x60, [0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x74, 0x63, 0x00, 0, 0, 0, 0]),
            // pending bits at 8000 of BAR 0. Advanced features: 6 bytes, TP and FLR. Vendor-specific: 8 bytes
            (0x70, [0x00, 0x80, 0, 0, 0x13, 0x7c, 0x06, 0x03, 0, 0, 0, 0, 0x09, 0x84, 0x08, 0xa0]),
            // PCI Express: last, version 2, root complex integrated endpoint
            (0x80, [0xa1, 0xa2, 0xa3, 0xa4, 0x10, 0x00, 0x92, 0, 0x20, 0x80, 0x00, 0x10, 0x10, 0x28, 0, 0]),
            (0xa0, [0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]),
            (0x100, [0x01, 0x00, 0xc2, 0x12, 0, 0, 0, 0, 0, 0, 0x40, 0, 0x30, 0x20, 0x46, 0]),
            (0x110, [0, 0, 0, 0, 0x00, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // VSEC 1234, revision 3, 16 bytes, next 13c
            (0x120, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b, 0x00, 0xc1, 0x13]),
            // DVSEC, next 148
            (0x130, [0x34, 0x12, 0x03, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0x23, 0x00, 0x81, 0x14]),
            // of 8086, revision 1, 12 bytes, ID 42. Serial number, last
            (0x140, [0x86, 0x80, 0xc1, 0x00, 0x42, 0x00, 9, 8, 0x03, 0x00, 0x01, 0x00, 0xff, 0xff, 0xff, 0xff]),
            (0x150, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ],
    );
}

#[test]
#[rustfmt::skip]
fn the_page_of_a_function_without_bars() {
    check(
        &Device::new(&PLAIN),
        256,
        &[
            (0x00, [0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0, 0x10, 0x00, 0xff, 0x00, 0, 0, 0, 0]),
            (0x20, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0x1a, 0x00, 0x11]),
            (0x30, [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0]),
            // MSI: 32-bit, maskable, 4 messages; 20 bytes
            (0x40, [0x05, 0x54, 0x04, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // Subsystem; power management
            (0x50, [0, 0, 0, 0, 0x0d, 0x5c, 0, 0, 0xaa, 0xaa, 0x55, 0x55, 0x01, 0x00, 0x03, 0]),
            (0x60, [0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ],
    );
}

/// MSI as a driver sets it up: every register of its own form at its own place.
#[test]
fn msi_registers_lie_where_each_form_has_them() {
    let mut wide = Device::new(&EVERYTHING);
    for (n, value) in (0..).zip([0x1234_5678, 0x9abc_def0, 0x5a5a_4242, 0x0f0f_0f0f, 0xffff_ffff]) {
        wide.w32(0x54 + n * 4, value);
    }
    // address without its two lowest bits, upper address, data of 16 bits, mask, pending (read-only)
    let expected = [0x1234_5678, 0x9abc_def0, 0x0000_4242, 0x0f0f_0f0f, 0];
    let got: Vec<u32> = (0..5).map(|n| wide.r32(0x54 + n * 4)).collect();
    assert_eq!(
        got, expected,
        "64-bit, maskable\n got {got:08x?}\n wanted {expected:08x?}"
    );

    let mut narrow = Device::new(&PLAIN);
    for (n, value) in (0..).zip([0x1234_567b, 0x5a5a_4242, 0xffff_ffff, 0xffff_ffff]) {
        narrow.w32(0x44 + n * 4, value);
    }
    // address, data, mask of four messages, pending
    let expected = [0x1234_5678, 0x0000_4242, 0x0000_000f, 0];
    let got: Vec<u32> = (0..4).map(|n| narrow.r32(0x44 + n * 4)).collect();
    assert_eq!(
        got, expected,
        "32-bit, maskable\n got {got:08x?}\n wanted {expected:08x?}"
    );
}

/// The MSI-X table and pending bits at power-on: every vector masked (PCI Local Bus 3.0, 6.8.2.9).
#[test]
fn the_msix_table_begins_with_every_vector_masked() {
    let device = Device::new(&NVME);
    for vector in 0..33 {
        let entry: Vec<u32> = (0..4).map(|dword| device.entry(vector, dword)).collect();
        assert_eq!(entry, [0, 0, 0, 1], "vector {vector}");
        assert!(!device.pending(vector), "vector {vector} pending");
    }
    assert_eq!(device.entry(33, 3), 0, "past the table");
}
