//! Blueprints that break a rule are refused, with the rule; tables are in order.

mod common;

use common::{ALL, Device, EDU, NVME};
use uvfio_pci::{
    Access, Blueprint, BlueprintError, Capability, Extended, Identity, Interrupt, Layout, View, Window,
    tables,
};

fn refused(blueprint: &Blueprint<'_>) -> Option<BlueprintError> {
    Layout::compile(blueprint, View::Virtual).err()
}

fn with(capabilities: &[Capability<'_>]) -> Option<BlueprintError> {
    refused(&Blueprint { capabilities, ..EDU })
}

fn extended(extended: &[Extended<'_>]) -> Option<BlueprintError> {
    refused(&Blueprint { extended, ..NVME })
}

const PM: Capability<'_> = Capability::PowerManagement { no_soft_reset: true };

#[test]
fn what_may_be_there_once_is_refused_twice() {
    let twice = |error| matches!(error, Some(BlueprintError::Twice { .. }));
    assert!(twice(with(&[PM, Capability::AdvancedFeatures, PM])));
    assert!(twice(extended(&[Extended::Aer, Extended::Aer])));
    assert!(twice(extended(&[
        Extended::SerialNumber(1),
        Extended::SerialNumber(2)
    ])));
    let vendor = Capability::Vendor {
        body: &[1],
        writable: &[0],
    };
    assert_eq!(with(&[vendor, vendor]), None, "a vendor may have several");
}

#[test]
fn capabilities_that_do_not_fit_are_refused() {
    let body = [0; 4096];
    let vendor = |bytes| Capability::Vendor {
        body: &body[..bytes],
        writable: &body[..bytes],
    };
    assert_eq!(with(&[vendor(189)]), None, "0x40 to 0x100, header included");
    assert_eq!(with(&[vendor(190)]), Some(BlueprintError::NoRoom));
    assert_eq!(
        with(&[vendor(180), PM]),
        None,
        "power management from 0xf8 to 0x100"
    );
    assert_eq!(with(&[vendor(182), PM]), Some(BlueprintError::NoRoom));
    assert_eq!(with(&[vendor(4096)]), Some(BlueprintError::NoRoom));
    let vsec = |bytes| Extended::Vendor {
        id: 0,
        revision: 0,
        body: &body[..bytes],
        writable: &body[..bytes],
    };
    assert_eq!(extended(&[vsec(0xf00 - 8)]), None);
    assert_eq!(extended(&[vsec(0xf00 - 7)]), Some(BlueprintError::NoRoom));
    assert_eq!(
        extended(&[vsec(0xf00 - 8), Extended::Aer]),
        Some(BlueprintError::NoRoom)
    );
}

#[test]
fn counts_out_of_their_range_are_refused() {
    let range = |error| matches!(error, Some(BlueprintError::OutOfRange { .. }));
    for messages in [0, 3, 33, 64, 255] {
        let msi = Capability::Msi {
            messages,
            wide: true,
            maskable: true,
        };
        assert!(range(with(&[msi])), "{messages} MSI messages");
    }
    let lengths = Capability::Vendor {
        body: &[1, 2],
        writable: &[0],
    };
    assert!(range(with(&[lengths])), "a body and its writable bits");
    let pin = Blueprint {
        identity: Identity {
            interrupt_pin: 5,
            ..EDU.identity
        },
        ..EDU
    };
    assert!(range(refused(&pin)), "interrupt pin 5");
}

#[test]
fn errors_read_as_sentences() {
    for (error, sentence) in [
        (
            BlueprintError::BarPair { bar: 5 },
            "64-bit BAR 5 needs the slot after it, free",
        ),
        (
            BlueprintError::NoRoom,
            "the capabilities do not fit into configuration space",
        ),
        (
            BlueprintError::Twice { what: "a capability" },
            "a capability is declared twice",
        ),
    ] {
        assert_eq!(error.to_string(), sentence);
    }
}

#[test]
fn without_capabilities_there_is_no_chain() {
    let device = Device::new(&Blueprint {
        capabilities: &[],
        ..EDU
    });
    assert_eq!(device.r16(0x06), 0, "STATUS without the capabilities list");
    assert_eq!(device.r8(0x34), 0);
    assert_eq!(device.layout.config_bytes(), 256);
    assert_eq!(device.layout.vectors(Interrupt::Msi), 0);
    for window in [Window::MsixTable, Window::MsixPba] {
        assert_eq!(device.layout.window_bytes(window), 0);
        assert_eq!(device.layout.window_span(window), None);
    }
}

#[test]
fn a_layout_tells_the_vectors_of_each_kind() {
    let vectors = |device: &Device| {
        [Interrupt::Intx, Interrupt::Msi, Interrupt::MsiX].map(|kind| device.layout.vectors(kind))
    };
    let wanted = [
        ("edu", [1, 1, 0]),
        ("nvme", [1, 0, 33]),
        ("everything", [1, 32, 100]),
        ("plain", [1, 4, 0]),
    ];
    for ((name, blueprint), wanted) in ALL.iter().zip(wanted) {
        assert_eq!((*name, vectors(&Device::new(blueprint))), wanted);
    }
}

#[test]
fn placed_tables_do_not_overlap() {
    for (name, blueprint) in ALL {
        let device = Device::new(&blueprint);
        let mut owner = vec![None; usize::from(device.layout.config_bytes()) * 8];
        for placed in device.layout.placed() {
            for copy in 0..placed.copies {
                let offset = placed.offset + copy * placed.table.bytes();
                for field in placed.table.fields {
                    let place = field.place(offset);
                    for bit in (0..32).filter(|bit| place.mask >> bit & 1 != 0) {
                        let before = owner[usize::from(place.word) * 32 + bit].replace(field.name);
                        assert_eq!(before, None, "{name}: {} at {offset:#x} overlaps", field.name);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_in_order_and_say_something() {
    for table in tables::ALL {
        let mut last = None;
        assert!(
            !table.doc.is_empty() && !table.section.is_empty(),
            "{}",
            table.name
        );
        for field in table.fields {
            let what = format!("{}: {}", table.name, field.name);
            assert!(!field.doc.is_empty() && !field.section.is_empty(), "{what}");
            assert!(field.doc.ends_with('.'), "{what}: {:?} is no sentence", field.doc);
            let place = (field.register, field.lsb);
            assert!(last < Some(place), "{what} stands after what follows it");
            last = Some(place);
            let reserved = matches!(field.access, Access::RsvdP | Access::RsvdZ);
            assert!(
                !reserved
                    || field
                        .views
                        .iter()
                        .all(|view| *view == uvfio_pci::Treatment::Hidden),
                "{what}"
            );
        }
    }
}
