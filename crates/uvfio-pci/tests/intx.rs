//! INTx: a level, its two doors (COMMAND's disable, SET_IRQS' mask), and when it is delivered.

mod common;

use common::{Device, EDU, EVERYTHING};
use uvfio_pci::{Blueprint, Delivery, Effect, EffectId, Identity, Input, Interrupt, Outcome, ResetKind};

const ASSERT: Input = Input::IntxLevel { asserted: true };
const DEASSERT: Input = Input::IntxLevel { asserted: false };
const ATTACH: Input = Input::Attach {
    kind: Interrupt::Intx,
    vector: 0,
};
const DETACH: Input = Input::Detach {
    kind: Interrupt::Intx,
    vector: 0,
};
const ONE: [Delivery; 1] = [Delivery {
    kind: Interrupt::Intx,
    vector: 0,
}];

/// COMMAND's and STATUS' INTx bits: (disabled, asserted).
fn bits(device: &Device) -> (bool, bool) {
    (device.r16(0x04) & 0x0400 != 0, device.r16(0x06) & 0x0008 != 0)
}

fn attached() -> Device {
    let mut device = Device::new(&EDU);
    device.input(ATTACH);
    device
}

#[test]
fn an_asserted_line_is_delivered_once_and_shown_in_status() {
    let mut device = attached();
    assert_eq!(device.input(ASSERT), [Effect::Deliver]);
    assert_eq!(device.deliveries(), ONE);
    assert_eq!(device.deliveries(), [], "delivered, it masks itself");
    assert_eq!(
        bits(&device),
        (false, true),
        "the mask by request is in no register"
    );
    assert_eq!(device.input(ASSERT), [], "asserted already, and masked");
}

#[test]
fn the_line_needs_neither_bus_master_nor_decoding() {
    let mut device = attached();
    assert_eq!(device.r16(0x04), 0);
    device.input(ASSERT);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn deasserting_clears_status_and_what_was_not_delivered() {
    let mut device = attached();
    device.input(ASSERT);
    assert_eq!(device.input(DEASSERT), []);
    assert_eq!(bits(&device), (false, false));
    assert_eq!(device.deliveries(), []);
}

#[test]
fn unmasking_delivers_again_while_the_line_is_still_asserted() {
    let mut device = attached();
    device.input(ASSERT);
    assert_eq!(device.deliveries(), ONE);
    assert_eq!(device.input(Input::UnmaskIntx), [Effect::Deliver]);
    assert_eq!(device.deliveries(), ONE);
    device.input(DEASSERT);
    assert_eq!(device.input(Input::UnmaskIntx), []);
    assert_eq!(device.deliveries(), []);
    device.input(ASSERT);
    assert_eq!(device.deliveries(), ONE, "and the next one is delivered");
}

#[test]
fn a_masked_line_is_not_delivered_and_no_register_shows_the_mask() {
    let mut device = attached();
    device.input(Input::MaskIntx);
    assert_eq!(device.input(ASSERT), []);
    assert_eq!(device.deliveries(), []);
    assert_eq!(bits(&device), (false, true));
    device.input(Input::UnmaskIntx);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn commands_disable_holds_the_line_back_and_status_still_tells() {
    let mut device = attached();
    device.w16(0x04, 0x0400);
    device.input(ASSERT);
    assert_eq!(device.deliveries(), []);
    assert_eq!(bits(&device), (true, true));
    assert_eq!(device.w8(0x05, 0x00), [Effect::Deliver], "by its own byte lane");
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn commands_disable_and_the_mask_by_request_are_two_states() {
    let mut device = attached();
    device.input(ASSERT);
    assert_eq!(device.deliveries(), ONE);
    device.w16(0x04, 0x0400);
    assert_eq!(device.w16(0x04, 0x0000), [], "still masked by request");
    device.w16(0x04, 0x0400);
    assert_eq!(device.input(Input::UnmaskIntx), [], "still disabled by register");
    device.w16(0x04, 0x0000);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn delivery_waits_for_an_eventfd() {
    let mut device = Device::new(&EDU);
    assert_eq!(device.input(ASSERT), []);
    assert_eq!(device.deliveries(), []);
    assert_eq!(device.input(ATTACH), [Effect::Deliver]);
    assert_eq!(device.deliveries(), ONE);
    device.input(Input::UnmaskIntx);
    device.input(DETACH);
    assert_eq!(device.deliveries(), []);
}

#[test]
fn disabling_by_request_detaches_and_forgets_the_mask() {
    let mut device = attached();
    device.input(Input::MaskIntx);
    device.input(Input::Disable {
        kind: Interrupt::Intx,
    });
    device.input(ASSERT);
    assert_eq!(device.deliveries(), [], "detached");
    device.input(ATTACH);
    assert_eq!(device.deliveries(), ONE, "and not masked");
}

#[test]
fn enabling_by_request_forgets_the_mask() {
    let mut device = attached();
    device.input(Input::MaskIntx);
    device.input(ASSERT);
    let enable = Input::Enable {
        kind: Interrupt::Intx,
        vectors: 1,
    };
    assert_eq!(device.input(enable), [Effect::Deliver]);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn messages_take_the_lines_place() {
    let mut device = attached();
    device.input(ASSERT);
    let effects = device.w16(0x42, 0x0081);
    assert_eq!(effects, [Effect::Interrupts], "MSI is enabled");
    assert_eq!(device.deliveries(), []);
    assert_eq!(
        bits(&device),
        (false, true),
        "the line is asserted inside all the same"
    );
    assert_eq!(device.w16(0x42, 0x0080), [Effect::Interrupts, Effect::Deliver]);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn the_line_is_silent_in_d3hot() {
    let mut device = Device::new(&EVERYTHING);
    device.input(ATTACH);
    device.w8(0x44, 3);
    device.input(ASSERT);
    assert_eq!(device.deliveries(), []);
}

#[test]
fn a_reset_deasserts_the_line() {
    let mut device = attached();
    device.w16(0x04, 0x0400);
    device.input(ASSERT);
    device.input(Input::Reset {
        kind: ResetKind::FunctionLevel,
    });
    device.input(Input::EffectDone {
        id: EffectId(1),
        outcome: Outcome::Done,
    });
    assert!(!device.state.resetting());
    assert_eq!(bits(&device), (true, false));
    device.w16(0x04, 0x0000);
    assert_eq!(device.deliveries(), []);
    device.input(ASSERT);
    assert_eq!(device.deliveries(), ONE);
}

#[test]
fn a_function_without_a_pin_has_no_line() {
    let mut device = Device::new(&Blueprint {
        identity: Identity {
            interrupt_pin: 0,
            ..EDU.identity
        },
        ..EDU
    });
    device.input(ATTACH);
    assert_eq!(device.input(ASSERT), []);
    assert_eq!(device.deliveries(), []);
    assert_eq!(bits(&device), (false, false));
}
