//! What a server says of its function: asked once, and checked.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs};
use uvfio_core::region_index::{CONFIG, COUNT, ROM};
use uvfio_core::{AccessError, IrqIndex, RegionInfo};
use uvfio_pci::tables::header;
use uvfio_pci::{Bar, Layout, Window, chain};
use uvfio_proto::message::RegionFlags;
use uvfio_proto::{Client, ClientError};

use crate::error::Lie;

/// The unit of mappings, in bytes.
const PAGE: u64 = 4096;

/// The most memory of one BAR that can be mapped, in bytes: once the server is gone all of it is filled, at our expense.
const MOST_MEMORY: u64 = 1 << 30;

/// How many vectors an index may have, by index.
const MOST_VECTORS: [u32; IrqIndex::COUNT as usize] = [1, 32, 2048, 1, 1];

/// Why a function is not declared.
#[derive(Debug)]
pub(crate) enum Undeclared {
    /// The server did not say.
    Client(ClientError),
    /// It can't be true.
    Lie(Lie),
}

impl From<ClientError> for Undeclared {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Lie> for Undeclared {
    fn from(lie: Lie) -> Self {
        Self::Lie(lie)
    }
}

/// A region.
#[derive(Debug, Default)]
pub(crate) struct Region {
    pub(crate) bytes: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
    memory: Option<Memory>,
}

/// Memory that parts of a BAR are.
#[derive(Debug)]
struct Memory {
    file: OwnedFd,
    /// Where the BAR begins in the file.
    bar_at: u64,
    /// The parts: offset in the BAR, and bytes.
    parts: Vec<(u64, u64)>,
}

/// What was said.
pub(crate) struct Declared {
    pub(crate) layout: Box<Layout>,
    /// Configuration space before there was a user.
    pub(crate) page: Vec<u8>,
    pub(crate) regions: [Region; COUNT as usize],
    /// How many vectors the server has, by index.
    pub(crate) vectors: [u32; IrqIndex::COUNT as usize],
    pub(crate) resettable: bool,
}

impl Declared {
    /// Asks the server.
    pub(crate) fn ask(client: &mut Client) -> Result<Self, Undeclared> {
        let info = client.info()?;
        if info.regions <= CONFIG {
            return Err(Lie::Regions(info.regions).into());
        }
        let mut regions = [const { Region::empty() }; COUNT as usize];
        for (index, region) in (0..=CONFIG).zip(&mut regions) {
            *region = match Region::ask(client, index) {
                // There need be no other.
                Err(ClientError::Refused { .. }) if index != CONFIG => Region::empty(),
                said => said?,
            };
        }
        let size = |index: u32| regions.get(index as usize).map_or(0, |region| region.bytes);
        let config_bytes = size(CONFIG);
        if !matches!(config_bytes, 256 | 4096) {
            return Err(Lie::ConfigBytes(config_bytes).into());
        }
        let mut page = vec![0; config_bytes as usize];
        client.read(CONFIG, 0, &mut page)?;
        let mut vectors = [0; IrqIndex::COUNT as usize];
        for ((index, count), most) in (0..info.irqs).zip(&mut vectors).zip(MOST_VECTORS) {
            *count = match client.irq_info(index) {
                Err(ClientError::Refused { .. }) => 0,
                said => said?.count,
            };
            if *count > most {
                let count = *count;
                return Err(Lie::Vectors { index, count, most }.into());
            }
        }
        let layout = layout(&page, std::array::from_fn(|bar| size(bar as u32)), size(ROM))?;
        Ok(Self {
            layout,
            page,
            regions,
            vectors,
            resettable: info.resettable,
        })
    }

    /// A region that a PCI function may have.
    pub(crate) fn region(&self, index: u32) -> Result<&Region, AccessError> {
        self.regions
            .get(index as usize)
            .ok_or(AccessError::NoSuchRegion(index))
    }
}

impl Region {
    const fn empty() -> Self {
        Self {
            bytes: 0,
            read: false,
            write: false,
            memory: None,
        }
    }

    fn ask(client: &mut Client, index: u32) -> Result<Self, ClientError> {
        let said = client.region_info(index)?;
        let there = said.bytes > 0;
        let mut parts: Vec<_> = said.areas.iter().map(|area| (area.offset, area.bytes)).collect();
        parts.sort_unstable();
        let offset = said.offset;
        let memory = said
            .memory
            .filter(|file| index < ROM && can_be_mapped(file, offset, &parts))
            .map(|file| Memory {
                file,
                bar_at: offset,
                parts,
            });
        Ok(Self {
            bytes: said.bytes,
            read: there && said.flags.contains(RegionFlags::READ),
            write: there && index != ROM && said.flags.contains(RegionFlags::WRITE),
            memory,
        })
    }

    /// As the interface wants it. Where no descriptor is left, nothing of it can be mapped.
    pub(crate) fn info(&self) -> RegionInfo {
        let mut info = RegionInfo {
            bytes: self.bytes,
            read: self.read,
            write: self.write,
            mappable: Vec::new(),
            memory: None,
            memory_at: 0,
        };
        if let Some(memory) = &self.memory
            && let Ok(file) = memory.file.try_clone()
        {
            info.mappable.clone_from(&memory.parts);
            info.memory = Some(file);
            info.memory_at = memory.bar_at;
        }
        info
    }

    /// Has what of it is memory read all ones, as registers of a function do that is not there.
    pub(crate) fn fill_with_ones(&self) {
        let Some(memory) = &self.memory else { return };
        let ones = [0xff; PAGE as usize];
        for &(offset, bytes) in &memory.parts {
            for at in (0..bytes).step_by(ones.len()) {
                // Within the file, as `can_be_mapped` has found, which no longer shrinks.
                let at = memory.bar_at + offset + at;
                if let Err(error) = rustix::io::pwrite(&memory.file, &ones, at) {
                    tracing::warn!(%error, "memory of a BAR whose device is gone could not be filled with ones");
                    return;
                }
            }
        }
    }
}

/// Whether a program can be given these parts to map: whole pages of memory that stays there, whatever the server does.
/// Where not, they are reached by message, as other registers.
fn can_be_mapped(file: &OwnedFd, offset: u64, parts: &[(u64, u64)]) -> bool {
    // The kernel answers this for shmem and hugetlbfs only, without asking anybody's filesystem.
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| {
        let read_only = SealFlags::WRITE | SealFlags::FUTURE_WRITE;
        seals.contains(SealFlags::SHRINK) && !seals.intersects(read_only)
    });
    let pages = parts
        .iter()
        .all(|(at, bytes)| (at | bytes | offset).is_multiple_of(PAGE) && *bytes > 0);
    let apart = parts.windows(2).all(|pair| match pair {
        [(at, bytes), (next, _)] => at.checked_add(*bytes).is_some_and(|end| end <= *next),
        _ => true,
    });
    let total = parts
        .iter()
        .try_fold(0_u64, |total, (_, bytes)| total.checked_add(*bytes));
    let few = total.is_some_and(|total| total <= MOST_MEMORY);
    if !sealed || !pages || !apart || !few || parts.is_empty() {
        return false;
    }
    // Those of hugetlbfs can only be mapped by huge pages.
    const TMPFS: i128 = 0x0102_1994;
    let memory = fstatfs(file).is_ok_and(|system| i128::from(system.f_type) == TMPFS);
    let writable = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    let size = fstat(file).map_or(0, |file| u64::try_from(file.st_size).unwrap_or(0));
    let end = parts
        .last()
        .and_then(|(at, bytes)| offset.checked_add(at.checked_add(*bytes)?));
    memory && writable && end.is_some_and(|end| end <= size)
}

/// The layout of configuration space, with the regions' sizes.
fn layout(page: &[u8], sizes: [u64; 6], rom: u64) -> Result<Box<Layout>, Lie> {
    let (layout, _) = Layout::from_dump(page).map_err(Lie::Config)?;
    let bars = bars(page, sizes)?;
    let rom_bytes = match u32::try_from(rom) {
        Ok(0) => 0,
        Ok(bytes) if bytes.is_power_of_two() && (2 << 10..=16 << 20).contains(&bytes) => bytes,
        _ => return Err(Lie::Rom(rom)),
    };
    let layout = Box::new(layout.with_regions(bars, rom_bytes));
    if let Some(span) = layout.window_span(Window::MsixTable) {
        let bytes = u64::from(layout.window_bytes(Window::MsixTable));
        let room = sizes.get(usize::from(span.bar)).copied().unwrap_or(0);
        if u64::from(span.offset) + bytes > room {
            let (bar, offset) = (span.bar, span.offset);
            return Err(Lie::MsixTable { bar, offset });
        }
    }
    Ok(layout)
}

/// The BARs: how large they are is what the regions say, what they are the registers.
fn bars(page: &[u8], sizes: [u64; 6]) -> Result<[Bar; 6], Lie> {
    let mut bars = [Bar::None; 6];
    let mut upper_half = false;
    for ((bar, kind), bytes) in (0_u8..).zip(&mut bars).zip(sizes) {
        let lie = |rule| Lie::Bar { bar, bytes, rule };
        if std::mem::take(&mut upper_half) {
            if bytes != 0 {
                return Err(lie("it is the upper half of the 64-bit BAR before it"));
            }
            continue;
        }
        if bytes == 0 {
            continue;
        }
        if !bytes.is_power_of_two() {
            return Err(lie("a BAR's size is a power of two"));
        }
        let value = |field| chain::value(page, header::BAR0 + 4 * u16::from(bar), field).unwrap_or_default();
        let prefetchable = value(&header::PREFETCHABLE) != 0;
        *kind = match (value(&header::SPACE), value(&header::BAR_TYPE)) {
            (1.., _) if (4..=256).contains(&bytes) => Bar::Io { bytes: bytes as u32 },
            (1.., _) => return Err(lie("an I/O BAR has 4 to 256")),
            _ if bytes < 16 => return Err(lie("a memory BAR has 16 at least")),
            (0, 2) if bar == 5 => return Err(lie("a 64-bit BAR needs the slot after it")),
            (0, 2) if bytes > 1 << 40 => return Err(lie("there is room for 1 TiB")),
            (0, 2) => Bar::Memory64 { bytes, prefetchable },
            _ if bytes > 1 << 31 => return Err(lie("a 32-bit BAR has 2 GiB at most")),
            _ => Bar::Memory32 {
                bytes: bytes as u32,
                prefetchable,
            },
        };
        upper_half = matches!(kind, Bar::Memory64 { .. });
    }
    Ok(bars)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    fn file(bytes: u64, seals: SealFlags) -> OwnedFd {
        let file = memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn only_whole_pages_of_memory_that_stays_can_be_mapped() {
        let sealed = || file(0x4000, SealFlags::SHRINK);
        let one: &[(u64, u64)] = &[(0x1000, 0x2000)];
        assert!(can_be_mapped(&sealed(), 0, one));
        assert!(can_be_mapped(&sealed(), 0x1000, one), "to its end");
        assert!(can_be_mapped(&sealed(), 0, &[(0, 0x1000), (0x1000, 0x3000)]));
        for (what, offset, parts) in [
            ("past its end", 0x2000, one),
            ("between pages", 0x800, one),
            ("an odd part", 0, &[(0x1000, 0x800)]),
            ("a part of no bytes", 0, &[(0x1000, 0)]),
            ("no part", 0, &[]),
            ("one over another", 0, &[(0, 0x2000), (0x1000, 0x1000)]),
            ("no end", 0, &[(0x1000, u64::MAX - 0xfff)]),
            ("an offset without end", u64::MAX - 0xfff, one),
        ] {
            assert!(!can_be_mapped(&sealed(), offset, parts), "{what}");
        }
        assert!(
            !can_be_mapped(&file(0x4000, SealFlags::GROW), 0, one),
            "a file that may shrink"
        );
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            assert!(
                !can_be_mapped(&file(0x4000, SealFlags::SHRINK | seal), 0, one),
                "a file that can't be written"
            );
        }
        let large = file(MOST_MEMORY + PAGE, SealFlags::SHRINK);
        assert!(can_be_mapped(&large, 0, &[(0, MOST_MEMORY)]));
        assert!(
            !can_be_mapped(&large, 0, &[(0, MOST_MEMORY), (MOST_MEMORY, PAGE)]),
            "too much"
        );
        let null = std::fs::File::open("/dev/zero").unwrap().into();
        assert!(!can_be_mapped(&null, 0, one), "a device");
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(!can_be_mapped(&pipe, 0, one), "a pipe");
    }
}
