//! Regions over a file that stands for a device's: a kernel's device would end the same way.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;

/// A region of `size` bytes that begins at byte 0x2000 of a file of 0x5000 bytes, each page filled with its number.
fn region(size: u64, change: impl Fn(&mut RegionInfo)) -> (Region, File) {
    let file = File::from(memfd_create("device", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(0x5000).unwrap();
    for page in 0..5 {
        file.write_all_at(&[page; 0x1000], u64::from(page) << 12).unwrap();
    }
    let mut info = RegionInfo {
        index: 2,
        size,
        offset: 0x2000,
        readable: true,
        writable: true,
        mappable: true,
        areas: None,
        kind: None,
        msix_mappable: false,
    };
    change(&mut info);
    let owned = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    (Region::new(owned, "0000:00:03.0".into(), info), file)
}

#[test]
fn words_are_read_and_written_where_the_region_lies_in_the_file() {
    let (region, file) = region(0x2000, |_| ());
    assert_eq!(region.read_word::<u32>(0x0ffe).unwrap(), 0x0303_0202);
    region.write_word(0x10, 0x1122_3344_u32).unwrap();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0x2010).unwrap();
    assert_eq!(bytes, [0x44, 0x33, 0x22, 0x11, 2]);
}

#[test]
fn an_access_that_is_not_wholly_within_the_region_is_not_made() {
    let (region, file) = region(0x1000, |_| ());
    for offset in [0xffd, 0x1000, u64::MAX, u64::MAX - 3] {
        let error = region.read_word::<u32>(offset).unwrap_err();
        assert!(
            matches!(error, VfioError::Invalid { .. }),
            "read at {offset:#x}: {error}"
        );
        let error = region.write_word(offset, 7_u32).unwrap_err();
        assert!(
            error.to_string().contains("0x1000 bytes"),
            "write at {offset:#x}: {error}"
        );
    }
    let mut after = [0; 4];
    file.read_exact_at(&mut after, 0x2ffd).unwrap();
    assert_eq!(after, [2, 2, 2, 3]);
}

#[test]
fn a_region_is_not_written_that_the_kernel_calls_read_only() {
    let (region, _) = region(0x1000, |info| info.writable = false);
    let error = region.write_word(0, 7_u32).unwrap_err();
    assert!(matches!(error, VfioError::Invalid { .. }), "{error}");
    assert_eq!(region.window(0, 0x1000).unwrap().write(0, 7_u32), None);
}

#[test]
fn an_access_that_ends_early_says_how_far_it_came() {
    let (region, _) = region(0x10000, |_| ());
    let error = region.read(0x2ffe, &mut [0; 8]).unwrap_err();
    assert!(
        matches!(
            error,
            VfioError::Partial {
                wanted: 8,
                done: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_window_begins_where_it_was_asked_for_and_ends_there() {
    let (region, file) = region(0x3000, |_| ());
    let window = region.window(0x1000, 0x1000).unwrap();
    assert_eq!((window.bytes(), window.allows()), (0x1000, (true, true)));
    assert_eq!(window.read::<u64>(0xff8), Some(0x0303_0303_0303_0303));
    assert_eq!((window.read::<u8>(0x1000), window.read::<u16>(1)), (None, None));
    assert_eq!(window.write(8, 0xaabb_u16), Some(()));
    let mut bytes = [0; 3];
    file.read_exact_at(&mut bytes, 0x3008).unwrap();
    assert_eq!(bytes, [0xbb, 0xaa, 3]);
}

#[test]
fn a_window_outside_what_can_be_mapped_is_refused_with_what_can_be() {
    let (region, _) = region(0x3000, |info| info.areas = Some(vec![(0x1000, 0x1000)]));
    assert!(region.window(0x1000, 0x1000).is_ok());
    for (offset, bytes) in [(0, 0x1000), (0x1000, 0x2000), (0x1000, 0), (u64::MAX, 0x1000)] {
        let error = region.window(offset, bytes).unwrap_err();
        assert!(
            error.to_string().contains("0x1000 (0x1000 bytes)"),
            "{bytes:#x} at {offset:#x}: {error}"
        );
    }
}

#[test]
fn a_window_that_does_not_begin_at_a_page_says_what_a_page_is() {
    let (region, _) = region(0x3000, |_| ());
    let error = region.window(0x800, 0x1000).unwrap_err();
    assert_eq!(
        (error.errno(), error.rule()),
        (Some(Errno::INVAL), Some(&Rule::Misaligned { page: 0x1000 }))
    );
}
