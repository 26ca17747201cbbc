//! PRPs against a reference that resolves the whole list first, page by page.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Memory of pages that exist where they were touched; elsewhere there is a hole.
#[derive(Debug, Default)]
struct Pages {
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
    reads: RefCell<u64>,
}

impl Pages {
    fn fill(&self, iova: u64, data: &[u8]) {
        for (start, span) in spans(iova, data.len()) {
            let mut pages = self.pages.borrow_mut();
            let page = pages
                .entry(start / PAGE)
                .or_insert_with(|| vec![0; PAGE as usize]);
            page[(start % PAGE) as usize..][..span.len()].copy_from_slice(&data[span]);
        }
    }

    fn byte(&self, address: u64) -> Option<u8> {
        Some(self.pages.borrow().get(&(address / PAGE))?[(address % PAGE) as usize])
    }
}

/// A range cut at pages: where each part begins, and which of the data it is.
fn spans(iova: u64, bytes: usize) -> Vec<(u64, std::ops::Range<usize>)> {
    let mut parts = vec![];
    let mut done = 0;
    while done < bytes {
        let start = iova.wrapping_add(done as u64);
        let now = ((PAGE - start % PAGE) as usize).min(bytes - done);
        parts.push((start, done..done + now));
        done += now;
    }
    parts
}

impl Memory for Pages {
    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault> {
        *self.reads.borrow_mut() += 1;
        let hole = || uvfio_core::DmaError::NotMapped {
            iova,
            bytes: 0,
            write: false,
        };
        let pages = self.pages.borrow();
        iova.checked_add(data.len() as u64).ok_or_else(hole)?;
        for (start, span) in spans(iova, data.len()) {
            let page = pages.get(&(start / PAGE)).ok_or_else(hole)?;
            let bytes = span.len();
            data[span].copy_from_slice(&page[(start % PAGE) as usize..][..bytes]);
        }
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        let hole = || uvfio_core::DmaError::NotMapped {
            iova,
            bytes: 0,
            write: true,
        };
        iova.checked_add(data.len() as u64).ok_or_else(hole)?;
        for (start, _) in spans(iova, data.len()) {
            self.byte(start).ok_or_else(hole)?;
        }
        self.fill(iova, data);
        Ok(())
    }
}

/// Where each byte of a command's data lies, by section 4.3 read literally; none where the PRPs break a rule.
fn reference(pages: &Pages, prp1: u64, prp2: u64, bytes: u64) -> Option<Vec<u64>> {
    let entry = |at: u64| {
        let bytes: Option<Vec<u8>> = (at..at + 8).map(|address| pages.byte(address)).collect();
        Some(u64::from_le_bytes(bytes?.try_into().ok()?))
    };
    let first = PAGE - prp1 % PAGE;
    let mut starts = vec![];
    let more = bytes.saturating_sub(first).div_ceil(PAGE);
    if more == 1 {
        starts.push(prp2);
    } else if more > 1 {
        let mut at = prp2;
        while (starts.len() as u64) < more {
            let last_slot = at % PAGE == PAGE - 8;
            let value = entry(at)?;
            if last_slot && more - starts.len() as u64 > 1 {
                at = value;
            } else {
                starts.push(value);
                at += 8;
            }
        }
    }
    let rest = starts.into_iter().flat_map(|start| start..start + PAGE);
    Some((prp1..prp1 + first).chain(rest).take(bytes as usize).collect())
}

/// Data pages somewhere, and a list of them that begins at slot `slot` of its first page, as PRP1 and PRP2.
fn layout(memory: &Pages, order: &[u64], offset: u64, bytes: u64, slot: u64) -> (u64, u64) {
    let base = 0x10_0000_0000;
    let page = |number: u64| base + number * PAGE;
    let pages = (offset + bytes).div_ceil(PAGE) as usize;
    let data: Vec<u64> = (0..pages)
        .map(|number| page(order[number % order.len()] * 300 + number as u64))
        .collect();
    for start in &data {
        memory.fill(*start, &[0; PAGE as usize]);
    }
    let prp1 = data[0] + offset;
    match &data[1..] {
        [] => (prp1, 0),
        [second] => (prp1, *second),
        rest => {
            let lists = 0x20_0000_0000;
            let mut at = lists + 8 * slot;
            let mut list = 1;
            for (number, start) in rest.iter().enumerate() {
                if at % PAGE == PAGE - 8 && number + 1 < rest.len() {
                    let next = lists + 2 * PAGE * list;
                    list += 1;
                    memory.fill(at, &next.to_le_bytes());
                    at = next;
                }
                memory.fill(at, &start.to_le_bytes());
                at += 8;
            }
            (prp1, lists + 8 * slot)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn data_go_where_the_list_says_in_pieces_of_any_size(
        order in prop::collection::vec(0..8u64, 1..20),
        offset in (0..1024u64).prop_map(|dword| 4 * dword),
        bytes in prop_oneof![1..20_000u64, 1..300_000u64],
        slot in prop_oneof![Just(0), Just(511), 500..512u64, 0..512u64],
        piece in prop_oneof![Just(32_768usize), 1..10_000usize],
    ) {
        let memory = Pages::default();
        let (prp1, prp2) = layout(&memory, &order, offset, bytes, slot);
        let places = reference(&memory, prp1, prp2, bytes).unwrap();
        let data: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8 + 1).collect();
        let mut prps = Prps::new(prp1, prp2, bytes);
        for part in data.chunks(piece) {
            prop_assert_eq!(prps.scatter(&memory, part), Ok(()));
        }
        for (number, place) in places.iter().enumerate() {
            prop_assert_eq!(memory.byte(*place), Some(data[number]), "byte {} at {:#x}", number, place);
        }
        let touched: usize = memory
            .pages
            .borrow()
            .range(..0x20_0000_0000 / PAGE)
            .map(|(_, page)| page.iter().filter(|byte| **byte != 0).count())
            .sum();
        prop_assert_eq!(touched as u64, bytes, "bytes written");

        let mut back = vec![0; data.len()];
        let mut prps = Prps::new(prp1, prp2, bytes);
        for part in back.chunks_mut(piece) {
            prop_assert_eq!(prps.gather(&memory, part), Ok(()));
        }
        prop_assert!(back == data, "what is gathered differs from what was scattered");
    }

    #[test]
    fn any_prps_end_within_the_bound_that_the_length_sets(
        prp1 in any::<u64>(),
        prp2 in any::<u64>(),
        garbage in prop::collection::vec(any::<u64>(), 1..8),
        bytes in 1..1_048_576u64,
    ) {
        let memory = Pages::default();
        for page in [prp1 / PAGE, prp2 / PAGE] {
            let list: Vec<u8> = (0..512).flat_map(|n| (garbage[n % garbage.len()] & !(PAGE - 1)).to_le_bytes()).collect();
            memory.fill(page * PAGE, &list);
        }
        let mut data = vec![0; bytes as usize];
        let outcome = Prps::new(prp1, prp2, bytes).gather(&memory, &mut data);
        let reads = *memory.reads.borrow();
        // A page a read, a batch of the list a read, and what is read of the next list page.
        let bound = 2 * bytes.div_ceil(PAGE) + 8;
        prop_assert!(reads <= bound, "{reads} reads for {bytes} bytes, more than {bound}: {outcome:?}");
    }
}

#[test]
fn entries_with_offsets_are_refused_by_name() {
    let memory = Pages::default();
    memory.fill(0x1000, &[0; 3 * PAGE as usize]);
    memory.fill(0x1000, &0x3004u64.to_le_bytes());
    let mut data = vec![0; 3 * PAGE as usize];
    for (prp1, prp2, bytes) in [
        (0x2002, 0, 8),
        (0x2000, 0x3010, 8192),
        (0x2000, 0x1004, 12288),
        (0x2000, 0x1000, 12288),
    ] {
        let outcome = Prps::new(prp1, prp2, bytes).gather(&memory, &mut data[..bytes as usize]);
        assert_eq!(
            outcome,
            Err(Failure::Status(Status::INVALID_PRP_OFFSET)),
            "PRP1 {prp1:#x} PRP2 {prp2:#x} for {bytes} bytes"
        );
    }
}

#[test]
fn neighbouring_pages_are_moved_in_one_go() {
    let memory = Pages::default();
    memory.fill(0x10000, &[0; 8 * PAGE as usize]);
    let list: Vec<u8> = (0x11..0x18u64)
        .flat_map(|page| (page * PAGE).to_le_bytes())
        .collect();
    memory.fill(0x1000, &list);
    let mut data = vec![0; 8 * PAGE as usize];
    assert_eq!(
        Prps::new(0x10000, 0x1000, 8 * PAGE).gather(&memory, &mut data),
        Ok(())
    );
    assert_eq!(
        *memory.reads.borrow(),
        2,
        "one read of the list and one of the data"
    );
}
