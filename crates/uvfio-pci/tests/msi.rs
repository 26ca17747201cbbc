//! MSI: 1 to 32 messages by both doors, masks and pending bits, and when a message is delivered.

mod common;

use common::{Device, EDU, EVERYTHING, PLAIN};
use uvfio_pci::{Blueprint, Capability, Effect, Input, Interrupt, InterruptMode};

const MSI: Interrupt = Interrupt::Msi;

/// A function with MSI at 0x40 only; bus master on.
fn function(messages: u8, maskable: bool) -> Device {
    let mut device = Device::new(&Blueprint {
        capabilities: &[Capability::Msi {
            messages,
            wide: true,
            maskable,
        }],
        ..EDU
    });
    device.w16(0x04, 0x0004);
    device
}

/// The same, enabled by request, every vector attached.
fn enabled(messages: u8, maskable: bool) -> Device {
    let mut device = function(messages, maskable);
    device.input(Input::Enable {
        kind: MSI,
        vectors: messages.into(),
    });
    for vector in 0..messages.into() {
        device.input(Input::Attach { kind: MSI, vector });
    }
    device
}

const fn fire(vector: u16) -> Input {
    Input::VectorFired { vector }
}

/// Multiple message enable, and enable, as the control register has them.
fn granted(device: &Device) -> (u16, bool) {
    let control = device.r16(0x42);
    (control >> 4 & 7, control & 1 != 0)
}

fn mode(device: &Device) -> InterruptMode {
    device.state.interrupt_mode(&device.layout)
}

#[test]
fn the_messages_a_function_can_send_are_shown_as_a_power_of_two() {
    for (log2, messages) in (0..).zip([1, 2, 4, 8, 16, 32]) {
        let device = function(messages, false);
        let control = device.r16(0x42);
        assert_eq!(
            control >> 1 & 7,
            log2,
            "{messages} messages: control {control:04x}"
        );
    }
}

#[test]
fn more_messages_than_the_function_has_count_as_what_it_has() {
    for (capable, messages) in (0..).zip([1_u8, 2, 4, 8, 16, 32]) {
        for wanted in 0..8 {
            let mut device = function(messages, true);
            device.w16(0x42, wanted << 4 | 1);
            assert_eq!(granted(&device), (wanted, true), "what is written is held");
            let expected = InterruptMode::Msi(1 << wanted.min(capable));
            assert_eq!(mode(&device), expected, "{messages} messages, {wanted} written");
        }
    }
}

#[test]
fn a_request_for_n_vectors_grants_the_next_power_of_two() {
    for vectors in 1..=32_u16 {
        let mut device = function(32, true);
        let effects = device.input(Input::Enable { kind: MSI, vectors });
        assert_eq!(effects, [Effect::Interrupts], "{vectors} vectors");
        let log2 = (0..6).find(|log2| 1 << log2 >= vectors).unwrap_or(5);
        assert_eq!(granted(&device), (log2, true), "{vectors} vectors");
        assert_eq!(mode(&device), InterruptMode::Msi(1 << log2));
    }
    let mut device = function(4, true);
    device.input(Input::Enable {
        kind: MSI,
        vectors: 32,
    });
    assert_eq!(granted(&device), (2, true), "no more than the function has");
}

#[test]
fn while_enabled_the_messages_granted_by_request_only_grow() {
    let mut device = function(32, true);
    for (vectors, log2) in [(2, 1), (3, 2), (1, 2), (9, 4), (8, 4)] {
        device.input(Input::Enable { kind: MSI, vectors });
        assert_eq!(granted(&device), (log2, true), "after a request for {vectors}");
    }
    device.input(Input::Disable { kind: MSI });
    assert_eq!(granted(&device), (4, false), "the count stays, the enable goes");
    device.input(Input::Enable {
        kind: MSI,
        vectors: 1,
    });
    assert_eq!(granted(&device), (0, true), "enabled anew, it starts over");
}

#[test]
fn both_doors_lead_to_one_state() {
    let mut by_register = function(32, true);
    by_register.w16(0x42, 0x0031);
    let mut by_request = function(32, true);
    by_request.input(Input::Enable {
        kind: MSI,
        vectors: 8,
    });
    assert_eq!(by_register.state, by_request.state);
    by_register.input(Input::Disable { kind: MSI });
    by_request.w16(0x42, 0x0030);
    assert_eq!(by_register.state, by_request.state);
}

#[test]
fn each_message_of_32_is_delivered_as_itself() {
    let mut device = enabled(32, true);
    for vector in 0..32 {
        assert_eq!(device.input(fire(vector)), [Effect::Deliver]);
        assert_eq!(device.vectors(), [vector]);
        assert_eq!(device.vectors(), [], "once");
    }
    for vector in [31, 0, 7] {
        device.input(fire(vector));
    }
    assert_eq!(device.vectors(), [0, 7, 31]);
}

#[test]
fn vectors_past_the_messages_granted_are_folded_into_them() {
    let mut device = enabled(32, true);
    device.w16(0x42, 0x0021);
    for (fired, delivered) in [(3, 3), (4, 0), (5, 1), (31, 3)] {
        device.input(fire(fired));
        assert_eq!(device.vectors(), [delivered], "vector {fired} with 4 messages");
    }
}

#[test]
fn a_message_fired_while_disabled_is_lost() {
    let mut device = enabled(32, true);
    device.w16(0x42, 0x0050);
    assert_eq!(device.input(fire(3)), []);
    device.w16(0x42, 0x0051);
    assert_eq!(device.vectors(), []);
}

#[test]
fn a_masked_message_is_pending_and_delivered_once_when_unmasked() {
    let mut device = enabled(32, true);
    device.w32(0x50, 1 << 5 | 1 << 6);
    for vector in [5, 5, 6, 7] {
        device.input(fire(vector));
    }
    assert_eq!(device.vectors(), [7], "not masked");
    assert_eq!(device.r32(0x54), 1 << 5 | 1 << 6, "pending bits");
    assert_eq!(device.w32(0x50, 1 << 6), [Effect::Deliver]);
    assert_eq!(device.vectors(), [5]);
    assert_eq!(device.r32(0x54), 1 << 6);
    device.w8(0x50, 0);
    assert_eq!(device.vectors(), [6], "unmasked by its own byte lane");
    assert_eq!(device.r32(0x54), 0);
}

#[test]
fn pending_bits_are_read_only() {
    let mut device = enabled(32, true);
    device.w32(0x50, 1);
    device.input(fire(0));
    device.w32(0x54, 0);
    assert_eq!(device.r32(0x54), 1);
    device.w32(0x54, u32::MAX);
    assert_eq!(device.r32(0x54), 1);
}

#[test]
fn a_message_waits_for_its_eventfd_and_is_delivered_once() {
    for maskable in [false, true] {
        let mut device = function(4, maskable);
        device.w16(0x42, 0x0021);
        assert_eq!(device.input(fire(2)), [], "maskable {maskable}");
        device.input(fire(2));
        assert_eq!(device.vectors(), []);
        let attach = Input::Attach { kind: MSI, vector: 2 };
        assert_eq!(device.input(attach), [Effect::Deliver], "maskable {maskable}");
        assert_eq!(device.vectors(), [2]);
        device.input(Input::Detach { kind: MSI, vector: 2 });
        device.input(fire(2));
        assert_eq!(device.vectors(), []);
    }
}

#[test]
fn a_message_waits_for_bus_mastering() {
    let mut device = enabled(4, false);
    device.w16(0x04, 0x0000);
    assert_eq!(device.input(fire(1)), []);
    assert_eq!(device.vectors(), []);
    assert_eq!(
        device.w16(0x04, 0x0004),
        [Effect::BusMaster { on: true }, Effect::Deliver]
    );
    assert_eq!(device.vectors(), [1]);
    device.input(Input::BusMaster { on: false });
    assert_eq!(device.r16(0x04), 0, "the same bit by request");
    device.input(fire(1));
    assert_eq!(device.vectors(), []);
    device.input(Input::BusMaster { on: true });
    assert_eq!(device.vectors(), [1]);
}

#[test]
fn a_message_waits_for_d0() {
    // MSI of four messages at 0x40, mask bits at 0x4c, PMCSR at 0x60, No_Soft_Reset
    let mut device = Device::new(&PLAIN);
    device.w16(0x04, 0x0004);
    device.input(Input::Enable {
        kind: MSI,
        vectors: 4,
    });
    device.input(Input::Attach { kind: MSI, vector: 1 });
    device.w32(0x4c, 0xf);
    device.input(fire(1));
    device.w8(0x60, 3);
    device.w32(0x4c, 0);
    assert_eq!(device.vectors(), [], "unmasked in D3hot");
    device.w8(0x60, 0);
    assert!(device.effects.contains(&Effect::Deliver), "{:?}", device.effects);
    assert_eq!(device.vectors(), [1]);
}

#[test]
fn disabling_forgets_what_was_pending_and_detaches() {
    let mut device = enabled(4, true);
    device.w32(0x50, 0xf);
    device.input(fire(3));
    assert_eq!(device.input(Input::Disable { kind: MSI }), [Effect::Interrupts]);
    assert_eq!(device.r32(0x54), 0, "pending bits");
    device.input(Input::Enable {
        kind: MSI,
        vectors: 4,
    });
    device.w32(0x50, 0);
    device.input(fire(3));
    assert_eq!(device.vectors(), [], "no eventfd is attached any more");
}

#[test]
fn disabling_by_register_forgets_what_was_pending() {
    let mut device = enabled(4, true);
    device.w32(0x50, 0xf);
    device.input(fire(3));
    device.w16(0x42, 0x0020);
    assert_eq!(device.r32(0x54), 0, "pending bits");
    device.w16(0x42, 0x0021);
    device.w32(0x50, 0);
    assert_eq!(device.vectors(), []);
    device.input(fire(3));
    assert_eq!(device.vectors(), [3], "eventfds stay attached");
}

#[test]
fn a_message_that_is_not_granted_any_more_is_not_sent() {
    let mut device = enabled(32, true);
    device.w32(0x50, u32::MAX);
    device.input(fire(20));
    device.w16(0x42, 0x0011);
    device.w32(0x50, 0);
    assert_eq!(
        device.vectors(),
        [],
        "two messages are granted, 20 is none of them"
    );
}

#[test]
fn vectors_that_are_not_there_change_nothing() {
    let mut device = enabled(4, true);
    let before = device.state.clone();
    for vector in [4, 31, 32, 36, u16::MAX] {
        assert_eq!(device.input(Input::Attach { kind: MSI, vector }), []);
        assert_eq!(device.input(Input::Detach { kind: MSI, vector }), []);
        assert_eq!(device.state, before, "vector {vector}");
    }
    let mut without = Device::new(&common::NVME);
    let before = without.state.clone();
    assert_eq!(
        without.input(Input::Enable {
            kind: MSI,
            vectors: 1
        }),
        []
    );
    assert_eq!(without.input(Input::Attach { kind: MSI, vector: 0 }), []);
    assert_eq!(without.input(Input::Disable { kind: MSI }), []);
    assert_eq!(without.state, before, "the function has no MSI");
}

#[test]
fn mask_bits_of_messages_that_are_not_there_stay_0() {
    for messages in [1_u8, 2, 4, 8, 16, 32] {
        let mut device = function(messages, true);
        device.w32(0x50, u32::MAX);
        let wanted = (1_u64 << messages) as u32;
        assert_eq!(device.r32(0x50), wanted.wrapping_sub(1), "{messages} messages");
    }
    let mut device = Device::new(&EVERYTHING);
    device.w32(0x60, u32::MAX);
    assert_eq!(device.r32(0x60), u32::MAX);
}
