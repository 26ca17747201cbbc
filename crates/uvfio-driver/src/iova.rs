//! Which IOVAs are whose: first fit within the usable ranges. Pure; no transport, no lock.

use std::collections::BTreeMap;

/// The unit, in bytes: what every transport can map.
pub(crate) const PAGE: u64 = 4096;

/// Where the first buffer may lie: address 0 is left free, so that a descriptor nobody filled leads nowhere.
const LOWEST: u64 = PAGE;

/// IOVAs and who has them.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// Usable ranges, first and last address, in ascending order.
    usable: Vec<(u64, u64)>,
    /// Ranges given out: first to last address.
    taken: BTreeMap<u64, u64>,
    /// The last address that the device can reach.
    limit: u64,
}

impl Allocator {
    /// Over these ranges, in ascending order.
    pub(crate) fn new(usable: Vec<(u64, u64)>) -> Self {
        Self {
            usable,
            taken: BTreeMap::new(),
            limit: u64::MAX,
        }
    }

    pub(crate) fn usable(&self) -> &[(u64, u64)] {
        &self.usable
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// From now on gives out nothing beyond `limit`.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Takes `bytes` bytes, a multiple of [`PAGE`] and not 0; gives the first address, a multiple of [`PAGE`].
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let more = bytes.checked_sub(1)?;
        for &(first, last) in &self.usable {
            let last = last.min(self.limit);
            let mut at = first.max(LOWEST).checked_next_multiple_of(PAGE)?;
            while let Some(end) = at.checked_add(more).filter(|end| *end <= last) {
                match self.taken.range(..=end).next_back() {
                    Some((_, &taken)) if taken >= at => match taken.checked_add(1) {
                        Some(next) => at = next.checked_next_multiple_of(PAGE)?,
                        None => break,
                    },
                    _ => {
                        self.taken.insert(at, end);
                        return Some(at);
                    }
                }
            }
        }
        None
    }

    /// Gives back what [`take`](Self::take) gave.
    pub(crate) fn give_back(&mut self, first: u64) {
        self.taken.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_zero_and_what_lies_beyond_the_limit_are_not_given_out() {
        let mut all = Allocator::new(vec![(0, u64::MAX)]);
        all.set_limit(0x3fff);
        assert_eq!(all.take(0x2000), Some(0x1000));
        assert_eq!(
            all.take(0x2000),
            None,
            "0x3000..=0x4fff is beyond the limit 0x3fff"
        );
        assert_eq!(all.take(0x1000), Some(0x3000));
        all.give_back(0x1000);
        assert_eq!(all.take(0x1000), Some(0x1000));
    }

    #[test]
    fn a_range_that_is_too_small_is_passed_over() {
        let mut all = Allocator::new(vec![(0x1800, 0x3fff), (0x10_0000, u64::MAX)]);
        assert_eq!(all.take(0x3000), Some(0x10_0000));
        assert_eq!(all.take(0x2000), Some(0x2000), "rounded up to a page");
        assert_eq!(all.take(u64::MAX - 0xfff), None);
    }

    proptest! {
        #[test]
        fn what_is_given_out_is_usable_aligned_and_nobody_elses(
            steps in proptest::collection::vec((1_u64..40, any::<bool>()), 1..200),
        ) {
            let usable = vec![(0_u64, 0x1_ffff), (0x5_0000, 0x9_efff)];
            let mut all = Allocator::new(usable.clone());
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, give) in steps {
                if give && let Some((first, _)) = held.pop() {
                    all.give_back(first);
                    continue;
                }
                let Some(first) = all.take(pages * PAGE) else { continue };
                let last = first + pages * PAGE - 1;
                prop_assert_eq!(first % PAGE, 0);
                prop_assert!(first >= LOWEST);
                prop_assert!(usable.iter().any(|&(a, b)| a <= first && last <= b), "{:#x}..={:#x}", first, last);
                for &(a, b) in &held {
                    prop_assert!(last < a || b < first, "{:#x}..={:#x} over {:#x}..={:#x}", first, last, a, b);
                }
                held.push((first, last));
            }
        }
    }
}
