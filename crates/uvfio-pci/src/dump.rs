//! A layout read off a real device's configuration page instead of a blueprint.

use core::fmt;

use crate::chain::{self, Finding, Found, Item};
use crate::compile::FIRST_EXTENDED;
use crate::tables::{self, advanced, aer, express, header, msi, msix, other, power, vendor, vpd};
use crate::{BarSpan, BlueprintError, Field, Layout, Table, View, layout};

/// Why a page can't be decoded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpError {
    /// It is none of the lengths that a dump has.
    Length {
        /// Bytes given.
        bytes: usize,
    },
    /// Every byte that tells which function it is reads all ones.
    NoDevice,
    /// A bridge's header, or another that there are no tables for.
    HeaderLayout {
        /// The header layout register.
        layout: u8,
    },
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { bytes } => write!(
                f,
                "the page has {bytes} bytes; a configuration page has 64, 256 or 4096"
            ),
            Self::NoDevice => f.write_str("the page reads all ones: no device answered when it was taken"),
            Self::HeaderLayout { layout } => {
                write!(
                    f,
                    "a header of layout {layout}: only functions with a type 0 header can be decoded"
                )
            }
        }
    }
}

impl core::error::Error for DumpError {}

/// Most findings about one page that are kept.
pub const MAX_FINDINGS: usize = 32;

/// What is wrong with a page that could be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Findings {
    list: [Option<Finding>; MAX_FINDINGS],
    len: usize,
    left_out: usize,
}

impl Findings {
    /// The findings, in the order of the chains.
    pub fn iter(&self) -> impl Iterator<Item = Finding> + '_ {
        self.list.iter().flatten().copied()
    }

    /// How many more there were, past [`MAX_FINDINGS`].
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    fn push(&mut self, finding: Finding) {
        if let Some(slot) = self.list.get_mut(self.len) {
            *slot = Some(finding);
            self.len += 1;
        } else {
            self.left_out += 1;
        }
    }
}

impl Layout {
    /// Decodes a configuration page of 64, 256 or 4096 bytes that was read from a device: the tables where its
    /// chains say, every register with the value in the page. The view is [`View::Raw`]. Sizes of BARs are not
    /// in a page, so [`Layout::bar`] tells none; the placed tables tell their kinds.
    ///
    /// # Errors
    /// Where the page is not one of a function with a type 0 header. What is wrong with its chains is not an
    /// error but a finding.
    pub fn from_dump(page: &[u8]) -> Result<(Self, Findings), DumpError> {
        Self::from_dump_in(page, View::Raw)
    }

    /// As [`Layout::from_dump`], for another view of the same device. In [`View::Virtual`] structures that no table
    /// describes are left out of the chains, and what no field covers reads 0.
    ///
    /// # Errors
    /// As [`Layout::from_dump`].
    pub fn from_dump_in(page: &[u8], view: View) -> Result<(Self, Findings), DumpError> {
        let bytes = page.len();
        let config_bytes = u16::try_from(bytes)
            .ok()
            .filter(|bytes| matches!(bytes, 64 | 256 | 4096))
            .ok_or(DumpError::Length { bytes })?;
        let value = |field| chain::value(page, 0, field).unwrap_or_default();
        if value(&header::VENDOR_AND_DEVICE) == u32::MAX {
            return Err(DumpError::NoDevice);
        }
        let layout = value(&header::HEADER_LAYOUT) as u8;
        if layout != 0 {
            return Err(DumpError::HeaderLayout { layout });
        }
        let mut dump = Self::empty(view, config_bytes);
        let mut findings = Findings::default();
        dump.decode_header(page);
        for item in chain::walk(page) {
            match item {
                Item::Capability(found) => {
                    if dump.decode(&found).is_err() {
                        findings.push(Finding::NoPlace { at: found.offset });
                    }
                }
                Item::Finding(finding) => findings.push(finding),
            }
        }
        if view == View::Virtual {
            dump.load_fields(page);
            dump.link_again();
        } else {
            for (word, bytes) in dump.words.iter_mut().zip(page.chunks_exact(4)) {
                word.initial = bytes.try_into().map_or(0, u32::from_le_bytes);
            }
        }
        Ok((dump, findings))
    }

    /// Takes from the page the fields that the view shows.
    fn load_fields(&mut self, page: &[u8]) {
        let mut next = 0;
        while let Some(placed) = self.nth_placed(next) {
            for copy in 0..placed.copies {
                let at = placed.offset + copy * placed.table.bytes();
                for field in placed.table.fields {
                    self.set(at, field, chain::value(page, at, field).unwrap_or_default());
                }
            }
            next += 1;
        }
    }

    /// Links the structures that are placed, past those that are not.
    fn link_again(&mut self) {
        let mut standard = (0, &header::CAPABILITIES);
        let mut extended = None;
        let mut first_extended = None;
        let mut next = 0;
        while let Some(placed) = self.nth_placed(next) {
            next += 1;
            let first = placed.table.fields.first();
            if first == Some(&tables::CAPABILITY_ID) {
                self.set(standard.0, standard.1, placed.offset.into());
                standard = (placed.offset, &tables::NEXT);
            } else if first == Some(&tables::EXTENDED_ID) {
                first_extended.get_or_insert(placed.offset);
                if let Some(before) = extended.replace(placed.offset) {
                    self.set(before, &tables::EXTENDED_NEXT, placed.offset.into());
                }
            }
        }
        self.set(standard.0, standard.1, 0);
        self.set(0, &header::CAPABILITIES_LIST, u32::from(standard.0 != 0));
        // The extended chain starts at one place, whatever is there.
        if let Some(first) = first_extended.filter(|first| *first != FIRST_EXTENDED) {
            // Without a row in a full list of tables it is a pointer all the same.
            self.place(FIRST_EXTENDED, FIRST_EXTENDED, &tables::EXTENDED_START, 1)
                .unwrap_or_default();
            self.set(FIRST_EXTENDED, &tables::EXTENDED_NEXT, first.into());
        }
        if let Some(last) = extended {
            self.set(last, &tables::EXTENDED_NEXT, 0);
        }
    }

    /// Places a structure by its header only; the virtual view has none that no table describes.
    fn place_unknown(&mut self, at: u16, table: &'static Table) -> Result<(), BlueprintError> {
        if self.view == View::Virtual {
            Ok(())
        } else {
            self.place(at, at, table, 1)
        }
    }

    /// Places the header's tables, the BARs' by their lowest bits.
    fn decode_header(&mut self, page: &[u8]) {
        let value = |at, field| chain::value(page, at, field).unwrap_or_default();
        // An empty layout of 64 bytes or more has room for all of these.
        let mut place = |at, table| self.place(0, at, table, 1).unwrap_or_default();
        place(0, &header::HEADER);
        let mut upper_half = false;
        for bar in (header::BAR0..).step_by(4).take(6) {
            let register = value(bar, &header::BAR_REGISTER);
            let table = if core::mem::take(&mut upper_half) {
                &header::BAR_MEMORY64_HIGH
            } else if register == 0 {
                &header::BAR_NONE
            } else if header::SPACE.extract(register) != 0 {
                &header::BAR_IO
            } else if header::BAR_TYPE.extract(register) == 2 {
                upper_half = true;
                &header::BAR_MEMORY64
            } else {
                &header::BAR_MEMORY32
            };
            place(bar, table);
        }
        let rom = value(header::ROM_BAR, &header::BAR_REGISTER);
        place(
            header::ROM_BAR,
            if rom == 0 { &header::ROM_NONE } else { &header::ROM },
        );
    }

    fn decode(&mut self, found: &Found<'_>) -> Result<(), BlueprintError> {
        let at = found.offset;
        let bytes = u16::try_from(found.bytes.len()).unwrap_or_default();
        let value = |field: &Field| chain::value(found.bytes, 0, field).unwrap_or_default();
        let unknown = if found.extended {
            &tables::UNKNOWN_EXTENDED
        } else {
            &tables::UNKNOWN
        };
        if !found.whole {
            return self.place_unknown(at, unknown);
        }
        if found.extended {
            return match found.id {
                aer::ID => {
                    self.structures.aer = Some(at);
                    self.place(at, at, &aer::AER, 1)
                }
                other::SERIAL_ID => self.place(at, at, &other::SERIAL, 1),
                vendor::VSEC_ID => self.decode_body(at, &vendor::VSEC, bytes),
                vendor::DVSEC_ID => self.decode_body(at, &vendor::DVSEC, bytes),
                _ => self.place_unknown(at, unknown),
            };
        }
        match u8::try_from(found.id) {
            Ok(power::ID) => {
                self.structures.power = Some(at);
                self.place(at, at, &power::POWER, 1)
            }
            Ok(vpd::ID) => {
                self.structures.vpd = Some(layout::Vpd { at, writable: true });
                self.place(at, at, &vpd::VPD, 1)
            }
            Ok(msi::ID) => {
                self.decode_msi(at, value(&msi::CAPABLE), value(&msi::WIDE), value(&msi::MASKABLE))
            }
            Ok(msix::ID) => {
                let span = |bar: &Field, offset: &Field| BarSpan {
                    bar: value(bar) as u8,
                    offset: value(offset) << offset.lsb,
                };
                self.structures.msix = Some(layout::Msix {
                    at,
                    vectors: value(&msix::SIZE) as u16 + 1,
                    table: span(&msix::TABLE_BAR, &msix::TABLE_OFFSET),
                    pba: span(&msix::PBA_BAR, &msix::PBA_OFFSET),
                });
                self.place(at, at, &msix::MSIX, 1)
            }
            Ok(express::ID) => self.decode_express(at, value(&express::VERSION), value(&express::TYPE)),
            Ok(advanced::ID) => {
                self.structures.advanced = Some(at);
                self.place(at, at, &advanced::ADVANCED, 1)
            }
            Ok(other::SUBSYSTEM_ID) => self.place(at, at, &other::SUBSYSTEM, 1),
            Ok(vendor::ID) => self.decode_body(at, &vendor::VENDOR, bytes),
            _ => self.place_unknown(at, unknown),
        }
    }

    fn decode_msi(&mut self, at: u16, capable: u32, wide: u32, maskable: u32) -> Result<(), BlueprintError> {
        let mut end = at;
        let mut masks = None;
        for table in msi::parts(wide != 0, maskable != 0) {
            self.place(at, end, table, 1)?;
            if core::ptr::eq(table, &raw const msi::MASKS) {
                masks = Some(end);
            }
            end += table.bytes();
        }
        // More than 32 messages is reserved.
        let capable = capable.min(5);
        self.structures.msi = Some(layout::Msi { at, capable, masks });
        Ok(())
    }

    fn decode_express(&mut self, at: u16, version: u32, kind: u32) -> Result<(), BlueprintError> {
        self.structures.express = Some(at);
        let second = version > 1;
        let link = express::has_link(kind);
        let parts: [(bool, u16, &'static Table); 4] = [
            (true, 0, &express::EXPRESS),
            (link, express::LINK_AT, &express::LINK),
            (second, express::SECOND_AT, &express::EXPRESS2),
            (second && link, express::LINK2_AT, &express::LINK2),
        ];
        for (_, offset, table) in parts.into_iter().filter(|(there, ..)| *there) {
            self.place(at, at + offset, table, 1)?;
        }
        Ok(())
    }

    /// A vendor's structure: the headers that the specification gives, and the bytes that follow.
    fn decode_body(&mut self, at: u16, headers: &'static Table, bytes: u16) -> Result<(), BlueprintError> {
        self.place(at, at, headers, 1)?;
        match bytes.saturating_sub(headers.bytes()) {
            0 => Ok(()),
            body => self.place(at, at + headers.bytes(), &vendor::BODY, body),
        }
    }
}
