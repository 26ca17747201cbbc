//! Which bits of each register a user can set, written by hand from the specifications, for each view.

mod common;

use common::{Device, EVERYTHING, NVME};
use uvfio_pci::{Blueprint, View};

/// Dwords that have bits to set: (offset, bits). All others have none.
type Masks = &'static [(u16, u32)];

fn check(blueprint: &Blueprint<'_>, view: View, starts_reset: &[(u16, u32)], masks: Masks) {
    let fresh = Device::seen(blueprint, view);
    for offset in (0..fresh.layout.config_bytes()).step_by(4) {
        let spare = starts_reset
            .iter()
            .find(|row| row.0 == offset)
            .map_or(0, |row| row.1);
        let mut ones = fresh.clone();
        ones.w32(offset, !spare);
        let mut zeros = fresh.clone();
        zeros.w32(offset, 0);
        let can = ones.r32(offset) ^ zeros.r32(offset);
        let wanted = masks.iter().find(|row| row.0 == offset).map_or(0, |row| row.1);
        assert_eq!(
            can,
            wanted,
            "{view:?} view, register {offset:#05x}: the bits that can be set are {can:08x}, wanted {wanted:08x} \
             (after ones {:08x}, after zeros {:08x})",
            ones.r32(offset),
            zeros.r32(offset)
        );
    }
}

/// Bits that start a reset, which these tests leave out.
const EVERYTHING_FLR: [(u16, u32); 2] = [(0x8c, 1 << 15), (0x78, 1)];

#[test]
fn the_bits_that_the_virtual_view_lets_a_user_set() {
    let masks: Masks = &[
        (0x04, 0x0000_0547),  // COMMAND: I/O, memory, bus master, parity, SERR#, INTx disable
        (0x0c, 0x0000_00ff),  // cache line size
        (0x10, 0xffff_0000),  // BAR 0: 64 KiB
        (0x14, 0xffff_ffe0),  // BAR 1: 32 ports
        (0x1c, 0xffff_fffe),  // BAR 2: 8 GiB, all in the upper half
        (0x20, 0xffff_fff0),  // BAR 4: 16 bytes
        (0x30, 0xffff_0001),  // ROM: 64 KiB, and its enable
        (0x3c, 0x0000_00ff),  // interrupt line
        (0x44, 0x0000_0003),  // PMCSR: power state
        (0x48, 0xffff_0000),  // VPD address and flag
        (0x4c, 0xffff_ffff),  // VPD data
        (0x50, 0x0071_0000),  // MSI enable, multiple message enable
        (0x54, 0xffff_fffc),  // message address
        (0x58, 0xffff_ffff),  // upper address
        (0x5c, 0x0000_ffff),  // data
        (0x60, 0xffff_ffff),  // mask bits
        (0x68, 0xc000_0000),  // MSI-X enable and function mask
        (0x80, 0x8000_0fff),  // the vendor's body, as it declares
        (0x8c, 0x0000_79ff),  // DEVCTL without phantom functions, aux power and FLR
        (0xac, 0x0000_0010),  // DEVCTL2: completion timeout disable
        (0x108, 0x005f_f030), // AER uncorrectable mask
        (0x10c, 0x005f_f030), // severity
        (0x114, 0x0000_71c1), // correctable mask
        (0x134, 0x00ff_00ff), // VSEC's body
        (0x138, 0x0000_00f0),
        (0x144, 0xff00_0000), // DVSEC's body
    ];
    check(&EVERYTHING, View::Virtual, &EVERYTHING_FLR, masks);
}

#[test]
fn the_filtered_view_stops_bars_rom_and_messages() {
    let masks: Masks = &[
        (0x04, 0x0000_0547),
        (0x0c, 0x0000_00ff),
        (0x3c, 0x0000_00ff),
        (0x44, 0x0000_0003),
        (0x48, 0xffff_0000),
        (0x4c, 0xffff_ffff),
        (0x60, 0xffff_ffff), // MSI mask bits, but neither enable, address nor data
        (0x68, 0x4000_0000), // MSI-X function mask, but not enable
        (0x80, 0x8000_0fff),
        (0x8c, 0x0000_791f), // DEVCTL without the payload size, which is the link's
        (0xac, 0x0000_0010),
        (0x108, 0x005f_f030),
        (0x10c, 0x005f_f030),
        (0x114, 0x0000_71c1),
        (0x134, 0x00ff_00ff),
        (0x138, 0x0000_00f0),
        (0x144, 0xff00_0000),
    ];
    check(&EVERYTHING, View::Filtered, &EVERYTHING_FLR, masks);
}

#[test]
fn link_control_is_the_systems_but_in_the_raw_view() {
    let fresh = |view| Device::seen(&NVME, view);
    for (view, wanted) in [
        (View::Virtual, 0x0000),
        (View::Filtered, 0x0000),
        (View::Raw, 0x00cb), // ASPM, read completion boundary, common clock, extended synch
    ] {
        let mut device = fresh(view);
        device.w16(0x64, 0xffff);
        let got = device.r16(0x64);
        assert_eq!(
            got, wanted,
            "{view:?}: LNKCTL after ffff is {got:04x}, wanted {wanted:04x}"
        );
    }
}

#[test]
fn the_raw_view_writes_what_the_others_stop() {
    for (offset, wanted) in [
        (0x10, 0xffff_0008_u32), // BAR 0 with its flags
        (0x54, 0xffff_fffc),     // message address
        (0x5c, 0x0000_ffff),     // data; extended data is not offered
        (0x68, 0xc063_7411),     // MSI-X control
    ] {
        let mut device = Device::seen(&EVERYTHING, View::Raw);
        device.w32(offset, u32::MAX);
        let got = device.r32(offset);
        assert_eq!(
            got, wanted,
            "register {offset:#x} after ffffffff is {got:08x}, wanted {wanted:08x}"
        );
    }
}
