//! BAR memory that its user may map.

use rustix::fs::SealFlags;
use uvfio_core::{BarMemory, BarMemoryError};

#[test]
fn what_the_user_writes_the_device_reads_and_the_other_way_round() {
    let memory = BarMemory::new(0x1000, 0x1000).unwrap();
    let user = memory.mappable();
    assert_eq!((user.offset, user.bytes), (0x1000, 0x1000));
    assert_eq!(memory.read_u32(0x1ffc), 0, "new memory");
    rustix::io::pwrite(&user.file, &[0x78, 0x56, 0x34, 0x12], 0x1ffc).unwrap();
    assert_eq!(memory.read_u32(0x1ffc), 0x1234_5678);
    memory.write_u32(0x1000, 0xa1b2_c3d4);
    let mut bytes = [0; 4];
    rustix::io::pread(&user.file, &mut bytes, 0x1000).unwrap();
    assert_eq!(bytes, [0xd4, 0xc3, 0xb2, 0xa1]);
    memory.clear();
    for offset in [0x1000, 0x1ffc] {
        assert_eq!(memory.read_u32(offset), 0, "after clearing, at {offset:#x}");
    }
}

#[test]
fn outside_nothing_is_read_or_written() {
    let memory = BarMemory::new(0, 0x1000).unwrap();
    for offset in [0x1000, 0xffd, u64::MAX - 1] {
        memory.write_u32(offset, u32::MAX);
        assert_eq!(memory.read_u32(offset), 0, "at {offset:#x}");
    }
    assert_eq!(memory.read_u32(0xffc), 0);
}

#[test]
fn its_user_can_not_change_its_size_nor_forbid_writes() {
    let user = BarMemory::new(0x1000, 0x1000).unwrap().mappable();
    for size in [0, 0x1fff, 0x3000] {
        assert!(rustix::fs::ftruncate(&user.file, size).is_err(), "size {size:#x}");
    }
    assert!(rustix::fs::fcntl_add_seals(&user.file, SealFlags::FUTURE_WRITE).is_err());
}

#[test]
fn ranges_that_can_not_be_mapped_are_refused() {
    for (offset, bytes) in [
        (0, 0),
        (0x800, 0x1000),
        (0x1000, 0x1001),
        (u64::MAX - 0xfff, 0x1000),
    ] {
        let refused = BarMemory::new(offset, bytes);
        assert!(
            matches!(refused, Err(BarMemoryError::Range { .. })),
            "{bytes:#x} at {offset:#x}: {refused:?}"
        );
    }
}
