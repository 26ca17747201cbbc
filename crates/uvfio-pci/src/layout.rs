//! Tables placed in a configuration space and compiled to masks for one view.

use crate::{Blueprint, Field, Table, View};

/// Why a blueprint can't be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlueprintError {
    /// A BAR's size is no power of two or out of its range.
    BarSize {
        /// Which BAR (6: the ROM).
        bar: u8,
    },
    /// A 64-bit BAR in slot 5, or its second half in use.
    BarPair {
        /// Which BAR.
        bar: u8,
    },
    /// The capabilities don't fit.
    NoRoom,
    /// A count or length is out of the range that the specification gives.
    OutOfRange {
        /// What is.
        what: &'static str,
    },
    /// The MSI-X table or pending bit array doesn't lie within its memory BAR, or they overlap.
    MsixSpan,
    /// Something is declared twice.
    Twice {
        /// What is.
        what: &'static str,
    },
}

/// A table at its place in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Byte offset in configuration space.
    pub offset: u16,
    /// The structure it belongs to starts here (a structure may have several parts).
    pub structure: u16,
    /// The table.
    pub table: &'static Table,
}

/// A configuration space's compiled layout: what does not change while the device lives.
#[derive(Clone, Debug)]
pub struct Layout {
    view: View,
}

impl Layout {
    /// Lays out a software device's configuration space for one view.
    ///
    /// # Errors
    /// Where the blueprint breaks a rule of the specification; the error names it.
    pub fn compile(_blueprint: &Blueprint<'_>, view: View) -> Result<Self, BlueprintError> {
        Ok(Self { view })
    }

    /// The view it was compiled for.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// Size of configuration space in bytes: 256 or 4096.
    #[must_use]
    pub const fn config_bytes(&self) -> u16 {
        4096
    }

    /// Size of a window in bytes; 0 where there is none. (The MSI-X table has 16 bytes a vector, the PBA 8
    /// bytes a started 64 vectors.)
    #[must_use]
    pub const fn window_bytes(&self, _window: crate::Window) -> u32 {
        0
    }

    /// The placed tables, in ascending order of offset.
    pub fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        core::iter::empty()
    }

    /// The fields that a byte of configuration space holds, with the table they are in.
    pub fn fields_at(&self, _offset: u16) -> impl Iterator<Item = (Placed, &'static Field)> + '_ {
        core::iter::empty()
    }
}
