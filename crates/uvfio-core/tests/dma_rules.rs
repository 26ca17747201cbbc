//! Maps and unmaps against the rules of Linux's type1v2, written down a second time as plainly as can be.

use proptest::prelude::*;
use uvfio_core::{DmaAccess, DmaMap, DmaSpace, MapError, Policy, UnmapError};

const PAGE: u128 = 4096;

/// Ranges as (first, end) in 128 bits, where nothing overflows.
#[derive(Default)]
struct Naive(Vec<(u128, u128)>);

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Answer {
    Done(u128),
    Invalid,
    InTheWay(u64),
}

impl Naive {
    fn map(&mut self, iova: u64, bytes: u64) -> Answer {
        let (first, end) = (u128::from(iova), u128::from(iova) + u128::from(bytes));
        if bytes == 0 || first % PAGE != 0 || u128::from(bytes) % PAGE != 0 || end > 1 << 64 {
            return Answer::Invalid;
        }
        if let Some(other) = self
            .0
            .iter()
            .filter(|r| r.0 < end && first < r.1)
            .map(|r| r.0)
            .max()
        {
            return Answer::InTheWay(other as u64);
        }
        self.0.push((first, end));
        Answer::Done(0)
    }

    fn unmap(&mut self, iova: u64, bytes: u64) -> Answer {
        let (first, mut end) = (u128::from(iova), u128::from(iova) + u128::from(bytes));
        if (iova, bytes) == (0, 0) {
            end = 1 << 64;
        } else if bytes == 0 || first % PAGE != 0 || u128::from(bytes) % PAGE != 0 || end > 1 << 64 {
            return Answer::Invalid;
        }
        let overlaps = |r: &&(u128, u128)| r.0 < end && first < r.1;
        if let Some(cut) = self
            .0
            .iter()
            .filter(overlaps)
            .filter(|r| r.0 < first || r.1 > end)
            .map(|r| r.0)
            .min()
        {
            return Answer::InTheWay(cut as u64);
        }
        let gone = self.0.iter().filter(overlaps).map(|r| r.1 - r.0).sum();
        self.0.retain(|r| !(r.0 < end && first < r.1));
        // All of 2^64 does not fit into the answer.
        Answer::Done(u128::min(gone, u64::MAX.into()))
    }
}

#[derive(Debug, Clone, Copy)]
enum Request {
    Map(u64, u64),
    Unmap(u64, u64),
}

/// Pages near the bottom and near the top of the address space, so that requests meet; some not on a page.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0..12u64).prop_map(|p| p * 4096),
        4 => (1..12u64).prop_map(|p| (p * 4096).wrapping_neg()),
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => (0..6u64).prop_map(|p| p * 4096),
        1 => (1..8u64).prop_map(|p| (p * 4096).wrapping_neg()),
        1 => any::<u64>(),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => (address(), length()).prop_map(|(a, l)| Request::Map(a, l)),
        2 => (address(), length()).prop_map(|(a, l)| Request::Unmap(a, l)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn maps_and_unmaps_follow_the_type1v2_rules(requests in prop::collection::vec(request(), 1..60)) {
        let space = DmaSpace::new(&Policy::default());
        let mut naive = Naive::default();
        for request in requests {
            let (got, expected) = match request {
                Request::Map(iova, bytes) => {
                    let access = DmaAccess::READ;
                    let got = match space.map(DmaMap { iova, bytes, access, backing: None }) {
                        Ok(()) => Answer::Done(0),
                        Err(MapError::Exists { other, .. }) => Answer::InTheWay(other),
                        Err(MapError::Invalid { .. }) => Answer::Invalid,
                        Err(e) => panic!("{e}"),
                    };
                    (got, naive.map(iova, bytes))
                }
                Request::Unmap(iova, bytes) => {
                    let got = match space.unmap(iova, bytes) {
                        Ok(bytes) => Answer::Done(bytes.into()),
                        Err(UnmapError::Cuts { other, .. }) => Answer::InTheWay(other),
                        Err(UnmapError::Invalid { .. }) => Answer::Invalid,
                    };
                    (got, naive.unmap(iova, bytes))
                }
            };
            prop_assert_eq!(got, expected, "after {:?}", request);
            prop_assert_eq!(space.usage().mappings as usize, naive.0.len(), "after {:?}", request);
        }
    }
}
