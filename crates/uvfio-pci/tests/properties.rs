//! What holds whatever happens: random accesses, requests, interrupts, resets and answers.

mod common;

use common::{ALL, Device};
use proptest::prelude::*;
use uvfio_pci::{
    ByteEnables, Delivery, Effect, EffectId, Input, Interrupt, InterruptMode, Outcome, PowerState, ResetKind,
    View, Window,
};

fn device(view: View) -> impl Strategy<Value = Device> {
    (0..ALL.len()).prop_map(move |n| Device::seen(&ALL[n].1, view))
}

fn window() -> impl Strategy<Value = (Window, u16)> {
    prop_oneof![
        6 => (Just(Window::Config), 0..0x40_u16),
        2 => (Just(Window::Config), 0x40..0x58_u16),
        1 => (Just(Window::Config), any::<u16>()),
        3 => (Just(Window::MsixTable), 0..420_u16),
        1 => (Just(Window::MsixPba), 0..8_u16),
    ]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(u32::MAX),
        any::<u32>(),
        (0..32).prop_map(|n| 1_u32 << n)
    ]
}

fn vector() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..34_u16, 1 => 34..110_u16, 1 => any::<u16>()]
}

fn kind() -> impl Strategy<Value = Interrupt> {
    prop_oneof![Just(Interrupt::Intx), Just(Interrupt::Msi), Just(Interrupt::MsiX)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Done),
        1 => any::<u32>().prop_map(Outcome::Data),
        1 => Just(Outcome::Failed),
    ]
}

fn reset() -> impl Strategy<Value = ResetKind> {
    prop_oneof![
        Just(ResetKind::FunctionLevel),
        Just(ResetKind::Conventional),
        Just(ResetKind::D3hot)
    ]
}

/// What makes a function able to do anything, more often than chance would.
fn setup() -> impl Strategy<Value = Input> {
    let command = Input::Write {
        window: Window::Config,
        register: 1,
        value: 7,
        enables: ByteEnables(0b0011),
    };
    prop_oneof![
        Just(command),
        kind().prop_map(|kind| Input::Enable { kind, vectors: 32 }),
        (1..6_u32).prop_map(|id| Input::EffectDone {
            id: EffectId(id),
            outcome: Outcome::Done
        }),
        (1..6_u32).prop_map(|id| Input::Settled { id: EffectId(id) }),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => (window(), value(), 0..16_u8).prop_map(|((window, register), value, enables)| Input::Write {
            window,
            register,
            value,
            enables: ByteEnables(enables),
        }),
        4 => setup(),
        4 => vector().prop_map(|vector| Input::VectorFired { vector }),
        2 => any::<bool>().prop_map(|asserted| Input::IntxLevel { asserted }),
        1 => (kind(), vector()).prop_map(|(kind, vectors)| Input::Enable { kind, vectors }),
        1 => kind().prop_map(|kind| Input::Disable { kind }),
        4 => (kind(), vector()).prop_map(|(kind, vector)| Input::Attach { kind, vector }),
        2 => (kind(), vector()).prop_map(|(kind, vector)| Input::Detach { kind, vector }),
        1 => Just(Input::MaskIntx),
        1 => Just(Input::UnmaskIntx),
        1 => any::<bool>().prop_map(|on| Input::BusMaster { on }),
        1 => reset().prop_map(|kind| Input::Reset { kind }),
        2 => (0..40_u32, outcome()).prop_map(|(id, outcome)| Input::EffectDone { id: EffectId(id), outcome }),
        2 => (any::<bool>(), 0..40_u8, any::<[u32; 4]>())
            .prop_map(|(correctable, bit, header)| Input::Error { correctable, bit, header }),
    ]
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    prop::collection::vec(input(), 0..60)
}

/// What holds of every state that a function can get into. (That a step gives no more effects than fit is
/// checked by the bench.)
fn check_state(device: &mut Device, power_on: &[u8]) -> Result<(), TestCaseError> {
    let layout = &device.layout;
    let state = &device.state;
    let (command, status) = (device.r16(0x04), device.r16(0x06));
    for byte in (0x00..0x04)
        .chain(0x08..0x0c)
        .chain(0x2c..0x30)
        .chain([0x34, 0x3d])
    {
        prop_assert_eq!(
            device.r8(byte),
            power_on[usize::from(byte)],
            "byte {:#x} is read-only",
            byte
        );
    }
    let awake = state.power(layout) == PowerState::D0 && !state.resetting();
    for bar in 0..=6 {
        prop_assert!(
            !state.decodes(layout, bar) || awake && command & 3 != 0,
            "BAR {} decodes",
            bar
        );
    }
    prop_assert_eq!(state.bus_master(layout), awake && command & 4 != 0, "bus master");
    if let InterruptMode::Msi(messages) = state.interrupt_mode(layout) {
        prop_assert!(messages.is_power_of_two() && messages <= layout.vectors(Interrupt::Msi));
    }
    let vectors = u32::from(layout.vectors(Interrupt::MsiX));
    for vector in vectors..layout.window_bytes(Window::MsixPba) * 8 {
        prop_assert!(!device.pending(vector), "vector {} is not there", vector);
    }
    let restored = state.clone().restore(layout);
    prop_assert!(
        restored.as_ref() == Ok(&**state),
        "what was saved can be restored: {:?}",
        restored.err()
    );

    let mode = state.interrupt_mode(layout);
    let wanted = match mode {
        InterruptMode::Intx => (Interrupt::Intx, 1),
        InterruptMode::Msi(messages) => (Interrupt::Msi, messages),
        InterruptMode::MsiX(vectors) => (Interrupt::MsiX, vectors),
    };
    let mut taken = device.clone();
    let deliveries = taken.deliveries();
    prop_assert_eq!(
        !deliveries.is_empty(),
        device.effects.contains(&Effect::Deliver),
        "the last step tells whether something can be delivered: {:?}",
        &device.effects
    );
    for delivery in &deliveries {
        prop_assert_eq!(delivery.kind, wanted.0, "in {:?}", mode);
        prop_assert!(delivery.vector < wanted.1, "{:?} in {:?}", delivery, mode);
    }
    prop_assert!(deliveries.is_empty() || awake, "interrupts are sent in D0 only");
    let line = mode == InterruptMode::Intx;
    prop_assert!(
        deliveries.is_empty() || !line || command & 0x400 == 0 && status & 8 != 0,
        "INTx"
    );
    prop_assert!(
        deliveries.is_empty() || line || command & 4 != 0,
        "messages need bus mastering"
    );
    for vector in [0, 1, 31] {
        prop_assert_eq!(
            state.open(layout, vector),
            vector < wanted.1 && is_delivered_at_once(&taken, wanted.0, vector),
            "{:?} {} is open when it would be delivered",
            mode,
            vector
        );
    }
    Ok(())
}

/// What others are told of when it changes: what COMMAND has on and the ROM, bus mastering, the kind of interrupts.
fn outward(device: &Device) -> ([bool; 3], bool, InterruptMode) {
    let Device { layout, state, .. } = device;
    let answers = state.power(layout) == PowerState::D0 && !state.resetting() && !state.settling();
    let command = device.r16(0x04);
    let decodes = [1, 2].map(|bit| answers && command & bit != 0);
    (
        [decodes[0], decodes[1], state.decodes(layout, 6)],
        state.bus_master(layout),
        state.interrupt_mode(layout),
    )
}

/// Whether an interrupt comes when the device sends it, from a device that has nothing pending.
fn is_delivered_at_once(device: &Device, kind: Interrupt, vector: u16) -> bool {
    let mut device = device.clone();
    if kind == Interrupt::Intx {
        // The line masks itself when it is delivered, which is apart from this.
        device.input(Input::UnmaskIntx);
        device.input(Input::IntxLevel { asserted: true });
    } else {
        device.input(Input::VectorFired { vector });
    }
    let sent = |delivery: &Delivery| delivery.kind == kind && delivery.vector == vector;
    device.deliveries().iter().any(sent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_breaks_a_virtual_function(mut device in device(View::Virtual), inputs in inputs()) {
        let power_on = device.page();
        for input in inputs {
            device.input(input);
            let hardware = device.effects.iter().any(|e| matches!(e, Effect::HardwareWrite { .. }));
            prop_assert!(!hardware, "{:?} gives {:?}", input, &device.effects);
            check_state(&mut device, &power_on)?;
        }
    }

    #[test]
    fn whoever_is_outside_is_told_of_every_change(
        mut device in prop_oneof![device(View::Virtual), device(View::Filtered), device(View::Raw)],
        inputs in inputs(),
    ) {
        for input in inputs {
            let before = outward(&device);
            device.input(input);
            let after = outward(&device);
            let told = |effect: fn(&Effect) -> bool| device.effects.iter().any(effect);
            prop_assert_eq!(told(|e| *e == Effect::Decode), before.0 != after.0, "{:?}: what decodes", input);
            let bus_master = told(|e| matches!(e, Effect::BusMaster { .. }));
            prop_assert_eq!(bus_master, before.1 != after.1, "{:?}: bus mastering", input);
            prop_assert_eq!(told(|e| *e == Effect::Interrupts), before.2 != after.2, "{:?}: interrupts", input);
        }
    }

    #[test]
    fn no_sequence_of_inputs_breaks_a_function_seen_raw(mut device in device(View::Raw), inputs in inputs()) {
        let power_on = device.page();
        for input in inputs {
            device.input(input);
            check_state(&mut device, &power_on)?;
        }
    }

    #[test]
    fn no_sequence_of_inputs_breaks_a_filtered_function(
        mut device in device(View::Filtered),
        inputs in inputs(),
    ) {
        let power_on = device.page();
        for input in inputs {
            device.input(input);
            check_state(&mut device, &power_on)?;
        }
    }

    #[test]
    fn a_read_is_its_parts(
        mut device in device(View::Virtual),
        inputs in inputs(),
        offset in 0..4100_u32,
        len in 0..70_usize,
        cut in 0..70_usize,
    ) {
        for input in inputs {
            device.input(input);
        }
        let read = |offset: u32, len: usize| {
            let mut data = vec![0; len];
            for piece in uvfio_pci::access::split(offset, len) {
                let value = uvfio_pci::read(&device.layout, &device.state, Window::Config, piece.register);
                piece.scatter(value, &mut data);
            }
            data
        };
        let cut = cut.min(len);
        let parts = [read(offset, cut), read(offset + cut as u32, len - cut)].concat();
        prop_assert_eq!(read(offset, len), parts, "{} bytes at {:#x}, cut at {}", len, offset, cut);
    }

    #[test]
    fn a_write_is_its_parts(
        mut whole in device(View::Virtual),
        inputs in inputs(),
        window in prop_oneof![Just(Window::Config), Just(Window::MsixTable)],
        offset in prop_oneof![0..0xc0_u32, 0x100..0x150_u32],
        data in prop::collection::vec(any::<u8>(), 0..40),
        cut in 0..40_usize,
    ) {
        for input in inputs {
            whole.input(input);
        }
        let mut parts = whole.clone();
        let cut = cut.min(data.len());
        whole.put(window, offset, &data);
        parts.put(window, offset, &data[..cut]);
        parts.put(window, offset + cut as u32, &data[cut..]);
        prop_assert_eq!(whole.page(), parts.page(), "{:02x?} to {:#x}, cut at {}", &data, offset, cut);
        prop_assert!(whole.state == parts.state, "{:02x?} to {:#x}, cut at {}", data, offset, cut);
    }

    #[test]
    fn a_function_level_reset_keeps_what_the_user_set(
        mut device in device(View::Virtual),
        inputs in inputs(),
    ) {
        for input in inputs {
            device.input(input);
        }
        device.w16(0x04, 0x0447);
        let set = |device: &Device| {
            let bars: Vec<u32> = (0..6).map(|n| device.r32(0x10 + n * 4)).collect();
            let vectors = u32::from(device.layout.vectors(Interrupt::MsiX));
            let table: Vec<u32> = (0..vectors * 4).map(|n| device.entry(n / 4, n % 4)).collect();
            let mode = device.state.interrupt_mode(&device.layout);
            (device.r16(0x04), bars, device.r32(0x30), device.r8(0x3c), mode, table)
        };
        let before = set(&device);
        device.input(Input::Reset { kind: ResetKind::FunctionLevel });
        prop_assert_eq!(set(&device), before);
        prop_assert_eq!(device.r16(0x06) & 8, 0, "the line is deasserted");
        for vector in 0..u32::from(device.layout.vectors(Interrupt::MsiX)) {
            prop_assert!(!device.pending(vector), "vector {} is pending", vector);
        }
    }

    #[test]
    fn a_state_of_another_function_is_not_restored(
        device in device(View::Virtual),
        other in device(View::Virtual),
        inputs in inputs(),
    ) {
        let mut used = device.clone();
        for input in inputs {
            used.input(input);
        }
        let differ = device.page() != other.page();
        let restored = used.state.restore(&other.layout);
        prop_assert_eq!(restored.is_err(), differ, "{:?}", restored.err());
    }
}
