//! Ranges by IOVA: the rules of overlap and cut, and one kernel mapping for each file however many ranges name it.

use std::collections::{BTreeMap, HashMap};

use super::backing::{FileId, Memory};
use super::mapping::{Mapping, Trust};
use super::{DmaAccess, MapError, UnmapError};

/// Where a range's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// In a file.
    Memory {
        /// Which of [`Files`].
        slot: usize,
        /// Byte offset of the range in the file.
        offset: u64,
        /// How to copy.
        trust: Trust,
    },
    /// With the user, to be asked for by message.
    Message,
}

/// One mapped range; its first address is its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// Last address, inclusive: a range may end with the address space.
    pub(super) last: u64,
    /// What the device may do.
    pub(super) access: DmaAccess,
    /// Where the bytes are.
    pub(super) target: Target,
}

/// What an unmap removed.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Bytes; 2^64 is given as 2^64 - 1.
    pub(super) bytes: u64,
    /// Whether a range reached by message was among it.
    pub(super) messages: bool,
    /// Whether a range in a file was among it.
    pub(super) memory: bool,
}

/// The smallest range that counts as RAM for [`super::DmaSpace::mostly_direct`].
const RAM_BYTES: u64 = 1 << 20;

/// The most files of one user that are mapped at a time: half of what Linux allows a process by default
/// (vm.max_map_count), so that the process has mappings left for its own memory.
pub(super) const MAX_FILES: usize = 32_768;

/// All ranges of one user.
#[derive(Debug, Default)]
pub(super) struct Table {
    ranges: BTreeMap<u64, Range>,
    pub(super) files: Files,
    direct_bytes: u64,
    writable_direct: usize,
    ram_by_message: usize,
}

impl Table {
    /// The range that holds an address, with its first address.
    pub(super) fn find(&self, address: u64) -> Option<(u64, &Range)> {
        let (&first, range) = self.ranges.range(..=address).next_back()?;
        (range.last >= address).then_some((first, range))
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Bytes mapped with a descriptor.
    pub(super) fn direct_bytes(&self) -> u64 {
        self.direct_bytes
    }

    pub(super) fn mostly_direct(&self) -> bool {
        self.writable_direct > 0 && self.ram_by_message == 0
    }

    /// Checks that nothing is mapped in `iova ..= last`.
    pub(super) fn check_free(&self, iova: u64, last: u64) -> Result<(), MapError> {
        // Ranges don't overlap, so if any reaches in, the last one that starts early enough does.
        match self.ranges.range(..=last).next_back() {
            Some((&other, range)) if range.last >= iova => Err(MapError::Exists {
                iova,
                bytes: (last - iova).saturating_add(1),
                other,
            }),
            _ => Ok(()),
        }
    }

    /// Adds a range where [`check_free`](Self::check_free) found room.
    pub(super) fn insert(&mut self, iova: u64, range: Range) {
        self.count(iova, &range, true);
        self.ranges.insert(iova, range);
    }

    /// Removes every range wholly inside `iova ..= last`.
    pub(super) fn remove(&mut self, iova: u64, last: u64) -> Result<Removed, UnmapError> {
        let cuts = |other| UnmapError::Cuts {
            iova,
            bytes: (last - iova).saturating_add(1),
            other,
        };
        if let Some((&other, before)) = self.ranges.range(..iova).next_back()
            && before.last >= iova
        {
            return Err(cuts(other));
        }
        if let Some((&other, end)) = self.ranges.range(iova..=last).next_back()
            && end.last > last
        {
            return Err(cuts(other));
        }
        let mut removed = Removed::default();
        while let Some((&first, _)) = self.ranges.range(iova..=last).next() {
            let Some(range) = self.ranges.remove(&first) else {
                break;
            };
            self.count(first, &range, false);
            removed.bytes = removed
                .bytes
                .saturating_add((range.last - first).saturating_add(1));
            match range.target {
                Target::Memory { slot, .. } => {
                    removed.memory = true;
                    self.files.release(slot);
                }
                Target::Message => removed.messages = true,
            }
        }
        Ok(removed)
    }

    fn count(&mut self, first: u64, range: &Range, added: bool) {
        let bytes = (range.last - first).saturating_add(1);
        let writable = range.access.contains(DmaAccess::WRITE);
        let counter = match range.target {
            Target::Memory { .. } => {
                let sum = if added {
                    self.direct_bytes.saturating_add(bytes)
                } else {
                    self.direct_bytes - bytes
                };
                self.direct_bytes = sum;
                if !writable {
                    return;
                }
                &mut self.writable_direct
            }
            Target::Message if writable && bytes >= RAM_BYTES => &mut self.ram_by_message,
            Target::Message => return,
        };
        if added {
            *counter += 1;
        } else {
            *counter -= 1;
        }
    }
}

/// Why a file could not be mapped.
#[derive(Debug)]
pub(super) enum FileError {
    /// Our limit of address space.
    Quota,
    /// Our limit of files: [`MAX_FILES`].
    Files,
    /// The kernel's reason.
    Errno(i32),
}

/// The kernel mappings.
#[derive(Debug, Default)]
pub(super) struct Files {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_id: HashMap<FileId, usize>,
    mapped: u64,
}

#[derive(Debug)]
struct Entry {
    id: FileId,
    mapping: Mapping,
    ranges: usize,
}

impl Files {
    /// The mapping in a slot.
    pub(super) fn get(&self, slot: usize) -> Option<&Mapping> {
        self.slots.get(slot)?.as_ref().map(|entry| &entry.mapping)
    }

    /// How many kernel mappings there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Makes the first `end` bytes of a file reachable, for one range more. The file is mapped whole where `limit`
    /// bytes of address space allow it, so that later ranges find it done; a mapping too short is replaced.
    pub(super) fn acquire(&mut self, memory: &Memory, end: u64, limit: u64) -> Result<usize, FileError> {
        let known = self.by_id.get(&memory.id).copied();
        let old = known.and_then(|slot| self.get(slot)).map_or(0, Mapping::bytes);
        if let Some(slot) = known
            && old >= end
        {
            if let Some(Some(entry)) = self.slots.get_mut(slot) {
                entry.ranges += 1;
            }
            return Ok(slot);
        }
        if known.is_none() && self.len() >= MAX_FILES {
            return Err(FileError::Files);
        }
        let fits = |bytes: &u64| {
            (self.mapped - old)
                .checked_add(*bytes)
                .is_some_and(|sum| sum <= limit)
        };
        let needed = end
            .checked_next_multiple_of(memory.page)
            .ok_or(FileError::Quota)?;
        let whole = Some(needed.max(memory.size)).filter(fits);
        let bytes = whole.or(Some(needed).filter(fits)).ok_or(FileError::Quota)?;
        let mapping = Mapping::new(std::os::fd::AsFd::as_fd(&memory.file), bytes, memory.id.writable)
            .map_err(|e| FileError::Errno(e.raw_os_error()))?;
        self.mapped = self.mapped - old + bytes;
        if let Some(slot) = known
            && let Some(Some(entry)) = self.slots.get_mut(slot)
        {
            entry.mapping = mapping;
            entry.ranges += 1;
            return Ok(slot);
        }
        let entry = Some(Entry {
            id: memory.id,
            mapping,
            ranges: 1,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        };
        self.by_id.insert(memory.id, slot);
        Ok(slot)
    }

    /// One range less; the last one takes the mapping with it.
    pub(super) fn release(&mut self, slot: usize) {
        let Some(entry) = self.slots.get_mut(slot) else {
            return;
        };
        let Some(inner) = entry else { return };
        inner.ranges -= 1;
        if inner.ranges == 0 {
            self.mapped -= inner.mapping.bytes();
            self.by_id.remove(&inner.id);
            self.free.push(slot);
            *entry = None;
        }
    }
}
