//! Accesses, requests, interrupts, resets and answers, in any order, against the model.

use uvfio_pci::{
    Bar, BarSpan, Blueprint, ByteEnables, Capability, Effect, EffectId, Effects, Extended, Identity, Input,
    Interrupt, InterruptMode, Layout, Outcome, PowerState, ResetKind, State, View, Window, next_delivery,
    read, step,
};

use super::bytes::Bytes;

const VECTORS: u16 = 65;

/// One of everything.
const BLUEPRINT: Blueprint<'static> = Blueprint {
    identity: Identity {
        vendor: 0x1234,
        device: 0x5678,
        revision: 1,
        class: [0, 0xff, 0],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        interrupt_pin: 1,
    },
    bars: [
        Bar::Memory64 {
            bytes: 8 << 30,
            prefetchable: true,
        },
        Bar::None,
        Bar::Io { bytes: 32 },
        Bar::None,
        Bar::Memory32 {
            bytes: 0x1000,
            prefetchable: false,
        },
        Bar::None,
    ],
    rom_bytes: 0x1_0000,
    capabilities: &[
        Capability::PowerManagement { no_soft_reset: false },
        Capability::Vpd { writable: true },
        Capability::Msi {
            messages: 32,
            wide: true,
            maskable: true,
        },
        Capability::MsiX {
            vectors: VECTORS,
            table: BarSpan { bar: 4, offset: 0 },
            pba: BarSpan {
                bar: 4,
                offset: 0x800,
            },
        },
        Capability::Express {
            flr: true,
            integrated: false,
        },
        Capability::Vendor {
            body: &[1, 2, 3, 4, 5],
            writable: &[0, 0xff, 0x0f, 0, 0x80],
        },
    ],
    extended: &[Extended::Aer, Extended::SerialNumber(0x0123_4567_89ab_cdef)],
};

/// Carries out what the bytes say, and checks the state after each step.
pub fn run(data: &[u8]) {
    let mut data = Bytes(data);
    let view = match data.u8() % 3 {
        0 => View::Virtual,
        1 => View::Filtered,
        _ => View::Raw,
    };
    let layout = Layout::compile(&BLUEPRINT, view).expect("it breaks no rule");
    let mut state = State::new(&layout);
    let power_on = page(&layout, &state);
    let mut effects = Effects::new();
    for _ in 0..400 {
        if !data.more() {
            break;
        }
        let input = input(&mut data);
        step(&layout, &mut state, input, &mut effects);
        let deliver = effects.iter().any(|effect| matches!(effect, Effect::Deliver));
        let mut delivered = 0;
        while next_delivery(&layout, &mut state).is_some() {
            delivered += 1;
            assert!(
                delivered <= u32::from(VECTORS) + 33,
                "deliveries go on and on after {input:?}"
            );
        }
        assert!(
            deliver || delivered == 0,
            "nobody said that there is a delivery after {input:?}"
        );
        check(&layout, &state, &power_on, input);
    }
    // Not after every step: it takes as long as hundreds of them.
    if !state.resetting() {
        assert!(state.restore(&layout).is_ok(), "its own state does not fit");
    }
}

fn page(layout: &Layout, state: &State) -> Vec<u32> {
    let words = layout.config_bytes() / 4;
    (0..words)
        .map(|register| read(layout, state, Window::Config, register))
        .collect()
}

fn check(layout: &Layout, state: &State, power_on: &[u32], input: Input) {
    let now = |register: usize| read(layout, state, Window::Config, (register / 4) as u16);
    for register in [0x00, 0x08, 0x2c, 0x34] {
        assert_eq!(
            now(register),
            power_on[register / 4],
            "register {register:#x} is read-only; after {input:?}"
        );
    }
    let command = now(4) & 0xffff;
    let awake = state.power(layout) == PowerState::D0 && !state.resetting();
    for bar in 0..=6 {
        assert!(
            !state.decodes(layout, bar) || awake && command & 3 != 0,
            "BAR {bar} decodes with COMMAND {command:#x} after {input:?}"
        );
    }
    assert_eq!(
        state.bus_master(layout),
        awake && command & 4 != 0,
        "bus master with COMMAND {command:#x} after {input:?}"
    );
    if let InterruptMode::Msi(messages) = state.interrupt_mode(layout) {
        assert!(
            messages.is_power_of_two() && messages <= layout.vectors(Interrupt::Msi),
            "{messages} messages after {input:?}"
        );
    }
}

fn input(data: &mut Bytes<'_>) -> Input {
    let kind = |data: &mut Bytes<'_>| match data.u8() % 3 {
        0 => Interrupt::Intx,
        1 => Interrupt::Msi,
        _ => Interrupt::MsiX,
    };
    match data.u8() % 20 {
        0..=3 => Input::Write {
            window: Window::Config,
            // Where there is something, mostly.
            register: u16::from(data.u8()) % 0x60,
            value: data.u32(),
            enables: ByteEnables(data.u8() & 15),
        },
        4 => Input::Write {
            window: Window::Config,
            register: data.u16(),
            value: data.u32(),
            enables: ByteEnables(data.u8()),
        },
        5 => Input::Write {
            window: Window::MsixTable,
            register: data.u16() % 300,
            value: data.u32(),
            enables: ByteEnables(data.u8() & 15),
        },
        6 => Input::Write {
            window: Window::MsixPba,
            register: data.u16(),
            value: data.u32(),
            enables: ByteEnables(data.u8() & 15),
        },
        7 => Input::VectorFired { vector: data.u16() },
        8 => Input::VectorFired {
            vector: u16::from(data.u8()) % VECTORS,
        },
        9 => Input::IntxLevel {
            asserted: data.u8() & 1 != 0,
        },
        10 => Input::Enable {
            kind: kind(data),
            vectors: data.u16() % 80,
        },
        11 => Input::Disable { kind: kind(data) },
        12 => Input::Attach {
            kind: kind(data),
            vector: data.u16() % 80,
        },
        13 => Input::Detach {
            kind: kind(data),
            vector: data.u16() % 80,
        },
        14 => Input::MaskIntx,
        15 => Input::UnmaskIntx,
        16 => Input::BusMaster {
            on: data.u8() & 1 != 0,
        },
        17 => Input::Reset {
            kind: match data.u8() % 3 {
                0 => ResetKind::FunctionLevel,
                1 => ResetKind::Conventional,
                _ => ResetKind::D3hot,
            },
        },
        18 => {
            let id = EffectId(u32::from(data.u8()));
            let outcome = match data.u8() % 4 {
                0 => Outcome::Done,
                1 => Outcome::Data(data.u32()),
                2 => Outcome::Failed,
                _ => return Input::Settled { id },
            };
            Input::EffectDone { id, outcome }
        }
        _ => Input::Error {
            correctable: data.u8() & 1 != 0,
            bit: data.u8(),
            header: [data.u32(), data.u32(), 0, 0],
        },
    }
}
