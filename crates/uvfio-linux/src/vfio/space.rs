//! What a device's address space is, whoever provides it.

use std::fmt::Debug;

use vfio_bindings::bindings::vfio as sys;

use super::error::{Result, VfioError};
use super::memory::SharedMemory;

/// Pinning memory takes the kernel a third of a second a GiB, in one request that nothing interrupts. So larger
/// mappings are made in pieces, which end at multiples of this, so that the IOMMU's large pages stay usable.
pub(super) const PIECE: u64 = 1 << 30;

/// What a device may do to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Read => sys::VFIO_DMA_MAP_FLAG_READ,
            Self::Write => sys::VFIO_DMA_MAP_FLAG_WRITE,
            Self::ReadWrite => sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE,
        }
    }
}

/// The addresses that devices see, in front of an IOMMU. A [`Container`](super::Container) is one; iommufd's would be
/// another.
///
/// Addresses and sizes are multiples of the IOMMU's smallest page; a range may end at 2^64.
pub trait AddressSpace: Debug + Send + Sync {
    /// Has devices reach `size` bytes of `memory` from `offset` on at `iova`. Either all is mapped or nothing, but for
    /// [`VfioError::LeftMapped`], which says what stays. What is mapped already is never replaced.
    ///
    /// It may take a third of a second a GiB; larger ranges are several mappings, cut at multiples of 1 GiB, so that
    /// [`unmap`](Self::unmap) can take such a piece alone.
    fn map(&self, iova: u64, memory: &SharedMemory, offset: u64, size: u64, access: Access) -> Result<()>;

    /// Undoes the mappings that lie wholly within the range, and says how many bytes they had, which may be none. A
    /// range that would cut one is refused, and nothing is changed.
    fn unmap(&self, iova: u64, size: u64) -> Result<u64>;

    /// Undoes every mapping, and says how many bytes they had.
    fn unmap_all(&self) -> Result<u64>;
}

/// A range of addresses in pieces that end at multiples of [`PIECE`]: (address, bytes) each. `None` where it is empty
/// or goes beyond 2^64.
pub(super) fn pieces(iova: u64, size: u64) -> Option<impl Iterator<Item = (u64, u64)>> {
    let last = iova.checked_add(size.checked_sub(1)?)?;
    let mut next = Some(iova);
    Some(std::iter::from_fn(move || {
        let at = next?;
        let end = (at | (PIECE - 1)).min(last);
        next = end.checked_add(1).filter(|_| end < last);
        Some((at, end - at + 1))
    }))
}

/// Maps pieces by `map`, given address and bytes, and if one fails undoes those before it, so many bytes, by `unmap`.
pub(super) fn map_each(
    pieces: impl Iterator<Item = (u64, u64)>,
    map: impl Fn(u64, u64) -> Result<()>,
    unmap: impl FnOnce(u64) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    for (at, bytes) in pieces {
        let Err(error) = map(at, bytes) else {
            done += bytes;
            continue;
        };
        let undone = if done == 0 { Ok(()) } else { unmap(done) };
        return Err(match undone {
            Ok(()) => error,
            Err(undoing) => VfioError::LeftMapped {
                source: Box::new(error),
                left: done,
                undoing: Box::new(undoing),
            },
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use rustix::io::Errno;

    use super::*;

    fn all(iova: u64, size: u64) -> Option<Vec<(u64, u64)>> {
        pieces(iova, size).map(Iterator::collect)
    }

    #[test]
    fn a_range_is_cut_at_multiples_of_a_gib() {
        let gib = 1 << 30;
        assert_eq!(all(0x1000, 0x1000), Some(vec![(0x1000, 0x1000)]));
        assert_eq!(all(0, gib), Some(vec![(0, gib)]));
        assert_eq!(
            all(gib - 0x1000, 0x3000),
            Some(vec![(gib - 0x1000, 0x1000), (gib, 0x2000)])
        );
        assert_eq!(
            all(5 * gib, 2 * gib + 1),
            Some(vec![(5 * gib, gib), (6 * gib, gib), (7 * gib, 1)])
        );
    }

    #[test]
    fn a_range_may_end_where_addresses_do_but_not_beyond() {
        let top = u64::MAX - 0xfff;
        assert_eq!(all(top, 0x1000), Some(vec![(top, 0x1000)]));
        assert_eq!(all(top, 0x1001), None);
        assert_eq!(all(0x1000, 0), None);
    }

    /// Maps three pieces, of which the one at `fails` fails; `keeps`: what is to be undone stays. Says how it went, and
    /// how many bytes were to be undone.
    fn three(fails: Option<u64>, keeps: bool) -> (Result<()>, Option<u64>) {
        let refusal = |errno| VfioError::other("a test", "a piece".into(), errno);
        let undone = Cell::new(None);
        let done = map_each(
            pieces(PIECE, 3 * PIECE).unwrap(),
            |at, _| match fails {
                Some(fails) if fails == at => Err(refusal(Errno::NOMEM)),
                _ => Ok(()),
            },
            |bytes| {
                undone.set(Some(bytes));
                if keeps { Err(refusal(Errno::IO)) } else { Ok(()) }
            },
        );
        (done, undone.get())
    }

    #[test]
    fn where_a_piece_fails_those_before_it_are_undone_or_said_to_stay() {
        assert!(matches!(three(None, true), (Ok(()), None)));
        for keeps in [false, true] {
            let (done, undone) = three(Some(PIECE), keeps);
            assert!(matches!(done, Err(VfioError::Refused { .. })), "{done:?}");
            assert_eq!(undone, None, "there is nothing to undo");
        }
        let (done, undone) = three(Some(3 * PIECE), false);
        assert!(
            matches!(
                done,
                Err(VfioError::Refused {
                    errno: Errno::NOMEM,
                    ..
                })
            ),
            "{done:?}"
        );
        assert_eq!(undone, Some(2 * PIECE));
        let (done, undone) = three(Some(3 * PIECE), true);
        assert_eq!(undone, Some(2 * PIECE));
        let error = done.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOMEM));
        assert!(
            matches!(error, VfioError::LeftMapped { left, .. } if left == 2 * PIECE),
            "{error:?}"
        );
    }

    proptest! {
        #[test]
        fn pieces_follow_one_another_and_cover_the_range(iova: u64, size in 1..(1u64 << 36)) {
            let Some(pieces) = all(iova, size) else {
                prop_assert!(iova.checked_add(size - 1).is_none());
                return Ok(());
            };
            let mut next = Some(iova);
            let mut sum = 0;
            for (at, bytes) in pieces {
                prop_assert_eq!(Some(at), next);
                prop_assert!((1..=PIECE).contains(&bytes));
                next = at.checked_add(bytes);
                sum += bytes;
            }
            prop_assert_eq!(sum, size);
        }
    }
}
