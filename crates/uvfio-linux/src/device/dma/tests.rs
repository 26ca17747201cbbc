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
    fn map(&self, iova: u64, memory: &SharedMemory, offset: u64, size: u64, access: Access) -> Result<()> {
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
        while waits(&group) == 0 {
            let early = answered.try_recv();
            assert!(
                early.is_err(),
                "{early:?} while the other function has its old mapping"
            );
            std::thread::yield_now();
        }
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

#[test]
fn who_has_waited_in_vain_waits_again_only_when_something_has_been_undone() {
    let group = GroupSpace::over(Box::new(Recorder::default()), Vec::new(), Duration::ZERO);
    let (a, b) = (group.part(), group.part());
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x3000).unwrap();
    for iova in [0x1000, 0x2000] {
        b.map(iova, 0x1000, BOTH, file.as_fd(), 0).unwrap();
    }
    let other = |iova| a.map(iova, 0x1000, BOTH, file.as_fd(), 0x2000);
    other(0x1000).unwrap_err();
    other(0x2000).unwrap_err();
    assert_eq!(waits(&group), 1);
    b.unmap(0x1000, 0x1fff).unwrap();
    other(0x2000).unwrap_err();
    assert_eq!(waits(&group), 2);
    other(0x1000).unwrap();
}

#[test]
fn a_mapping_waits_for_another_functions_also_where_something_is_left_over_behind_it() {
    let ([a, b], recorder, [file, other]) = two();
    b.map(0x1000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
    b.map(0x2000, 0x1000, BOTH, file.as_fd(), 0).unwrap();
    recorder.keep(true);
    b.unmap(0x2000, 0x2fff).unwrap_err();
    recorder.keep(false);
    a.map(0x1000, 0x2000, BOTH, other.as_fd(), 0).unwrap_err();
    assert_eq!(waits(&a.group), 1);
}

/// How often somebody has begun to wait for room.
fn waits(group: &GroupSpace) -> u64 {
    group.waits.load(Ordering::SeqCst)
}
