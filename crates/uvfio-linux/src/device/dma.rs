//! The container as the address space of a user: the IOMMU behind [`uvfio_core::DmaSpace`].
//!
//! The functions of an IOMMU group have one address space between them, and each has a user's connection of its own, by
//! which that user maps its memory: a virtual machine the same memory once for each function. So what is mapped by several
//! is mapped once, and undone when the last of them has undone it.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{DmaAccess, Iommu, IommuError};

use crate::vfio::{Access, AddressSpace, Container, Result, SharedMemory, VfioError};

/// How long a function's new mapping waits for another function's old one to be undone. A virtual machine that changes its
/// memory map sends all of it at once, by the socket of each function, and these are read by a thread each; it waits for
/// answers longer than this (QEMU: 5 s).
const PATIENCE: Duration = Duration::from_secs(2);

/// The address space of an IOMMU group. What is mapped stays mapped when the caller's descriptor is closed: the kernel pins
/// it, and counts it against RLIMIT_MEMLOCK of this process.
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
    patience: Duration,
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
            patience,
        })
    }

    /// Waits until nothing other than `what` is mapped in its range, or patience ends. No lock is held over it but those of
    /// the function whose user asks, and what is waited for is another function's thread, which needs none of them.
    fn wait_for_room(&self, iova: u64, what: &What) {
        let taken = |ranges: &mut BTreeMap<u64, Range>| {
            let same = ranges.get(&iova).is_some_and(|range| range.what == *what);
            let before = ranges.range(..=what.last).next_back();
            !same && before.is_some_and(|(_, range)| range.what.last >= iova && range.functions > 0)
        };
        // Out of patience: the caller finds what is in the way, and says so.
        drop(
            self.undone
                .wait_timeout_while(lock(&self.ranges), self.patience, taken),
        );
    }

    /// One function's part of it.
    pub(super) fn part(self: &Arc<Self>) -> Space {
        Space {
            group: Arc::clone(self),
            own: Mutex::default(),
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
        self.group.wait_for_room(iova, &what);
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
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the container was asked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Asked {
        Map(u64, u64, u64, Access),
        Unmap(u64, u64),
        UnmapAll,
    }

    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<Asked>>>, Arc<AtomicBool>, Arc<AtomicU64>);

    impl Recorder {
        /// Has it refuse to undo anything, or no longer.
        fn keep(&self, keeps: bool) {
            self.1.store(keeps, Ordering::Relaxed);
        }

        /// Has it fail to map anything, with this many bytes left mapped; or, with 0, no longer.
        fn leave(&self, bytes: u64) {
            self.2.store(bytes, Ordering::Relaxed);
        }

        fn undone(&self, bytes: u64) -> Result<u64> {
            if self.1.load(Ordering::Relaxed) {
                return Err(not_undone());
            }
            Ok(bytes)
        }

        /// What was asked since the last call.
        fn asked(&self) -> Vec<Asked> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn not_undone() -> VfioError {
        VfioError::other("VFIO_IOMMU_UNMAP_DMA", "a test".into(), Errno::IO)
    }

    impl AddressSpace for Recorder {
        fn map(
            &self,
            iova: u64,
            memory: &SharedMemory,
            offset: u64,
            size: u64,
            access: Access,
        ) -> Result<()> {
            let first = memory.read(offset).unwrap_or_default();
            self.0.lock().unwrap().push(Asked::Map(iova, size, first, access));
            match self.2.load(Ordering::Relaxed) {
                0 => Ok(()),
                left => Err(VfioError::LeftMapped {
                    source: Box::new(VfioError::other(
                        "VFIO_IOMMU_MAP_DMA",
                        "a test".into(),
                        Errno::NOMEM,
                    )),
                    left,
                    undoing: Box::new(not_undone()),
                }),
            }
        }

        fn unmap(&self, iova: u64, size: u64) -> Result<u64> {
            self.0.lock().unwrap().push(Asked::Unmap(iova, size));
            self.undone(size)
        }

        fn unmap_all(&self) -> Result<u64> {
            self.0.lock().unwrap().push(Asked::UnmapAll);
            self.undone(0)
        }
    }

    fn space() -> (Space, Recorder) {
        let recorder = Recorder::default();
        (
            GroupSpace::over(Box::new(recorder.clone()), Vec::new(), Duration::ZERO).part(),
            recorder,
        )
    }

    #[test]
    fn unmaps_reach_as_far_as_addresses_do() {
        let (space, recorder) = space();
        for (iova, last) in [
            (0x1000, 0x1fff),
            (0x1000, u64::MAX),
            (0, u64::MAX),
            (0, u64::MAX - 1),
            (2, 1),
            (2, 0),
        ] {
            space.unmap(iova, last).unwrap();
        }
        let expected = [
            Asked::Unmap(0x1000, 0x1000),
            Asked::Unmap(0x1000, 0u64.wrapping_sub(0x1000)),
            Asked::UnmapAll,
            Asked::Unmap(0, u64::MAX),
        ];
        assert_eq!(*recorder.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_file_is_mapped_from_its_offset_with_the_access_asked_for() {
        let (space, recorder) = space();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x3000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &7_u64.to_le_bytes(), 0x1000).unwrap();
        let map = |access, file: BorrowedFd<'_>| {
            let mapped = space.map(0x10_0000, 0x2000, access, file, 0x1000);
            space.unmap(0x10_0000, 0x10_1fff).unwrap();
            mapped
        };
        let (read, write) = (DmaAccess::READ, DmaAccess::WRITE);
        map(read | write, file.as_file().as_fd()).unwrap();
        map(write, file.as_file().as_fd()).unwrap();
        let readable = File::open(file.path()).unwrap();
        map(read, readable.as_fd()).unwrap();
        let kinds = [Access::ReadWrite, Access::Write, Access::Read];
        let expected = kinds.map(|kind| Asked::Map(0x10_0000, 0x2000, 7, kind));
        let maps = || {
            let mut asked = recorder.0.lock().unwrap().clone();
            asked.retain(|asked| matches!(asked, Asked::Map(..)));
            asked
        };
        assert_eq!(maps(), expected);

        let error = map(write, readable.as_fd()).unwrap_err();
        assert_eq!(error.errno, Errno::ACCESS.raw_os_error(), "{error}");
        assert_eq!(maps(), expected, "nothing more was mapped");
    }

    /// Two functions of one group, a file of three pages, and another one.
    fn two() -> ([Space; 2], Recorder, [File; 2]) {
        let recorder = Recorder::default();
        let group = GroupSpace::over(Box::new(recorder.clone()), Vec::new(), Duration::ZERO);
        let files = [0, 0].map(|_| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(0x3000).unwrap();
            file
        });
        ([group.part(), group.part()], recorder, files)
    }

    const BOTH: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);

    #[test]
    fn what_two_functions_of_a_group_map_alike_is_mapped_once_until_the_last_of_them_unmaps_it() {
        let ([a, b], recorder, [file, _]) = two();
        for function in [&a, &b] {
            function.map(0x1000, 0x2000, BOTH, file.as_fd(), 0x1000).unwrap();
        }
        a.unmap(0x1000, 0x2fff).unwrap();
        let mapped = Asked::Map(0x1000, 0x2000, 0, Access::ReadWrite);
        assert_eq!(
            *recorder.0.lock().unwrap(),
            vec![mapped.clone()],
            "the other one has it"
        );
        b.unmap(0, u64::MAX).unwrap();
        assert_eq!(*recorder.0.lock().unwrap(), [mapped.clone(), Asked::UnmapAll]);
        a.map(0x1000, 0x2000, BOTH, file.as_fd(), 0x1000).unwrap();
        assert_eq!(recorder.0.lock().unwrap().last(), Some(&mapped), "and again");
    }

    #[test]
    fn a_function_that_unmaps_everything_leaves_what_the_other_one_has() {
        let ([a, b], recorder, [file, _]) = two();
        a.map(0x1000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
        b.map(0x2000, 0x1000, BOTH, file.as_fd(), 0x1000).unwrap();
        a.map(0x2000, 0x1000, BOTH, file.as_fd(), 0x1000).unwrap();
        a.map(0x8000, 0x1000, BOTH, file.as_fd(), 0x1000).unwrap();
        recorder.0.lock().unwrap().clear();
        a.unmap(0, u64::MAX).unwrap();
        let expected = [Asked::Unmap(0x1000, 0x1000), Asked::Unmap(0x8000, 0x1000)];
        assert_eq!(*recorder.0.lock().unwrap(), expected);
        b.unmap(0x2000, 0x2fff).unwrap();
        assert_eq!(
            recorder.0.lock().unwrap().last(),
            Some(&Asked::Unmap(0x2000, 0x1000))
        );
    }

    /// As QEMU changes its memory map: each function's unmap and map are sent without waiting for the other's.
    #[test]
    fn a_mapping_waits_until_the_other_function_has_undone_its_old_one() {
        let recorder = Recorder::default();
        let group = GroupSpace::over(Box::new(recorder.clone()), Vec::new(), Duration::from_secs(60));
        let (a, b) = (group.part(), group.part());
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x3000).unwrap();
        for function in [&a, &b] {
            function.map(0x1000, 0x3000, BOTH, file.as_fd(), 0).unwrap();
        }
        a.unmap(0x1000, 0x3fff).unwrap();
        let smaller = |function: &Space| function.map(0x1000, 0x1000, BOTH, file.as_fd(), 0);
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| answer.send(smaller(&a)).unwrap());
            // One that is refused at once is answered by then.
            let early = answered.recv_timeout(Duration::from_millis(100));
            assert!(
                early.is_err(),
                "{early:?} while the other function has its old mapping"
            );
            b.unmap(0x1000, 0x3fff).unwrap();
            smaller(&b).unwrap();
            answered.recv().unwrap().unwrap();
        });
        let mapped = |bytes| Asked::Map(0x1000, bytes, 0, Access::ReadWrite);
        assert_eq!(
            *recorder.0.lock().unwrap(),
            [mapped(0x3000), Asked::Unmap(0x1000, 0x3000), mapped(0x1000)]
        );
    }

    #[test]
    fn other_memory_than_another_function_has_there_is_refused_and_nothing_changed() {
        let ([a, b], recorder, [file, other]) = two();
        a.map(0x4000, 0x2000, BOTH, file.as_fd(), 0).unwrap();
        for (iova, bytes, access, file, offset) in [
            (0x4000, 0x2000, BOTH, &other, 0),
            (0x4000, 0x2000, DmaAccess::READ, &file, 0),
            (0x4000, 0x2000, BOTH, &file, 0x1000),
            (0x4000, 0x1000, BOTH, &file, 0),
            (0x3000, 0x2000, BOTH, &file, 0),
            (0x5000, 0x2000, BOTH, &file, 0x1000),
        ] {
            let error = b.map(iova, bytes, access, file.as_fd(), offset).unwrap_err();
            assert_eq!(error.errno, Errno::EXIST.raw_os_error(), "{iova:#x}: {error}");
            assert!(
                error.why.contains("0x4000 to 0x5fff, where another function"),
                "{error}"
            );
        }
        b.map(0x3000, 0x1000, BOTH, other.as_fd(), 0).unwrap();
        b.map(0x6000, 0x1000, BOTH, other.as_fd(), 0).unwrap();
        b.unmap(0, u64::MAX).unwrap();
        let asked = recorder.0.lock().unwrap().clone();
        let unmapped = [Asked::Unmap(0x3000, 0x1000), Asked::Unmap(0x6000, 0x1000)];
        assert_eq!(
            asked.get(3..),
            Some(&unmapped[..]),
            "the first function's stays: {asked:?}"
        );
    }

    #[test]
    fn what_the_kernel_did_not_let_go_of_is_asked_for_again_also_where_another_function_has_memory() {
        let ([a, b], recorder, [file, other]) = two();
        b.map(0x8000, 0x1000, BOTH, other.as_fd(), 0).unwrap();
        a.map(0x1000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
        a.map(0x3000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
        recorder.asked();
        recorder.keep(true);
        a.unmap(0, u64::MAX).unwrap_err();
        let each = [Asked::Unmap(0x1000, 0x1000), Asked::Unmap(0x3000, 0x1000)];
        assert_eq!(recorder.asked(), each);
        a.unmap(0x3000, 0x3fff).unwrap_err();
        assert_eq!(recorder.asked(), [Asked::Unmap(0x3000, 0x1000)]);
        a.unmap(0, u64::MAX).unwrap_err();
        assert_eq!(recorder.asked(), each, "both, once each");
        recorder.keep(false);
        a.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), each);
        a.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), [], "there is nothing left");
        b.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), [Asked::UnmapAll]);
    }

    #[test]
    fn what_the_kernel_did_not_let_go_of_is_nobodys_memory_and_makes_room_before_something_is_mapped_there() {
        let ([a, b], recorder, [file, other]) = two();
        a.map(0x1000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
        recorder.keep(true);
        a.unmap(0x1000, 0x1fff).unwrap_err();
        recorder.asked();
        for function in [&a, &b] {
            let error = function.map(0x1000, 0x1000, BOTH, file.as_fd(), 0).unwrap_err();
            assert_eq!(error.errno, Errno::IO.raw_os_error(), "{error}");
            assert_eq!(recorder.asked(), [Asked::Unmap(0x1000, 0x1000)]);
        }
        recorder.keep(false);
        b.map(0x1000, 0x2000, BOTH, other.as_fd(), 0).unwrap();
        let mapped = Asked::Map(0x1000, 0x2000, 0, Access::ReadWrite);
        assert_eq!(recorder.asked(), [Asked::Unmap(0x1000, 0x1000), mapped.clone()]);
        a.map(0x1000, 0x2000, BOTH, other.as_fd(), 0).unwrap();
        a.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), [], "the other function has it");
        b.unmap(0x1000, 0x2fff).unwrap();
        assert_eq!(recorder.asked(), [Asked::Unmap(0x1000, 0x2000)]);
    }

    #[test]
    fn what_a_mapping_that_failed_has_left_is_asked_for_again_before_something_is_mapped_there_or_all_is_unmapped()
     {
        let ([a, b], recorder, [file, other]) = two();
        b.map(0x8000, 0x1000, BOTH, other.as_fd(), 0).unwrap();
        let whole = Asked::Map(0x1000, 0x3000, 0, Access::ReadWrite);
        let left = Asked::Unmap(0x1000, 0x2000);
        let fail = || {
            recorder.leave(0x2000);
            let error = a.map(0x1000, 0x3000, BOTH, file.as_fd(), 0).unwrap_err();
            assert_eq!(error.errno, Errno::NOMEM.raw_os_error(), "{error}");
            assert!(error.why.contains("0x2000 bytes stay mapped"), "{error}");
            recorder.leave(0);
            recorder.asked();
        };
        fail();
        a.map(0x1000, 0x3000, BOTH, file.as_fd(), 0).unwrap();
        assert_eq!(recorder.asked(), [left.clone(), whole]);
        a.unmap(0x1000, 0x3fff).unwrap();
        fail();
        b.map(0x3000, 0x1000, BOTH, other.as_fd(), 0).unwrap();
        let beside = Asked::Map(0x3000, 0x1000, 0, Access::ReadWrite);
        assert_eq!(recorder.asked(), [beside], "nothing is left of the last page");
        a.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), [left]);
        a.unmap(0, u64::MAX).unwrap();
        assert_eq!(recorder.asked(), [], "there is nothing left");
    }
}
