//! The model's two functions: what a register reads, and what an input does.

use crate::{Delivery, Effects, Input, Layout, State, Window};

/// What dword `register` of a window reads. Has no side effects. `register` past the window reads 0.
#[must_use]
pub fn read(_layout: &Layout, _state: &State, _window: Window, _register: u16) -> u32 {
    0
}

/// Does one thing: changes the state, and says what must happen outside. `effects` is cleared first.
pub fn step(_layout: &Layout, _state: &mut State, _input: Input, effects: &mut Effects) {
    effects.clear();
}

/// The next interrupt that can be delivered now (enabled, attached, unmasked, in D0), which is then no longer
/// pending. Cheap where there is none.
pub fn next_delivery(_layout: &Layout, _state: &mut State) -> Option<Delivery> {
    None
}
