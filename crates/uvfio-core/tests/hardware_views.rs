//! The views that show the registers of a function that exists: when the hardware is asked, and when it is not.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;

use std::time::Duration;

use common::{COMMAND, CONFIG, MASTER, MEMORY, Recorder, Told, User, VECTORS, eventually};
use uvfio_core::GoneReason;
use uvfio_pci::{PowerState, ResetKind, View};

/// A header without capabilities, and bytes of the function's own.
fn function() -> Recorder {
    let mut page = vec![0; 256];
    page[..4].copy_from_slice(&[0x34, 0x12, 0xcd, 0xab]);
    page[4] = 0x02;
    page[8..12].copy_from_slice(&[1, 0, 0, 0xff]);
    page[0x3d] = 1;
    page[0x10..0x14].copy_from_slice(&[0, 0, 0, 0xfe]);
    page[0x80..0x84].copy_from_slice(&[0xd0, 0xd1, 0xd2, 0xd3]);
    Recorder {
        page: Some(page),
        ..Recorder::default()
    }
}

#[test]
fn the_virtual_view_never_asks_the_hardware() {
    let user = User::of(function());
    let _: [u8; 256] = user.read(CONFIG, 0);
    for offset in 0x40..=252 {
        user.write(CONFIG, offset, &[0xff; 4]);
    }
    let asked = |told: &Told| matches!(told, Told::ConfigRead(..) | Told::ConfigWrite(..));
    assert!(!user.device.news().iter().any(asked));
}

#[test]
fn a_read_asks_for_the_bytes_that_it_covers_and_a_write_reaches_no_others() {
    for view in [View::Filtered, View::Raw] {
        let user = User::seeing(function(), view);
        assert_eq!(user.read::<3>(CONFIG, 0x81), [0xd1, 0xd2, 0xd3], "{view:?}");
        assert_eq!(user.device.news(), [Told::ConfigRead(0x20, 0xe)], "{view:?}");
        assert_eq!(user.read::<4>(CONFIG, 0), [0x34, 0x12, 0xcd, 0xab], "{view:?}");
        assert_eq!(user.device.news(), [], "{view:?}: the identity is known");
        user.write(CONFIG, 0x82, &[7, 8, 9]);
        assert_eq!(
            user.device.news(),
            [
                Told::ConfigWrite(0x20, 0xc, 0x0807_0000, 0),
                Told::ConfigWrite(0x21, 0x1, 9, 0)
            ],
            "{view:?}"
        );
    }
}

#[test]
fn no_interrupt_is_offered_that_the_view_does_not_have() {
    // The function has a pin, and MSI and MSI-X; its page has no capability that would show these.
    let counts = |user: &User| [0, 1, 2].map(|index| user.virt.irq_info(index).unwrap().count);
    assert_eq!(counts(&User::of(function())), [1, 16, VECTORS.into()]);
    for view in [View::Filtered, View::Raw] {
        let user = User::seeing(function(), view);
        assert_eq!(counts(&user), [0, 0, 0], "{view:?}");
        assert_eq!(user.read::<1>(CONFIG, 0x3d), [0], "{view:?}: the interrupt pin");
    }
}

#[test]
fn a_bar_is_moved_in_the_raw_view_only() {
    for (view, told) in [
        (View::Filtered, &[][..]),
        (View::Raw, &[Told::ConfigWrite(4, 0xf, 0xdead_0000, 0)]),
    ] {
        let user = User::seeing(function(), view);
        user.write(CONFIG, 0x10, &0xdead_0000_u32.to_le_bytes());
        assert_eq!(user.device.news(), told, "{view:?}");
    }
}

#[test]
fn bus_mastering_goes_by_its_own_way_and_memory_space_is_written() {
    let user = User::seeing(function(), View::Filtered);
    user.command(MEMORY | MASTER);
    assert_eq!(
        user.device.news(),
        [
            Told::BusMaster(true),
            // Bus mastering and what is reserved keep what they hold; so do the bits that are not the view's.
            Told::ConfigWrite(1, 0x3, 0x0002, 0xfebc)
        ]
    );
    let _: [u8; 4] = user.read(0, 0);
    assert_eq!(user.device.news(), [Told::Read(0, 0, 4)], "the BAR answers");
    user.command(0);
    user.device.news();
    assert_eq!(user.read::<4>(0, 0), [0xff; 4]);
    assert_eq!(user.device.news(), [], "the BAR does not answer");
}

#[test]
fn while_it_is_reset_the_hardware_is_neither_asked_nor_written() {
    let user = User::seeing(function(), View::Filtered);
    user.command(MEMORY | MASTER);
    user.device.news();
    user.device.hold();
    let _ = user.virt.reset(Duration::ZERO);
    user.device.wait_until_resetting();
    assert_eq!(
        user.device.news(),
        [Told::BusMaster(false), Told::Reset(ResetKind::FunctionLevel)]
    );
    assert_eq!(user.read16(COMMAND), MEMORY | MASTER, "the model answers");
    user.write(CONFIG, 0x80, &[1]);
    assert_eq!(user.device.news(), []);
    user.device.release();
    eventually("the function decodes as its user had it", || {
        let told = user.device.told();
        told.contains(&Told::ConfigWrite(1, 0x1, 0x02, 0xfc)) && told.contains(&Told::BusMaster(true))
    });
    user.virt.settle();
    user.device.news();
    user.read16(COMMAND);
    assert_eq!(
        user.device.news(),
        [Told::ConfigRead(1, 0x3)],
        "the hardware answers again"
    );
}

#[test]
fn a_function_that_is_gone_is_neither_asked_nor_written() {
    let user = User::seeing(function(), View::Raw);
    user.virt.gone(GoneReason::Revoked, false);
    user.device.news();
    assert_eq!(user.read::<8>(CONFIG, 0), [0xff; 8]);
    user.write(CONFIG, 0x80, &[1, 2, 3, 4]);
    assert_eq!(user.device.news(), []);
}

#[test]
fn a_software_device_is_its_own_hardware_in_every_view() {
    let user = User::seeing(Recorder::default(), View::Raw);
    user.command(MEMORY);
    assert_eq!(user.read16(COMMAND), MEMORY);
    let power = user.capability(1) + 4;
    user.write(CONFIG, power, &[3, 0]);
    eventually("the power state changes", || {
        user.device
            .told()
            .contains(&Told::Power(PowerState::D0, PowerState::D3hot))
    });
    let asked = |told: &Told| matches!(told, Told::ConfigRead(..) | Told::ConfigWrite(..));
    assert!(!user.device.news().iter().any(asked));
}

#[test]
fn when_its_user_has_gone_the_registers_that_it_could_write_are_put_back() {
    let mut device = function();
    let quiet = device.page.clone();
    let user = {
        // What reads is what the last user left; the device says that it was otherwise.
        device.left = quiet.map(|mut page| {
            page[0x80] = 0xee;
            page[0x10] = 0xee;
            page
        });
        User::seeing(device, View::Filtered)
    };
    user.virt.detach().unwrap();
    let told = user.device.news();
    let writes: Vec<&Told> = told
        .iter()
        .filter(|told| matches!(told, Told::ConfigWrite(..)))
        .collect();
    assert_eq!(writes, [&Told::ConfigWrite(0x20, 0xf, 0xd3d2_d1d0, 0)]);
    let at = |wanted: &dyn Fn(&Told) -> bool| told.iter().position(wanted);
    let reset = at(&|told| *told == Told::Reset(ResetKind::Conventional));
    let write = at(&|told| matches!(told, Told::ConfigWrite(..)));
    let detach = at(&|told| *told == Told::Detach);
    assert!(reset < write && write < detach, "{told:?}");
}
