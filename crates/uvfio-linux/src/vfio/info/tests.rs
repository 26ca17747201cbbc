//! Answers written by hand, as vfio.h draws them, and hostile ones.

use proptest::prelude::*;

use super::*;

/// Numbers one after the other, in the machine's byte order: each as (how many bytes, value).
fn bytes(fields: &[(usize, u64)]) -> Vec<u8> {
    let field =
        |(width, value): &(usize, u64)| value.to_le_bytes().into_iter().take(*width).collect::<Vec<_>>();
    fields.iter().flat_map(field).collect()
}

/// argsz, flags, index, cap_offset, size, offset.
fn region(flags: u64, capabilities: &[u8]) -> Vec<u8> {
    let mut answer = bytes(&[(4, 0), (4, flags), (4, 2), (4, 32), (8, 0x10000), (8, 2 << 40)]);
    answer.extend(capabilities);
    answer
}

#[test]
fn a_region_without_capabilities_is_read_whatever_lies_where_they_would() {
    let info = RegionInfo::parse(&region(0x7, &[0xff; 8])).unwrap();
    let expected = RegionInfo {
        index: 2,
        size: 0x10000,
        offset: 2 << 40,
        readable: true,
        writable: true,
        mappable: true,
        areas: None,
        kind: None,
        msix_mappable: false,
    };
    assert_eq!(info, expected);
    let info = RegionInfo::parse(&region(0x1, &[])).unwrap();
    assert_eq!(
        (info.readable, info.writable, info.mappable),
        (true, false, false)
    );
}

#[test]
fn the_capabilities_of_a_region_are_read() {
    let mut capabilities = bytes(&[(2, 3), (2, 1), (4, 40)]);
    capabilities.extend(bytes(&[(2, 2), (2, 1), (4, 56), (4, 0x8000_8086), (4, 3)]));
    capabilities.extend(bytes(&[(2, 1), (2, 1), (4, 0), (4, 2), (4, 0)]));
    capabilities.extend(bytes(&[(8, 0), (8, 0x2000), (8, 0x4000), (8, 0xc000)]));
    let info = RegionInfo::parse(&region(0xf, &capabilities)).unwrap();
    assert_eq!(info.areas, Some(vec![(0, 0x2000), (0x4000, 0xc000)]));
    assert_eq!(
        info.kind,
        Some(RegionKind {
            kind: 0x8000_8086,
            subtype: 3
        })
    );
    assert!(info.msix_mappable);
}

#[test]
fn a_list_of_areas_that_is_longer_than_the_answer_is_refused() {
    let capabilities = bytes(&[
        (2, 1),
        (2, 1),
        (4, 0),
        (4, 0x1000_0000),
        (4, 0),
        (8, 0),
        (8, 0x2000),
    ]);
    let error = RegionInfo::parse(&region(0xf, &capabilities)).unwrap_err();
    let short = Malformed::Short {
        what: "list of areas",
        needs: 0x1_0000_0000,
        has: 16,
    };
    assert_eq!(error, short);
}

#[test]
fn only_what_lies_within_one_area_can_be_mapped() {
    let mut info = RegionInfo::parse(&region(0x7, &[])).unwrap();
    assert!(info.can_map(0, 0x10000) && info.can_map(0xf000, 0x1000));
    for (offset, size) in [(0, 0), (0, 0x10001), (0x10000, 1), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(!info.can_map(offset, size), "{size:#x} bytes at {offset:#x}");
    }
    info.areas = Some(vec![(0, 0x2000), (0x4000, u64::MAX)]);
    assert!(info.can_map(0x1000, 0x1000) && !info.can_map(0x1000, 0x1001) && !info.can_map(0x2000, 0x1000));
    // An area beyond the region, or beyond all addresses, makes nothing of it mappable.
    assert!(!info.can_map(0x10000, 0x1000) && !info.can_map(0x4000, 0x1000));
    info.mappable = false;
    assert!(!info.can_map(0, 0x1000));
}

#[test]
fn what_an_interrupt_can_do_is_read_from_its_flags() {
    let info = |flags| IrqInfo::parse(&bytes(&[(4, 16), (4, flags), (4, 2), (4, 65)]));
    let msix = IrqInfo {
        count: 65,
        eventfd: true,
        maskable: false,
        automasked: false,
        resizable: true,
    };
    assert_eq!(info(0x1), msix);
    assert_eq!(
        info(0x9),
        IrqInfo {
            resizable: false,
            ..msix
        }
    );
    assert_eq!(
        info(0x7),
        IrqInfo {
            maskable: true,
            automasked: true,
            ..msix
        }
    );
}

#[test]
fn what_a_device_is_is_read_from_its_flags() {
    let mut answer = bytes(&[(4, 36), (4, 0x83), (4, 9), (4, 5), (4, 24), (4, 0)]);
    answer.extend(bytes(&[(2, 5), (2, 1), (4, 0), (4, 0x3)]));
    let info = DeviceInfo::parse(&answer).unwrap();
    let expected = DeviceInfo {
        pci: true,
        reset: true,
        regions: 9,
        irqs: 5,
        atomic_completion: Some(3),
    };
    assert_eq!(info, expected);
    let info = DeviceInfo::parse(&bytes(&[(4, 24), (4, 0x2), (4, 9), (4, 5)])).unwrap();
    assert_eq!(
        (info.pci, info.reset, info.atomic_completion),
        (true, false, None)
    );
}

#[test]
fn address_ranges_of_an_iommu_and_its_smallest_page_are_read() {
    let mut answer = bytes(&[(4, 0), (4, 0x3), (8, 0x4020_1000), (4, 24), (4, 0)]);
    answer.extend(bytes(&[(2, 3), (2, 1), (4, 40), (4, 65535), (4, 0)]));
    answer.extend(bytes(&[(2, 1), (2, 1), (4, 0), (4, 2), (4, 0)]));
    answer.extend(bytes(&[
        (8, 0),
        (8, 0xfedf_ffff),
        (8, 0xfef0_0000),
        (8, u64::MAX),
    ]));
    let info = IommuInfo::parse(&answer).unwrap();
    assert_eq!(
        info.iova_ranges,
        Some(vec![0..=0xfedf_ffff, 0xfef0_0000..=u64::MAX])
    );
    assert_eq!(
        (info.mappings_left, info.smallest_page()),
        (Some(65535), Some(4096))
    );
    assert!(!info.dirty_tracking);
    let bare = IommuInfo::parse(&bytes(&[(4, 16), (4, 0), (8, 0x1000)])).unwrap();
    assert_eq!(
        (bare.smallest_page(), bare.page_sizes, bare.iova_ranges),
        (None, None, None)
    );
}

#[test]
fn functions_that_a_bus_reset_reaches_are_named_as_linux_names_them() {
    let mut answer = bytes(&[(4, 28), (4, 0), (4, 2)]);
    answer.extend(bytes(&[(4, 7), (2, 0), (1, 1), (1, 0)]));
    answer.extend(bytes(&[(4, 8), (2, 0x10), (1, 0xa), (1, 0x83)]));
    let info = HotResetInfo::parse(&answer).unwrap();
    let named: Vec<_> = info.functions.iter().map(|f| (f.group, f.to_string())).collect();
    assert_eq!(
        named,
        [(7, "0000:01:00.0".to_owned()), (8, "0010:0a:10.3".to_owned())]
    );
    answer[8] = 3;
    let short = Malformed::Short {
        what: "list of functions",
        needs: 24,
        has: 16,
    };
    assert_eq!(HotResetInfo::parse(&answer), Err(short));
}

/// Bytes that look like an answer often enough: flags that say capabilities follow, small numbers elsewhere.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![4 => 0..96u32, 1 => any::<u32>(), 1 => Just(0xf)];
    proptest::collection::vec(word, 0..40)
        .prop_map(|words| words.into_iter().flat_map(u32::to_ne_bytes).collect())
}

proptest! {
    #[test]
    fn any_answer_is_read_or_refused_and_no_list_is_longer_than_it(answer in answers()) {
        let _ = DeviceInfo::parse(&answer);
        let _ = IrqInfo::parse(&answer);
        if let Ok(RegionInfo { areas: Some(areas), .. }) = RegionInfo::parse(&answer) {
            prop_assert!(areas.len() * 16 <= answer.len());
        }
        if let Ok(IommuInfo { iova_ranges: Some(ranges), .. }) = IommuInfo::parse(&answer) {
            prop_assert!(ranges.len() * 16 <= answer.len());
        }
        if let Ok(info) = HotResetInfo::parse(&answer) {
            prop_assert!(info.functions.len() * 8 <= answer.len());
        }
    }

    #[test]
    fn what_can_be_mapped_lies_within_the_region(
        size in 0..0x4000u64,
        areas in proptest::option::of(proptest::collection::vec((0..0x5000u64, 0..0x5000u64), 0..4)),
        offset in prop_oneof![0..0x5000u64, any::<u64>()],
        bytes in prop_oneof![0..0x5000u64, any::<u64>()],
    ) {
        let mut info = RegionInfo::parse(&region(0x7, &[])).unwrap();
        (info.size, info.areas) = (size, areas.clone());
        let inside = |from: u64, count: u64| {
            offset >= from && u128::from(offset) + u128::from(bytes) <= u128::from(from) + u128::from(count)
        };
        let expected = bytes > 0 && inside(0, size)
            && areas.is_none_or(|areas| areas.iter().any(|(from, count)| inside(*from, *count)));
        prop_assert_eq!(info.can_map(offset, bytes), expected);
    }
}
