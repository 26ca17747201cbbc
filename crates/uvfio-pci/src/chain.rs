//! Walks the capability chains of a configuration page that a device gave: bounded, and believing nothing.

use core::fmt;

use crate::compile::{FIRST_CAPABILITY, FIRST_EXTENDED};
use crate::tables::{self, advanced, aer, express, header, msi, msix, other, power, vendor, vpd};
use crate::{Field, Table};

/// Walks the standard chain of a configuration page, then the extended one where the page is long enough.
/// Each structure is given once at most, whatever the pointers say; what is wrong with the chains comes in
/// between, as [`Finding`]s.
#[must_use]
pub fn walk(page: &[u8]) -> Chain<'_> {
    let mut starts = Dwords::default();
    for step in Pointers::new(page) {
        if let Step::Structure { at, .. } = step {
            starts.insert(at);
        }
    }
    Chain {
        pointers: Pointers::new(page),
        starts,
        first: [0; ONCE.len()],
        waiting: [None; 2],
    }
}

/// What the walk comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A structure.
    Capability(Found<'a>),
    /// Something that breaks a rule of the specification.
    Finding(Finding),
}

/// A structure of one of the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Byte offset in configuration space, a multiple of 4.
    pub offset: u16,
    /// Capability ID (8 bits) or extended capability ID (16 bits).
    pub id: u16,
    /// Whether it is of the extended chain.
    pub extended: bool,
    /// Version of an extended capability; 0 for the others, which have none in their headers.
    pub version: u8,
    /// The structure, headers included: as long as its ID says where the model knows that, else up to the next
    /// structure or the end of its part of the page. At least 4 bytes; 3 of a vendor-specific structure that holds
    /// nothing but its own length.
    pub bytes: &'a [u8],
    /// Whether the model knows its length, and all of it is in `bytes`.
    pub whole: bool,
}

/// What is wrong with a chain. Offsets are bytes of configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The first register reads all ones: no device answered.
    NoDevice,
    /// The header is of a kind whose chain is not known here.
    HeaderLayout {
        /// The header layout register.
        layout: u8,
    },
    /// A pointer leads to where the chain has been before.
    Loop {
        /// Where the pointer is.
        from: u16,
        /// Where it leads.
        to: u16,
    },
    /// A pointer's lowest two bits, which are reserved, are set; the walk goes on without them.
    Unaligned {
        /// Where the pointer is.
        from: u16,
        /// Where it leads.
        to: u16,
    },
    /// A pointer leads into the header (the extended chain's: into the first 256 bytes).
    IntoHeader {
        /// Where the pointer is.
        from: u16,
        /// Where it leads.
        to: u16,
    },
    /// A pointer leads past the bytes that are there.
    Truncated {
        /// Where the pointer is.
        from: u16,
        /// Where it leads.
        to: u16,
    },
    /// A structure's header reads all ones.
    AllOnes {
        /// Where it is.
        at: u16,
    },
    /// A structure runs into another.
    Overlap {
        /// Where it is.
        at: u16,
        /// Where the other is.
        other: u16,
    },
    /// A structure runs past the end of its part of configuration space, or of the bytes that are there.
    PastEnd {
        /// Where it is.
        at: u16,
        /// How many bytes it has to have.
        length: u16,
    },
    /// A structure says that it is shorter than its own headers.
    TooShort {
        /// Where it is.
        at: u16,
        /// How many bytes it says that it has.
        length: u16,
    },
    /// A capability that may be there once is there again; only the first counts.
    Duplicate {
        /// Where it is.
        at: u16,
        /// Where the first is.
        first: u16,
        /// Its ID.
        id: u16,
    },
    /// More structures than a layout has place for.
    NoPlace {
        /// Where the one is that found no place.
        at: u16,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoDevice => f.write_str("the first register reads all ones: no device answers"),
            Self::HeaderLayout { layout } => {
                write!(
                    f,
                    "a header of layout {layout}: its capability chain is not looked for"
                )
            }
            Self::Loop { from, to } => write!(
                f,
                "the pointer at {from:#05x} leads to {to:#05x}, where the chain has been before: it is a loop"
            ),
            Self::Unaligned { from, to } => write!(
                f,
                "the pointer at {from:#05x} leads to {to:#05x}, which is no multiple of 4; its lowest two bits are reserved"
            ),
            Self::IntoHeader { from, to } => write!(
                f,
                "the pointer at {from:#05x} leads to {to:#05x}, where no structure of this chain can be"
            ),
            Self::Truncated { from, to } => write!(
                f,
                "the pointer at {from:#05x} leads to {to:#05x}, past the bytes that are there"
            ),
            Self::AllOnes { at } => write!(f, "the structure at {at:#05x} reads all ones"),
            Self::Overlap { at, other } => {
                write!(f, "the structure at {at:#05x} runs into the one at {other:#05x}")
            }
            Self::PastEnd { at, length } => write!(
                f,
                "the structure at {at:#05x} has {length} bytes, more than there are up to the end"
            ),
            Self::TooShort { at, length } => write!(
                f,
                "the structure at {at:#05x} says that it has {length} bytes, less than its own header"
            ),
            Self::Duplicate { at, first, id } => write!(
                f,
                "capability {id:#04x} is there once more at {at:#05x}; only the one at {first:#05x} counts"
            ),
            Self::NoPlace { at } => write!(
                f,
                "the structure at {at:#05x} is left out: there are more than any device has"
            ),
        }
    }
}

/// The capabilities that a function has once at most, as (extended, ID).
const ONCE: [(bool, u16); 9] = [
    (false, power::ID as u16),
    (false, vpd::ID as u16),
    (false, msi::ID as u16),
    (false, msix::ID as u16),
    (false, express::ID as u16),
    (false, advanced::ID as u16),
    (false, other::SUBSYSTEM_ID as u16),
    (true, aer::ID),
    (true, other::SERIAL_ID),
];

/// The walk over one page; see [`walk`].
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    pointers: Pointers<'a>,
    /// Where structures start, of both chains.
    starts: Dwords,
    /// Where the first of each of [`ONCE`] is; 0: not seen.
    first: [u16; ONCE.len()],
    /// Findings about the structure given last.
    waiting: [Option<Finding>; 2],
}

impl<'a> Iterator for Chain<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if let Some(finding) = self.waiting.iter_mut().find_map(Option::take) {
            return Some(Item::Finding(finding));
        }
        Some(match self.pointers.next()? {
            Step::Finding(finding) => Item::Finding(finding),
            Step::Structure { at, extended } => self.structure(at, extended),
        })
    }
}

impl<'a> Chain<'a> {
    fn structure(&mut self, at: u16, extended: bool) -> Item<'a> {
        let page = self.pointers.page;
        let value = |field| value(page, at, field).unwrap_or_default();
        let (id, version) = if extended {
            (value(&tables::EXTENDED_ID), value(&tables::EXTENDED_VERSION))
        } else {
            (value(&tables::CAPABILITY_ID), 0)
        };
        let id = id as u16;
        if let Some(first) = self.repeated(at, extended, id) {
            return Item::Finding(Finding::Duplicate { at, first, id });
        }
        let room = self.pointers.end(extended);
        let next = self.starts.after(at).unwrap_or(room).min(room);
        let length = known_length(page, at, extended, id);
        let (end, whole) = match length {
            Length::Known(length) => {
                let end = at.saturating_add(length);
                if end > room {
                    self.waiting[0] = Some(Finding::PastEnd { at, length });
                }
                if end > next && next < room {
                    self.waiting[1] = Some(Finding::Overlap { at, other: next });
                }
                (end.min(next), end <= next)
            }
            Length::TooShort(length) => {
                self.waiting[0] = Some(Finding::TooShort { at, length });
                (next, false)
            }
            Length::Unknown => (next, false),
        };
        Item::Capability(Found {
            offset: at,
            id,
            extended,
            version: version as u8,
            bytes: page.get(usize::from(at)..usize::from(end)).unwrap_or_default(),
            whole,
        })
    }

    /// Where a capability that may be there once was seen before; notes this one else.
    fn repeated(&mut self, at: u16, extended: bool, id: u16) -> Option<u16> {
        let seen = self.first.iter_mut().zip(ONCE);
        let (first, _) = seen.into_iter().find(|(_, once)| *once == (extended, id))?;
        if *first == 0 {
            *first = at;
            return None;
        }
        Some(*first)
    }
}

enum Length {
    Known(u16),
    TooShort(u16),
    Unknown,
}

/// How long the structure at `at` has to be, in bytes.
fn known_length(page: &[u8], at: u16, extended: bool, id: u16) -> Length {
    let value = |field| value(page, at, field).unwrap_or_default();
    let told = |table: &Table, field| {
        let length = value(field) as u16;
        if length < table.bytes() {
            Length::TooShort(length)
        } else {
            Length::Known(length)
        }
    };
    if extended {
        return match id {
            aer::ID => Length::Known(aer::BYTES),
            other::SERIAL_ID => Length::Known(other::SERIAL.bytes()),
            vendor::VSEC_ID => told(&vendor::VSEC, &vendor::VSEC_LENGTH),
            vendor::DVSEC_ID => told(&vendor::DVSEC, &vendor::DVSEC_LENGTH),
            _ => Length::Unknown,
        };
    }
    match u8::try_from(id) {
        Ok(power::ID) => Length::Known(power::POWER.bytes()),
        Ok(vpd::ID) => Length::Known(vpd::VPD.bytes()),
        Ok(msi::ID) => {
            let parts = msi::parts(value(&msi::WIDE) != 0, value(&msi::MASKABLE) != 0);
            Length::Known(parts.map(Table::bytes).sum())
        }
        Ok(msix::ID) => Length::Known(msix::MSIX.bytes()),
        Ok(express::ID) => Length::Known(express::length(value(&express::VERSION), value(&express::TYPE))),
        Ok(advanced::ID) => Length::Known(u16::from(advanced::BYTES)),
        Ok(other::SUBSYSTEM_ID) => Length::Known(other::SUBSYSTEM.bytes()),
        Ok(vendor::ID) => told(&vendor::VENDOR, &vendor::LENGTH),
        _ => Length::Unknown,
    }
}

/// A field of the structure at `at`; none where the page ends before its register does.
#[must_use]
pub fn value(page: &[u8], at: u16, field: &Field) -> Option<u32> {
    let start = usize::from(at) + usize::from(field.register);
    let register = page.get(start..start + usize::from(field.bytes))?;
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(register) {
        *to = *from;
    }
    Some(field.extract(u32::from_le_bytes(bytes)))
}

/// Where a walk along the pointers gets to.
enum Step {
    Structure { at: u16, extended: bool },
    Finding(Finding),
}

/// Follows the pointers of both chains; ends, since it goes to each dword once at most.
#[derive(Clone, Debug)]
struct Pointers<'a> {
    page: &'a [u8],
    /// Bytes of the page that count.
    bytes: u16,
    /// The pointer to follow: where it is, and where it leads.
    pointer: Option<(u16, u16)>,
    /// Whether the extended chain is being followed.
    extended: bool,
    /// Something about the header.
    finding: Option<Finding>,
    been: Dwords,
}

impl<'a> Pointers<'a> {
    fn new(page: &'a [u8]) -> Self {
        let bytes = page.len().min(crate::layout::WORDS * 4) as u16;
        let value = |field| value(page, 0, field).unwrap_or_default();
        let layout = value(&header::HEADER_LAYOUT) as u8;
        let finding = if value(&header::VENDOR_AND_DEVICE) == u32::MAX {
            Some(Finding::NoDevice)
        } else if layout > 1 {
            Some(Finding::HeaderLayout { layout })
        } else {
            None
        };
        let listed = finding.is_none() && value(&header::CAPABILITIES_LIST) != 0;
        let first = (header::CAPABILITIES.register, value(&header::CAPABILITIES) as u16);
        Self {
            page,
            bytes,
            pointer: listed.then_some(first),
            extended: finding == Some(Finding::NoDevice),
            finding,
            been: Dwords::default(),
        }
    }

    /// Past the last byte of a chain's part of the page.
    fn end(&self, extended: bool) -> u16 {
        if extended {
            self.bytes
        } else {
            self.bytes.min(FIRST_EXTENDED)
        }
    }

    /// Goes on to the extended chain, where there is one.
    fn extend(&mut self) -> Option<()> {
        if core::mem::replace(&mut self.extended, true) {
            return None;
        }
        // All zeros: there is no extended capability (PCI Express Base 5.0, 7.6.2).
        let there = value(self.page, FIRST_EXTENDED, &tables::EXTENDED_HEADER)? != 0;
        there.then(|| self.pointer = Some((FIRST_EXTENDED, FIRST_EXTENDED)))
    }
}

impl Iterator for Pointers<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(finding) = self.finding.take() {
            return Some(Step::Finding(finding));
        }
        let (from, to) = loop {
            match self.pointer.take() {
                None | Some((_, 0)) => self.extend()?,
                Some(pointer) => break pointer,
            }
        };
        let first = if self.extended {
            FIRST_EXTENDED
        } else {
            FIRST_CAPABILITY
        };
        Some(Step::Finding(if to % 4 != 0 {
            self.pointer = Some((from, to & !3));
            Finding::Unaligned { from, to }
        } else if to < first {
            Finding::IntoHeader { from, to }
        } else if to.saturating_add(4) > self.end(self.extended) {
            Finding::Truncated { from, to }
        } else if self.been.contains(to) {
            Finding::Loop { from, to }
        } else if value(self.page, to, &tables::EXTENDED_HEADER) == Some(u32::MAX) {
            Finding::AllOnes { at: to }
        } else {
            self.been.insert(to);
            let next = if self.extended {
                &tables::EXTENDED_NEXT
            } else {
                &tables::NEXT
            };
            let there = value(self.page, to, next).unwrap_or_default() as u16;
            self.pointer = Some((to + next.register, there));
            return Some(Step::Structure {
                at: to,
                extended: self.extended,
            });
        }))
    }
}

/// A set of dwords of configuration space, by byte offset.
#[derive(Clone, Copy, Debug, Default)]
struct Dwords([u64; 16]);

impl Dwords {
    fn insert(&mut self, offset: u16) {
        if let Some(bits) = self.0.get_mut(usize::from(offset / 256)) {
            *bits |= 1 << (offset / 4 % 64);
        }
    }

    fn contains(&self, offset: u16) -> bool {
        let bits = self.0.get(usize::from(offset / 256)).copied().unwrap_or_default();
        bits >> (offset / 4 % 64) & 1 != 0
    }

    /// The first one past `offset`.
    fn after(&self, offset: u16) -> Option<u16> {
        let mut past = u64::MAX
            .checked_shl(u32::from(offset / 4 % 64) + 1)
            .unwrap_or_default();
        for (row, bits) in (0_u16..).zip(self.0).skip(usize::from(offset / 256)) {
            let bits = bits & core::mem::replace(&mut past, u64::MAX);
            if bits != 0 {
                return Some(row * 256 + bits.trailing_zeros() as u16 * 4);
            }
        }
        None
    }
}
