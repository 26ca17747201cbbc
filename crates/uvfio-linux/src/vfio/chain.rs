//! The chains of capabilities that some answers of VFIO's end with.
//!
//! Each capability begins with `struct vfio_info_cap_header`: its number, its version, and where in the answer the
//! next one begins. It does not say how long it is. What is read here may come from anybody who holds a descriptor's
//! other end, so each place is checked to lie within the answer, and each capability is visited once.

use std::collections::BTreeSet;
use std::mem::offset_of;

use vfio_bindings::bindings::vfio as sys;

use super::argument::{u16_at, u32_at};

/// Why an answer makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A capability would begin outside the part of the answer where capabilities lie.
    #[error("a capability at byte {at:#x}, but capabilities lie in {from:#x}..{bytes:#x}")]
    Outside {
        /// Where it would begin.
        at: u32,
        /// Where the structure before all capabilities ends.
        from: usize,
        /// How long the answer is.
        bytes: usize,
    },
    /// A chain leads back to a capability that it has been at.
    #[error("its chain of capabilities leads back to byte {at:#x}")]
    Loop {
        /// Where that capability begins.
        at: u32,
    },
    /// A list is longer than the answer.
    #[error("{what} needs {needs} bytes, but {has} are there")]
    Short {
        /// What the list is of.
        what: &'static str,
        /// How many bytes it would take.
        needs: u64,
        /// How many there are.
        has: usize,
    },
    /// An answer that asks for more room each time, or for more than any would need.
    #[error("it wants {bytes} bytes of room")]
    Room {
        /// How much it wants.
        bytes: u32,
    },
}

/// A capability of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    /// Its number, which means something only for one kind of answer
    pub(super) id: u16,
    /// Version of its layout
    pub(super) version: u16,
    /// From its header to the end of the answer: how much of it is the capability's, its own fields say
    pub(super) bytes: &'a [u8],
}

impl<'a> Link<'a> {
    /// `count` elements of `N` bytes each, `from` bytes after the start of the header.
    pub(super) fn elements<const N: usize>(
        &self,
        what: &'static str,
        from: usize,
        count: u32,
    ) -> Result<&'a [[u8; N]], Malformed> {
        elements(self.bytes, what, from, count)
    }
}

/// `count` elements of `N` bytes each, from byte `from` on.
pub(super) fn elements<'a, const N: usize>(
    bytes: &'a [u8],
    what: &'static str,
    from: usize,
    count: u32,
) -> Result<&'a [[u8; N]], Malformed> {
    let list = bytes.get(from..).unwrap_or_default().as_chunks::<N>().0;
    usize::try_from(count)
        .ok()
        .and_then(|count| list.get(..count))
        .ok_or(Malformed::Short {
            what,
            needs: u64::from(count).saturating_mul(N as u64),
            has: bytes.len().saturating_sub(from),
        })
}

/// The capabilities of `answer`, whose fixed part has `fixed` bytes, from the one at `first` on; 0: none.
pub(super) fn walk(answer: &[u8], fixed: usize, first: u32) -> Result<Vec<Link<'_>>, Malformed> {
    let mut links = Vec::new();
    let mut visited = BTreeSet::new();
    let mut next = first;
    while next != 0 {
        let at = next;
        let outside = Malformed::Outside {
            at,
            from: fixed,
            bytes: answer.len(),
        };
        let start = usize::try_from(at).map_err(|_| outside)?;
        let bytes = answer.get(start..).unwrap_or_default();
        if start < fixed || bytes.len() < size_of::<sys::vfio_info_cap_header>() {
            return Err(outside);
        }
        if !visited.insert(at) {
            return Err(Malformed::Loop { at });
        }
        links.push(Link {
            id: u16_at(bytes, offset_of!(sys::vfio_info_cap_header, id)),
            version: u16_at(bytes, offset_of!(sys::vfio_info_cap_header, version)),
            bytes,
        });
        next = u32_at(bytes, offset_of!(sys::vfio_info_cap_header, next));
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as vfio.h draws it, by hand: number, version, next.
    fn header(id: u16, version: u16, next: u32) -> Vec<u8> {
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.extend(version.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes
    }

    fn ids(answer: &[u8], first: u32) -> Result<Vec<u16>, Malformed> {
        Ok(walk(answer, 4, first)?.iter().map(|link| link.id).collect())
    }

    #[test]
    fn capabilities_come_in_the_order_of_their_chain() {
        let mut answer = vec![0; 4];
        answer.extend(header(7, 1, 0));
        answer.extend(header(8, 2, 4));
        assert_eq!(ids(&answer, 12), Ok(vec![8, 7]));
        assert_eq!(ids(&answer, 4), Ok(vec![7]));
        assert_eq!(ids(&answer, 0), Ok(vec![]));
        let links = walk(&answer, 4, 12).unwrap();
        assert_eq!((links[0].version, links[0].bytes.len()), (2, 8));
        assert_eq!((links[1].version, links[1].bytes.len()), (1, 16));
    }

    #[test]
    fn a_chain_that_leads_back_is_refused() {
        let mut answer = vec![0; 4];
        answer.extend(header(7, 1, 12));
        answer.extend(header(8, 1, 4));
        assert_eq!(ids(&answer, 4), Err(Malformed::Loop { at: 4 }));
        let mut itself = vec![0; 4];
        itself.extend(header(7, 1, 4));
        assert_eq!(ids(&itself, 4), Err(Malformed::Loop { at: 4 }));
    }

    #[test]
    fn a_capability_that_does_not_lie_within_the_answer_is_refused() {
        let mut answer = vec![0; 4];
        answer.extend(header(7, 1, 0));
        for at in [1, 3, 5, 12, 13, u32::MAX] {
            let outside = Malformed::Outside {
                at,
                from: 4,
                bytes: 12,
            };
            assert_eq!(ids(&answer, at), Err(outside), "chain from byte {at}");
        }
    }

    #[test]
    fn a_list_longer_than_the_answer_is_refused_and_a_shorter_one_is_cut() {
        let bytes = [1, 2, 3, 4, 5, 6, 7];
        assert_eq!(elements::<2>(&bytes, "pairs", 1, 2), Ok(&[[2, 3], [4, 5]][..]));
        assert_eq!(elements::<2>(&bytes, "pairs", 1, 3).map(<[_]>::len), Ok(3));
        let short = |needs, has| {
            Err(Malformed::Short {
                what: "pairs",
                needs,
                has,
            })
        };
        assert_eq!(elements::<2>(&bytes, "pairs", 1, 4), short(8, 6));
        assert_eq!(elements::<2>(&bytes, "pairs", 8, 1), short(2, 0));
        assert_eq!(
            elements::<2>(&bytes, "pairs", 0, u32::MAX),
            short(u64::from(u32::MAX) * 2, 7)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end_within_them(
            answer in proptest::collection::vec(prop_oneof![Just(0u8), 0..32u8, any::<u8>()], 0..128),
            fixed in 0..40usize,
            first in prop_oneof![0..140u32, any::<u32>()],
        ) {
            if let Ok(links) = walk(&answer, fixed, first) {
                prop_assert!(links.len() <= answer.len());
                for link in links {
                    prop_assert!(link.bytes.len() >= 8 && link.bytes.len() <= answer.len().saturating_sub(fixed));
                }
            }
        }
    }
}
