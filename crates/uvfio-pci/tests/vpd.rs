//! Vital product data: the flag that starts and ends a transfer.

#![allow(clippy::panic, reason = "a test may fail")]

mod common;

use common::{Device, EDU, EVERYTHING};
use uvfio_pci::{Blueprint, Capability, Effect, EffectId, Input, Outcome, ResetKind};

/// Address and flag (bit 15), and data, of [`EVERYTHING`].
const ADDRESS: u16 = 0x4a;
const DATA: u16 = 0x4c;
const FLAG: u16 = 0x8000;

/// The transfer that the last step began: (address, what to write, number).
fn transfer(device: &Device) -> (u16, Option<u32>, EffectId) {
    match device.effects[..] {
        [Effect::Vpd { address, write, id }] => (address, write, id),
        ref effects => panic!("one transfer begins: {effects:?}"),
    }
}

#[test]
fn reading_sets_the_flag_when_the_data_are_there() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(ADDRESS, 0x0124);
    let (address, write, id) = transfer(&device);
    assert_eq!((address, write), (0x0124, None));
    assert_eq!(device.r16(ADDRESS), 0x0124, "not yet");
    let outcome = Outcome::Data(0x4433_2211);
    assert_eq!(device.input(Input::EffectDone { id, outcome }), []);
    assert_eq!(device.r16(ADDRESS), 0x0124 | FLAG);
    assert_eq!(device.r32(DATA), 0x4433_2211);
}

#[test]
fn writing_clears_the_flag_when_the_data_are_stored() {
    let mut device = Device::new(&EVERYTHING);
    assert_eq!(device.w32(DATA, 0xdead_beef), [], "data alone start nothing");
    device.w16(ADDRESS, 0x7ffc | FLAG);
    let (address, write, id) = transfer(&device);
    assert_eq!((address, write), (0x7ffc, Some(0xdead_beef)));
    assert_eq!(device.r16(ADDRESS), 0x7ffc | FLAG, "not yet");
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Done,
    });
    assert_eq!(device.r16(ADDRESS), 0x7ffc);
}

#[test]
fn transfers_are_of_whole_dwords() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(ADDRESS, 0x0013);
    assert_eq!(transfer(&device).0, 0x0010);
}

#[test]
fn only_the_flags_lane_starts_a_transfer() {
    let mut device = Device::new(&EVERYTHING);
    assert_eq!(device.w8(ADDRESS, 0x40), []);
    assert_eq!(device.w8(0x49, 0xff), [], "the pointer to the next capability");
    device.w8(ADDRESS + 1, 0x01);
    assert_eq!(transfer(&device).0, 0x0140);
}

#[test]
fn a_transfer_that_failed_leaves_the_flag() {
    for (start, write) in [(0x0010, None), (0x0010 | FLAG, Some(0))] {
        let mut device = Device::new(&EVERYTHING);
        device.w16(ADDRESS, start);
        let (_, wanted, id) = transfer(&device);
        assert_eq!(wanted, write);
        device.input(Input::EffectDone {
            id,
            outcome: Outcome::Failed,
        });
        assert_eq!(device.r16(ADDRESS), start, "a driver runs into its time limit");
        device.w16(ADDRESS, 0x0014);
        assert_eq!(transfer(&device).0, 0x0014, "and the next transfer works");
    }
}

#[test]
fn one_transfer_at_a_time() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(ADDRESS, 0x0010);
    let (.., id) = transfer(&device);
    assert_eq!(device.w16(ADDRESS, 0x0020), []);
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Data(1),
    });
    device.w16(ADDRESS, 0x0030);
    assert_eq!(transfer(&device).0, 0x0030);
}

#[test]
fn a_reset_abandons_a_transfer_and_its_late_answer_is_dropped() {
    for kind in [ResetKind::FunctionLevel, ResetKind::Conventional] {
        let mut device = Device::new(&EVERYTHING);
        device.w16(ADDRESS, 0x0010);
        let (.., id) = transfer(&device);
        device.input(Input::Reset { kind });
        let before = device.state.clone();
        device.input(Input::EffectDone {
            id,
            outcome: Outcome::Data(0x5555_5555),
        });
        assert_eq!(device.state, before, "{kind:?}");
    }
}

#[test]
fn where_writes_are_off_the_write_is_over_at_once_and_refused() {
    let mut device = Device::new(&Blueprint {
        capabilities: &[Capability::Vpd { writable: false }],
        ..EDU
    });
    device.w32(0x44, 0x1234_5678);
    let effects = device.w16(0x42, 0x0020 | FLAG);
    assert!(
        matches!(effects[..], [Effect::Refused { offset: 0x40, .. }]),
        "{effects:?}"
    );
    assert_eq!(device.r16(0x42), 0x0020, "as a device that does not store it");
    device.w16(0x42, 0x0020);
    assert_eq!(transfer(&device).1, None, "reading works");
}
