//! The words in which registers are described: tables of fields.

use crate::View;

/// What the specification says a field is. The words are those of the PCI Express Base Specification,
/// section 7.4 (Configuration Register Types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read-only.
    Ro,
    /// Read-write.
    Rw,
    /// Write 1 to clear.
    Rw1c,
    /// Read-only, sticky: kept through a function level reset and a hot reset.
    Ros,
    /// Read-write, sticky.
    Rws,
    /// Write 1 to clear, sticky.
    Rw1cs,
    /// Initialised by hardware, read-only after.
    HwInit,
    /// Reserved, preserved: reads 0 here, writes are ignored.
    RsvdP,
    /// Reserved, zero.
    RsvdZ,
}

/// How one view treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Treatment {
    /// Reads 0; a write is dropped.
    Hidden,
    /// Reads what the device's blueprint declared; a write is dropped.
    Constant,
    /// Held by the model: reads the model's value, a write changes it as [`Access`] says and has the field's
    /// [`Action`].
    Shadow,
    /// Reads the device's register; a write is stopped.
    HardwareRead,
    /// Reads and writes the device's register. Over a software device the model is the register, and this is
    /// the same as [`Treatment::Shadow`].
    Hardware,
}

/// What a write to a field makes happen beyond storing its value; the name stands in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing but the store.
    None,
    /// COMMAND: memory or I/O decoding is switched.
    Decode,
    /// COMMAND: bus mastering is switched.
    BusMaster,
    /// COMMAND: INTx is disabled or enabled.
    IntxDisable,
    /// A BAR (or the ROM BAR) is sized or moved.
    Bar,
    /// PMCSR: the D-state changes.
    PowerState,
    /// VPD: a transfer starts.
    Vpd,
    /// MSI control, mask: messages are enabled, counted, masked.
    Msi,
    /// MSI-X control: enable and function mask; table: the vector's mask.
    MsiX,
    /// A function level reset starts (PCI Express or AF).
    FunctionLevelReset,
}

/// What a reset leaves in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum After {
    /// The value from before the reset.
    Kept,
    /// The value that the blueprint or the table gives at power-on.
    Initial,
    /// Zero.
    Zero,
}

/// What each kind of reset leaves in a field, in the `virtual` view. (In `raw` a function level reset leaves
/// what hardware leaves: [`After::Initial`] for everything that is not sticky.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resets {
    /// After a function level reset, by register or by request.
    pub flr: After,
    /// After a conventional (hot, bus) reset.
    pub conventional: After,
    /// After D3hot to D0 where No_Soft_Reset is 0.
    pub d3hot: After,
}

/// One row of a table: one field of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The specification's name.
    pub name: &'static str,
    /// Byte offset of the register in its structure.
    pub register: u16,
    /// The register's width in bytes: 1, 2 or 4.
    pub bytes: u8,
    /// The field's least significant bit in the register.
    pub lsb: u8,
    /// The field's most significant bit in the register, at most `bytes * 8 - 1`.
    pub msb: u8,
    /// What the specification says that it is.
    pub access: Access,
    /// How each view treats it, in the order of [`View::ALL`].
    pub views: [Treatment; 3],
    /// What a write does beyond the store.
    pub action: Action,
    /// What resets leave.
    pub resets: Resets,
    /// One sentence for the reader of the book.
    pub doc: &'static str,
    /// Specification and section.
    pub section: &'static str,
}

impl Field {
    /// How `view` treats this field.
    #[must_use]
    pub const fn treatment(&self, view: View) -> Treatment {
        self.views[view as usize]
    }
}

/// A structure of configuration space (or a part of one that varies as a whole), as its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The specification's name of the structure.
    pub name: &'static str,
    /// A few sentences about it: what it is for, what the virtual device does with it.
    pub doc: &'static str,
    /// Specification and section.
    pub section: &'static str,
    /// The rows, by register and bit.
    pub fields: &'static [Field],
}
