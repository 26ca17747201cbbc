//! The model's two functions: what a register reads, and what an input does.

use crate::layout::WORDS;
use crate::tables::{header, msi, msix, power, vpd};
use crate::{
    Action, ByteEnables, Delivery, Effect, EffectId, Effects, Field, Input, InterruptMode, Layout, Outcome,
    PowerState, ResetKind, State, Window, error, interrupt,
};

const NO_VPD_WRITE: &str = "vital product data can't be written: the policy for this user does not allow it";

/// What dword `register` of a window reads. Has no side effects. `register` past the window reads 0.
#[must_use]
pub fn read(layout: &Layout, state: &State, window: Window, register: u16) -> u32 {
    if u32::from(register) * 4 >= layout.window_bytes(window) {
        return 0;
    }
    match window {
        Window::Config => state.word(register),
        Window::MsixTable => interrupt::read_entry(state, register),
        Window::MsixPba => state.pending.half(register.wrapping_mul(32)),
    }
}

/// Does one thing: changes the state, and says what must happen outside. `effects` is cleared first.
pub fn step(layout: &Layout, state: &mut State, input: Input, effects: &mut Effects) {
    effects.clear();
    // Of most registers: nobody has to be told of what is only stored.
    let stored = matches!(input, Input::Write { window: Window::Config, register, .. } if layout.word(register).actions == 0);
    let before = (!stored).then(|| Outward::of(layout, state));
    match input {
        Input::Write {
            window,
            register,
            value,
            enables,
        } => {
            if u32::from(register) * 4 < layout.window_bytes(window) {
                write(layout, state, window, register, value, enables, effects);
            }
        }
        Input::Reset { kind } => reset(layout, state, kind, effects),
        Input::EffectDone { id, outcome } => effect_done(layout, state, id, outcome, effects),
        Input::Settled { id } => settled(layout, state, id, effects),
        Input::BusMaster { on } => state.put(0, &header::BUS_MASTER, u32::from(on)),
        Input::Error {
            correctable,
            bit,
            header,
        } => error::report(layout, state, correctable, bit, header),
        Input::VectorFired { .. }
        | Input::IntxLevel { .. }
        | Input::Enable { .. }
        | Input::Disable { .. }
        | Input::Attach { .. }
        | Input::Detach { .. }
        | Input::MaskIntx
        | Input::UnmaskIntx => interrupt::request(layout, state, input),
    }
    if let Some(before) = before {
        Outward::of(layout, state).changes_since(&before, effects);
    }
    if interrupt::deliverable(layout, state).is_some() {
        effects.push(Effect::Deliver);
    }
}

/// The next interrupt that can be delivered now (enabled, attached, unmasked, in D0), which is then no longer
/// pending. Cheap where there is none.
pub fn next_delivery(layout: &Layout, state: &mut State) -> Option<Delivery> {
    let delivery = interrupt::deliverable(layout, state)?;
    interrupt::delivered(layout, state, delivery);
    Some(delivery)
}

/// What others must be told of when it changes.
#[derive(PartialEq, Eq)]
struct Outward {
    memory: bool,
    io: bool,
    rom: bool,
    bus_master: bool,
    mode: InterruptMode,
}

impl Outward {
    fn of(layout: &Layout, state: &State) -> Self {
        let answers = state.answers(layout);
        Self {
            memory: answers && state.field(0, &header::MEMORY) != 0,
            io: answers && state.field(0, &header::IO) != 0,
            rom: state.decodes(layout, 6),
            bus_master: state.bus_master(layout),
            mode: state.interrupt_mode(layout),
        }
    }

    fn changes_since(&self, before: &Self, effects: &mut Effects) {
        if (self.memory, self.io, self.rom) != (before.memory, before.io, before.rom) {
            effects.push(Effect::Decode);
        }
        if self.bus_master != before.bus_master {
            effects.push(Effect::BusMaster { on: self.bus_master });
        }
        if self.mode != before.mode {
            effects.push(Effect::Interrupts);
        }
    }
}

/// One register write: stores what may be stored, then does what the fields written do.
fn write(
    layout: &Layout,
    state: &mut State,
    window: Window,
    register: u16,
    value: u32,
    enables: ByteEnables,
    effects: &mut Effects,
) {
    match window {
        Window::Config => {}
        Window::MsixTable => return interrupt::write_entry(layout, state, register, value, enables, effects),
        Window::MsixPba => return,
    }
    let word = layout.word(register);
    let lanes = enables.mask();
    let old = state.word(register);
    let stored = word.write & lanes;
    let new = ((old & !stored) | (value & stored)) & !(word.clear & lanes & value);
    if (value ^ old) & word.stopped & lanes != 0 {
        effects.push(Effect::Refused {
            offset: register.wrapping_mul(4),
            rule: "this view shows the register, and stops writes that would disrupt the system",
        });
    }
    if let Some(refused) = stops_vpd_write(layout, register, value & lanes) {
        return effects.push(refused);
    }
    if let Some(through) = layout.hardware_write(state, register, value, lanes) {
        effects.push(through);
    }
    state.words[usize::from(register) % WORDS] = new;
    if word.actions == 0 {
        return;
    }
    let written = Written {
        register,
        value,
        lanes,
        old,
        new,
    };
    let does = |action: Action| word.actions & 1 << action as u16 != 0;
    if does(Action::Bar) && old != new {
        bar_moved(layout, register, effects);
    }
    if does(Action::PowerState) {
        power_state(layout, state, &written, effects);
    }
    if does(Action::Vpd) && !layout.backed {
        vpd_transfer(layout, state, &written, effects);
    }
    if does(Action::Msi) || does(Action::MsiX) {
        interrupt::control_written(layout, state, old, new, register);
    }
    if does(Action::FunctionLevelReset) && starts_reset(layout, &written) {
        reset(layout, state, ResetKind::FunctionLevel, effects);
    }
}

/// A register write that was carried out.
struct Written {
    register: u16,
    value: u32,
    lanes: u32,
    old: u32,
    new: u32,
}

impl Written {
    /// The bits of a field that lie in this register and were written as 1.
    fn ones(&self, at: u16, field: &Field) -> u32 {
        let place = field.place(at);
        if place.word == self.register {
            self.value & self.lanes & place.mask
        } else {
            0
        }
    }

    /// Whether a field's lanes were written.
    fn covers(&self, at: u16, field: &Field) -> bool {
        let place = field.place(at);
        place.word == self.register && self.lanes & place.mask != 0
    }
}

fn starts_reset(layout: &Layout, written: &Written) -> bool {
    use crate::tables::{advanced, express};
    let express = layout
        .structures
        .express
        .is_some_and(|at| written.ones(at, &express::INITIATE_FLR) != 0);
    let advanced = layout
        .structures
        .advanced
        .is_some_and(|at| written.ones(at, &advanced::INITIATE_FLR) != 0);
    express || advanced
}

fn bar_moved(layout: &Layout, register: u16, effects: &mut Effects) {
    let offset = register.wrapping_mul(4);
    if offset == header::ROM_BAR {
        return effects.push(Effect::BarMoved { bar: 6 });
    }
    let mut bar = (offset.saturating_sub(header::BAR0) / 4) as u8;
    if bar > 0 && matches!(layout.bar(bar - 1), crate::Bar::Memory64 { .. }) {
        bar -= 1;
    }
    effects.push(Effect::BarMoved { bar });
}

/// PMCSR was written. A state that the function doesn't offer is not entered (PCI Power Management 1.2, 3.2.4).
fn power_state(layout: &Layout, state: &mut State, written: &Written, effects: &mut Effects) {
    let Some(at) = layout.structures.power else { return };
    let place = power::STATE.place(at);
    if written.lanes & place.mask == 0 {
        return;
    }
    let of = |word: u32| (word & place.mask) >> place.shift;
    let (old, new) = (of(written.old), of(written.new));
    let offered = match new {
        1 => layout.initial(at, &power::D1) != 0,
        2 => layout.initial(at, &power::D2) != 0,
        _ => true,
    };
    if !offered {
        return state.put(at, &power::STATE, old);
    }
    if old == new {
        return;
    }
    let [from, to] = [old, new].map(PowerState::from_number);
    let id = state.new_id();
    effects.push(Effect::Power { from, to, id });
    if from == PowerState::D3hot && to == PowerState::D0 && layout.initial(at, &power::NO_SOFT_RESET) == 0 {
        reset(layout, state, ResetKind::D3hot, effects);
    }
}

/// Why a write that would store vital product data in hardware is stopped, where it is.
fn stops_vpd_write(layout: &Layout, register: u16, written: u32) -> Option<Effect> {
    let vpd = layout
        .structures
        .vpd
        .filter(|vpd| layout.backed && !vpd.writable)?;
    let place = vpd::FLAG.place(vpd.at);
    (place.word == register && written & place.mask != 0).then_some(Effect::Refused {
        offset: vpd.at,
        rule: NO_VPD_WRITE,
    })
}

/// VPD's flag was written: a transfer starts. One at a time; a write during a transfer changes nothing more.
fn vpd_transfer(layout: &Layout, state: &mut State, written: &Written, effects: &mut Effects) {
    let Some(vpd) = layout.structures.vpd else { return };
    if !written.covers(vpd.at, &vpd::FLAG) || state.vpd.is_some() {
        return;
    }
    let address = (state.field(vpd.at, &vpd::ADDRESS) as u16) & !3;
    let store = state.field(vpd.at, &vpd::FLAG) != 0;
    if store && !vpd.writable {
        effects.push(Effect::Refused {
            offset: vpd.at,
            rule: NO_VPD_WRITE,
        });
        return state.put(vpd.at, &vpd::FLAG, 0);
    }
    let id = state.new_id();
    state.vpd = Some(id);
    let write = store.then(|| state.field(vpd.at, &vpd::DATA));
    effects.push(Effect::Vpd { address, write, id });
}

/// A reset begins: the registers are at once what it leaves, the device follows.
fn reset(layout: &Layout, state: &mut State, kind: ResetKind, effects: &mut Effects) {
    for (word, compiled) in state.words.iter_mut().zip(&layout.words) {
        let keep = compiled.keep[kind.column()];
        *word = (*word & keep) | (compiled.initial & !keep);
    }
    state.clear_pending(layout);
    state.intx.asserted = false;
    state.vpd = None;
    state.settling = None;
    if kind != ResetKind::FunctionLevel || layout.view == crate::View::Raw {
        state.reset_table();
    }
    if state.reset.is_none() || state.reset_failed {
        let id = state.new_id();
        state.reset_failed = false;
        state.reset = Some(id);
        effects.push(Effect::Reset { kind, id });
    }
    transactions_pending(layout, state, true);
}

fn transactions_pending(layout: &Layout, state: &mut State, pending: bool) {
    use crate::tables::{advanced, express};
    if let Some(at) = layout.structures.express {
        state.put(at, &express::TRANSACTIONS_PENDING, u32::from(pending));
    }
    if let Some(at) = layout.structures.advanced {
        state.put(at, &advanced::TRANSACTIONS_PENDING, u32::from(pending));
    }
}

/// An effect is done; one that is not under way any more counts for nothing.
fn effect_done(layout: &Layout, state: &mut State, id: EffectId, outcome: Outcome, effects: &mut Effects) {
    if state.reset == Some(id) {
        if outcome == Outcome::Failed {
            state.reset_failed = true;
            return;
        }
        state.reset = None;
        state.reset_failed = false;
        put_decoding_back(layout, state, id, effects);
    } else if let (true, Some(vpd)) = (state.vpd == Some(id), layout.structures.vpd) {
        state.vpd = None;
        match outcome {
            Outcome::Data(data) => {
                state.put(vpd.at, &vpd::DATA, data);
                state.put(vpd.at, &vpd::FLAG, 1);
            }
            Outcome::Done => state.put(vpd.at, &vpd::FLAG, 0),
            Outcome::Failed => {}
        }
    }
}

/// What the reset took from the device is being put back; transactions stay pending until that is done, since a driver
/// goes on when none are.
fn put_decoding_back(layout: &Layout, state: &mut State, id: EffectId, effects: &mut Effects) {
    state.settling = Some((id, layout.decoding(state)));
    if let Some(decode) = layout.decode_again(state) {
        effects.push(decode);
    }
}

/// The device has what it was given, unless the user has changed that meanwhile, or begun another reset.
fn settled(layout: &Layout, state: &mut State, id: EffectId, effects: &mut Effects) {
    match state.settling {
        Some((settling, given)) if settling == id => {
            if layout.backed && given != layout.decoding(state) {
                return put_decoding_back(layout, state, id, effects);
            }
            state.settling = None;
            transactions_pending(layout, state, false);
        }
        _ => {}
    }
}

const _: () = {
    // The MSI-X windows are arrays of these tables.
    assert!(msix::ENTRY.bytes() == 16 && msix::PENDING.bytes() == 4);
    assert!(msi::MASKS.bytes() == 8);
};
