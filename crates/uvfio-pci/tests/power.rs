//! D-states, as PMCSR says them.

mod common;

use common::{Device, EVERYTHING, PLAIN};
use uvfio_pci::{Effect, Input, Interrupt, PowerState, ResetKind};

/// PMCSR of [`EVERYTHING`], which a return from D3hot resets.
const RESETTING: u16 = 0x44;
/// PMCSR of [`PLAIN`], which keeps its registers (No_Soft_Reset, bit 3).
const KEEPING: u16 = 0x60;

fn power(device: &Device) -> PowerState {
    device.state.power(&device.layout)
}

/// The D-state changes among the last effects.
fn changes(device: &Device) -> Vec<(PowerState, PowerState)> {
    let effects = device.effects.iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Power { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .collect()
}

fn resets(device: &Device) -> Vec<ResetKind> {
    let effects = device.effects.iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Reset { kind, .. } => Some(*kind),
            _ => None,
        })
        .collect()
}

#[test]
fn the_state_written_is_held_and_told() {
    let mut device = Device::new(&PLAIN);
    device.w16(KEEPING, 3);
    assert_eq!(device.r16(KEEPING), 0x000b);
    assert_eq!(power(&device), PowerState::D3hot);
    assert_eq!(changes(&device), [(PowerState::D0, PowerState::D3hot)]);
    device.w16(KEEPING, 3);
    assert_eq!(changes(&device), [], "it is there already");
    device.w16(KEEPING, 0);
    assert_eq!(device.r16(KEEPING), 0x0008);
    assert_eq!(changes(&device), [(PowerState::D3hot, PowerState::D0)]);
}

#[test]
fn a_state_that_is_not_offered_is_not_entered() {
    for from in [0, 3] {
        for to in [1, 2] {
            let mut device = Device::new(&PLAIN);
            device.w16(KEEPING, from);
            let effects = device.w16(KEEPING, to);
            assert_eq!(device.r16(KEEPING) & 3, from, "D{to} written in D{from}");
            assert_eq!(effects, [], "D{to} written in D{from}");
        }
    }
}

#[test]
fn other_lanes_of_pmcsr_change_no_state() {
    let mut device = Device::new(&PLAIN);
    assert_eq!(device.w8(KEEPING + 1, 0xff), []);
    assert_eq!(device.w16(KEEPING + 2, 0xffff), []);
    assert_eq!(device.r32(KEEPING), 0x0000_0008);
}

#[test]
fn configuration_space_works_in_d3hot() {
    let mut device = Device::new(&EVERYTHING);
    device.w8(RESETTING, 3);
    device.w8(0x3c, 0x5a);
    assert_eq!(device.r8(0x3c), 0x5a);
    assert_eq!(device.r32(0x00), 0x11e8_1234);
}

#[test]
fn d3hot_ends_bus_mastering_until_d0() {
    let mut device = Device::new(&PLAIN);
    device.w16(0x04, 4);
    device.w8(KEEPING, 3);
    assert!(
        device.effects.contains(&Effect::BusMaster { on: false }),
        "{:?}",
        device.effects
    );
    assert!(!device.state.bus_master(&device.layout));
    assert_eq!(device.r16(0x04), 4, "COMMAND is as written");
    device.w8(KEEPING, 0);
    assert!(
        device.effects.contains(&Effect::BusMaster { on: true }),
        "{:?}",
        device.effects
    );
}

#[test]
fn with_no_soft_reset_everything_is_kept() {
    let mut device = Device::new(&PLAIN);
    device.w16(0x04, 0x0544);
    device.w8(0x3c, 11);
    device.w32(0x44, 0xfee0_0000);
    device.input(Input::Enable {
        kind: Interrupt::Msi,
        vectors: 4,
    });
    let before = device.page();
    device.w8(KEEPING, 3);
    device.w8(KEEPING, 0);
    assert_eq!(resets(&device), []);
    assert_eq!(device.page(), before);
}

#[test]
fn without_no_soft_reset_coming_back_to_d0_resets() {
    let mut device = Device::new(&EVERYTHING);
    let fresh = device.page();
    device.w16(0x04, 0x0547);
    device.w32(0x10, 0xfeb0_0000);
    device.w8(0x3c, 11);
    device.w32(0x54, 0xfee0_0000);
    device.w16(0x52, 0x0051);
    device.w16(0x6a, 0x8000);
    device.set_entry(1, 2, 0x1234);
    device.input(Input::Attach {
        kind: Interrupt::MsiX,
        vector: 1,
    });
    device.w8(RESETTING, 3);
    assert_eq!(resets(&device), [], "not on the way down");
    device.w8(RESETTING, 0);
    assert_eq!(changes(&device), [(PowerState::D3hot, PowerState::D0)]);
    assert_eq!(resets(&device), [ResetKind::D3hot]);
    let mut page = device.page();
    // Transactions pending (AF status and DEVSTA) until the device says that it is done.
    page[0x79] = 0;
    page[0x8e] = 0;
    assert_eq!(page, fresh);
    assert_eq!(device.entry(1, 2), 0);
    assert_eq!(
        device.entry(1, 3),
        0,
        "an eventfd is attached: the vector stays unmasked"
    );
}
