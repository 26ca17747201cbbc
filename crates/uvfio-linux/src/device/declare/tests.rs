//! Pages written by hand, from the specifications' drawings; offsets here are not the tables'.

use proptest::prelude::*;
use uvfio_pci::BlueprintError;

use super::*;

/// A page as QEMU's NVMe controller has it: a 64-bit BAR, then MSI-X, PCI Express and power management.
fn nvme() -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0x00, &[0x36, 0x1b, 0x10, 0x00, 0x07, 0x00, 0x10, 0x00]);
    put(&mut page, 0x08, &[0x02, 0x02, 0x08, 0x01]);
    put(&mut page, 0x10, &[0x04, 0x00, 0x80, 0xfe]);
    put(&mut page, 0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
    put(&mut page, 0x34, &[0x40]);
    put(&mut page, 0x3d, &[0x01]);
    // MSI-X: 65 vectors, table at 0x2000 and pending bits at 0x3000 of BAR 0.
    put(&mut page, 0x40, &[0x11, 0x80, 0x40, 0x00]);
    put(&mut page, 0x44, &[0x00, 0x20, 0x00, 0x00, 0x00, 0x30, 0x00, 0x00]);
    // PCI Express: version 2, endpoint, FLR.
    put(&mut page, 0x80, &[0x10, 0x60, 0x02, 0x00, 0x00, 0x80, 0x00, 0x10]);
    // Power management, the end of the chain: registers survive D3hot.
    put(&mut page, 0x60, &[0x01, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x00]);
    page
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

const NVME_BARS: [u64; 6] = [0x4000, 0, 0, 0, 0, 0];

fn seen(page: &[u8]) -> Seen<'_> {
    Seen {
        page,
        bars: NVME_BARS,
        messages: 0,
        vectors: 65,
        line: false,
        resettable: true,
    }
}

fn lie(page: &[u8]) -> Lie {
    Declared::new(&seen(page)).expect_err("a page that lies")
}

#[test]
fn the_interrupt_pin_is_shown_where_the_kernel_has_intx() {
    let page = nvme();
    let pin = |line| {
        let seen = Seen { line, ..seen(&page) };
        Declared::new(&seen).unwrap().blueprint().identity.interrupt_pin
    };
    assert_eq!([pin(false), pin(true)], [0, 1]);
    let mut page = page.clone();
    put(&mut page, 0x3d, &[0x05]);
    let lie = Declared::new(&Seen {
        line: true,
        ..seen(&page)
    })
    .unwrap_err();
    assert!(lie.to_string().contains("pin"), "{lie}");
}

#[test]
fn a_controller_is_declared_as_its_page_says_but_for_the_interrupt_pin() {
    let page = nvme();
    let declared = Declared::new(&seen(&page)).unwrap();
    let blueprint = declared.blueprint();
    let expected = Identity {
        vendor: 0x1b36,
        device: 0x0010,
        revision: 2,
        class: [1, 8, 2],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        interrupt_pin: 0,
    };
    assert_eq!(blueprint.identity, expected);
    let bar = Bar::Memory64 {
        bytes: 0x4000,
        prefetchable: false,
    };
    assert_eq!(
        blueprint.bars,
        [bar, Bar::None, Bar::None, Bar::None, Bar::None, Bar::None]
    );
    let expected = [
        Capability::MsiX {
            vectors: 65,
            table: BarSpan {
                bar: 0,
                offset: 0x2000,
            },
            pba: BarSpan {
                bar: 0,
                offset: 0x3000,
            },
        },
        Capability::Express {
            flr: true,
            integrated: false,
        },
        Capability::PowerManagement { no_soft_reset: true },
    ];
    assert_eq!(blueprint.capabilities, expected);
    assert_eq!(
        (declared.power, declared.express, declared.advanced),
        (Some(0x60), Some(0x80), None)
    );
    assert_eq!((blueprint.rom_bytes, blueprint.extended.len()), (0, 0));
}

#[test]
fn a_device_has_as_many_vectors_as_the_kernel_grants_and_none_where_it_grants_none() {
    let page = nvme();
    let msix = |vectors| {
        let declared = Declared::new(&Seen {
            vectors,
            ..seen(&page)
        })
        .unwrap();
        declared
            .capabilities
            .iter()
            .find_map(|capability| match capability {
                Capability::MsiX { vectors, .. } => Some(*vectors),
                _ => None,
            })
    };
    assert_eq!(
        [0, 1, 64, 65, 256].map(msix),
        [None, Some(1), Some(64), Some(65), Some(65)]
    );
}

#[test]
fn msi_has_a_power_of_two_of_messages_at_most_what_it_is_capable_of() {
    let mut page = nvme();
    // 64-bit address, capable of 16 messages, in the place of MSI-X.
    put(&mut page, 0x40, &[0x05, 0x80, 0x88, 0x00]);
    let msi = |messages| {
        let declared = Declared::new(&Seen {
            messages,
            ..seen(&page)
        })
        .unwrap();
        declared.capabilities.first().copied()
    };
    let has = |messages| {
        Some(Capability::Msi {
            messages,
            wide: true,
            maskable: false,
        })
    };
    assert_eq!([1, 3, 8, 15, 16, 32].map(msi), [1, 2, 8, 8, 16, 16].map(has));
    assert!(!matches!(msi(0), Some(Capability::Msi { .. })));
}

#[test]
fn a_function_level_reset_is_offered_where_the_kernel_can_reset() {
    let mut page = nvme();
    // Advanced features in the place of power management.
    put(&mut page, 0x60, &[0x13, 0x00, 0x06, 0x03, 0x00, 0x00]);
    let capabilities = |resettable| {
        let declared = Declared::new(&Seen {
            resettable,
            ..seen(&page)
        })
        .unwrap();
        declared.capabilities[1..].to_vec()
    };
    let express = |flr| Capability::Express {
        flr,
        integrated: false,
    };
    assert_eq!(capabilities(true), [express(true), Capability::AdvancedFeatures]);
    assert_eq!(capabilities(false), [express(false)]);
}

#[test]
fn bars_are_of_the_kind_that_their_registers_say() {
    let mut page = nvme();
    put(&mut page, 0x34, &[0]);
    put(&mut page, 0x10, &[0x08, 0x00, 0x00, 0xfe]); // 32-bit, prefetchable
    put(&mut page, 0x14, &[0x01, 0xc0, 0x00, 0x00]); // I/O
    put(&mut page, 0x1c, &[0x0c, 0x00, 0x00, 0x00]); // 64-bit, prefetchable
    let bars = [0x10_0000, 0x20, 0, 1 << 33, 0, 0];
    let declared = Declared::new(&Seen { bars, ..seen(&page) }).unwrap();
    let expected = [
        Bar::Memory32 {
            bytes: 0x10_0000,
            prefetchable: true,
        },
        Bar::Io { bytes: 0x20 },
        Bar::None,
        Bar::Memory64 {
            bytes: 1 << 33,
            prefetchable: true,
        },
        Bar::None,
        Bar::None,
    ];
    assert_eq!(declared.bars(), &expected);
}

#[test]
fn a_bar_that_cannot_be_is_refused_by_the_name_of_its_register() {
    let mut page = nvme();
    put(&mut page, 0x18, &[0x01, 0xc0]); // BAR 2: I/O
    put(&mut page, 0x1c, &[0x06]); // BAR 3: type 3
    put(&mut page, 0x24, &[0x04]); // BAR 5: 64-bit
    let refused = |bars: [u64; 6]| {
        Declared::new(&Seen { bars, ..seen(&page) })
            .unwrap_err()
            .to_string()
    };
    for (bars, expected) in [
        (
            [0x3000, 0, 0, 0, 0, 0],
            "BAR 0 (register 0x10): it has 0x3000 bytes, which is no power of two",
        ),
        (
            [u64::MAX, 0, 0, 0, 0, 0],
            "BAR 0 (register 0x10): it has 0xffffffffffffffff bytes, which is no power of two",
        ),
        (
            [8, 0, 0, 0, 0, 0],
            "BAR 0 (register 0x10): it has 0x8 bytes; a 64-bit memory BAR has 0x10",
        ),
        (
            [0x4000, 0x10, 0, 0, 0, 0],
            "BAR 1 (register 0x14): it is the upper half of the one before it",
        ),
        (
            [0x4000, 0, 0x200, 0, 0, 0],
            "BAR 2 (register 0x18): it has 0x200 bytes; an I/O BAR has 0x4 to 0x100",
        ),
        (
            [0x4000, 0, 0, 0x10, 0, 0],
            "BAR 3 (register 0x1c): its type is 3, which is reserved",
        ),
        (
            [0x4000, 0, 0, 0, 1 << 32, 0],
            "BAR 4 (register 0x20): it has 0x100000000 bytes; a 32-bit memory BAR",
        ),
        (
            [0x4000, 0, 0, 0, 0, 0x1000],
            "BAR 5 (register 0x24): it says that it has 64 bits, and no register follows",
        ),
    ] {
        let got = refused(bars);
        assert!(
            got.starts_with(expected),
            "{bars:#x?}: expected {expected:?} got {got:?}"
        );
    }
}

#[test]
fn chains_that_cannot_be_are_refused() {
    let with = |at, bytes: &[u8]| {
        let mut page = nvme();
        put(&mut page, at, bytes);
        lie(&page)
    };
    let chain = Lie::Chain;
    assert_eq!(with(0x61, &[0x40]), chain(Finding::Loop { from: 0x61, to: 0x40 }));
    assert_eq!(
        with(0x61, &[0x10]),
        chain(Finding::IntoHeader { from: 0x61, to: 0x10 })
    );
    assert_eq!(with(0x60, &[0xff; 4]), chain(Finding::AllOnes { at: 0x60 }));
    assert_eq!(with(0x0e, &[1]), Lie::Header { layout: 1 });
    assert_eq!(lie(&[0xff; PAGE]), chain(Finding::NoDevice));
    assert_eq!(lie(&[0; 64]), Lie::Short { bytes: 64 });
}

#[test]
fn more_messages_than_msi_can_have_are_presented_as_those_that_the_kernel_may_grant() {
    let mut page = nvme();
    put(&mut page, 0x61, &[0xd0]);
    // MSI of 64 bits. Multiple Message Capable: 32 messages, and two reserved encodings.
    for capable in [5, 6, 7] {
        put(&mut page, 0xd0, &[0x05, 0x00, 0x80 | capable << 1, 0x00]);
        let presented = Presented::of(&page, NVME_BARS, true).unwrap();
        let capabilities = presented.blueprint().capabilities;
        let messages = capabilities.iter().find_map(|capability| match capability {
            Capability::Msi { messages, .. } => Some(*messages),
            _ => None,
        });
        assert_eq!(messages, Some(32), "{capable}");
    }
}

#[test]
fn a_structure_that_is_cut_off_is_refused_if_it_is_one_to_be_shown() {
    let mut page = nvme();
    // Power management in the last dword, though it has 8 bytes.
    put(&mut page, 0x81, &[0xfc]);
    put(&mut page, 0xfc, &[0x01, 0x00, 0x03, 0x00]);
    let what = "the power management capability";
    assert_eq!(lie(&page), Lie::Cut { what, at: 0xfc });
    // The vendor's own, of 64 bytes there: nobody sees it.
    put(&mut page, 0xfc, &[0x09, 0x00, 0x40, 0x00]);
    let declared = Declared::new(&seen(&page)).unwrap();
    assert_eq!(declared.capabilities.len(), 2);
    assert_eq!(
        declared.oddities,
        [Finding::PastEnd {
            at: 0xfc,
            length: 0x40
        }]
    );
}

#[test]
fn all_of_the_hardwares_msix_structures_are_known_whatever_is_shown_of_them() {
    let page = nvme();
    for vectors in [0, 1, 65] {
        let declared = Declared::new(&Seen {
            vectors,
            ..seen(&page)
        });
        let spans = declared.unwrap().tables;
        // 65 entries of 16 bytes, and two times 64 bits.
        let expected = [(0, (0x2000, 0x2410)), (0, (0x3000, 0x3010))];
        assert_eq!(spans, expected, "{vectors} vectors shown");
    }
}

#[test]
fn an_msix_table_outside_its_bar_is_refused() {
    for (at, bytes) in [
        (0x44, [0x00, 0x40]),
        (0x48, [0x00, 0x20]),
        (0x44, [0x03, 0x20]),
        (0x48, [0x07, 0x30]),
    ] {
        let mut page = nvme();
        put(&mut page, at, &bytes);
        assert_eq!(
            lie(&page),
            Lie::Blueprint(BlueprintError::MsixSpan),
            "{bytes:#x?} at {at:#x}"
        );
    }
}

proptest! {
    #[test]
    fn random_pages_never_panic(
        page in prop::collection::vec(any::<u8>(), PAGE),
        header in any::<bool>(),
        bars in prop::array::uniform6(prop_oneof![Just(0), any::<u64>(), (0..64_u32).prop_map(|n| 1 << n)]),
        messages: u8,
        vectors: u16,
        resettable: bool,
    ) {
        let mut page = page;
        if header {
            // As far as the chain.
            page[..0x40].copy_from_slice(&nvme()[..0x40]);
        }
        if let Ok(declared) = Declared::new(&Seen { page: &page, bars, messages, vectors, line: resettable, resettable }) {
            prop_assert!(Layout::compile(&declared.blueprint(), View::Virtual).is_ok());
        }
    }

    #[test]
    fn a_page_with_one_changed_byte_is_declared_or_refused(at in 0..PAGE, byte: u8) {
        let mut page = nvme();
        page[at] = byte;
        if let Ok(declared) = Declared::new(&seen(&page)) {
            prop_assert_eq!(declared.blueprint().identity.interrupt_pin, 0);
        }
    }
}
