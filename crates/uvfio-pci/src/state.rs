//! The values of a function's registers: a plain value that can be saved, compared and restored.

use crate::{Layout, PowerState};

/// Which interrupts are enabled, and how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InterruptMode {
    /// INTx (or nothing): messages are not enabled.
    #[default]
    Intx,
    /// MSI with this many messages granted: 1, 2, 4, .. 32.
    Msi(u16),
    /// MSI-X with this many vectors.
    MsiX(u16),
}

/// Everything about a function that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {}

/// Why a saved state does not fit a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// Byte offset of the first register in which a bit differs that no user can have changed.
    pub offset: u16,
}

impl State {
    /// The state at power-on.
    #[must_use]
    pub fn new(_layout: &Layout) -> Self {
        Self {}
    }

    /// Whether the function answers accesses to BAR `bar` (6: the ROM): memory or I/O decoding is on, it is in
    /// D0 and no reset is under way.
    #[must_use]
    pub fn decodes(&self, _layout: &Layout, _bar: u8) -> bool {
        false
    }

    /// The address that BAR `bar` holds (6: the ROM), without its flag bits.
    #[must_use]
    pub fn bar_address(&self, _layout: &Layout, _bar: u8) -> u64 {
        0
    }

    /// Whether the function may access memory: bus master on, D0, no reset under way.
    #[must_use]
    pub fn bus_master(&self, _layout: &Layout) -> bool {
        false
    }

    /// The power state.
    #[must_use]
    pub fn power(&self) -> PowerState {
        PowerState::D0
    }

    /// Which interrupts are enabled.
    #[must_use]
    pub fn interrupt_mode(&self, _layout: &Layout) -> InterruptMode {
        InterruptMode::Intx
    }

    /// Checks that a state saved elsewhere could have come about under `layout`, and gives it back.
    ///
    /// # Errors
    /// Names the first register that could not have that value.
    pub fn restore(self, _layout: &Layout) -> Result<Self, RestoreError> {
        Ok(self)
    }
}
