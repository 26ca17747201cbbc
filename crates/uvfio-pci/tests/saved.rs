//! A saved state: restored as it was, or refused where it could not have come about.

#![allow(clippy::expect_used, reason = "a test may fail")]

mod common;

use common::{Device, EDU, EVERYTHING, NVME};
use uvfio_pci::{Bar, Blueprint, Capability, Identity, Input, Interrupt, RestoreError, View};

/// What restoring `device`'s state under the layout of `blueprint` gives.
fn restore(device: &Device, blueprint: &Blueprint<'_>) -> Result<(), RestoreError> {
    let other = Device::new(blueprint);
    let restored = device.state.clone().restore(&other.layout)?;
    assert_eq!(restored, *device.state, "what is restored is what was saved");
    Ok(())
}

fn used() -> Device {
    let mut device = Device::new(&NVME);
    device.w16(0x04, 0x0547);
    device.w32(0x10, 0xfeb0_0000);
    device.w8(0x44, 3);
    device.input(Input::Enable {
        kind: Interrupt::MsiX,
        vectors: 33,
    });
    device.input(Input::Attach {
        kind: Interrupt::MsiX,
        vector: 32,
    });
    device.input(Input::VectorFired { vector: 31 });
    device.input(Input::IntxLevel { asserted: true });
    device.input(Input::Error {
        correctable: false,
        bit: 12,
        header: [1, 2, 3, 4],
    });
    device
}

#[test]
fn a_saved_state_is_restored_as_it_was() {
    assert_eq!(restore(&used(), &NVME), Ok(()));
    assert_eq!(restore(&Device::new(&EVERYTHING), &EVERYTHING), Ok(()));
}

#[test]
fn a_read_only_register_that_differs_is_refused_by_its_offset() {
    let identity = |identity| Blueprint { identity, ..NVME };
    for (other, offset) in [
        (
            identity(Identity {
                device: 0x0011,
                ..NVME.identity
            }),
            0x00,
        ),
        (
            identity(Identity {
                revision: 3,
                ..NVME.identity
            }),
            0x08,
        ),
        (
            identity(Identity {
                subsystem: 3,
                ..NVME.identity
            }),
            0x2c,
        ),
        (
            identity(Identity {
                interrupt_pin: 2,
                ..NVME.identity
            }),
            0x3c,
        ),
    ] {
        assert_eq!(
            restore(&used(), &other),
            Err(RestoreError { offset }),
            "{:x?}",
            other.identity
        );
    }
}

#[test]
fn an_address_that_the_bar_cannot_hold_is_refused() {
    let mut device = Device::new(&EDU);
    device.w32(0x10, 0xfeb0_0000);
    let mut larger = EDU;
    larger.bars[0] = Bar::Memory32 {
        bytes: 2 << 20,
        prefetchable: false,
    };
    assert_eq!(restore(&device, &larger), Err(RestoreError { offset: 0x10 }));
    device.w32(0x10, 0xfea0_0000);
    assert_eq!(restore(&device, &larger), Ok(()));
}

#[test]
fn bits_of_another_view_are_refused() {
    let mut raw = Device::seen(&NVME, View::Raw);
    assert_eq!(
        restore(&raw, &NVME),
        Ok(()),
        "as long as it holds nothing that the other can't"
    );
    raw.w16(0x64, 0x0040);
    assert_eq!(
        restore(&raw, &NVME),
        Err(RestoreError { offset: 0x64 }),
        "link control"
    );
}

#[test]
fn vectors_that_are_not_there_are_refused() {
    let msi = |messages| Blueprint {
        capabilities: match messages {
            4 => &[Capability::Msi {
                messages: 4,
                wide: true,
                maskable: false,
            }],
            _ => &[],
        },
        ..EDU
    };
    let mut device = Device::new(&msi(4));
    device.input(Input::Attach {
        kind: Interrupt::Msi,
        vector: 3,
    });
    assert_eq!(restore(&device, &msi(4)), Ok(()));
    let error = restore(&device, &msi(0)).expect_err("no MSI");
    assert!(error.offset < 0x100, "{error}");
    assert!(error.to_string().contains("register at 0x"), "{error}");
}
