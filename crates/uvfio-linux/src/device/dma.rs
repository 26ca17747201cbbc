//! The container as the address space of a user: the IOMMU behind [`uvfio_core::DmaSpace`].
//!
//! The functions of an IOMMU group have one address space between them, and each has a user's connection of its own, by
//! which that user maps its memory: a virtual machine the same memory once for each function. So what is mapped by
//! several is mapped once, and undone when the last of them has undone it.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{DmaAccess, Iommu, IommuError};

use crate::vfio::{Access, AddressSpace, Container, Result, SharedMemory, VfioError};

/// How long a function's new mapping waits for another function's old one to be undone. A virtual machine that changes
/// its memory map sends all of it at once, by the socket of each function, and these are read by a thread each; it
/// waits for answers longer than this (QEMU: 5 s).
const PATIENCE: Duration = Duration::from_secs(2);

/// The address space of an IOMMU group. What is mapped stays mapped when the caller's descriptor is closed: the kernel
/// pins it, and counts it against RLIMIT_MEMLOCK of this process.
#[derive(Debug)]
pub struct GroupSpace {
    container: Box<dyn AddressSpace>,
    /// Asked once: it does not change while the group is in its container alone.
    usable: Vec<(u64, u64)>,
    /// What is mapped, by its first address. Held over the kernel's calls, of which a mapping takes a third of a second
    /// a GiB: what is here is what the kernel has. So the threads that answer the functions' users wait for one
    /// another, and for nobody else; they are one user's. Nothing is waited for in it that a user gives: the memory is
    /// of shmem or hugetlbfs, as the space above has seen to.
    ranges: Mutex<BTreeMap<u64, Range>>,
    /// Something was undone in the kernel.
    undone: Condvar,
    /// How often so far.
    undoings: AtomicU64,
    patience: Duration,
    /// How often somebody has begun to wait for room.
    #[cfg(test)]
    waits: AtomicU64,
}

/// What is mapped in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct What {
    last: u64,
    access: Access,
    /// Device and inode of the file, which somebody who has the range keeps open.
    file: (u64, u64),
    offset: u64,
}

/// A range that is mapped.
#[derive(Clone, Copy, Debug)]
struct Range {
    what: What,
    /// How many functions have it. 0: nobody has it any more, and the kernel has not let go of it.
    functions: u32,
}

impl Range {
    const fn is_left_over(&self) -> bool {
        self.functions == 0
    }
}

impl GroupSpace {
    /// Of a group that is in this container, alone.
    ///
    /// # Errors
    /// Where the kernel does not say which addresses can be mapped.
    pub fn new(container: Container) -> Result<Arc<Self>> {
        let ranges = container.iommu_info()?.iova_ranges;
        let usable = ranges.map_or_else(
            || vec![(0, u64::MAX)],
            |ranges| {
                ranges
                    .iter()
                    .map(|range| (*range.start(), *range.end()))
                    .collect()
            },
        );
        Ok(Self::over(Box::new(container), usable, PATIENCE))
    }

    fn over(container: Box<dyn AddressSpace>, usable: Vec<(u64, u64)>, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            container,
            usable,
            ranges: Mutex::default(),
            undone: Condvar::new(),
            undoings: AtomicU64::new(0),
            patience,
            #[cfg(test)]
            waits: AtomicU64::new(0),
        })
    }

    /// Waits until nothing other than `what` is mapped in its range; false where patience ends before. No lock is held
    /// over it but those of the function whose user asks, and what is waited for is another function's thread, which
    /// needs none of them.
    fn wait_for_room(&self, iova: u64, what: &What) -> bool {
        let taken = |ranges: &mut BTreeMap<u64, Range>| {
            let same = ranges.get(&iova).is_some_and(|range| range.what == *what);
            !same && overlapping(ranges, iova, what.last).any(|(_, range)| !range.is_left_over())
        };
        let mut ranges = lock(&self.ranges);
        if !taken(&mut ranges) {
            return true;
        }
        #[cfg(test)]
        self.waits.fetch_add(1, Ordering::SeqCst);
        let waited = self.undone.wait_timeout_while(ranges, self.patience, taken);
        let (ranges, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(ranges);
        !result.timed_out()
    }

    /// One function's part of it.
    pub(super) fn part(self: &Arc<Self>) -> Space {
        Space {
            group: Arc::clone(self),
            own: Mutex::default(),
            hopeless_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Undoes mappings wholly within a range of addresses.
    fn undo(&self, iova: u64, last: u64) -> Result<()> {
        let bytes = last.checked_sub(iova).and_then(|more| more.checked_add(1));
        let done = match bytes {
            Some(bytes) => self.container.unmap(iova, bytes),
            // All 2^64 addresses, whose number is no 64-bit number.
            None if (iova, last) == (0, u64::MAX) => self.container.unmap_all(),
            // An empty range.
            None => Ok(0),
        };
        self.undoings.fetch_add(1, Ordering::AcqRel);
        // Whoever waits looks again when the lock of the ranges is free.
        self.undone.notify_all();
        done.map(drop)
    }

    /// Undoes mappings one by one, which nobody has any more: all of them, whatever becomes of one. Those that the
    /// kernel keeps stay in `ranges`, to be asked for again.
    fn undo_each(&self, ranges: &mut BTreeMap<u64, Range>, each: &[(u64, u64)]) -> Result<()> {
        let mut done = Ok(());
        for &(first, last) in each {
            let undone = self.undo(first, last);
            if undone.is_ok() {
                ranges.remove(&first);
            }
            done = done.and(undone);
        }
        done
    }
}

/// What one function has of its group's address space.
#[derive(Debug)]
pub(super) struct Space {
    group: Arc<GroupSpace>,
    /// The ranges that its user has mapped: first and last address.
    own: Mutex<BTreeMap<u64, u64>>,
    /// How often something had been undone when waiting for room was in vain.
    hopeless_at: AtomicU64,
}

impl Space {
    /// Waits for room, unless the last wait was in vain and nothing has been undone since: several mappings that wait
    /// one after another would use up the patience of whoever waits for their answers.
    fn wait_for_room(&self, iova: u64, what: &What) {
        let undoings = self.group.undoings.load(Ordering::Acquire);
        if self.hopeless_at.load(Ordering::Relaxed) != undoings && !self.group.wait_for_room(iova, what) {
            // The caller finds what is in the way, and says so. What was undone meanwhile counts as new.
            self.hopeless_at.store(undoings, Ordering::Relaxed);
        }
    }
}

impl Iommu for Space {
    fn usable(&self) -> Vec<(u64, u64)> {
        self.group.usable.clone()
    }

    fn map(
        &self,
        iova: u64,
        bytes: u64,
        access: DmaAccess,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> std::result::Result<(), IommuError> {
        let writes = access.contains(DmaAccess::WRITE);
        let kind = match (access.contains(DmaAccess::READ), writes) {
            (true, true) => Access::ReadWrite,
            (false, true) => Access::Write,
            _ => Access::Read,
        };
        let last = iova.saturating_add(bytes.saturating_sub(1));
        let stat = rustix::fs::fstat(file).map_err(|errno| unusable(iova, errno))?;
        let what = What {
            last,
            access: kind,
            file: (stat.st_dev, stat.st_ino),
            offset,
        };
        self.wait_for_room(iova, &what);
        let mut ranges = lock(&self.group.ranges);
        // The file of what is left over may be closed, and its number another file's: it is never what is asked for.
        let left: Vec<_> = left_over(&ranges, iova, last).collect();
        let undone = self.group.undo_each(&mut ranges, &left);
        undone.map_err(|error| refusal(&error))?;
        if let Some(range) = ranges.get_mut(&iova).filter(|range| range.what == what) {
            range.functions += 1;
        } else if let Some((first, other)) = overlapping(&ranges, iova, last).next() {
            return Err(taken(iova, last, *first, other.what.last));
        } else {
            // Gone again on return: what the device reaches are the file's pages, not this process's mapping of them.
            let memory = if writes {
                SharedMemory::of_file(file, offset, bytes)
            } else {
                SharedMemory::of_file_to_read(file, offset, bytes)
            };
            let container = &self.group.container;
            let done = memory.and_then(|memory| container.map(iova, &memory, 0, bytes, kind));
            if let Err(VfioError::LeftMapped { left, .. }) = &done
                && let Some(more) = left.checked_sub(1)
            {
                let last = iova.saturating_add(more);
                let what = What { last, ..what };
                ranges.insert(iova, Range { what, functions: 0 });
            }
            done.map_err(|error| refusal(&error))?;
            ranges.insert(iova, Range { what, functions: 1 });
        }
        lock(&self.own).insert(iova, last);
        Ok(())
    }

    fn unmap(&self, iova: u64, last: u64) -> std::result::Result<(), IommuError> {
        if iova > last {
            return Ok(());
        }
        let mut ranges = lock(&self.group.ranges);
        let mut own = lock(&self.own);
        let mine = own.extract_if(iova..=last, |_, end| *end <= last);
        for (first, _) in mine {
            if let Some(range) = ranges.get_mut(&first) {
                range.functions -= 1;
            }
        }
        // With what the kernel did not let go of before.
        let free: Vec<(u64, u64)> = left_over(&ranges, iova, last)
            .filter(|(first, end)| *first >= iova && *end <= last)
            .collect();
        let alone = overlapping(&ranges, iova, last).count() == free.len();
        let done = if alone {
            // In one request: none of the kernel's mappings there is anybody else's.
            let done = self.group.undo(iova, last);
            if done.is_ok() {
                for (first, _) in &free {
                    ranges.remove(first);
                }
            }
            done
        } else {
            self.group.undo_each(&mut ranges, &free)
        };
        done.map_err(|error| refusal(&error))
    }
}

/// The ranges that have an address of `iova ..= last`.
fn overlapping(ranges: &BTreeMap<u64, Range>, iova: u64, last: u64) -> impl Iterator<Item = (&u64, &Range)> {
    // They don't overlap one another, so one at most begins before.
    let before = ranges.range(..=iova).next_back();
    let first = before
        .filter(|(_, range)| range.what.last >= iova)
        .map_or(iova, |(first, _)| *first);
    ranges.range(first..=last)
}

/// Those of them that nobody has and the kernel has not let go of: first and last address.
fn left_over(ranges: &BTreeMap<u64, Range>, iova: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let all = overlapping(ranges, iova, last).filter(|(_, range)| range.is_left_over());
    all.map(|(first, range)| (*first, range.what.last))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(error: &VfioError) -> IommuError {
    IommuError {
        errno: error.errno().unwrap_or(Errno::INVAL).raw_os_error(),
        why: error.to_string(),
    }
}

fn unusable(iova: u64, errno: Errno) -> IommuError {
    IommuError {
        errno: errno.raw_os_error(),
        why: format!("the file for {iova:#x} can't be told from others ({errno})"),
    }
}

fn taken(iova: u64, last: u64, first: u64, end: u64) -> IommuError {
    IommuError {
        errno: Errno::EXIST.raw_os_error(),
        why: format!(
            "{iova:#x} to {last:#x} overlaps {first:#x} to {end:#x}, where another function of the IOMMU group has other \
             memory; the functions of a group have one address space: map the same memory there for each of them, or use \
             other addresses"
        ),
    }
}

#[cfg(test)]
mod tests;
