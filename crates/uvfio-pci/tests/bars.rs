//! Base address registers: sized, moved and decoded as firmware and drivers do it.

#![allow(clippy::expect_used, reason = "a test may fail")]

mod common;

use common::{Device, EDU, EVERYTHING, PLAIN};
use uvfio_pci::{Bar, Blueprint, BlueprintError, Effect, Input, Interrupt, Layout, Outcome, ResetKind, View};

const ONES: u32 = u32::MAX;

#[test]
fn all_ones_sizes_each_kind_of_bar() {
    let mut device = Device::new(&EVERYTHING);
    for (offset, wanted, what) in [
        (0x10, 0xffff_0008_u32, "64 KiB prefetchable"),
        (0x14, 0xffff_ffe1, "32 ports"),
        (0x18, 0x0000_000c, "8 GiB prefetchable, lower half"),
        (0x1c, 0xffff_fffe, "8 GiB, upper half"),
        (0x20, 0xffff_fff0, "16 bytes"),
        (0x24, 0x0000_0000, "none"),
        (0x30, 0xffff_0001, "ROM of 64 KiB, with its enable"),
    ] {
        device.w32(offset, ONES);
        let got = device.r32(offset);
        assert_eq!(
            got, wanted,
            "BAR at {offset:#x} ({what}) sizes as {got:08x}, wanted {wanted:08x}"
        );
    }
}

#[test]
fn a_bar_moves_by_bytes_and_says_so() {
    let mut device = Device::new(&EDU);
    assert_eq!(device.w8(0x13, 0xfe), [Effect::BarMoved { bar: 0 }]);
    assert_eq!(device.w8(0x12, 0xb5), [Effect::BarMoved { bar: 0 }]);
    assert_eq!(device.r32(0x10), 0xfeb0_0000, "bits below 1 MiB stay 0");
    assert_eq!(device.state.bar_address(&device.layout, 0), 0xfeb0_0000);
    assert_eq!(
        device.w16(0x10, 0xffff),
        [],
        "nothing of the address lies in the lower half"
    );
    assert_eq!(device.r32(0x10), 0xfeb0_0000);
}

#[test]
fn every_byte_lane_of_a_bar_is_written_alone() {
    for lane in 0..4_u16 {
        let mut device = Device::new(&EVERYTHING);
        device.w8(0x1c + lane, 0xff);
        let wanted = (0xff_u32 << (lane * 8)) & 0xffff_fffe;
        let got = device.r32(0x1c);
        assert_eq!(
            got, wanted,
            "upper half of BAR 2 after byte {lane} is {got:08x}, wanted {wanted:08x}"
        );
    }
}

#[test]
fn both_halves_of_a_64_bit_bar_make_its_address() {
    let mut device = Device::new(&EVERYTHING);
    assert_eq!(device.w32(0x1c, 0x0000_0012), [Effect::BarMoved { bar: 2 }]);
    assert_eq!(
        device.w32(0x18, 0x8000_0000),
        [],
        "below its size nothing can be set"
    );
    assert_eq!(device.state.bar_address(&device.layout, 2), 0x12_0000_0000);
    assert_eq!(
        device.state.bar_address(&device.layout, 3),
        0,
        "the second half is no BAR of its own"
    );
}

#[test]
fn an_io_bar_holds_a_port() {
    let mut device = Device::new(&EVERYTHING);
    assert_eq!(device.w32(0x14, 0x0000_c0f3), [Effect::BarMoved { bar: 1 }]);
    assert_eq!(device.r32(0x14), 0x0000_c0e1);
    assert_eq!(device.state.bar_address(&device.layout, 1), 0xc0e0);
}

#[test]
fn a_write_that_changes_no_address_moves_nothing() {
    let mut device = Device::new(&EDU);
    device.w32(0x10, 0xfeb0_0000);
    assert_eq!(device.w32(0x10, 0xfeb0_1230), []);
}

#[test]
fn command_switches_what_is_decoded() {
    let mut device = Device::new(&EVERYTHING);
    let decoded = |device: &Device| -> Vec<u8> {
        (0..=6)
            .filter(|bar| device.state.decodes(&device.layout, *bar))
            .collect()
    };
    assert_eq!(decoded(&device), []);
    assert_eq!(device.w16(0x04, 0x0001), [Effect::Decode]);
    assert_eq!(decoded(&device), [1], "I/O");
    assert_eq!(device.w16(0x04, 0x0003), [Effect::Decode]);
    assert_eq!(
        decoded(&device),
        [0, 1, 2, 4],
        "I/O and memory; a 64-bit BAR's second half is none"
    );
    assert_eq!(
        device.w32(0x30, 0xfea0_0001),
        [Effect::BarMoved { bar: 6 }, Effect::Decode]
    );
    assert_eq!(decoded(&device), [0, 1, 2, 4, 6], "and the ROM");
    device.w16(0x04, 0x0001);
    assert_eq!(decoded(&device), [1], "the ROM needs memory space too");
    assert_eq!(device.w16(0x04, 0x0001), [], "nothing changed");
}

#[test]
fn command_has_no_decode_bit_for_what_the_function_has_not() {
    let mut plain = Device::new(&PLAIN);
    plain.w16(0x04, 0xffff);
    assert_eq!(plain.r16(0x04), 0x0544, "no BARs: neither memory nor I/O");
    let mut edu = Device::new(&EDU);
    edu.w16(0x04, 0xffff);
    assert_eq!(edu.r16(0x04), 0x0546, "memory only");
}

#[test]
fn nothing_is_decoded_in_d3hot_or_during_a_reset() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(0x04, 0x0007);
    device.w8(0x44, 3);
    assert!(device.effects.contains(&Effect::Decode), "{:?}", device.effects);
    assert!(!device.state.decodes(&device.layout, 0));
    assert!(!device.state.bus_master(&device.layout));

    let mut device = Device::new(&EVERYTHING);
    device.w16(0x04, 0x0007);
    device.input(Input::Reset {
        kind: ResetKind::FunctionLevel,
    });
    assert!(!device.state.decodes(&device.layout, 0));
    let id = device.effects.iter().find_map(|effect| match effect {
        Effect::Reset { id, .. } => Some(*id),
        _ => None,
    });
    let id = id.expect("a reset has begun");
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Done,
    });
    device.input(Input::Settled { id });
    assert!(device.effects.contains(&Effect::Decode), "{:?}", device.effects);
    assert!(device.state.decodes(&device.layout, 0));
}

#[test]
fn the_filtered_view_refuses_to_move_a_bar() {
    let mut device = Device::seen(&EDU, View::Filtered);
    let effects = device.w32(0x10, 0xfeb0_0000);
    assert!(
        matches!(effects[..], [Effect::Refused { offset: 0x10, .. }]),
        "{effects:?}"
    );
    assert_eq!(device.r32(0x10), 0);
}

#[test]
fn the_filtered_view_refuses_only_what_would_change_something() {
    let mut device = Device::seen(&EDU, View::Filtered);
    assert_eq!(device.w32(0x10, 0), [], "written back as it was read");
    assert_eq!(
        device.w32(0x10, 0x000f_fff0),
        [],
        "below the BAR's size there are no bits to change"
    );
    assert_eq!(device.w16(0x10, 0xffff), [], "nor in this half");
    assert_eq!(device.w32(0x14, ONES), [], "nor where there is no BAR");
    assert_eq!(
        device.w32(0x00, ONES),
        [],
        "read-only registers are not refused, only read-only"
    );
    let effects = device.w8(0x13, 0x01);
    assert!(
        matches!(effects[..], [Effect::Refused { offset: 0x10, .. }]),
        "{effects:?}"
    );

    let kind = Interrupt::Msi;
    device.input(Input::Enable { kind, vectors: 1 });
    assert_eq!(
        device.w16(0x42, 0x0081),
        [],
        "MSI control as it is, enabled by request"
    );
    let effects = device.w16(0x42, 0x0080);
    assert!(
        matches!(effects[..], [Effect::Refused { offset: 0x40, .. }]),
        "{effects:?}"
    );
    assert_eq!(device.r16(0x42), 0x0081);
}

#[test]
fn bars_that_break_the_specification_are_refused() {
    let bar = |slot: usize, bar| {
        let mut blueprint = Blueprint {
            capabilities: &[],
            ..EDU
        };
        blueprint.bars = [Bar::None; 6];
        blueprint.bars[slot] = bar;
        Layout::compile(&blueprint, View::Virtual).err()
    };
    let memory32 = |bytes| Bar::Memory32 {
        bytes,
        prefetchable: false,
    };
    let memory64 = |bytes| Bar::Memory64 {
        bytes,
        prefetchable: false,
    };
    let size = |bar| Some(BlueprintError::BarSize { bar });
    assert_eq!(bar(0, memory32(24)), size(0), "no power of two");
    assert_eq!(bar(1, memory32(8)), size(1), "below 16 bytes");
    assert_eq!(bar(1, memory32(0)), size(1));
    assert_eq!(bar(2, memory64(0)), size(2));
    assert_eq!(bar(3, Bar::Io { bytes: 512 }), size(3), "above 256 ports");
    assert_eq!(bar(3, Bar::Io { bytes: 2 }), size(3));
    assert_eq!(bar(5, memory64(4096)), Some(BlueprintError::BarPair { bar: 5 }));
    assert_eq!(bar(0, memory32(1 << 31)), None);
    assert_eq!(bar(4, memory64(1 << 62)), None);

    let mut blueprint = EVERYTHING;
    blueprint.bars[3] = memory32(16);
    let error = Layout::compile(&blueprint, View::Virtual).err();
    assert_eq!(error, Some(BlueprintError::BarPair { bar: 2 }));
    let rom = Blueprint {
        rom_bytes: 1024,
        ..EVERYTHING
    };
    assert_eq!(Layout::compile(&rom, View::Virtual).err(), size(6));
}
