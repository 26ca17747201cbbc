//! Tables placed in a configuration space and compiled to masks for one view.

use crate::backed::Backing;
use crate::tables::{self, header};
use crate::{Access, Action, After, Bar, BarSpan, Field, State, Table, Treatment, View, Window};

/// Dwords in the largest configuration space.
pub(crate) const WORDS: usize = 1024;
/// Most tables that a layout places.
pub(crate) const MAX_PLACED: usize = 128;

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

impl core::fmt::Display for BlueprintError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BarSize { bar } => {
                write!(
                    f,
                    "the size of BAR {bar} (6: the ROM) is not a power of two in the range of its kind"
                )
            }
            Self::BarPair { bar } => write!(f, "64-bit BAR {bar} needs the slot after it, free"),
            Self::NoRoom => f.write_str("the capabilities do not fit into configuration space"),
            Self::OutOfRange { what } => write!(f, "{what} is out of the range that the specification gives"),
            Self::MsixSpan => f.write_str(
                "the MSI-X table and the pending bits must lie within memory BARs of the function, and apart",
            ),
            Self::Twice { what } => write!(f, "{what} is declared twice"),
        }
    }
}

impl core::error::Error for BlueprintError {}

/// A table at its place in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Byte offset in configuration space.
    pub offset: u16,
    /// The structure it belongs to starts here (a structure may have several parts).
    pub structure: u16,
    /// The table.
    pub table: &'static Table,
    /// How often it stands there, one after another: 1, but for the bytes of vendor-specific bodies.
    pub copies: u16,
}

impl Placed {
    /// Past the last byte.
    #[must_use]
    pub const fn end(&self) -> u16 {
        self.offset
            .saturating_add(self.table.bytes().saturating_mul(self.copies))
    }
}

/// What a write to one dword may change, and what resets leave of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Word {
    /// At power-on.
    pub(crate) initial: u32,
    /// Bits that take what is written.
    pub(crate) write: u32,
    /// Bits that a written 1 clears.
    pub(crate) clear: u32,
    /// Bits that the model changes by itself.
    pub(crate) own: u32,
    /// Bits whose change this view refuses.
    pub(crate) stopped: u32,
    /// Bits that each kind of reset leaves alone, by `ResetKind as usize`.
    pub(crate) keep: [u32; 3],
    /// The actions of writable fields, bit `Action as u16`.
    pub(crate) actions: u16,
}

/// MSI, as placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Msi {
    pub(crate) at: u16,
    /// Log2 of the messages.
    pub(crate) capable: u32,
    /// Where mask and pending bits are.
    pub(crate) masks: Option<u16>,
}

/// MSI-X, as placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Msix {
    pub(crate) at: u16,
    pub(crate) vectors: u16,
    pub(crate) table: BarSpan,
    pub(crate) pba: BarSpan,
}

/// VPD, as placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vpd {
    pub(crate) at: u16,
    pub(crate) writable: bool,
}

/// Where the structures are that the model acts on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Structures {
    pub(crate) power: Option<u16>,
    pub(crate) vpd: Option<Vpd>,
    pub(crate) msi: Option<Msi>,
    pub(crate) msix: Option<Msix>,
    pub(crate) express: Option<u16>,
    pub(crate) advanced: Option<u16>,
    pub(crate) aer: Option<u16>,
}

/// A configuration space's compiled layout: what does not change while the device lives.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(crate) view: View,
    pub(crate) config_bytes: u16,
    pub(crate) words: [Word; WORDS],
    pub(crate) bars: [Bar; 6],
    pub(crate) rom_bytes: u32,
    pub(crate) structures: Structures,
    /// Where it lies over a function that exists.
    pub(crate) backing: [Backing; WORDS],
    pub(crate) backed: bool,
    placed: [Option<Placed>; MAX_PLACED],
    placed_len: usize,
}

impl Layout {
    pub(crate) fn empty(view: View, config_bytes: u16) -> Self {
        Self {
            view,
            config_bytes,
            words: [Word::default(); WORDS],
            bars: [Bar::None; 6],
            rom_bytes: 0,
            structures: Structures::default(),
            backing: [Backing::default(); WORDS],
            backed: false,
            placed: [None; MAX_PLACED],
            placed_len: 0,
        }
    }

    /// The same with BARs and an expansion ROM of these sizes, which a page does not tell.
    #[must_use]
    pub const fn with_regions(mut self, bars: [Bar; 6], rom_bytes: u32) -> Self {
        self.bars = bars;
        self.rom_bytes = rom_bytes;
        self
    }

    /// The view it was compiled for.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// Size of configuration space in bytes: 256 or 4096.
    #[must_use]
    pub const fn config_bytes(&self) -> u16 {
        self.config_bytes
    }

    /// BAR `bar`, 0 to 5; none past that.
    #[must_use]
    pub fn bar(&self, bar: u8) -> Bar {
        self.bars.get(usize::from(bar)).copied().unwrap_or_default()
    }

    /// Size of the expansion ROM in bytes; 0 where there is none.
    #[must_use]
    pub const fn rom_bytes(&self) -> u32 {
        self.rom_bytes
    }

    /// Where a window lies among the BARs; none for configuration space, or without MSI-X.
    #[must_use]
    pub fn window_span(&self, window: Window) -> Option<BarSpan> {
        let msix = self.structures.msix?;
        match window {
            Window::Config => None,
            Window::MsixTable => Some(msix.table),
            Window::MsixPba => Some(msix.pba),
        }
    }

    /// Size of a window in bytes; 0 where there is none. (The MSI-X table has 16 bytes a vector, the PBA 8
    /// bytes a started 64 vectors.)
    #[must_use]
    pub fn window_bytes(&self, window: Window) -> u32 {
        let vectors = self.structures.msix.map_or(0, |msix| u32::from(msix.vectors));
        match window {
            Window::Config => u32::from(self.config_bytes),
            Window::MsixTable => vectors * u32::from(tables::msix::ENTRY.bytes()),
            Window::MsixPba => vectors.div_ceil(64) * 8,
        }
    }

    /// Vectors that interrupts of a kind have; 0 where the function has none.
    #[must_use]
    pub fn vectors(&self, kind: crate::Interrupt) -> u16 {
        match kind {
            crate::Interrupt::Intx => u16::from(!self.backed && self.initial(0, &header::INTERRUPT_PIN) != 0),
            crate::Interrupt::Msi => self.structures.msi.map_or(0, |msi| 1 << msi.capable),
            crate::Interrupt::MsiX => self.structures.msix.map_or(0, |msix| msix.vectors),
        }
    }

    /// Whether the user can reset the function by a register.
    #[must_use]
    pub fn function_level_reset(&self) -> bool {
        self.structures.advanced.is_some()
            || self
                .structures
                .express
                .is_some_and(|at| self.initial(at, &tables::express::FLR_CAPABLE) != 0)
    }

    /// The placed tables: the header, then in the order of the chains.
    pub fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        self.placed.iter().take(self.placed_len).flatten().copied()
    }

    /// The fields that a byte of configuration space holds, with the table they are in.
    pub fn fields_at(&self, offset: u16) -> impl Iterator<Item = (Placed, &'static Field)> + '_ {
        self.placed()
            .filter(move |placed| offset >= placed.offset && offset < placed.end())
            .flat_map(move |placed| {
                let within = (offset - placed.offset) % placed.table.bytes().max(1);
                let copy = Placed {
                    offset: offset - within,
                    copies: 1,
                    ..placed
                };
                let fields = placed.table.fields.iter();
                fields
                    .filter(move |field| covers(field, within))
                    .map(move |field| (copy, field))
            })
    }

    /// What a field of a placed table holds in `state`, as this view reads it.
    #[must_use]
    pub fn value(&self, state: &State, placed: &Placed, field: &Field) -> u32 {
        let place = field.place(placed.offset);
        (crate::read(self, state, Window::Config, place.word) & place.mask) >> place.shift
    }

    /// Whether this view lets its user write a field.
    pub(crate) fn lets_write(&self, field: &Field) -> bool {
        matches!(
            field.treatment(self.view),
            Treatment::Shadow | Treatment::Hardware
        )
    }

    pub(crate) fn nth_placed(&self, n: usize) -> Option<Placed> {
        self.placed.iter().take(self.placed_len).nth(n).copied().flatten()
    }

    pub(crate) fn word(&self, word: u16) -> Word {
        self.words[usize::from(word) % WORDS]
    }

    /// A field's value at power-on.
    pub(crate) fn initial(&self, offset: u16, field: &Field) -> u32 {
        let place = field.place(offset);
        (self.word(place.word).initial & place.mask) >> place.shift
    }

    /// Gives a field its value at power-on, where this view shows it.
    pub(crate) fn set(&mut self, offset: u16, field: &Field, value: u32) {
        if field.treatment(self.view) != Treatment::Hidden {
            let place = field.place(offset);
            let word = &mut self.words[usize::from(place.word) % WORDS];
            word.initial = (word.initial & !place.mask) | ((value << place.shift) & place.mask);
        }
    }

    /// Keeps all but `bits` of a field (as bits of its register) from being written.
    pub(crate) fn limit(&mut self, offset: u16, field: &Field, bits: u32) {
        let place = field.place(offset);
        let fixed = place.mask & !(bits << (place.shift - u32::from(field.lsb)));
        let word = &mut self.words[usize::from(place.word) % WORDS];
        word.write &= !fixed;
        word.stopped &= !fixed;
        if word.write & place.mask == 0 {
            word.actions &= !(1 << field.action as u16);
        }
    }

    /// Places `copies` of a table, and compiles its fields.
    pub(crate) fn place(
        &mut self,
        structure: u16,
        offset: u16,
        table: &'static Table,
        copies: u16,
    ) -> Result<(), BlueprintError> {
        let placed = Placed {
            offset,
            structure,
            table,
            copies,
        };
        if placed.end() > self.config_bytes {
            return Err(BlueprintError::NoRoom);
        }
        *self
            .placed
            .get_mut(self.placed_len)
            .ok_or(BlueprintError::NoRoom)? = Some(placed);
        self.placed_len += 1;
        for copy in 0..copies {
            for field in table.fields {
                self.compile_field(offset + copy * table.bytes(), field);
            }
        }
        Ok(())
    }

    fn compile_field(&mut self, offset: u16, field: &Field) {
        let place = field.place(offset);
        let treatment = field.treatment(self.view);
        let word = &mut self.words[usize::from(place.word) % WORDS];
        let writable = matches!(field.access, Access::Rw | Access::Rws);
        let clearable = matches!(field.access, Access::Rw1c | Access::Rw1cs);
        match treatment {
            Treatment::Hidden | Treatment::Constant => {}
            Treatment::HardwareRead => {
                if writable || clearable {
                    word.stopped |= place.mask;
                }
                if field.action != Action::None {
                    word.own |= place.mask;
                }
            }
            // Over a software device the model is the hardware.
            Treatment::Shadow | Treatment::Hardware => {
                if field.action != Action::None {
                    word.actions |= 1 << field.action as u16;
                }
                if field.action == Action::FunctionLevelReset {
                    // Not stored: it reads 0.
                } else if writable {
                    word.write |= place.mask;
                } else if clearable {
                    word.clear |= place.mask;
                } else if field.treatment(View::Virtual) == Treatment::Shadow {
                    word.own |= place.mask;
                }
            }
        }
        let sticky = matches!(field.access, Access::Ros | Access::Rws | Access::Rw1cs);
        let flr = match (self.view, sticky) {
            (View::Virtual | View::Filtered, _) => field.resets.flr,
            (View::Raw, true) => After::Kept,
            (View::Raw, false) => After::Initial,
        };
        for (keep, after) in word
            .keep
            .iter_mut()
            .zip([flr, field.resets.conventional, field.resets.d3hot])
        {
            if after == After::Kept {
                *keep |= place.mask;
            }
        }
    }
}

/// Whether a field has bits in byte `within` of its table.
const fn covers(field: &Field, within: u16) -> bool {
    let first = field.register + field.lsb as u16 / 8;
    let last = field.register + field.msb as u16 / 8;
    within >= first && within <= last
}
