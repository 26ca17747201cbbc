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
}

/// What each kind of reset leaves in a field, in the views `virtual` and `filtered`. (In `raw` a function level reset
/// leaves what hardware leaves: [`After::Initial`] for everything that is not sticky.)
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

/// What each kind of reset leaves in most fields that the user sets.
const USERS: Resets = Resets {
    flr: After::Kept,
    conventional: After::Initial,
    d3hot: After::Initial,
};
/// What each kind of reset leaves in sticky fields.
const STICKY: Resets = Resets {
    flr: After::Kept,
    conventional: After::Kept,
    d3hot: After::Initial,
};
/// What each kind of reset leaves in fields that tell what the function is doing.
const CLEARED: Resets = Resets {
    flr: After::Initial,
    conventional: After::Initial,
    d3hot: After::Initial,
};

/// The words with which the tables are written. A row begins as a constant that the device declares.
impl Field {
    /// Field `name` in bits `msb..=lsb` of the register of `bytes` bytes at `register`.
    #[must_use]
    pub const fn new(name: &'static str, register: u16, bytes: u8, msb: u8, lsb: u8) -> Self {
        assert!(msb >= lsb && msb < bytes * 8 && register.is_multiple_of(bytes as u16));
        Self {
            name,
            register,
            bytes,
            lsb,
            msb,
            access: Access::Ro,
            views: [Treatment::Constant, Treatment::Hardware, Treatment::Hardware],
            action: Action::None,
            resets: CLEARED,
            doc: "",
            section: "",
        }
    }

    /// As the specification calls its access. Sticky fields keep their value through resets.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        if matches!(access, Access::Ros | Access::Rws | Access::Rw1cs) {
            self.resets = STICKY;
        }
        self
    }

    /// Read-write, held by the model in `virtual`; what the user set survives a function level reset.
    #[must_use]
    pub const fn users(mut self) -> Self {
        self.access = Access::Rw;
        self.views = [Treatment::Shadow, Treatment::Hardware, Treatment::Hardware];
        self.resets = USERS;
        self
    }

    /// Cleared by every reset.
    #[must_use]
    pub const fn cleared(mut self) -> Self {
        self.resets = CLEARED;
        self
    }

    /// Held by the model: it changes the field itself, or as the access allows.
    #[must_use]
    pub const fn models(mut self) -> Self {
        self.views = [Treatment::Shadow, Treatment::Hardware, Treatment::Hardware];
        self
    }

    /// Disruptive: a write is stopped in `filtered`.
    #[must_use]
    pub const fn guarded(mut self) -> Self {
        self.views[View::Filtered as usize] = Treatment::HardwareRead;
        self
    }

    /// Not there in `virtual`: reads 0, writes are dropped.
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.views[View::Virtual as usize] = Treatment::Hidden;
        self
    }

    /// What a write does beyond the store.
    #[must_use]
    pub const fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    /// The sentence for the reader, and the section of the specification.
    #[must_use]
    pub const fn says(mut self, doc: &'static str, section: &'static str) -> Self {
        self.doc = doc;
        self.section = section;
        self
    }

    /// How `view` treats this field.
    #[must_use]
    pub const fn treatment(&self, view: View) -> Treatment {
        self.views[view as usize]
    }

    /// The field's bits in its register.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        (u32::MAX >> (31 - (self.msb - self.lsb))) << self.lsb
    }

    /// The field's value out of its register's.
    #[must_use]
    pub const fn extract(&self, register: u32) -> u32 {
        (register & self.mask()) >> self.lsb
    }

    /// The bits of the field's whole register, in the dword that [`place`](Self::place) names.
    pub(crate) const fn register_mask(&self, offset: u16) -> u32 {
        let byte = offset.wrapping_add(self.register);
        let ones = u32::MAX >> (32 - self.bytes as u32 * 8);
        ones << ((byte % 4) as u32 * 8)
    }

    /// Where the field lies when its structure is at byte `offset` of configuration space.
    #[must_use]
    pub const fn place(&self, offset: u16) -> Place {
        let byte = offset.wrapping_add(self.register);
        let shift = (byte % 4) as u32 * 8;
        Place {
            word: byte / 4,
            shift: shift + self.lsb as u32,
            mask: self.mask() << shift,
        }
    }
}

/// Where a field lies: the dword of configuration space, and its bits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The dword's number: byte offset / 4.
    pub word: u16,
    /// The field's least significant bit in the dword.
    pub shift: u32,
    /// The field's bits in the dword.
    pub mask: u32,
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

impl Table {
    /// The bytes that the table spans: past its last register.
    #[must_use]
    pub const fn bytes(&self) -> u16 {
        let mut end = 0;
        let mut n = 0;
        while n < self.fields.len() {
            let field = &self.fields[n];
            if field.register + field.bytes as u16 > end {
                end = field.register + field.bytes as u16;
            }
            n += 1;
        }
        end
    }
}
