//! Type 1's rules of mapping and unmapping.
//!
//! | rule | version 1 | version 2 |
//! |---|---|---|
//! | unmapping over nothing | succeeds, 0 bytes | the same |
//! | unmapping a part of a mapping | from its first address: all of it; from within: succeeds, 0 bytes | EINVAL |

use std::sync::Arc;

use rustix::io::Errno;
use uvfio_core::DmaAccess;
use vfio_bindings::bindings::vfio as sys;

use crate::locked::Locked;
use crate::refusal::{Outcome, Refusal};
use crate::space::{Mapped, PAGE, Ranges, bytes_of, cut, first_within, is_usable};
use crate::{CountedBy, ProcessMemory};

/// Most mappings of a container: what the kernel allows by default.
pub(crate) const MAX_MAPPINGS: usize = 65_535;

/// VFIO_IOMMU_MAP_DMA.
pub(crate) struct Map {
    pub(crate) flags: u32,
    /// Where it is in the process.
    pub(crate) address: u64,
    pub(crate) iova: u64,
    pub(crate) bytes: u64,
    pub(crate) memory: Arc<dyn ProcessMemory>,
}

impl Map {
    fn access(&self) -> DmaAccess {
        let mut access = DmaAccess::empty();
        access.set(DmaAccess::READ, self.flags & sys::VFIO_DMA_MAP_FLAG_READ != 0);
        access.set(DmaAccess::WRITE, self.flags & sys::VFIO_DMA_MAP_FLAG_WRITE != 0);
        access
    }

    /// A new address for what is mapped, instead of a new mapping.
    pub(crate) fn moves(&self) -> bool {
        self.flags & sys::VFIO_DMA_MAP_FLAG_VADDR != 0
    }

    /// What is wrong with it by itself.
    pub(crate) fn check(&self) -> Outcome<()> {
        let known = sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE | sys::VFIO_DMA_MAP_FLAG_VADDR;
        if self.flags & !known != 0 {
            return Err(Refusal::invalid(format!(
                "flags {:#x} are not known",
                self.flags & !known
            )));
        }
        if self.access().is_empty() != self.moves() {
            return Err(Refusal::invalid(
                "it needs READ or WRITE or both, or else VADDR alone",
            ));
        }
        if self.bytes == 0 {
            return Err(Refusal::invalid("the size is 0"));
        }
        if !(self.iova | self.address | self.bytes).is_multiple_of(PAGE) {
            return Err(Refusal::invalid(format!(
                "iova {:#x}, vaddr {:#x} and size {:#x} must be multiples of {PAGE}",
                self.iova, self.address, self.bytes
            )));
        }
        for start in [self.iova, self.address] {
            if start.checked_add(self.bytes - 1).is_none() {
                return Err(Refusal::new(
                    Errno::OVERFLOW,
                    format!("{:#x} bytes from {start:#x} on run past 2^64", self.bytes),
                ));
            }
        }
        Ok(())
    }

    /// The last address, after [`check`](Self::check).
    pub(crate) fn last(&self) -> u64 {
        // `check` has seen that both fit.
        self.iova.saturating_add(self.bytes.saturating_sub(1))
    }

    /// Maps, after [`check`](Self::check).
    pub(crate) fn apply(self, ranges: &mut Ranges) -> Outcome<()> {
        let last = self.last();
        let found = first_within(ranges, self.iova, last).map(|(first, range)| (first, range.last));
        if self.moves() {
            return self.apply_move(ranges, found);
        }
        if let Some((first, end)) = found {
            return Err(Refusal::new(
                Errno::EXIST,
                format!(
                    "iova {:#x}..={last:#x} overlaps the mapping at {first:#x}..={end:#x}; unmap that first",
                    self.iova
                ),
            ));
        }
        if ranges.len() >= MAX_MAPPINGS {
            return Err(Refusal::new(
                Errno::NOSPC,
                format!("the container has {MAX_MAPPINGS} mappings, the most that there may be"),
            ));
        }
        if !is_usable(self.iova, last) {
            return Err(Refusal::invalid(format!(
                "iova {:#x}..={last:#x} is not within the ranges that VFIO_IOMMU_GET_INFO tells",
                self.iova
            )));
        }
        let access = self.access();
        let (memory, locked) = take(&self.memory, self.address, self.bytes, access, CountedBy::Process)?;
        let range = Mapped {
            last,
            access,
            address: Some(self.address),
            memory,
            writable: access.contains(DmaAccess::WRITE),
            locked,
        };
        ranges.insert(self.iova, range);
        Ok(())
    }

    fn apply_move(self, ranges: &mut Ranges, found: Option<(u64, u64)>) -> Outcome<()> {
        let none = || {
            Refusal::new(
                Errno::NOENT,
                format!(
                    "nothing is mapped at iova {:#x} that could get a new address",
                    self.iova
                ),
            )
        };
        let (first, end) = found.ok_or_else(none)?;
        let last = self.last();
        let range = ranges.get_mut(first).ok_or_else(none)?;
        if range.address.is_some() || first != self.iova || end != last {
            return Err(Refusal::invalid(format!(
                "iova {:#x}..={last:#x} must be one whole mapping, whose address was taken away before",
                self.iova
            )));
        }
        // Another process' from now on, if it is another: the one that calls has the memory.
        if let Some(account) = self.memory.account(CountedBy::Process)
            && !range.locked.as_ref().is_some_and(|locked| locked.is_of(&account))
        {
            range.locked = Some(Arc::new(Locked::new(account, self.bytes)?));
        }
        range.address = Some(self.address);
        range.memory = kept(&self.memory, self.address, self.bytes);
        Ok(())
    }
}

/// Memory that is mapped, and what it counts as locked.
type Taken = (Arc<dyn ProcessMemory>, Option<Arc<Locked>>);

/// Looks whether the process has the memory, and may have it mapped; gives what it is reached by from now on.
pub(crate) fn take(
    memory: &Arc<dyn ProcessMemory>,
    address: u64,
    bytes: u64,
    access: DmaAccess,
    counted: CountedBy,
) -> Outcome<Taken> {
    memory
        .check(address, bytes, access.contains(DmaAccess::WRITE))
        .map_err(|errno| {
            Refusal::new(
                errno,
                format!("the process has no such memory in all of {bytes:#x} bytes from {address:#x} on"),
            )
        })?;
    let account = memory.account(counted);
    let locked = account.map(|account| Locked::new(account, bytes).map(Arc::new));
    Ok((kept(memory, address, bytes), locked.transpose()?))
}

/// What memory is reached by as long as it is mapped.
fn kept(memory: &Arc<dyn ProcessMemory>, address: u64, bytes: u64) -> Arc<dyn ProcessMemory> {
    memory.kept(address, bytes).unwrap_or_else(|| Arc::clone(memory))
}

/// A range that is not one.
pub(crate) fn past_the_end(iova: u64, bytes: u64) -> Refusal {
    Refusal::new(
        Errno::OVERFLOW,
        format!("{bytes:#x} bytes from iova {iova:#x} on run past 2^64"),
    )
}

/// VFIO_IOMMU_UNMAP_DMA.
#[derive(Clone, Copy)]
pub(crate) struct Unmap {
    pub(crate) flags: u32,
    pub(crate) iova: u64,
    pub(crate) bytes: u64,
    /// Version 2's rules.
    pub(crate) v2: bool,
}

impl Unmap {
    pub(crate) fn wants_bitmap(self) -> bool {
        self.flags & sys::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP != 0
    }

    /// Takes the addresses away only: what is mapped stays so.
    fn moves(self) -> bool {
        self.flags & sys::VFIO_DMA_UNMAP_FLAG_VADDR != 0
    }

    fn all(self) -> bool {
        self.flags & sys::VFIO_DMA_UNMAP_FLAG_ALL != 0
    }

    /// What is wrong with its flags.
    pub(crate) fn check_flags(self) -> Outcome<()> {
        let known = sys::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
            | sys::VFIO_DMA_UNMAP_FLAG_ALL
            | sys::VFIO_DMA_UNMAP_FLAG_VADDR;
        if self.flags & !known != 0 {
            return Err(Refusal::invalid(format!(
                "flags {:#x} are not known",
                self.flags & !known
            )));
        }
        if self.wants_bitmap() && (self.all() || self.moves()) {
            return Err(Refusal::invalid(
                "a bitmap of dirty pages goes neither with ALL nor with VADDR",
            ));
        }
        Ok(())
    }

    /// The last address, or what is wrong with the range by itself.
    pub(crate) fn last(self) -> Outcome<u64> {
        let Self { iova, bytes, .. } = self;
        if self.all() {
            return match (iova, bytes) {
                (0, 0) => Ok(u64::MAX),
                _ => Err(Refusal::invalid("with ALL, iova and size must be 0")),
            };
        }
        if bytes == 0 || !(iova | bytes).is_multiple_of(PAGE) {
            return Err(Refusal::invalid(format!(
                "iova {iova:#x} and size {bytes:#x} must be multiples of {PAGE}, and the size not 0"
            )));
        }
        iova.checked_add(bytes - 1)
            .ok_or_else(|| past_the_end(iova, bytes))
    }

    /// The mappings that it takes, by first and last address; nothing is changed yet.
    pub(crate) fn find(self, ranges: &Ranges, last: u64) -> Outcome<Vec<(u64, u64)>> {
        if self.v2
            && !self.all()
            && let Some(other) = cut(ranges, self.iova, last)
        {
            return Err(Refusal::invalid(format!(
                "iova {:#x}..={last:#x} would cut the mapping at {other:#x}",
                self.iova
            )));
        }
        let within = |(&first, range): (&u64, &Mapped)| (first, range.last);
        let found: Vec<(u64, u64)> = match first_within(ranges, self.iova, last) {
            // Version 1, from within a mapping: nothing, whatever follows.
            Some((first, _)) if first < self.iova => Vec::new(),
            _ => ranges.range(self.iova..=last).map(within).collect(),
        };
        if self.moves() {
            let away = |&(first, _): &(u64, u64)| ranges.get(&first).is_some_and(|r| r.address.is_none());
            if let Some((first, _)) = found.iter().find(|found| away(found)) {
                return Err(Refusal::invalid(format!(
                    "the address of the mapping at iova {first:#x} has been taken away already"
                )));
            }
        }
        Ok(found)
    }

    /// Takes them, and says how many bytes they were.
    pub(crate) fn apply(self, ranges: &mut Ranges, found: &[(u64, u64)]) -> u64 {
        let mut bytes = 0_u64;
        for &(first, last) in found {
            bytes = bytes.saturating_add(bytes_of(first, last));
            if self.moves() {
                if let Some(range) = ranges.get_mut(first) {
                    range.address = None;
                }
            } else {
                ranges.remove(first);
            }
        }
        bytes
    }
}
