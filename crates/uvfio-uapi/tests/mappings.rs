//! Type 1's mappings against a model that knows pages only.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use std::collections::BTreeMap;

use common::{Memory, Program, sys};
use proptest::prelude::*;
use rustix::io::Errno;

/// Pages of the part of the address space that is tried: its first ones.
const PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Step {
    Map { page: u64, pages: u64 },
    Unmap { page: u64, pages: u64 },
    All,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..PAGES, 1..8_u64);
    prop_oneof![
        5 => range().prop_map(|(page, pages)| Step::Map { page, pages }),
        5 => range().prop_map(|(page, pages)| Step::Unmap { page, pages }),
        1 => Just(Step::All),
    ]
}

/// Which mapping each page belongs to: a number of its own for each.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, u32>,
    next: u32,
}

impl Model {
    fn map(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        if (page..page + pages).any(|page| self.pages.contains_key(&page)) {
            return Err(Errno::EXIST);
        }
        self.next += 1;
        self.pages
            .extend((page..page + pages).map(|page| (page, self.next)));
        Ok(())
    }

    fn remove(&mut self, mapping: u32) -> u64 {
        let before = self.pages.len();
        self.pages.retain(|_, of| *of != mapping);
        (before - self.pages.len()) as u64
    }

    /// Version 2: nothing is cut.
    fn unmap_v2(&mut self, page: u64, pages: u64) -> Result<u64, Errno> {
        let within: Vec<u32> = (page..page + pages)
            .filter_map(|page| self.pages.get(&page).copied())
            .collect();
        let cut = self
            .pages
            .iter()
            .any(|(at, of)| !(page..page + pages).contains(at) && within.contains(of));
        if cut {
            return Err(Errno::INVAL);
        }
        Ok(self.take(within))
    }

    /// Version 1: from the first page of a mapping on, whole mappings; from within one, nothing.
    fn unmap_v1(&mut self, page: u64, pages: u64) -> u64 {
        let first = (page..page + pages).find_map(|page| self.pages.get(&page).copied());
        let begins_before =
            first.is_some_and(|of| self.pages.iter().any(|(at, other)| *at < page && *other == of));
        if begins_before {
            return 0;
        }
        let within = (page..page + pages)
            .filter_map(|page| self.pages.get(&page).copied())
            .collect();
        self.take(within)
    }

    fn take(&mut self, mut mappings: Vec<u32>) -> u64 {
        mappings.dedup();
        mappings.into_iter().map(|mapping| self.remove(mapping)).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn mappings_follow_the_model_in_both_versions(v2: bool, steps in prop::collection::vec(step(), 1..40)) {
        let program = Program::edu();
        let (container, _) = program.container(7, if v2 { sys::TYPE1V2 } else { sys::TYPE1 });
        let memory = Memory::new(8 * 4096);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Map { page, pages } => {
                    let got = program.map(container, page << 12, memory.address(), pages << 12, sys::READ);
                    prop_assert_eq!(got, model.map(page, pages).map(|()| 0), "{:?}", step);
                }
                Step::Unmap { page, pages } => {
                    let got = program.unmap(container, page << 12, pages << 12, 0);
                    let expected = if v2 {
                        model.unmap_v2(page, pages)
                    } else {
                        Ok(model.unmap_v1(page, pages))
                    };
                    prop_assert_eq!(got, expected.map(|pages| pages << 12), "{:?}", step);
                }
                Step::All => {
                    let got = program.unmap(container, 0, 0, sys::UNMAP_ALL);
                    let all = model.pages.values().copied().collect();
                    prop_assert_eq!(got, Ok(model.take(all) << 12));
                }
            }
        }
        // What is left is what the model has left.
        let left = model.pages.values().copied().collect::<Vec<u32>>();
        prop_assert_eq!(program.unmap(container, 0, 0, sys::UNMAP_ALL), Ok(model.take(left) << 12));
    }
}
