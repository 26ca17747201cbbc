//! Pages that no honest device has: the walk ends, stays within the page, and gives each byte once.

mod common;

use common::{ALL, Device, EVERYTHING};
use proptest::prelude::*;
use uvfio_pci::chain::{Item, walk};
use uvfio_pci::{ByteEnables, Effect, Effects, Input, Layout, State, View, Window, read, step};

/// Bytes of any length, also of none that a dump has; with a header that has a chain.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0..70_usize, Just(64), Just(256), Just(4096), 0..5000_usize];
    (any::<u64>(), len, 0x40..0xff_u8).prop_map(|(seed, len, first)| {
        // A strategy for each of thousands of bytes would take minutes.
        let mut random = seed | 1;
        let mut byte = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random >> 62 {
                0 => 0,
                1 => random as u8 & 0xfc,
                2 => random as u8 & 0x3c,
                _ => random as u8,
            }
        };
        let mut page: Vec<u8> = (0..5000).map(|_| byte()).collect();
        page[0x06] |= 0x10;
        page[0x0e] = 0;
        page[0x34] = first;
        page.truncate(len);
        page
    })
}

/// A good page with some bytes changed, mostly where the chains are.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let at = prop_oneof![0x34..0xc0_usize, 0x100..0x160_usize, 0..4096_usize];
    let damage = prop::collection::vec((at, any::<u8>()), 1..8);
    (0..ALL.len(), damage).prop_map(|(n, damage)| {
        let mut page = Device::seen(&ALL[n].1, View::Raw).page();
        for (at, byte) in damage {
            if let Some(there) = page.get_mut(at) {
                *there = byte;
            }
        }
        page
    })
}

fn check(page: &[u8]) -> Result<(), TestCaseError> {
    let mut owner = vec![None; page.len()];
    // Each dword once at most as a structure, with three findings of its own at most.
    for item in walk(page).take(5000) {
        let found = match item {
            Item::Finding(finding) => {
                prop_assert!(!finding.to_string().is_empty());
                continue;
            }
            Item::Capability(found) => found,
        };
        let (start, end) = (
            usize::from(found.offset),
            usize::from(found.offset) + found.bytes.len(),
        );
        prop_assert!(found.offset % 4 == 0 && found.bytes.len() >= 3, "{:x?}", found);
        prop_assert!(end <= page.len().min(4096), "{:x?} past the end", found);
        prop_assert_eq!(found.bytes, &page[start..end]);
        if found.extended {
            prop_assert!(start >= 0x100 && found.version < 16, "{:x?}", found);
        } else {
            prop_assert!(start >= 0x40 && end <= 0x100, "{:x?}", found);
        }
        for owner in &mut owner[start..end] {
            prop_assert_eq!(owner.replace(start), None, "{:x?} overlaps", found);
        }
    }
    prop_assert!(walk(page).count() < 5000, "the walk ends");

    let Ok((layout, findings)) = Layout::from_dump(page) else {
        return Ok(());
    };
    prop_assert!(findings.iter().count() + findings.left_out() < 5000);
    let state = State::new(&layout);
    for (n, bytes) in page.chunks(4).enumerate() {
        let value = read(&layout, &state, Window::Config, n as u16);
        prop_assert_eq!(value.to_le_bytes(), bytes, "register {:#x}", n * 4);
    }
    for placed in layout.placed() {
        prop_assert!(placed.end() <= layout.config_bytes(), "{:?}", placed.table.name);
    }
    prop_assert!(state.restore(&layout).is_ok());
    check_virtual(page)?;
    check_filtered(page)
}

/// Whatever the page, a user of `filtered` writes neither identity, class, BARs nor ROM, and a write to the rest is well
/// formed.
fn check_filtered(page: &[u8]) -> Result<(), TestCaseError> {
    let Ok(layout) = Layout::over(&EVERYTHING, page, View::Filtered) else {
        return Ok(());
    };
    let mut effects = Effects::new();
    let mut state = State::new(&layout);
    for register in 0..layout.config_bytes() / 4 {
        if state.resetting() {
            state = State::new(&layout);
        }
        let input = Input::Write {
            window: Window::Config,
            register,
            value: u32::MAX,
            enables: ByteEnables::ALL,
        };
        step(&layout, &mut state, input, &mut effects);
        for effect in effects.iter() {
            if let Effect::HardwareWrite {
                register: at,
                enables,
                value,
                keep,
            } = effect
            {
                prop_assert!(
                    !matches!(at * 4, 0x00 | 0x08 | 0x10..0x34),
                    "{:#x} is written",
                    at * 4
                );
                prop_assert_eq!(at, register);
                prop_assert_eq!(value & keep, 0);
                prop_assert_eq!((value | keep) & !enables.mask(), 0);
            }
        }
    }
    prop_assert!(state.restore(&layout).is_ok());
    Ok(())
}

/// Whatever the page, its virtual view has chains that break no rule.
fn check_virtual(page: &[u8]) -> Result<(), TestCaseError> {
    let Ok((layout, _)) = Layout::from_dump_in(page, View::Virtual) else {
        return Ok(());
    };
    let state = State::new(&layout);
    let words = layout.config_bytes() / 4;
    let shown: Vec<u8> = (0..words)
        .flat_map(|n| read(&layout, &state, Window::Config, n).to_le_bytes())
        .collect();
    let wrong = walk(&shown).find(|item| matches!(item, Item::Finding(_)));
    prop_assert_eq!(wrong, None);
    prop_assert!(state.restore(&layout).is_ok());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_walked_to_an_end_and_decoded_as_it_is(page in noise()) {
        check(&page)?;
    }

    #[test]
    fn a_damaged_page_is_walked_to_an_end_and_decoded_as_it_is(page in damaged()) {
        check(&page)?;
    }
}
