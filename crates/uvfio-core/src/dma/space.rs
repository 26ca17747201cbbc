//! The address space as the virtual device uses it: locks, quotas, and what holds DMA back.
//!
//! Copies hold the table's read side for a short time each (see [`super::access`]), maps and unmaps take the write
//! side: so an unmap that has come back has waited for every copy, and never waits long.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backing::{self, Kind, Memory};
use super::mapping::Trust;
use super::table::{FileError, MAX_FILES, Range, Table, Target};
use super::{DmaAccess, DmaMap, DmaMessages, MapError, UnmapError};
use crate::{Iommu, IommuError, Policy, close_elsewhere};

/// The unit of mappings, in bytes: what `pgsizes` tells clients.
const PAGE: u64 = 4096;

/// Refused ranges remembered one by one; more are joined to the last.
const MAX_REFUSED: usize = 64;

/// How much of an address space is used.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DmaUsage {
    /// Ranges mapped.
    pub mappings: u32,
    /// Bytes mapped with a descriptor.
    pub direct_bytes: u64,
    /// Kernel mappings behind them.
    pub files: u32,
    /// The first range, (IOVA, last address), whose refusal holds DMA back; see [`DmaSpace`].
    pub refused: Option<(u64, u64)>,
}

/// One user's DMA address space.
///
/// Every access is refused while bus mastering is off, and also while a range is missing that the user meant to map
/// and that was refused for want of quota or by the kernel: its driver may not know, and a device that runs on with
/// half its memory does damage. That ends when the range is unmapped (or mapped after all), or with a reset.
///
/// So is every access by a device whose IOMMU did not let go of a range, until it has let go of everything.
#[derive(Debug)]
pub struct DmaSpace {
    inner: RwLock<Inner>,
    bus_master: AtomicBool,
    messages: RwLock<Option<Arc<dyn DmaMessages>>>,
    /// In front of a device that exists.
    iommu: Option<Arc<dyn Iommu>>,
    max_mappings: u32,
    max_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) table: Table,
    /// Ranges, by first and last address, that hold DMA back.
    refused: Vec<(u64, u64)>,
    /// The IOMMU did not let go of a range: DMA is held back until it has let go of everything.
    stuck: bool,
    /// The device is gone: nothing is held any more.
    closed: bool,
}

impl DmaSpace {
    /// An empty space with bus mastering off.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self::with_iommu(policy, None)
    }

    /// The same for a device that reaches memory through `iommu`, which is kept in step.
    #[must_use]
    pub fn with_iommu(policy: &Policy, iommu: Option<Arc<dyn Iommu>>) -> Self {
        Self {
            inner: RwLock::default(),
            bus_master: AtomicBool::new(false),
            messages: RwLock::new(None),
            iommu,
            max_mappings: policy.max_mappings,
            max_bytes: policy.max_mapped_bytes,
        }
    }

    /// Whether all of a range is reached without messages (so that polling it costs nobody anything).
    #[must_use]
    pub fn is_direct(&self, iova: u64, bytes: u64) -> bool {
        let Some(more) = bytes.checked_sub(1) else {
            return false;
        };
        let Some(last) = iova.checked_add(more) else {
            return false;
        };
        let inner = self.shared();
        let mut at = iova;
        while let Some((_, range)) = inner.table.find(at) {
            if matches!(range.target, Target::Message) {
                return false;
            }
            if range.last >= last {
                return true;
            }
            at = range.last + 1;
        }
        false
    }

    /// Whether the user's memory comes with descriptors at all: some writable range does, and no writable range
    /// of 1 MiB or more lacks one.
    #[must_use]
    pub fn mostly_direct(&self) -> bool {
        self.shared().table.mostly_direct()
    }

    /// Where ranges may be mapped, (first address, last address), in ascending order. Memory for a software device
    /// may lie anywhere.
    #[must_use]
    pub fn usable(&self) -> Vec<(u64, u64)> {
        self.iommu
            .as_ref()
            .map_or_else(|| vec![(0, u64::MAX)], |iommu| iommu.usable())
    }

    /// How much is used.
    #[must_use]
    pub fn usage(&self) -> DmaUsage {
        let inner = self.shared();
        DmaUsage {
            mappings: u32::try_from(inner.table.len()).unwrap_or(u32::MAX),
            direct_bytes: inner.table.direct_bytes(),
            files: u32::try_from(inner.table.files.len()).unwrap_or(u32::MAX),
            refused: inner.refused.first().copied(),
        }
    }

    /// Maps a range: `iova`, `bytes` and the offset in the file are multiples of 4096. What a range breaks by itself
    /// ([`MapError::Invalid`]) is told before what stands in its way ([`MapError::Exists`]).
    ///
    /// # Errors
    /// Nothing is mapped then. After [`MapError::Quota`] and [`MapError::Kernel`] DMA is held back; see
    /// [`DmaSpace`].
    pub fn map(&self, map: DmaMap) -> Result<(), MapError> {
        let DmaMap {
            iova,
            bytes,
            access,
            backing,
        } = map;
        // Finds out about the descriptor first, and outside the lock: whatever happens, it must not be closed here
        // unless it is known to be memory.
        let mut backing = backing.and_then(|backing| match backing::classify(backing.file) {
            Kind::Memory(memory) => Some((memory, backing.offset)),
            Kind::Other(file) => {
                close_elsewhere(file);
                None
            }
        });
        let invalid = |rule| MapError::Invalid { iova, bytes, rule };
        let map_of = (iova, bytes, access);
        let last = last_address(iova, bytes).map_err(invalid)?;
        if access.is_empty() {
            return Err(invalid("it allows neither reads nor writes"));
        }
        if let Some((memory, offset)) = &backing {
            check_in_file(memory, *offset, bytes).map_err(invalid)?;
        }

        let mut guard = self.exclusive();
        let inner = &mut *guard;
        if inner.closed {
            return Ok(());
        }
        inner.table.check_free(iova, last)?;
        let target = self
            .target(&mut inner.table, iova, bytes, access, &mut backing)
            .and_then(|target| self.map_in_iommu(&mut inner.table, target, &map_of, backing.as_ref()));
        match target {
            Ok(target) => {
                inner.table.insert(iova, Range { last, access, target });
                inner.refused.retain(|&(first, end)| first < iova || end > last);
                Ok(())
            }
            Err(refusal) => {
                inner.refuse(iova, last);
                drop(guard);
                tracing::warn!(target: "audit", %refusal, "DMA is held back until that range is unmapped or the device is reset");
                Err(refusal)
            }
        }
    }

    /// Unmaps every mapping wholly inside a range, and gives the number of bytes unmapped (2^64 as 2^64 - 1). On return
    /// nothing of the device's touches them any more; accesses by message to that range that were under way are
    /// abandoned. `bytes` 0 with `iova` 0 means 2^64.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn unmap(&self, iova: u64, bytes: u64) -> Result<u64, UnmapError> {
        let last = match (iova, bytes) {
            (0, 0) => u64::MAX,
            _ => last_address(iova, bytes).map_err(|rule| UnmapError::Invalid { iova, bytes, rule })?,
        };
        let mut inner = self.exclusive();
        let removed = inner.table.remove(iova, last)?;
        inner.refused.retain(|&(first, end)| first < iova || end > last);
        if removed.memory {
            self.unmap_in_iommu(&mut inner, iova, last);
        }
        drop(inner);
        if removed.messages
            && let Some(messages) = self.way()
        {
            messages.abandon_range(iova, last);
        }
        Ok(removed.bytes)
    }

    /// Unmaps everything, and forgets the way by message.
    pub fn clear(&self) {
        self.empty(false);
    }

    /// As [`clear`](Self::clear), for good: maps are acknowledged from now on without holding anything.
    pub(crate) fn close(&self) {
        self.empty(true);
    }

    fn empty(&self, for_good: bool) {
        let old = {
            let mut inner = self.exclusive();
            let closed = inner.closed || for_good;
            let old = std::mem::replace(
                &mut *inner,
                Inner {
                    closed,
                    ..Inner::default()
                },
            );
            self.unmap_in_iommu(&mut inner, 0, u64::MAX);
            old
        };
        self.abandon();
        *self.messages.write().unwrap_or_else(PoisonError::into_inner) = None;
        drop(old);
    }

    /// Sets the way to memory without descriptors.
    pub fn set_messages(&self, messages: Arc<dyn DmaMessages>) {
        *self.messages.write().unwrap_or_else(PoisonError::into_inner) = Some(messages);
    }

    /// Switches bus mastering. When it has been switched off, on return no copy is under way, and accesses by
    /// message have been abandoned.
    pub fn set_bus_master(&self, on: bool) {
        let was = self.bus_master.swap(on, Ordering::SeqCst);
        if was && !on {
            drop(self.exclusive());
            self.abandon();
        }
    }

    /// Whether the device may access memory now: bus mastering is on, and nothing holds DMA back.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.bus_master.load(Ordering::Relaxed) && !self.held_back()
    }

    /// Whether something holds DMA back: a range that was refused, or one that the IOMMU did not let go of.
    pub(crate) fn held_back(&self) -> bool {
        self.shared().holds_back()
    }

    /// A reset: ranges that were refused no longer hold DMA back, and accesses by message are abandoned.
    pub(crate) fn forgive(&self) {
        self.exclusive().refused.clear();
        self.abandon();
    }

    /// Ends accesses by message that are under way: for a device that no longer wants them. Does not wait.
    pub fn abandon(&self) {
        if let Some(messages) = self.way() {
            messages.abandon();
        }
    }

    /// The ranges, where the device may access them now; for as long as this is held.
    pub(super) fn open(&self) -> Option<RwLockReadGuard<'_, Inner>> {
        let inner = self.shared();
        // Under the lock: whoever switches it off takes the lock once, and then knows that no copy runs.
        (self.bus_master.load(Ordering::SeqCst) && !inner.holds_back()).then_some(inner)
    }

    /// The way to memory without descriptors.
    pub(super) fn way(&self) -> Option<Arc<dyn DmaMessages>> {
        self.messages
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn shared(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the quotas and finds the memory for a new range.
    fn target(
        &self,
        table: &mut Table,
        iova: u64,
        bytes: u64,
        access: DmaAccess,
        backing: &mut Option<(Memory, u64)>,
    ) -> Result<Target, MapError> {
        let quota = |what, limit| MapError::Quota { iova, what, limit };
        if table.len() as u64 >= u64::from(self.max_mappings) {
            return Err(quota("mappings", u64::from(self.max_mappings)));
        }
        let Some((memory, offset)) = backing else {
            return Ok(Target::Message);
        };
        if access.contains(DmaAccess::WRITE) && !memory.id.writable {
            return Err(MapError::Kernel {
                iova,
                errno: libc::EACCES,
            });
        }
        if table
            .direct_bytes()
            .checked_add(bytes)
            .is_none_or(|sum| sum > self.max_bytes)
        {
            return Err(quota("mapped bytes", self.max_bytes));
        }
        // One kernel mapping each for reading and for writing, at most: so twice the quota.
        let space = self.max_bytes.saturating_mul(2);
        let mut found = table.files.acquire(memory, offset.saturating_add(bytes), space);
        if matches!(found, Err(FileError::Errno(_)))
            && memory.id.writable
            && !access.contains(DmaAccess::WRITE)
        {
            // The descriptor allows writes that the file's seals don't: read-only is all that is asked for.
            memory.id.writable = false;
            found = table.files.acquire(memory, offset.saturating_add(bytes), space);
        }
        match found {
            Ok(slot) => Ok(Target::Memory {
                slot,
                offset: *offset,
                trust: memory.trust,
            }),
            Err(FileError::Quota) => Err(quota("bytes of address space", space)),
            Err(FileError::Files) => Err(quota("files", MAX_FILES as u64)),
            Err(FileError::Errno(errno)) => Err(MapError::Kernel { iova, errno }),
        }
    }

    /// Has the device reach memory that it was found to be allowed.
    fn map_in_iommu(
        &self,
        table: &mut Table,
        target: Target,
        &(iova, bytes, access): &(u64, u64, DmaAccess),
        backing: Option<&(Memory, u64)>,
    ) -> Result<Target, MapError> {
        let (Some(iommu), Target::Memory { slot, .. }, Some((memory, offset))) =
            (&self.iommu, target, backing)
        else {
            return Ok(target);
        };
        match iommu.map(iova, bytes, access, memory.file.as_fd(), *offset) {
            Ok(()) => Ok(target),
            Err(IommuError { errno, why }) => {
                table.files.release(slot);
                tracing::warn!(target: "audit", "DMA map of {bytes:#x} bytes at {iova:#x}: {why}");
                Err(MapError::Iommu { iova, bytes, errno })
            }
        }
    }

    /// Undoes what the device reaches. Where that fails, which no kernel should do, the device is held back over resets
    /// and users, until everything is undone.
    fn unmap_in_iommu(&self, inner: &mut Inner, iova: u64, last: u64) {
        let Some(iommu) = &self.iommu else { return };
        if let Err(IommuError { why, .. }) = iommu.unmap(iova, last) {
            tracing::error!("DMA unmap at {iova:#x}: {why}; the device may not access memory any more");
            inner.refuse(iova, last);
            inner.stuck = true;
        }
    }
}

impl Inner {
    fn holds_back(&self) -> bool {
        self.stuck || !self.refused.is_empty()
    }

    /// Notes a range whose absence holds DMA back.
    fn refuse(&mut self, iova: u64, last: u64) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.push((iova, last));
        } else if let Some((first, end)) = self.refused.last_mut() {
            *first = iova.min(*first);
            *end = last.max(*end);
        }
    }
}

/// The last address of a range, or the rule that it breaks.
fn last_address(iova: u64, bytes: u64) -> Result<u64, &'static str> {
    if bytes == 0 {
        return Err("it is empty");
    }
    if !(iova | bytes).is_multiple_of(PAGE) {
        return Err("address and length must be multiples of 4096");
    }
    iova.checked_add(bytes - 1)
        .ok_or("it runs past the end of the address space, 2^64")
}

/// Checks a range against the file it is said to lie in.
fn check_in_file(memory: &Memory, offset: u64, bytes: u64) -> Result<(), &'static str> {
    if !offset.is_multiple_of(PAGE) {
        return Err("the offset in the file must be a multiple of 4096");
    }
    let end = offset
        .checked_add(bytes)
        .ok_or("the offset in the file overflows")?;
    if memory.trust == Trust::Sealed && end > memory.size {
        return Err("it runs past the end of its file");
    }
    Ok(())
}
