//! What a device's own capability chains may look like, and what the walk makes of them.

use uvfio_pci::chain::{Finding, Found, Item, walk};
use uvfio_pci::{DumpError, Layout};

/// A page of `bytes` zeros with a type 0 header whose chain starts at `first`.
fn page(bytes: usize, first: u8) -> Vec<u8> {
    let mut page = vec![0; bytes];
    page[0..4].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
    page[0x06] = 0x10;
    page[0x34] = first;
    page
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

fn found(page: &[u8]) -> Vec<Found<'_>> {
    let capabilities = walk(page).filter_map(|item| match item {
        Item::Capability(found) => Some(found),
        Item::Finding(_) => None,
    });
    capabilities.collect()
}

fn findings(page: &[u8]) -> Vec<Finding> {
    let findings = walk(page).filter_map(|item| match item {
        Item::Capability(_) => None,
        Item::Finding(finding) => Some(finding),
    });
    findings.collect()
}

/// (offset, ID, length, whole)
fn shape(page: &[u8]) -> Vec<(u16, u16, usize, bool)> {
    found(page)
        .iter()
        .map(|found| (found.offset, found.id, found.bytes.len(), found.whole))
        .collect()
}

#[test]
fn a_good_chain_is_given_in_its_order_with_the_lengths_of_the_specification() {
    let mut page = page(256, 0x80);
    put(&mut page, 0x80, &[0x01, 0x40, 0x03, 0x00]); // power management
    put(&mut page, 0x40, &[0x05, 0x60, 0x80, 0x01]); // MSI, 64-bit, maskable
    put(&mut page, 0x60, &[0x11, 0x00, 0x03, 0x00]); // MSI-X
    assert_eq!(findings(&page), []);
    assert_eq!(
        shape(&page),
        [
            (0x80, 0x01, 8, true),
            (0x40, 0x05, 24, true),
            (0x60, 0x11, 12, true)
        ]
    );
}

#[test]
fn both_chains_of_an_express_function_are_walked() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0x10, 0x00, 0x02, 0x00]);
    put(&mut page, 0x100, &[0x01, 0x00, 0x02, 0x20]); // AER, version 2, next 0x200
    put(&mut page, 0x200, &[0x03, 0x00, 0x01, 0x00]); // serial number
    assert_eq!(findings(&page), []);
    let found = found(&page);
    let kinds: Vec<_> = found.iter().map(|f| (f.offset, f.extended, f.version)).collect();
    assert_eq!(kinds, [(0x40, false, 0), (0x100, true, 2), (0x200, true, 1)]);
    assert_eq!(shape(&page)[0], (0x40, 0x10, 0x3c, true));
    assert_eq!(shape(&page)[1], (0x100, 0x01, 0x2c, true));
    assert_eq!(shape(&page)[2], (0x200, 0x03, 12, true));
}

#[test]
fn an_unknown_structure_goes_up_to_the_next_one_or_the_end_of_its_part() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0x7e, 0xf0]);
    put(&mut page, 0xf0, &[0x7f, 0x00]);
    put(&mut page, 0x100, &[0x77, 0x77, 0x01, 0x00]);
    assert_eq!(findings(&page), []);
    assert_eq!(
        shape(&page),
        [
            (0x40, 0x7e, 0xb0, false),
            (0xf0, 0x7f, 0x10, false),
            (0x100, 0x7777, 0xf00, false)
        ]
    );
}

#[test]
fn without_the_capabilities_list_bit_there_is_no_chain() {
    let mut page = page(256, 0x40);
    page[0x06] = 0;
    put(&mut page, 0x40, &[0x01, 0x00]);
    assert_eq!(walk(&page).count(), 0);
}

#[test]
fn a_chain_that_bites_its_tail_ends_with_a_finding() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0x01, 0x50]);
    put(&mut page, 0x50, &[0x11, 0x40]);
    put(&mut page, 0x100, &[0x03, 0x00, 0x01, 0x10]); // points to itself
    assert_eq!(
        findings(&page),
        [
            Finding::Loop { from: 0x51, to: 0x40 },
            Finding::Loop {
                from: 0x100,
                to: 0x100
            }
        ]
    );
    assert_eq!(found(&page).len(), 3);
}

#[test]
fn an_unaligned_pointer_is_followed_without_its_reserved_bits() {
    let mut page = page(256, 0x43);
    put(&mut page, 0x40, &[0x01, 0x00]);
    assert_eq!(findings(&page), [Finding::Unaligned { from: 0x34, to: 0x43 }]);
    assert_eq!(shape(&page), [(0x40, 0x01, 8, true)]);
}

#[test]
fn a_pointer_into_the_header_ends_the_chain() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0x01, 0x10]);
    put(&mut page, 0x100, &[0x03, 0x00, 0x01, 0x04]); // next 0x040
    assert_eq!(
        findings(&page),
        [
            Finding::IntoHeader { from: 0x41, to: 0x10 },
            Finding::IntoHeader {
                from: 0x100,
                to: 0x40
            }
        ]
    );
}

#[test]
fn a_structure_of_all_ones_ends_the_chain() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0xff; 4]);
    put(&mut page, 0x100, &[0xff; 4]);
    assert_eq!(
        findings(&page),
        [Finding::AllOnes { at: 0x40 }, Finding::AllOnes { at: 0x100 }]
    );
    assert!(found(&page).is_empty());
}

#[test]
fn a_structure_that_runs_into_another_is_cut_there() {
    let mut page = page(256, 0x40);
    put(&mut page, 0x40, &[0x11, 0x48]); // MSI-X needs 12 bytes
    put(&mut page, 0x48, &[0x01, 0x00]);
    assert_eq!(
        findings(&page),
        [Finding::Overlap {
            at: 0x40,
            other: 0x48
        }]
    );
    assert_eq!(shape(&page), [(0x40, 0x11, 8, false), (0x48, 0x01, 8, true)]);
}

#[test]
fn a_length_past_the_end_is_cut_there() {
    let mut page = page(4096, 0xf0);
    put(&mut page, 0xf0, &[0x09, 0x00, 0x20]); // 32 bytes
    put(
        &mut page,
        0x100,
        &[0x0b, 0x00, 0x01, 0x00, 0x02, 0x00, 0x10, 0xff],
    ); // 0xff1 bytes
    assert_eq!(
        findings(&page),
        [
            Finding::PastEnd { at: 0xf0, length: 32 },
            Finding::PastEnd {
                at: 0x100,
                length: 0xff1
            }
        ]
    );
    assert_eq!(
        shape(&page),
        [(0xf0, 0x09, 16, false), (0x100, 0x0b, 0xf00, false)]
    );
}

#[test]
fn a_vendors_length_below_its_header_is_not_believed() {
    let mut page = page(4096, 0x40);
    put(&mut page, 0x40, &[0x09, 0x00, 0x02]);
    put(
        &mut page,
        0x100,
        &[0x23, 0x00, 0x01, 0x00, 0x86, 0x80, 0x90, 0x00],
    ); // DVSEC of 9 bytes
    assert_eq!(
        findings(&page),
        [
            Finding::TooShort { at: 0x40, length: 2 },
            Finding::TooShort { at: 0x100, length: 9 }
        ]
    );
}

#[test]
fn only_the_first_of_a_capability_that_is_there_once_counts() {
    let mut page = page(256, 0x40);
    put(&mut page, 0x40, &[0x11, 0x50]);
    put(&mut page, 0x50, &[0x09, 0x60, 0x04]);
    put(&mut page, 0x60, &[0x09, 0x70, 0x04]); // vendors may have several
    put(&mut page, 0x70, &[0x11, 0x00]);
    assert_eq!(
        findings(&page),
        [Finding::Duplicate {
            at: 0x70,
            first: 0x40,
            id: 0x11
        }]
    );
    assert_eq!(found(&page).len(), 3);
}

#[test]
fn the_first_64_bytes_alone_say_that_the_chain_goes_on() {
    let page = page(64, 0x40);
    assert_eq!(findings(&page), [Finding::Truncated { from: 0x34, to: 0x40 }]);
}

#[test]
fn no_device_and_strange_headers_have_no_chain() {
    assert_eq!(findings(&[0xff; 256]), [Finding::NoDevice]);
    let mut page = page(256, 0x40);
    page[0x0e] = 0x02;
    assert_eq!(findings(&page), [Finding::HeaderLayout { layout: 2 }]);
    assert_eq!(
        Layout::from_dump(&page).err(),
        Some(DumpError::HeaderLayout { layout: 2 })
    );
    assert_eq!(Layout::from_dump(&[0xff; 64]).err(), Some(DumpError::NoDevice));
    assert_eq!(
        Layout::from_dump(&[0; 65]).err(),
        Some(DumpError::Length { bytes: 65 })
    );
}

#[test]
fn findings_read_as_sentences() {
    let sentences = [
        (
            Finding::Loop { from: 0x51, to: 0x40 },
            "the pointer at 0x051 leads to 0x040, where the chain has been before: it is a loop",
        ),
        (
            Finding::PastEnd { at: 0xf0, length: 32 },
            "the structure at 0x0f0 has 32 bytes, more than there are up to the end",
        ),
        (
            Finding::Duplicate {
                at: 0x70,
                first: 0x40,
                id: 0x11,
            },
            "capability 0x11 is there once more at 0x070; only the one at 0x040 counts",
        ),
    ];
    for (finding, sentence) in sentences {
        assert_eq!(finding.to_string(), sentence);
    }
}
