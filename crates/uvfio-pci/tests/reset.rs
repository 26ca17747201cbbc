//! Resets: by PCI Express, by advanced features, by request; what they leave, and how they end.

#![allow(clippy::panic, reason = "a test may fail")]

mod common;

use common::{Device, EVERYTHING, NVME};
use uvfio_pci::{Blueprint, Capability, Effect, EffectId, Input, Interrupt, Outcome, ResetKind, View};

/// DEVCTL and DEVSTA of the NVMe controller.
const DEVCTL: u16 = 0x5c;
const DEVSTA: u16 = 0x5e;
const FLR: u16 = 0x8000;

const REQUEST: Input = Input::Reset {
    kind: ResetKind::FunctionLevel,
};

/// The resets among the last effects.
fn begun(device: &Device) -> Vec<(ResetKind, EffectId)> {
    let effects = device.effects.iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Reset { kind, id } => Some((*kind, *id)),
            _ => None,
        })
        .collect()
}

/// The only reset that the last step began.
fn one_begun(device: &Device) -> (ResetKind, EffectId) {
    let [one] = begun(device)[..] else {
        panic!("one reset begins: {:?}", device.effects)
    };
    one
}

/// Ends the reset that the last step began.
fn end(device: &mut Device) -> ResetKind {
    let (kind, id) = one_begun(device);
    done(device, id);
    kind
}

/// Says that the device is reset, and has its user's settings again.
fn done(device: &mut Device, id: EffectId) {
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Done,
    });
    device.input(Input::Settled { id });
}

/// A controller as a driver has it at work: all that a user can set is set.
fn at_work(view: View) -> Device {
    let mut device = Device::seen(&NVME, view);
    device.w32(0x14, 0x0000_0001);
    device.w32(0x10, 0xfeb0_0000);
    device.w16(0x04, 0x0546);
    device.w8(0x0c, 16);
    device.w8(0x3c, 11);
    device.w16(DEVCTL, 0x205f);
    device.w32(0x108, 0x0001_0000); // AER mask, sticky
    device.input(Input::Enable {
        kind: Interrupt::MsiX,
        vectors: 4,
    });
    for vector in 0..4 {
        device.put(uvfio_pci::Window::MsixTable, u32::from(vector) * 16, &[0x10; 12]);
        device.input(Input::Attach {
            kind: Interrupt::MsiX,
            vector,
        });
    }
    device.set_entry(2, 3, 1);
    device.input(Input::VectorFired { vector: 2 });
    device.input(Input::IntxLevel { asserted: true });
    device
}

#[test]
fn a_function_level_reset_leaves_the_virtual_configuration_as_the_user_had_it() {
    let mut device = at_work(View::Virtual);
    assert!(device.pending(2));
    let mut kept = device.page();
    kept[0x06] &= !0x08; // the line is deasserted
    let table: [u8; 33 * 16] = device.bytes(uvfio_pci::Window::MsixTable, 0);
    device.input(REQUEST);
    assert_eq!(end(&mut device), ResetKind::FunctionLevel);
    assert_eq!(device.page(), kept);
    assert_eq!(
        device.bytes(uvfio_pci::Window::MsixTable, 0),
        table,
        "MSI-X table, with its masks"
    );
    assert!(!device.pending(2), "pending bits are cleared");
    device.set_entry(2, 3, 0);
    assert_eq!(device.vectors(), [], "and what was pending is not delivered");
    device.input(Input::VectorFired { vector: 2 });
    assert_eq!(device.vectors(), [2], "eventfds stay attached");
}

#[test]
fn registers_and_request_start_the_same_reset() {
    let mut by_request = at_work(View::Virtual);
    by_request.input(REQUEST);
    let mut by_express = at_work(View::Virtual);
    by_express.w16(DEVCTL, 0x205f | FLR);
    assert_eq!(begun(&by_express), begun(&by_request));
    assert_eq!(by_express.effects, by_request.effects);
    assert_eq!(by_express.state, by_request.state);
    assert_eq!(by_express.r16(DEVCTL), 0x205f, "Initiate FLR reads 0");
}

#[test]
fn advanced_features_start_a_reset_too() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(0x04, 0x0007);
    assert_eq!(device.r8(0x79), 0);
    device.w8(0x78, 0x01);
    assert_eq!(begun(&device).len(), 1);
    assert_eq!(
        device.r16(0x78),
        0x0100,
        "the control reads 0, transactions are pending"
    );
    end(&mut device);
    assert_eq!(device.r16(0x78), 0x0000);
    assert_eq!(device.r16(0x04), 0x0007);
}

#[test]
fn only_the_lane_of_the_bit_starts_a_reset() {
    let mut device = at_work(View::Virtual);
    device.w8(DEVCTL, 0xff);
    assert_eq!(begun(&device), []);
    device.w8(DEVCTL + 1, 0x80);
    assert_eq!(begun(&device).len(), 1);
}

#[test]
fn what_was_written_beside_the_reset_bit_is_stored() {
    let mut device = Device::new(&NVME);
    device.w16(DEVCTL, 0x5000 | FLR);
    end(&mut device);
    assert_eq!(device.r16(DEVCTL), 0x5000);
}

#[test]
fn without_the_capability_the_bit_does_nothing() {
    let mut device = Device::new(&Blueprint {
        capabilities: &[Capability::Express {
            flr: false,
            integrated: false,
        }],
        ..NVME
    });
    assert_eq!(device.r32(0x44) >> 28 & 1, 0, "DEVCAP");
    assert!(!device.layout.function_level_reset());
    assert_eq!(device.w16(0x48, FLR), []);
    assert_eq!(device.r16(0x48), 0);
}

#[test]
fn in_the_raw_view_a_function_level_reset_leaves_what_hardware_leaves() {
    let mut device = at_work(View::Raw);
    device.input(REQUEST);
    end(&mut device);
    assert_eq!(device.r16(0x04), 0, "COMMAND");
    assert_eq!(device.r32(0x10), 0x0000_0004, "BAR 0");
    assert_eq!(device.r8(0x3c), 0, "interrupt line");
    assert_eq!(device.r16(DEVCTL), 0x2810, "DEVCTL");
    assert_eq!(device.r16(0x4a) & 0xc000, 0, "MSI-X control");
    assert_eq!(device.r32(0x108), 0x0001_0000, "AER's mask is sticky");
    assert_eq!(device.entry(0, 0), 0, "MSI-X table");
    assert_eq!(device.entry(4, 3), 1, "vector 4 is masked");
    assert_eq!(device.entry(1, 3), 0, "vector 1 has an eventfd");
}

#[test]
fn in_the_filtered_view_a_function_level_reset_leaves_what_the_user_had() {
    let mut device = at_work(View::Filtered);
    device.input(REQUEST);
    end(&mut device);
    assert_eq!(device.r16(0x04), 0x0546, "COMMAND");
    assert_eq!(device.r8(0x3c), 11, "interrupt line");
    assert_eq!(
        device.r16(DEVCTL),
        0x201f,
        "DEVCTL, of which the payload size can't be set"
    );
    assert_eq!(device.r16(0x4a) & 0x8000, 0x8000, "MSI-X enable");
    assert_eq!(device.r32(0x108), 0x0001_0000, "AER's mask");
    assert_eq!(device.entry(1, 3), 0, "vector 1 has an eventfd");
}

#[test]
fn a_conventional_reset_leaves_only_what_is_sticky() {
    let mut device = at_work(View::Virtual);
    let mut fresh = Device::new(&NVME).page();
    fresh[0x108..0x10c].copy_from_slice(&[0, 0, 1, 0]);
    device.input(Input::Reset {
        kind: ResetKind::Conventional,
    });
    assert_eq!(end(&mut device), ResetKind::Conventional);
    assert_eq!(device.page(), fresh);
    assert_eq!(
        device.entry(1, 3),
        0,
        "eventfds survive, and keep their vectors unmasked"
    );
    device.w16(0x04, 0x0004);
    device.w16(0x4a, 0x8000);
    device.input(Input::VectorFired { vector: 1 });
    assert_eq!(device.vectors(), [1]);
}

#[test]
fn a_second_reset_while_one_is_under_way_is_the_same_one() {
    let mut device = at_work(View::Virtual);
    device.input(REQUEST);
    let (_, id) = one_begun(&device);
    device.input(REQUEST);
    assert_eq!(begun(&device), []);
    device.w16(DEVCTL, FLR);
    assert_eq!(begun(&device), []);
    done(&mut device, id);
    assert!(device.state.decodes(&device.layout, 0));
    device.input(REQUEST);
    assert_eq!(begun(&device).len(), 1, "the next one is another");
    assert_ne!(begun(&device)[0].1, id);
}

#[test]
fn while_a_reset_is_under_way_nothing_is_decoded_and_transactions_are_pending() {
    let mut device = at_work(View::Virtual);
    assert_eq!(device.r16(DEVSTA) & 0x20, 0);
    device.input(REQUEST);
    assert!(device.effects.contains(&Effect::Decode), "{:?}", device.effects);
    let off = Effect::BusMaster { on: false };
    assert!(device.effects.contains(&off), "{:?}", device.effects);
    assert!(device.state.resetting());
    assert!(!device.state.decodes(&device.layout, 0));
    assert!(!device.state.bus_master(&device.layout));
    assert_eq!(device.r16(DEVSTA) & 0x20, 0x20);
    device.input(Input::VectorFired { vector: 0 });
    assert_eq!(device.vectors(), [], "no interrupt is sent");
    assert_eq!(device.r16(0x04), 0x0546, "COMMAND is as the user had it");
    let id = EffectId(1);
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Done,
    });
    let on = Effect::BusMaster { on: true };
    assert!(device.effects.contains(&on), "{:?}", device.effects);
    assert_eq!(device.r16(DEVSTA) & 0x20, 0x20, "bus mastering is yet to go on");
    assert!(!device.state.decodes(&device.layout, 0));
    for (other, pending) in [(EffectId(2), 0x20), (id, 0)] {
        device.input(Input::Settled { id: other });
        assert_eq!(device.r16(DEVSTA) & 0x20, pending, "{other:?} has settled");
    }
    assert!(device.effects.contains(&Effect::Decode), "{:?}", device.effects);
    assert!(device.state.decodes(&device.layout, 0));
}

#[test]
fn what_settles_is_the_last_reset_and_no_former_one() {
    let mut device = at_work(View::Virtual);
    device.input(REQUEST);
    let (_, first) = one_begun(&device);
    device.input(Input::EffectDone {
        id: first,
        outcome: Outcome::Done,
    });
    device.w16(DEVCTL, FLR);
    let (_, second) = one_begun(&device);
    device.input(Input::Settled { id: first });
    assert!(device.state.resetting());
    assert_eq!(device.r16(DEVSTA) & 0x20, 0x20);
    done(&mut device, second);
    assert_eq!(device.r16(DEVSTA) & 0x20, 0);
    assert!(device.state.decodes(&device.layout, 0));
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut device = at_work(View::Virtual);
    for outcome in [Outcome::Done, Outcome::Data(5), Outcome::Failed] {
        let before = device.state.clone();
        assert_eq!(
            device.input(Input::EffectDone {
                id: EffectId(77),
                outcome
            }),
            []
        );
        assert_eq!(device.state, before);
    }
    device.input(REQUEST);
    let before = device.state.clone();
    device.input(Input::EffectDone {
        id: EffectId(77),
        outcome: Outcome::Done,
    });
    assert_eq!(device.state, before, "the reset that is under way goes on");
}

#[test]
fn after_a_reset_that_failed_the_function_is_dark_until_one_works() {
    let mut device = at_work(View::Virtual);
    device.input(REQUEST);
    let (_, id) = one_begun(&device);
    device.input(Input::EffectDone {
        id,
        outcome: Outcome::Failed,
    });
    assert!(!device.state.decodes(&device.layout, 0));
    device.w16(DEVCTL, FLR);
    assert_eq!(end(&mut device), ResetKind::FunctionLevel, "another can be tried");
    assert!(device.state.decodes(&device.layout, 0));
}

#[test]
fn eventfds_of_every_kind_survive_a_conventional_reset() {
    let mut device = Device::new(&EVERYTHING);
    for kind in [Interrupt::Intx, Interrupt::Msi, Interrupt::MsiX] {
        device.input(Input::Attach { kind, vector: 0 });
    }
    device.input(Input::Reset {
        kind: ResetKind::Conventional,
    });
    end(&mut device);
    device.w16(0x04, 0x0004);
    device.input(Input::IntxLevel { asserted: true });
    device.w16(0x52, 0x0001);
    device.input(Input::VectorFired { vector: 0 });
    let message = device.deliveries();
    device.w16(0x52, 0x0000);
    let line = device.deliveries();
    device.w16(0x6a, 0x8000);
    device.input(Input::VectorFired { vector: 0 });
    let vector = device.deliveries();
    let kinds: Vec<_> = [line, message, vector]
        .iter()
        .flatten()
        .map(|delivery| delivery.kind)
        .collect();
    assert_eq!(kinds, [Interrupt::Intx, Interrupt::Msi, Interrupt::MsiX]);
}
