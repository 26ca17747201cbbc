//! From what the hardware says of itself to what its user is shown: a blueprint, from bytes that are not believed.
//!
//! Shown are the identity, the BARs, and five capabilities: power management, MSI, MSI-X, PCI Express and advanced
//! features. Everything else is hidden, the extended capabilities and the expansion ROM too. The interrupt pin is shown
//! where the kernel has INTx.

use uvfio_pci::chain::{self, Finding, Found, Item};
use uvfio_pci::tables::{advanced, express, header, msi, msix, power};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Field, Identity, Layout, Table, View};

use super::error::{BarRule, Lie};
use super::grant::Span;
use super::interrupts::{MAX_MESSAGES, MAX_VECTORS};

/// Bytes of conventional configuration space, where all that is shown stands.
pub(super) const PAGE: usize = 256;

/// How a function that nobody has taken over would be shown: its line, and as many messages as it has, of which the
/// kernel may grant fewer.
#[derive(Clone, Debug)]
pub struct Presented(Declared);

impl Presented {
    /// From the first 256 bytes of configuration space, the bytes of each BAR (0: there is none), and whether the
    /// kernel can reset it.
    ///
    /// # Errors
    /// Where what it says of itself cannot be true.
    pub fn of(page: &[u8], bars: [u64; 6], resettable: bool) -> Result<Self, Lie> {
        let seen = Seen {
            page,
            bars,
            messages: MAX_MESSAGES,
            vectors: MAX_VECTORS,
            line: true,
            resettable,
        };
        Declared::new(&seen).map(Self)
    }

    /// What is declared of it.
    #[must_use]
    pub fn blueprint(&self) -> Blueprint<'_> {
        self.0.blueprint()
    }
}

/// What is known of the hardware.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// The first [`PAGE`] bytes of configuration space.
    pub(super) page: &'a [u8],
    /// Bytes of each BAR's region; 0: there is none.
    pub(super) bars: [u64; 6],
    /// MSI messages that the kernel grants.
    pub(super) messages: u8,
    /// MSI-X vectors that the kernel grants.
    pub(super) vectors: u16,
    /// Whether the kernel has INTx.
    pub(super) line: bool,
    /// Whether the kernel can reset it.
    pub(super) resettable: bool,
}

/// What is declared, and where in the hardware's configuration space its structures are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    identity: Identity,
    bars: [Bar; 6],
    capabilities: Vec<Capability<'static>>,
    /// The power management structure.
    pub(super) power: Option<u16>,
    /// The PCI Express structure.
    pub(super) express: Option<u16>,
    /// The advanced features.
    pub(super) advanced: Option<u16>,
    /// The MSI-X structure.
    msix: Option<u16>,
    /// Where the hardware's own tables and pending bits of MSI-X are, by BAR; all of them, whatever is shown.
    pub(super) tables: Vec<(u8, Span)>,
    /// What is wrong with the chain and does not matter, for the log.
    pub(super) oddities: Vec<Finding>,
}

impl Declared {
    /// Makes a blueprint of what was seen.
    pub(super) fn new(seen: &Seen<'_>) -> Result<Self, Lie> {
        let page = seen.page;
        if page.len() < PAGE {
            return Err(Lie::Short {
                bytes: page.len() as u64,
            });
        }
        let mut declared = Self {
            identity: identity(page, seen.line),
            bars: [Bar::None; 6],
            capabilities: Vec::new(),
            power: None,
            express: None,
            advanced: None,
            msix: None,
            tables: Vec::new(),
            oddities: Vec::new(),
        };
        declared.walk(seen)?;
        let layout = value(page, 0, &header::HEADER_LAYOUT) as u8;
        if layout != 0 {
            return Err(Lie::Header { layout });
        }
        declared.bars = bars(page, &seen.bars)?;
        Layout::compile(&declared.blueprint(), View::Virtual).map_err(Lie::Blueprint)?;
        Ok(declared)
    }

    pub(super) fn blueprint(&self) -> Blueprint<'_> {
        Blueprint {
            identity: self.identity,
            bars: self.bars,
            rom_bytes: 0,
            capabilities: &self.capabilities,
            extended: &[],
        }
    }

    /// Which structures there are that the hardware's can be compared with, and where.
    pub(super) fn structures(&self) -> Vec<(u16, &'static Table)> {
        let known = [
            (Some(0), &header::HEADER),
            (self.power, &power::POWER),
            (self.express, &express::EXPRESS),
            (self.advanced, &advanced::ADVANCED),
            (self.msix, &msix::MSIX),
        ];
        let there = known.into_iter().filter_map(|(at, table)| Some((at?, table)));
        there.collect()
    }

    /// The kinds of BARs, by number.
    pub(super) fn bars(&self) -> &[Bar; 6] {
        &self.bars
    }

    /// Whether it has MSI with mask bits.
    pub(super) fn masks_messages(&self) -> bool {
        let masks =
            |capability: &Capability<'_>| matches!(capability, Capability::Msi { maskable: true, .. });
        self.capabilities.iter().any(masks)
    }

    /// Goes along the capability chain. What is wrong with a structure that is not shown does not matter.
    fn walk(&mut self, seen: &Seen<'_>) -> Result<(), Lie> {
        // The extended chain is not looked at: nothing of it is shown.
        for item in chain::walk(seen.page.get(..PAGE).unwrap_or_default()) {
            match item {
                Item::Capability(found) => self.take(seen, &found)?,
                Item::Finding(
                    finding @ (Finding::Unaligned { .. }
                    | Finding::Overlap { .. }
                    | Finding::PastEnd { .. }
                    | Finding::TooShort { .. }
                    | Finding::Duplicate { .. }
                    | Finding::NoPlace { .. }),
                ) => self.oddities.push(finding),
                Item::Finding(finding) => return Err(Lie::Chain(finding)),
            }
        }
        Ok(())
    }

    fn take(&mut self, seen: &Seen<'_>, found: &Found<'_>) -> Result<(), Lie> {
        let value = |field: &Field| value(found.bytes, 0, field);
        let whole = |what| {
            let at = found.offset;
            found.whole.then_some(()).ok_or(Lie::Cut { what, at })
        };
        match u8::try_from(found.id) {
            Ok(power::ID) => {
                whole("the power management capability")?;
                self.power = Some(found.offset);
                self.capabilities.push(Capability::PowerManagement {
                    no_soft_reset: value(&power::NO_SOFT_RESET) != 0,
                });
            }
            Ok(msi::ID) => {
                whole("the MSI capability")?;
                let capable = 1_u8.checked_shl(value(&msi::CAPABLE)).unwrap_or_default();
                let messages = seen.messages.min(capable);
                if messages > 0 {
                    self.capabilities.push(Capability::Msi {
                        // The largest power of two among what is granted.
                        messages: 1 << messages.ilog2(),
                        wide: value(&msi::WIDE) != 0,
                        maskable: value(&msi::MASKABLE) != 0,
                    });
                }
            }
            Ok(msix::ID) => {
                whole("the MSI-X capability")?;
                self.msix = Some(found.offset);
                let have = value(&msix::SIZE) as u16 + 1;
                let vectors = seen.vectors.min(have);
                let span = |bar, offset: &Field| BarSpan {
                    bar: value(bar) as u8,
                    offset: value(offset) << offset.lsb,
                };
                let table = span(&msix::TABLE_BAR, &msix::TABLE_OFFSET);
                let pba = span(&msix::PBA_BAR, &msix::PBA_OFFSET);
                for (at, bytes) in [table, pba].into_iter().zip(msix_bytes(have)) {
                    let first = u64::from(at.offset);
                    self.tables.push((at.bar, (first, first + bytes)));
                }
                if vectors > 0 {
                    self.capabilities.push(Capability::MsiX { vectors, table, pba });
                }
            }
            Ok(express::ID) => {
                whole("the PCI Express capability")?;
                self.express = Some(found.offset);
                self.capabilities.push(Capability::Express {
                    flr: seen.resettable && value(&express::FLR_CAPABLE) != 0,
                    integrated: !express::has_link(value(&express::TYPE)),
                });
            }
            Ok(advanced::ID) => {
                whole("the advanced features capability")?;
                self.advanced = Some(found.offset);
                if seen.resettable && value(&advanced::FLR_CAPABLE) != 0 {
                    self.capabilities.push(Capability::AdvancedFeatures);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn identity(page: &[u8], line: bool) -> Identity {
    let value = |field| value(page, 0, field);
    Identity {
        vendor: value(&header::VENDOR) as u16,
        device: value(&header::DEVICE) as u16,
        revision: value(&header::REVISION) as u8,
        class: [&header::BASE_CLASS, &header::SUBCLASS, &header::INTERFACE].map(|field| value(field) as u8),
        subsystem_vendor: value(&header::SUBSYSTEM_VENDOR) as u16,
        subsystem: value(&header::SUBSYSTEM) as u16,
        interrupt_pin: if line {
            value(&header::INTERRUPT_PIN) as u8
        } else {
            0
        },
    }
}

/// How many bytes the table of so many vectors has, and how many their pending bits (PCI Local Bus 3.0, 6.8.2).
fn msix_bytes(vectors: u16) -> [u64; 2] {
    let entry: u64 = msix::ENTRY.bytes().into();
    [u64::from(vectors) * entry, u64::from(vectors).div_ceil(64) * 8]
}

/// The BARs: how large they are is the kernel's word, what they are the registers'.
fn bars(page: &[u8], sizes: &[u64; 6]) -> Result<[Bar; 6], Lie> {
    let mut bars = [Bar::None; 6];
    let mut upper_half = false;
    for ((n, bar), bytes) in (0_u8..).zip(&mut bars).zip(*sizes) {
        let register = header::BAR0 + 4 * u16::from(n);
        let lie = |rule| Lie::Bar {
            bar: n,
            register,
            rule,
        };
        if std::mem::take(&mut upper_half) {
            if bytes != 0 {
                return Err(lie(BarRule::UpperHalf { bytes }));
            }
            continue;
        }
        *bar = one_bar(page, register, bytes).map_err(lie)?;
        upper_half = matches!(bar, Bar::Memory64 { .. });
        if upper_half && n == 5 {
            return Err(lie(BarRule::NoUpperHalf));
        }
    }
    Ok(bars)
}

fn one_bar(page: &[u8], register: u16, bytes: u64) -> Result<Bar, BarRule> {
    let value = |field| value(page, register, field);
    if bytes == 0 {
        return Ok(Bar::None);
    }
    if !bytes.is_power_of_two() {
        return Err(BarRule::NoPowerOfTwo { bytes });
    }
    let within = |kind, least: u64, most: u64| {
        let wrong = BarRule::Size {
            bytes,
            kind,
            least,
            most,
        };
        (least..=most).contains(&bytes).then_some(()).ok_or(wrong)
    };
    if value(&header::SPACE) != 0 {
        within("an I/O BAR", 4, 256)?;
        return Ok(Bar::Io { bytes: bytes as u32 });
    }
    let prefetchable = value(&header::PREFETCHABLE) != 0;
    match value(&header::BAR_TYPE) {
        2 => {
            within("a 64-bit memory BAR", 16, 1 << 63)?;
            Ok(Bar::Memory64 { bytes, prefetchable })
        }
        // Type 1 meant a 32-bit address below 1 MiB; no driver can tell them apart in a virtual device.
        0 | 1 => {
            within("a 32-bit memory BAR", 16, 1 << 31)?;
            Ok(Bar::Memory32 {
                bytes: bytes as u32,
                prefetchable,
            })
        }
        kind => Err(BarRule::Reserved { kind }),
    }
}

/// A field of the structure at byte `at` of `bytes`; 0 where it is not there.
pub(super) fn value(bytes: &[u8], at: u16, field: &Field) -> u32 {
    chain::value(bytes, at, field).unwrap_or_default()
}

#[cfg(test)]
mod tests;
