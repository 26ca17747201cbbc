//! MSI-X: the table, the pending bits and the requests, two doors to one state.

mod common;

use common::{Device, EVERYTHING, NVME};
use uvfio_pci::{BarSpan, Blueprint, BlueprintError, Capability, Effect, Input, Interrupt, InterruptMode};
use uvfio_pci::{Layout, View, Window};

const MSIX: Interrupt = Interrupt::MsiX;
/// MSI-X control of the NVMe controller: capability at 0x48.
const CONTROL: u16 = 0x4a;
const ENABLE: u16 = 0x8000;
const FUNCTION_MASK: u16 = 0x4000;

const fn fire(vector: u16) -> Input {
    Input::VectorFired { vector }
}
const fn attach(vector: u16) -> Input {
    Input::Attach { kind: MSIX, vector }
}
const fn detach(vector: u16) -> Input {
    Input::Detach { kind: MSIX, vector }
}

fn function() -> Device {
    let mut device = Device::new(&NVME);
    device.w16(0x04, 0x0004);
    device
}

/// Enabled by request, vectors 0 to 3 attached.
fn enabled() -> Device {
    let mut device = function();
    device.input(Input::Enable {
        kind: MSIX,
        vectors: 4,
    });
    for vector in 0..4 {
        device.input(attach(vector));
    }
    device
}

fn masked(device: &Device, vector: u32) -> bool {
    device.entry(vector, 3) & 1 != 0
}

#[test]
fn both_doors_enable_and_disable() {
    let mut device = function();
    assert_eq!(
        device.input(Input::Enable {
            kind: MSIX,
            vectors: 33
        }),
        [Effect::Interrupts]
    );
    assert_eq!(device.r16(CONTROL), ENABLE | 32);
    assert_eq!(
        device.state.interrupt_mode(&device.layout),
        InterruptMode::MsiX(33)
    );
    assert_eq!(device.w16(CONTROL, 0), [Effect::Interrupts]);
    assert_eq!(device.r16(CONTROL), 32, "the table size is read-only");
    assert_eq!(
        device.w8(CONTROL + 1, 0x80),
        [Effect::Interrupts],
        "by its own byte lane"
    );
    assert_eq!(device.input(Input::Disable { kind: MSIX }), [Effect::Interrupts]);
    assert_eq!(device.r16(CONTROL), 32);
}

#[test]
fn each_vector_is_delivered_as_itself() {
    let mut device = enabled();
    for vector in 0..4 {
        assert_eq!(device.input(fire(vector)), [Effect::Deliver]);
        assert_eq!(device.vectors(), [vector]);
        assert_eq!(device.vectors(), [], "once");
        assert!(!device.pending(vector.into()));
    }
}

#[test]
fn the_last_of_2048_vectors_works() {
    let mut device = Device::new(&Blueprint {
        capabilities: &[Capability::MsiX {
            vectors: 2048,
            table: BarSpan { bar: 0, offset: 0 },
            pba: BarSpan {
                bar: 0,
                offset: 0x8000,
            },
        }],
        ..EVERYTHING
    });
    device.w16(0x04, 0x0004);
    device.w16(0x42, ENABLE);
    assert_eq!(device.layout.window_bytes(Window::MsixTable), 0x8000);
    assert_eq!(device.layout.window_bytes(Window::MsixPba), 256);
    device.input(attach(2047));
    device.set_entry(2047, 3, 1);
    device.input(fire(2047));
    assert_eq!(device.bytes::<1>(Window::MsixPba, 255), [0x80]);
    device.set_entry(2047, 3, 0);
    assert_eq!(device.vectors(), [2047]);
    assert_eq!(device.bytes::<1>(Window::MsixPba, 255), [0]);
}

#[test]
fn the_mask_bit_follows_the_eventfd_and_the_last_writer_wins() {
    let mut device = function();
    assert!(masked(&device, 2), "at power-on");
    device.input(attach(2));
    assert!(!masked(&device, 2), "attached");
    device.set_entry(2, 3, 1);
    assert!(masked(&device, 2), "masked by the table");
    device.input(attach(2));
    assert!(!masked(&device, 2), "attached again");
    device.input(detach(2));
    assert!(masked(&device, 2), "taken away");
    device.set_entry(2, 3, 0);
    assert!(!masked(&device, 2), "unmasked by the table");
    assert!(masked(&device, 1) && masked(&device, 3), "its neighbours stay");
}

#[test]
fn a_masked_vector_is_pending_and_delivered_once_when_unmasked() {
    let mut device = enabled();
    device.set_entry(1, 3, 1);
    for _ in 0..3 {
        assert_eq!(device.input(fire(1)), []);
    }
    assert_eq!(device.vectors(), []);
    assert!(device.pending(1), "its pending bit");
    assert_eq!(device.set_entry(1, 3, 0), [Effect::Deliver]);
    assert_eq!(device.vectors(), [1], "once");
    assert!(!device.pending(1), "its pending bit, delivered");
}

#[test]
fn attaching_delivers_what_was_pending() {
    let mut device = function();
    device.w16(CONTROL, ENABLE);
    assert_eq!(
        device.input(fire(32)),
        [],
        "enabled by register, nothing attached"
    );
    assert!(device.pending(32));
    assert_eq!(device.input(attach(32)), [Effect::Deliver]);
    assert_eq!(device.vectors(), [32]);
}

#[test]
fn unmasking_by_the_table_delivers_nothing_without_an_eventfd() {
    let mut device = function();
    device.w16(CONTROL, ENABLE);
    device.set_entry(5, 3, 0);
    device.input(fire(5));
    assert_eq!(device.vectors(), []);
    device.input(attach(5));
    assert_eq!(device.vectors(), [5]);
}

#[test]
fn function_mask_holds_every_vector_back() {
    let mut device = enabled();
    device.w16(CONTROL, ENABLE | FUNCTION_MASK);
    for vector in [3, 0] {
        assert_eq!(device.input(fire(vector)), []);
    }
    assert!(device.pending(0) && device.pending(3));
    assert!(!masked(&device, 0), "the vectors' own masks stay");
    assert_eq!(device.w16(CONTROL, ENABLE), [Effect::Deliver]);
    assert_eq!(device.vectors(), [0, 3]);
}

#[test]
fn vectors_wait_for_bus_mastering() {
    let mut device = enabled();
    device.w16(0x04, 0);
    assert_eq!(device.input(fire(2)), []);
    assert!(device.pending(2));
    device.w16(0x04, 4);
    assert_eq!(device.vectors(), [2]);
}

#[test]
fn vectors_wait_for_d0() {
    let mut device = enabled();
    device.set_entry(2, 3, 1);
    device.input(fire(2));
    device.w8(0x44, 3);
    device.set_entry(2, 3, 0);
    assert_eq!(device.vectors(), []);
    device.w8(0x44, 0);
    assert_eq!(device.vectors(), [2]);
}

#[test]
fn a_vector_fired_while_disabled_is_lost() {
    let mut device = enabled();
    device.w16(CONTROL, 0);
    device.input(fire(0));
    device.w16(CONTROL, ENABLE);
    assert_eq!(device.vectors(), []);
}

#[test]
fn disabling_by_request_masks_detaches_and_forgets() {
    let mut device = enabled();
    device.set_entry(1, 3, 1);
    device.input(fire(1));
    device.input(Input::Disable { kind: MSIX });
    assert!(!device.pending(1));
    for vector in 0..4 {
        assert!(masked(&device, vector), "vector {vector}");
    }
    device.input(Input::Enable {
        kind: MSIX,
        vectors: 4,
    });
    device.set_entry(1, 3, 0);
    device.input(fire(1));
    assert_eq!(device.vectors(), [], "no eventfd is attached any more");
}

#[test]
fn disabling_by_register_forgets_what_was_pending_and_keeps_the_masks() {
    let mut device = enabled();
    device.set_entry(1, 3, 1);
    device.input(fire(1));
    device.w16(CONTROL, 0);
    assert!(!device.pending(1));
    assert!(masked(&device, 1) && !masked(&device, 0));
    device.w16(CONTROL, ENABLE);
    device.set_entry(1, 3, 0);
    assert_eq!(device.vectors(), []);
    device.input(fire(1));
    assert_eq!(device.vectors(), [1], "eventfds stay attached");
}

#[test]
fn address_and_data_are_kept_for_the_user_by_any_access() {
    let mut device = function();
    let entry = [
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
    ];
    for (offset, byte) in (0..).zip(entry) {
        device.put(Window::MsixTable, 7 * 16 + offset, &[byte]);
    }
    assert_eq!(device.bytes::<12>(Window::MsixTable, 7 * 16), entry);
    device.put(Window::MsixTable, 8 * 16 - 8, &[0xff; 16]);
    assert_eq!(device.entry(7, 2), u32::MAX);
    assert_eq!(device.entry(7, 3), 1, "only the mask bit of vector control");
    assert_eq!(device.entry(8, 1), u32::MAX);
    assert_eq!(device.entry(8, 2), 0);
}

#[test]
fn the_pending_bits_take_no_write() {
    let mut device = enabled();
    device.set_entry(1, 3, 1);
    device.input(fire(1));
    assert_eq!(device.put(Window::MsixPba, 0, &[0; 8]), []);
    assert!(device.pending(1));
    device.put(Window::MsixPba, 0, &[0xff; 8]);
    assert_eq!(device.bytes::<8>(Window::MsixPba, 0), [0x02, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn msix_wins_over_msi_where_both_are_enabled() {
    let mut device = Device::new(&EVERYTHING);
    device.w16(0x04, 4);
    device.input(Input::Enable {
        kind: Interrupt::Msi,
        vectors: 1,
    });
    device.input(Input::Attach {
        kind: Interrupt::Msi,
        vector: 0,
    });
    device.input(attach(0));
    device.w16(0x6a, ENABLE);
    device.input(fire(0));
    let kinds: Vec<_> = device.deliveries().iter().map(|delivery| delivery.kind).collect();
    assert_eq!(kinds, [MSIX]);
    device.w16(0x6a, 0);
    device.input(fire(0));
    let kinds: Vec<_> = device.deliveries().iter().map(|delivery| delivery.kind).collect();
    assert_eq!(kinds, [Interrupt::Msi]);
}

#[test]
fn vectors_that_are_not_there_change_nothing() {
    let mut device = enabled();
    let before = device.state.clone();
    for vector in [33, 64, 2047, 2048, u16::MAX] {
        assert_eq!(device.input(attach(vector)), []);
        assert_eq!(device.input(detach(vector)), []);
        assert_eq!(device.state, before, "vector {vector}");
    }
}

#[test]
fn the_filtered_view_stops_writes_to_the_table() {
    let mut device = Device::seen(&NVME, View::Filtered);
    let before = device.state.clone();
    let effects = device.set_entry(0, 3, 0);
    assert!(matches!(effects[..], [Effect::Refused { .. }]), "{effects:?}");
    assert_eq!(device.state, before);
    device.input(attach(0));
    assert!(!masked(&device, 0), "the request door works");
}

#[test]
fn a_table_outside_its_bar_or_over_the_pending_bits_is_refused() {
    let compile = |vectors, table, pba| {
        let capabilities = [Capability::MsiX { vectors, table, pba }];
        let blueprint = Blueprint {
            capabilities: &capabilities,
            ..EVERYTHING
        };
        Layout::compile(&blueprint, View::Virtual).err()
    };
    let span = |bar, offset| BarSpan { bar, offset };
    let wrong = Some(BlueprintError::MsixSpan);
    assert_eq!(compile(2048, span(0, 0), span(0, 0x8000)), None);
    assert_eq!(compile(2048, span(0, 0x8008), span(0, 0)), wrong, "past the end");
    assert_eq!(compile(100, span(0, 0), span(0, 0x638)), wrong, "overlap");
    assert_eq!(compile(100, span(0, 0), span(0, 0x640)), None, "just apart");
    assert_eq!(compile(100, span(1, 0), span(0, 0)), wrong, "in an I/O BAR");
    assert_eq!(compile(100, span(3, 0), span(0, 0)), wrong, "in a second half");
    assert_eq!(compile(100, span(7, 0), span(0, 0)), wrong, "in no BAR");
    assert_eq!(
        compile(100, span(0, 4), span(0, 0x8000)),
        wrong,
        "no multiple of 8"
    );
    assert!(matches!(
        compile(0, span(0, 0), span(0, 0x8000)),
        Some(BlueprintError::OutOfRange { .. })
    ));
    assert!(matches!(
        compile(2049, span(0, 0), span(0, 0x8000)),
        Some(BlueprintError::OutOfRange { .. })
    ));
}
