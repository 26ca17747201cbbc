//! Interrupts: both doors (registers and requests) to one state, and the decision what is delivered.

use crate::tables::{header, msi, msix};
use crate::{ByteEnables, Delivery, Effect, Effects, Input, Interrupt, InterruptMode, Layout, State};

/// The device's and the requests' inputs.
pub(crate) fn request(layout: &Layout, state: &mut State, input: Input) {
    match input {
        Input::VectorFired { vector } => fire(layout, state, vector),
        Input::IntxLevel { asserted } if layout.vectors(Interrupt::Intx) != 0 => {
            state.intx.asserted = asserted;
            state.put(0, &header::INTX_STATUS, u32::from(asserted));
        }
        Input::Enable { kind, vectors } => enable(layout, state, kind, vectors),
        Input::Disable { kind } => disable(layout, state, kind),
        Input::Attach { kind, vector } if vector < layout.vectors(kind) => attach(state, kind, vector, true),
        Input::Detach { kind, vector } if vector < layout.vectors(kind) => attach(state, kind, vector, false),
        Input::MaskIntx => state.intx.masked = true,
        Input::UnmaskIntx => state.intx.masked = false,
        _ => {}
    }
}

/// The device sends a message. While messages are not enabled, it is lost, as on hardware.
fn fire(layout: &Layout, state: &mut State, vector: u16) {
    match state.interrupt_mode(layout) {
        InterruptMode::Intx => {}
        InterruptMode::Msi(messages) => {
            let pending = state.msi_pending | message_bit(vector % messages.max(1));
            state.set_msi_pending(layout, pending);
        }
        InterruptMode::MsiX(vectors) => state.pending.put(vector % vectors.max(1), true),
    }
}

fn enable(layout: &Layout, state: &mut State, kind: Interrupt, vectors: u16) {
    match kind {
        Interrupt::Intx => state.intx.masked = false,
        Interrupt::Msi => {
            let Some(msi) = layout.structures.msi else { return };
            let mut log2 = u32::from(vectors.max(1))
                .next_power_of_two()
                .trailing_zeros()
                .min(msi.capable);
            if state.field(msi.at, &msi::ENABLE) != 0 {
                log2 = log2.max(state.field(msi.at, &msi::GRANTED).min(msi.capable));
            }
            state.put(msi.at, &msi::GRANTED, log2);
            state.put(msi.at, &msi::ENABLE, 1);
        }
        Interrupt::MsiX => {
            if let Some(msix) = layout.structures.msix {
                state.put(msix.at, &msix::ENABLE, 1);
            }
        }
    }
}

fn disable(layout: &Layout, state: &mut State, kind: Interrupt) {
    match kind {
        Interrupt::Intx => {
            state.intx.attached = false;
            state.intx.masked = false;
        }
        Interrupt::Msi => {
            if let Some(msi) = layout.structures.msi {
                state.put(msi.at, &msi::ENABLE, 0);
                state.msi_attached = 0;
                state.set_msi_pending(layout, 0);
            }
        }
        Interrupt::MsiX => {
            if let Some(msix) = layout.structures.msix {
                state.put(msix.at, &msix::ENABLE, 0);
                state.detach_vectors();
                state.clear_pending(layout);
            }
        }
    }
}

/// An eventfd was attached or taken away; MSI-X's mask bit follows.
fn attach(state: &mut State, kind: Interrupt, vector: u16, on: bool) {
    match kind {
        Interrupt::Intx => state.intx.attached = on,
        Interrupt::Msi => {
            let bit = message_bit(vector);
            state.msi_attached = if on {
                state.msi_attached | bit
            } else {
                state.msi_attached & !bit
            };
        }
        Interrupt::MsiX => {
            state.attached.put(vector, on);
            state.unmasked.put(vector, on);
        }
    }
}

/// MSI's or MSI-X's control was written: messages that are not enabled any more are not pending either.
pub(crate) fn control_written(layout: &Layout, state: &mut State, old: u32, new: u32, register: u16) {
    let off = |at: u16, field: &crate::Field| {
        let place = field.place(at);
        place.word == register && old & place.mask != 0 && new & place.mask == 0
    };
    if layout.structures.msi.is_some_and(|msi| off(msi.at, &msi::ENABLE)) {
        state.set_msi_pending(layout, 0);
    }
    if layout
        .structures
        .msix
        .is_some_and(|msix| off(msix.at, &msix::ENABLE))
    {
        state.clear_pending(layout);
    }
}

/// What can be delivered now.
pub(crate) fn deliverable(layout: &Layout, state: &State) -> Option<Delivery> {
    if !state.intx.asserted && state.msi_pending == 0 && state.none_pending() {
        return None;
    }
    let (kind, vector) = match state.interrupt_mode(layout) {
        InterruptMode::Intx => (Interrupt::Intx, intx_ready(layout, state).then_some(0)),
        // A message is a write to memory.
        _ if !state.bus_master(layout) => return None,
        InterruptMode::Msi(messages) => (Interrupt::Msi, first_message(layout, state, messages)),
        InterruptMode::MsiX(_) => (Interrupt::MsiX, first_vector(layout, state)),
    };
    vector.map(|vector| Delivery { kind, vector })
}

/// Whether interrupt `vector` of the kind in use would be delivered at once if the device sent it now.
pub(crate) fn open(layout: &Layout, state: &State, vector: u16) -> bool {
    match state.interrupt_mode(layout) {
        InterruptMode::Intx => vector == 0 && intx_open(layout, state),
        _ if !state.bus_master(layout) => false,
        InterruptMode::Msi(messages) => {
            vector < messages && open_messages(layout, state, messages) & message_bit(vector) != 0
        }
        InterruptMode::MsiX(vectors) => {
            vector < vectors
                && !function_masked(layout, state)
                && state.attached.get(vector)
                && state.unmasked.get(vector)
        }
    }
}

/// Whether INTx has somewhere to go, apart from its automask.
fn intx_open(layout: &Layout, state: &State) -> bool {
    state.intx.attached && state.field(0, &header::INTX_DISABLE) == 0 && state.awake(layout)
}

fn intx_ready(layout: &Layout, state: &State) -> bool {
    state.intx.asserted && !state.intx.masked && intx_open(layout, state)
}

/// The MSI messages that are attached and unmasked. Fewer may be granted now than when one became pending.
fn open_messages(layout: &Layout, state: &State, granted: u16) -> u32 {
    let masks = layout.structures.msi.and_then(|msi| msi.masks);
    let masked = masks.map_or(0, |masks| state.field(masks, &msi::MASK));
    let allowed = u32::MAX >> u32::from(32_u16.saturating_sub(granted).min(31));
    state.msi_attached & !masked & allowed
}

/// The first MSI message that is pending and open.
fn first_message(layout: &Layout, state: &State, granted: u16) -> Option<u16> {
    let ready = state.msi_pending & open_messages(layout, state, granted);
    (ready != 0).then(|| ready.trailing_zeros() as u16)
}

fn function_masked(layout: &Layout, state: &State) -> bool {
    let msix = layout.structures.msix;
    msix.is_some_and(|msix| state.field(msix.at, &msix::FUNCTION_MASK) != 0)
}

/// The first MSI-X vector that can be sent.
fn first_vector(layout: &Layout, state: &State) -> Option<u16> {
    if function_masked(layout, state) {
        return None;
    }
    state.first_vector()
}

/// A delivery is taken: a message is not pending any more, INTx masks itself until it is unmasked.
pub(crate) fn delivered(layout: &Layout, state: &mut State, delivery: Delivery) {
    match delivery.kind {
        Interrupt::Intx => state.intx.masked = true,
        Interrupt::Msi => {
            let pending = state.msi_pending & !message_bit(delivery.vector);
            state.set_msi_pending(layout, pending);
        }
        Interrupt::MsiX => state.pending.put(delivery.vector, false),
    }
}

/// Dwords of an MSI-X table entry.
const ENTRY: u16 = msix::ENTRY.bytes() / 4;
/// The dword of an entry that holds the mask bit.
const CONTROL: u16 = msix::ENTRY_MASK.place(0).word;

/// What a dword of the MSI-X table reads.
pub(crate) fn read_entry(state: &State, register: u16) -> u32 {
    let (vector, dword) = (register / ENTRY, register % ENTRY);
    if dword == CONTROL {
        return u32::from(!state.unmasked.get(vector)) << msix::ENTRY_MASK.lsb;
    }
    let entry = state.entries.get(usize::from(vector));
    entry
        .and_then(|entry| entry.get(usize::from(dword)))
        .copied()
        .unwrap_or(0)
}

/// A dword of the MSI-X table is written.
pub(crate) fn write_entry(
    layout: &Layout,
    state: &mut State,
    register: u16,
    value: u32,
    enables: ByteEnables,
    effects: &mut Effects,
) {
    let (vector, dword) = (register / ENTRY, register % ENTRY);
    if !layout.lets_write(&msix::ENTRY_MASK) {
        let offset = layout.structures.msix.map_or(0, |msix| msix.at);
        let rule = "this view shows the MSI-X table, and stops writes to it; use SET_IRQS";
        return effects.push(Effect::Refused { offset, rule });
    }
    let lanes = enables.mask();
    if dword == CONTROL {
        if lanes & msix::ENTRY_MASK.mask() != 0 {
            state.unmasked.put(vector, value & msix::ENTRY_MASK.mask() == 0);
        }
    } else if let Some(stored) = state.entry(vector).get_mut(usize::from(dword)) {
        *stored = (*stored & !lanes) | (value & lanes);
    }
}

/// A message's bit among 32.
const fn message_bit(vector: u16) -> u32 {
    1 << (vector % 32)
}
