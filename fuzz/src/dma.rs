//! Maps, unmaps and copies, against the same written down as plainly as can be.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Backing, DmaAccess, DmaMap, DmaSpace, MapError, Policy, UnmapError};

use super::bytes::Bytes;

const PAGE: u64 = 4096;
/// Pages of each of the user's files.
const PAGES: u64 = 8;
const FILES: usize = 2;

/// One range, with its end in 128 bits, where nothing overflows.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u128,
    end: u128,
    access: DmaAccess,
    /// Which file, and where in it.
    file: Option<(usize, u64)>,
}

#[derive(Debug, Default)]
struct Naive {
    ranges: Vec<Range>,
    files: [Vec<u8>; FILES],
}

impl Naive {
    fn overlaps(&self, first: u128, end: u128) -> bool {
        self.ranges
            .iter()
            .any(|range| range.first < end && first < range.end)
    }

    /// Where each byte of an access lies; none where one of them can't be reached.
    fn places(&self, iova: u64, count: usize, access: DmaAccess) -> Option<Vec<(usize, usize)>> {
        (0..count as u128)
            .map(|at| {
                let address = u128::from(iova) + at;
                let range = self
                    .ranges
                    .iter()
                    .find(|range| (range.first..range.end).contains(&address))?;
                let (file, offset) = range.file.filter(|_| range.access.contains(access))?;
                Some((file, offset as usize + (address - range.first) as usize))
            })
            .collect()
    }
}

fn file() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("user", flags).expect("a memfd");
    rustix::fs::ftruncate(&file, PAGES * PAGE).expect("its size");
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).expect("its seals");
    file
}

/// An address or length: pages near 0 or near 2^64, sometimes off a page, sometimes anything.
fn number(data: &mut Bytes<'_>) -> u64 {
    let kind = data.u8();
    let pages = u64::from(kind & 0xf) * PAGE;
    match kind >> 4 {
        0..=9 => pages,
        10..=12 => pages.wrapping_neg(),
        13 => pages + u64::from(data.u8()),
        14 => pages.wrapping_sub(u64::from(data.u8())),
        _ => data.u64(),
    }
}

/// Carries out what the bytes say, and compares.
pub fn run(data: &[u8]) {
    let mut data = Bytes(data);
    let space = DmaSpace::new(&Policy::default());
    space.set_bus_master(true);
    let files: Vec<OwnedFd> = (0..FILES).map(|_| file()).collect();
    let mut naive = Naive {
        files: std::array::from_fn(|_| vec![0; (PAGES * PAGE) as usize]),
        ..Naive::default()
    };
    for _ in 0..200 {
        if !data.more() {
            break;
        }
        match data.u8() % 4 {
            0 => map(&mut data, &space, &files, &mut naive),
            1 => unmap(&mut data, &space, &mut naive),
            2 => copy_in(&mut data, &space, &mut naive),
            _ => copy_out(&mut data, &space, &naive),
        }
        assert_eq!(
            space.usage().mappings as usize,
            naive.ranges.len(),
            "the number of mappings"
        );
    }
}

fn map(data: &mut Bytes<'_>, space: &DmaSpace, files: &[OwnedFd], naive: &mut Naive) {
    let (iova, bytes) = (number(data), number(data));
    let how = data.u8();
    let access = DmaAccess::from_bits_truncate((how & 3).into());
    let offset = u64::from(how >> 4 & 7) * PAGE;
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= PAGES * PAGE);
    let chosen = usize::from(how >> 2 & 3);
    let file = (chosen < FILES && inside).then_some((chosen, offset));
    let backing = file.map(|(file, offset)| Backing {
        file: files[file].try_clone().expect("a descriptor"),
        offset,
    });
    let (first, end) = (u128::from(iova), u128::from(iova) + u128::from(bytes));
    let valid = bytes != 0 && iova % PAGE == 0 && bytes % PAGE == 0 && end <= 1 << 64 && !access.is_empty();
    let free = !naive.overlaps(first, end);
    let got = space.map(DmaMap {
        iova,
        bytes,
        access,
        backing,
    });
    let what = format!("map {iova:#x} + {bytes:#x} {access:?} {file:?}: {got:?}");
    match got {
        Ok(()) => {
            assert!(valid && free, "{what}, valid: {valid}, free: {free}");
            naive.ranges.push(Range {
                first,
                end,
                access,
                file,
            });
        }
        Err(MapError::Exists { .. }) => assert!(!free, "{what}"),
        Err(MapError::Invalid { .. }) => assert!(!valid, "{what}"),
        // Nothing within 2^64 is: 1 TiB is the policy's.
        Err(MapError::Quota { .. }) => assert!(valid && bytes > 1 << 32, "{what}"),
        Err(MapError::Kernel { .. } | MapError::Iommu { .. }) => panic!("{what}"),
    }
}

fn unmap(data: &mut Bytes<'_>, space: &DmaSpace, naive: &mut Naive) {
    let (iova, bytes) = (number(data), number(data));
    let all = (iova, bytes) == (0, 0);
    let first = u128::from(iova);
    let end = if all { 1 << 64 } else { first + u128::from(bytes) };
    let valid = all || bytes != 0 && iova % PAGE == 0 && bytes % PAGE == 0 && end <= 1 << 64;
    let overlaps = |range: &Range| range.first < end && first < range.end;
    let cuts = naive
        .ranges
        .iter()
        .any(|range| overlaps(range) && (range.first < first || range.end > end));
    let got = space.unmap(iova, bytes);
    let what = format!("unmap {iova:#x} + {bytes:#x}: {got:?}");
    match got {
        Ok(gone) => {
            assert!(valid && !cuts, "{what}, valid: {valid}, cuts: {cuts}");
            let expected: u128 = naive
                .ranges
                .iter()
                .filter(|r| overlaps(r))
                .map(|r| r.end - r.first)
                .sum();
            assert_eq!(u128::from(gone), expected.min(u64::MAX.into()), "{what}");
            naive.ranges.retain(|range| !overlaps(range));
        }
        Err(UnmapError::Cuts { .. }) => assert!(valid && cuts, "{what}"),
        Err(UnmapError::Invalid { .. }) => assert!(!valid, "{what}"),
    }
}

fn copy_in(data: &mut Bytes<'_>, space: &DmaSpace, naive: &mut Naive) {
    let (iova, count, fill) = (number(data), usize::from(data.u16()) % 0x3000, data.u8());
    let places = naive.places(iova, count, DmaAccess::WRITE);
    let got = space.write(iova, &vec![fill; count]);
    let whole = places.is_some();
    assert_eq!(got.is_ok(), whole, "write {iova:#x} + {count:#x}: {got:?}");
    if let Some(places) = places {
        for (file, at) in places {
            naive.files[file][at] = fill;
        }
    } else {
        // What could be reached may have been written; the comparison goes on with ranges that nobody wrote.
        for at in 0..count as u64 {
            let Some(address) = iova.checked_add(at) else {
                break;
            };
            let Some(places) = naive.places(address, 1, DmaAccess::WRITE) else {
                break;
            };
            for (file, at) in places {
                naive.files[file][at] = fill;
            }
        }
    }
}

fn copy_out(data: &mut Bytes<'_>, space: &DmaSpace, naive: &Naive) {
    let (iova, count) = (number(data), usize::from(data.u16()) % 0x3000);
    let places = naive.places(iova, count, DmaAccess::READ);
    let mut got = vec![0xee; count];
    let result = space.read(iova, &mut got);
    assert_eq!(
        result.is_ok(),
        places.is_some(),
        "read {iova:#x} + {count:#x}: {result:?}"
    );
    if let Some(places) = places {
        for ((file, at), got) in places.into_iter().zip(got) {
            let expected = naive.files[file][at];
            assert_eq!(
                got, expected,
                "read {iova:#x} + {count:#x}: file {file} at {at:#x}"
            );
        }
    }
}
