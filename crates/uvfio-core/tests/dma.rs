//! The DMA address space: which descriptors are memory, what an access does, and what a hostile user can't.

#![allow(clippy::unwrap_used)] // a test's helpers may

use std::fs::File;
use std::io::{Seek, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use uvfio_core::{
    Backing, DmaAccess, DmaError, DmaMap, DmaMessages, DmaSpace, DmaTicket, MapError, Policy, UnmapError,
};

const RW: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);
const PAGE: u64 = 4096;

fn space() -> DmaSpace {
    let space = DmaSpace::new(&Policy::default());
    space.set_bus_master(true);
    space
}

fn memfd(bytes: u64, sealed: bool) -> OwnedFd {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    if sealed {
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    }
    file
}

fn dup(file: &OwnedFd) -> OwnedFd {
    file.try_clone().unwrap()
}

fn backed(iova: u64, bytes: u64, access: DmaAccess, file: &OwnedFd, offset: u64) -> DmaMap {
    DmaMap {
        iova,
        bytes,
        access,
        backing: Some(Backing {
            file: dup(file),
            offset,
        }),
    }
}

fn bare(iova: u64, bytes: u64, access: DmaAccess) -> DmaMap {
    DmaMap {
        iova,
        bytes,
        access,
        backing: None,
    }
}

/// A user who answers messages from a byte array that starts at IOVA 0.
#[derive(Debug)]
struct Answering {
    memory: Mutex<Vec<u8>>,
    abandoned: AtomicUsize,
}

impl Answering {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            memory: Mutex::new(vec![0; bytes]),
            abandoned: AtomicUsize::new(0),
        })
    }
}

impl DmaMessages for Answering {
    fn read(&self, _ticket: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let memory = self.memory.lock().unwrap();
        let from = memory.get(iova as usize..).and_then(|m| m.get(..data.len()));
        data.copy_from_slice(from.ok_or(DmaError::Message {
            iova,
            why: "out of range",
        })?);
        Ok(())
    }
    fn write(&self, _ticket: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut memory = self.memory.lock().unwrap();
        let to = memory
            .get_mut(iova as usize..)
            .and_then(|m| m.get_mut(..data.len()));
        to.ok_or(DmaError::Message {
            iova,
            why: "out of range",
        })?
        .copy_from_slice(data);
        Ok(())
    }
    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn sealed_and_unsealed_files_hold_what_is_written_across_ranges() {
    for sealed in [true, false] {
        let space = space();
        let file = memfd(4 * PAGE, sealed);
        // The two ranges are neighbours in the device's eyes and the wrong way round in the file.
        space.map(backed(0x10000, PAGE, RW, &file, 2 * PAGE)).unwrap();
        space.map(backed(0x11000, PAGE, RW, &file, PAGE)).unwrap();
        let data: Vec<u8> = (0..200).collect();
        space.write(0x10f9c, &data).unwrap();
        let mut back = vec![0; 200];
        space.read(0x10f9c, &mut back).unwrap();
        assert_eq!(back, data, "sealed {sealed}");
        let mut half = [0; 100];
        rustix::io::pread(&file, &mut half, 3 * PAGE - 100).unwrap();
        assert_eq!(
            half,
            data[..100],
            "sealed {sealed}: the first half lies at the end of the file's third page"
        );
        rustix::io::pread(&file, &mut half, PAGE).unwrap();
        assert_eq!(
            half,
            data[100..],
            "sealed {sealed}: the second half lies at the start of its second page"
        );
        space.write_u32(0x10004, 0x1122_3344).unwrap();
        assert_eq!(space.read_u32(0x10004).unwrap(), 0x1122_3344, "sealed {sealed}");
        space.write_u64(0x10008, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(
            space.read_u64(0x10008).unwrap(),
            0x1122_3344_5566_7788,
            "sealed {sealed}"
        );
        assert!(space.is_direct(0x10000, 2 * PAGE) && !space.is_direct(0x10000, 2 * PAGE + 1));
        assert!(space.mostly_direct());
    }
}

#[test]
fn a_copy_longer_than_one_hold_of_the_lock_is_complete() {
    for sealed in [true, false] {
        let space = space();
        let file = memfd(1 << 20, sealed);
        space.map(backed(0, 1 << 20, RW, &file, 0)).unwrap();
        let data: Vec<u8> = (0..700_001u32).map(|i| (i * 7 / 3) as u8).collect();
        space.write(12_345, &data).unwrap();
        let mut back = vec![0; data.len()];
        space.read(12_345, &mut back).unwrap();
        assert!(back == data, "sealed {sealed}: the copy differs");
    }
}

#[test]
fn a_file_cut_short_gives_an_error_and_no_signal() {
    let space = space();
    let file = memfd(4 * PAGE, false);
    space.map(backed(0, 4 * PAGE, RW, &file, 0)).unwrap();
    space.write(3 * PAGE, &[1; 8]).unwrap();
    rustix::fs::ftruncate(&file, PAGE).unwrap();
    assert_eq!(
        space.read(3 * PAGE, &mut [0; 8]),
        Err(DmaError::Truncated { iova: 3 * PAGE })
    );
    assert_eq!(
        space.write(3 * PAGE, &[0; 8]),
        Err(DmaError::Truncated { iova: 3 * PAGE })
    );
    assert_eq!(
        space.read(PAGE - 4, &mut [0; 8]),
        Err(DmaError::Truncated { iova: PAGE - 4 })
    );
    assert_eq!(space.read(PAGE - 8, &mut [0; 8]), Ok(()));
}

#[test]
fn a_range_past_the_end_of_a_sealed_file_is_refused_when_it_is_mapped() {
    let space = space();
    let file = memfd(2 * PAGE, true);
    for (bytes, offset) in [
        (3 * PAGE, 0),
        (PAGE, 2 * PAGE),
        (2 * PAGE, PAGE),
        (PAGE, u64::MAX - PAGE + 1),
    ] {
        let refusal = space.map(backed(0, bytes, RW, &file, offset));
        assert!(
            matches!(refusal, Err(MapError::Invalid { .. })),
            "{bytes:#x} at {offset:#x}: {refusal:?}"
        );
    }
    space.map(backed(0, 2 * PAGE, RW, &file, 0)).unwrap();
    space.write(0, &[1]).unwrap();
}

#[test]
fn one_kernel_mapping_serves_sixty_thousand_ranges_of_a_file() {
    let space = space();
    let file = memfd(60_000 * PAGE, true);
    for i in 0..60_000 {
        space
            .map(backed(2 * i * PAGE, PAGE, RW, &file, (60_000 - 1 - i) * PAGE))
            .unwrap();
    }
    let usage = space.usage();
    assert_eq!(
        (usage.mappings, usage.files, usage.direct_bytes),
        (60_000, 1, 60_000 * PAGE)
    );
    space.write(2 * 59_999 * PAGE, b"first page of the file").unwrap();
    let mut start = [0; 10];
    rustix::io::pread(&file, &mut start, 0).unwrap();
    assert_eq!(&start, b"first page");
    assert_eq!(space.unmap(0, 0), Ok(60_000 * PAGE));
    assert_eq!(space.usage(), uvfio_core::DmaUsage::default());
}

#[test]
fn a_mapping_grows_with_the_ranges_and_keeps_the_older_ones() {
    let space = space();
    let file = memfd(PAGE, false);
    space.map(backed(0, PAGE, RW, &file, 0)).unwrap();
    space.write(0, b"old").unwrap();
    rustix::fs::ftruncate(&file, 64 * PAGE).unwrap();
    space.map(backed(0x10_0000, PAGE, RW, &file, 63 * PAGE)).unwrap();
    space.write(0x10_0000, b"new").unwrap();
    let mut back = [0; 3];
    space.read(0, &mut back).unwrap();
    assert_eq!((&back, space.usage().files), (b"old", 1));
    rustix::io::pread(&file, &mut back, 63 * PAGE).unwrap();
    assert_eq!(&back, b"new");
}

#[test]
fn descriptors_that_are_not_memory_are_reached_by_message() {
    let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let memory = memfd(PAGE, true);
    let path_only = open(
        &format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)),
        OFlags::PATH,
    );
    let executable = open("/proc/self/exe", OFlags::RDONLY);
    for (name, file) in [
        ("a pipe", pipe),
        (
            "a directory on tmpfs or not",
            open("/dev/shm", OFlags::RDONLY | OFlags::DIRECTORY),
        ),
        ("a device node", open("/dev/null", OFlags::RDWR)),
        ("a path without a file", path_only),
        ("a file on disk", executable),
    ] {
        let space = space();
        let user = Answering::new(2 * PAGE as usize);
        space.set_messages(user.clone());
        space
            .map(DmaMap {
                iova: PAGE,
                bytes: PAGE,
                access: RW,
                backing: Some(Backing { file, offset: 0 }),
            })
            .unwrap();
        assert!(!space.is_direct(PAGE, 1), "{name}");
        space.write(PAGE + 5, b"by message").unwrap();
        assert_eq!(&user.memory.lock().unwrap()[4101..4111], b"by message", "{name}");
    }
}

#[test]
fn a_descriptor_without_write_access_gives_reads_only() {
    let file = memfd(PAGE, true);
    let mut writer = File::from(dup(&file));
    writer.seek(SeekFrom::Start(0)).unwrap();
    writer.write_all(b"read me").unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let space = space();
    assert_eq!(
        space.map(backed(0, PAGE, RW, &read_only, 0)),
        Err(MapError::Kernel { iova: 0, errno: 13 }),
        "EACCES: the device would write through a descriptor that can't"
    );
    assert_eq!(space.unmap(0, PAGE), Ok(0));
    space
        .map(backed(0, PAGE, DmaAccess::READ, &read_only, 0))
        .unwrap();
    space.map(backed(PAGE, PAGE, RW, &file, 0)).unwrap();
    assert_eq!(
        space.usage().files,
        2,
        "one kernel mapping that can be written, and one that can't"
    );
    let mut back = [0; 7];
    space.read(0, &mut back).unwrap();
    assert_eq!(&back, b"read me");
    assert_eq!(
        space.write(0, &[0]),
        Err(DmaError::NotMapped {
            iova: 0,
            bytes: 1,
            write: true
        })
    );
    space.write(PAGE, b"written").unwrap();
    space.read(0, &mut back).unwrap();
    assert_eq!(&back, b"written");
}

#[test]
fn a_write_sealed_file_can_be_read_but_not_mapped_for_writes() {
    let file = memfd(PAGE, true);
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
    let space = space();
    let refusal = space.map(backed(0, PAGE, RW, &file, 0));
    assert!(matches!(refusal, Err(MapError::Kernel { .. })), "{refusal:?}");
    space.unmap(0, PAGE).unwrap();
    space.map(backed(0, PAGE, DmaAccess::READ, &file, 0)).unwrap();
    assert_eq!(space.read(0, &mut [1; 4]), Ok(()));
}

#[test]
fn access_is_refused_outside_ranges_against_their_access_and_with_bus_master_off() {
    let space = space();
    let file = memfd(4 * PAGE, true);
    space.map(backed(PAGE, PAGE, DmaAccess::READ, &file, 0)).unwrap();
    space
        .map(backed(2 * PAGE, PAGE, DmaAccess::WRITE, &file, PAGE))
        .unwrap();
    let missing = |iova, bytes, write| Err(DmaError::NotMapped { iova, bytes, write });
    assert_eq!(space.read(0, &mut [0; 4]), missing(0, 4, false));
    assert_eq!(space.write(PAGE, &[0; 4]), missing(PAGE, 4, true));
    assert_eq!(space.read(2 * PAGE - 2, &mut [0; 4]), missing(2 * PAGE, 2, false));
    assert_eq!(space.write(3 * PAGE - 2, &[0; 4]), missing(3 * PAGE, 2, true));
    space.set_bus_master(false);
    assert_eq!(
        space.read(PAGE, &mut [0; 4]),
        Err(DmaError::BusMasterOff { iova: PAGE })
    );
    assert_eq!(
        space.write(2 * PAGE, &[0; 4]),
        Err(DmaError::BusMasterOff { iova: 2 * PAGE })
    );
}

#[test]
fn a_range_may_end_with_the_address_space_but_not_run_past_it() {
    let space = space();
    let file = memfd(2 * PAGE, true);
    let top = u64::MAX - PAGE + 1;
    space.map(backed(top, PAGE, RW, &file, 0)).unwrap();
    space.write(u64::MAX, &[7]).unwrap();
    assert_eq!(
        space.read(u64::MAX, &mut [0; 2]),
        Err(DmaError::NotMapped {
            iova: u64::MAX,
            bytes: 1,
            write: false
        })
    );
    assert!(space.is_direct(top, PAGE) && !space.is_direct(top, PAGE + 1));
    assert!(matches!(
        space.map(backed(top, 2 * PAGE, RW, &file, 0)),
        Err(MapError::Invalid { .. })
    ));
    assert!(matches!(
        space.unmap(top, 2 * PAGE),
        Err(UnmapError::Invalid { .. })
    ));
    assert_eq!(space.unmap(top, PAGE), Ok(PAGE));
}

#[test]
fn malformed_maps_and_unmaps_are_refused() {
    let space = space();
    for (iova, bytes) in [(0, 0), (PAGE, 0), (1, PAGE), (0, 1), (PAGE, PAGE + 8)] {
        let map = space.map(bare(iova, bytes, RW));
        assert!(
            matches!(map, Err(MapError::Invalid { .. })),
            "map {bytes:#x} at {iova:#x}: {map:?}"
        );
        if (iova, bytes) != (0, 0) {
            let unmap = space.unmap(iova, bytes);
            assert!(
                matches!(unmap, Err(UnmapError::Invalid { .. })),
                "unmap {bytes:#x} at {iova:#x}: {unmap:?}"
            );
        }
    }
    assert!(matches!(
        space.map(bare(0, PAGE, DmaAccess::empty())),
        Err(MapError::Invalid { .. })
    ));
    assert!(space.enabled(), "a malformed map does not hold DMA back");
}

#[test]
fn a_refused_range_holds_dma_back_until_it_is_unmapped() {
    let policy = Policy {
        max_mappings: 2,
        max_mapped_bytes: 4 * PAGE,
        ..Policy::default()
    };
    let space = DmaSpace::new(&policy);
    space.set_bus_master(true);
    let file = memfd(16 * PAGE, true);
    space.map(backed(0, 3 * PAGE, RW, &file, 0)).unwrap();
    assert_eq!(
        space.map(backed(0x10000, 2 * PAGE, RW, &file, 0)),
        Err(MapError::Quota {
            iova: 0x10000,
            what: "mapped bytes",
            limit: 4 * PAGE
        })
    );
    assert_eq!(
        space.read(0, &mut [0; 4]),
        Err(DmaError::BusMasterOff { iova: 0 })
    );
    assert_eq!(space.usage().refused, Some((0x10000, 0x11fff)));
    assert_eq!(space.unmap(0x20000, PAGE), Ok(0));
    assert!(!space.enabled(), "another unmap changes nothing");
    assert_eq!(space.unmap(0x10000, 2 * PAGE), Ok(0));
    assert_eq!(space.read(0, &mut [0; 4]), Ok(()));

    space.map(bare(0x20000, PAGE, RW)).unwrap();
    assert_eq!(
        space.map(bare(0x30000, PAGE, RW)),
        Err(MapError::Quota {
            iova: 0x30000,
            what: "mappings",
            limit: 2
        })
    );
    assert!(!space.enabled());
    assert_eq!(space.unmap(0x20000, PAGE), Ok(PAGE));
    space.map(bare(0x30000, PAGE, RW)).unwrap();
    assert!(space.enabled(), "the range is mapped after all");
}

#[test]
fn more_refused_ranges_than_are_remembered_end_with_an_unmap_of_everything() {
    let space = DmaSpace::new(&Policy {
        max_mappings: 0,
        ..Policy::default()
    });
    space.set_bus_master(true);
    for i in 0..1000 {
        assert!(space.map(bare(i * 2 * PAGE, PAGE, RW)).is_err());
    }
    for i in 0..999 {
        space.unmap(i * 2 * PAGE, PAGE).unwrap();
        assert!(!space.enabled());
    }
    space.unmap(0, 0).unwrap();
    assert!(space.enabled());
}

#[test]
fn an_access_by_message_spans_into_mapped_memory_and_is_abandoned_by_its_unmap() {
    let space = space();
    let user = Answering::new(0x4000);
    space.set_messages(user.clone());
    let file = memfd(PAGE, true);
    space.map(bare(0x1000, PAGE, RW)).unwrap();
    space.map(backed(0x2000, PAGE, RW, &file, 0)).unwrap();
    space.write(0x1ffc, b"abcdefgh").unwrap();
    assert_eq!(&user.memory.lock().unwrap()[0x1ffc..0x2000], b"abcd");
    let mut back = [0; 8];
    space.read(0x1ffc, &mut back).unwrap();
    assert_eq!(&back, b"abcdefgh");
    space.unmap(0x2000, PAGE).unwrap();
    assert_eq!(
        user.abandoned.load(Ordering::SeqCst),
        0,
        "a range with a descriptor concerns no message"
    );
    space.unmap(0x1000, PAGE).unwrap();
    assert_eq!(user.abandoned.load(Ordering::SeqCst), 1);
}

#[test]
fn ram_without_a_descriptor_is_noticed_and_a_rom_is_not() {
    let space = space();
    let file = memfd(PAGE, true);
    assert!(!space.mostly_direct(), "nothing is mapped");
    space.map(backed(0, PAGE, RW, &file, 0)).unwrap();
    space.map(bare(0x10_0000, 1 << 20, DmaAccess::READ)).unwrap();
    space.map(bare(0x30_0000, PAGE, RW)).unwrap();
    assert!(space.mostly_direct());
    space.map(bare(0x40_0000, 1 << 20, RW)).unwrap();
    assert!(!space.mostly_direct());
    space.unmap(0x40_0000, 1 << 20).unwrap();
    assert!(space.mostly_direct());
}

#[test]
fn an_unmap_waits_for_copies_and_later_ones_fail() {
    let space = Arc::new(space());
    let file = memfd(1 << 20, true);
    for _ in 0..50 {
        space.map(backed(0, 1 << 20, RW, &file, 0)).unwrap();
        let copier = {
            let space = space.clone();
            std::thread::spawn(move || while space.write(0, &[0x55; 1 << 20]).is_ok() {})
        };
        std::thread::yield_now();
        space.unmap(0, 1 << 20).unwrap();
        // The memory is the user's alone again: what it writes now stays.
        rustix::io::pwrite(&file, &[0xaa; 64], 0).unwrap();
        rustix::io::pwrite(&file, &[0xaa; 64], (1 << 20) - 64).unwrap();
        copier.join().unwrap();
        let mut start = [0; 64];
        rustix::io::pread(&file, &mut start, (1 << 20) - 64).unwrap();
        assert_eq!(start, [0xaa; 64]);
    }
}

#[test]
fn a_file_on_tmpfs_that_is_no_memfd_works_by_checked_copies() {
    let path = format!("/dev/shm/uvfio-core-test-{}", std::process::id());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::fs::unlink(&path).unwrap();
    rustix::fs::ftruncate(file.as_fd(), PAGE).unwrap();
    let space = space();
    space.map(backed(0, PAGE, RW, &file, 0)).unwrap();
    space.write(8, b"tmpfs").unwrap();
    assert!(space.is_direct(0, PAGE));
    rustix::fs::ftruncate(file.as_fd(), 0).unwrap();
    assert_eq!(space.read(8, &mut [0; 5]), Err(DmaError::Truncated { iova: 8 }));
}

#[test]
fn huge_pages_that_are_not_there_give_an_error_and_no_signal() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let file = rustix::fs::memfd_create("huge", flags).unwrap();
    rustix::fs::ftruncate(&file, 1 << 40).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let space = DmaSpace::new(&Policy {
        max_mapped_bytes: 1 << 41,
        ..Policy::default()
    });
    space.set_bus_master(true);
    space.map(backed(0, 1 << 40, RW, &file, 0)).unwrap();
    // No machine has so many. Sealed or not, what is missing is found out by the kernel.
    let mut last = Ok(());
    for page in 0..(1u64 << 40 >> 21) {
        last = space.write(page << 21, &[1]);
        if last.is_err() {
            break;
        }
    }
    assert!(matches!(last, Err(DmaError::Truncated { .. })), "{last:?}");
}

#[test]
fn a_user_with_many_files_leaves_the_process_mappings_for_itself() {
    let space = space();
    let mut mapped = 0;
    let refusal = loop {
        let file = memfd(PAGE, true);
        match space.map(backed(mapped * PAGE, PAGE, RW, &file, 0)) {
            Ok(()) => mapped += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(
        matches!(refusal, MapError::Quota { what: "files", .. }),
        "after {mapped} files: {refusal}"
    );
    // What the allocator takes from the kernel by a mapping of its own: without one the process would be aborted.
    let large = vec![1_u8; 64 << 20];
    assert_eq!(large.iter().filter(|byte| **byte == 1).count(), 64 << 20);
    space.unmap(0, PAGE).unwrap();
    space.unmap(mapped * PAGE, PAGE).unwrap();
    let file = memfd(PAGE, true);
    space.map(backed(0, PAGE, RW, &file, 0)).unwrap();
}
