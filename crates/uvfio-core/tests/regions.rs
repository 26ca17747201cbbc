//! Where region accesses lead, and what decides whether they get there.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;

use common::{COMMAND, CONFIG, IO, MASTER, MEMORY, ROM, Recorder, Told, User, VECTORS};
use rustix::fs::MemfdFlags;
use uvfio_core::{AccessError, region_index};
use uvfio_pci::{PowerState, ResetKind};

#[test]
fn an_access_of_any_offset_and_length_reaches_the_device_in_natural_pieces() {
    let user = User::awake();
    assert_eq!(
        user.read::<7>(0, 0x11),
        [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]
    );
    assert_eq!(
        user.device.news(),
        [
            Told::Read(0, 0x11, 1),
            Told::Read(0, 0x12, 2),
            Told::Read(0, 0x14, 4)
        ]
    );
    user.write(4, 0x1ff0, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(
        user.device.news(),
        [
            Told::Write(4, 0x1ff0, 8, 0x0807_0605_0403_0201),
            Told::Write(4, 0x1ff8, 1, 9)
        ]
    );
    user.write(1, 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        user.device.news(),
        [
            Told::Write(1, 8, 4, 0x0403_0201),
            Told::Write(1, 12, 4, 0x0807_0605)
        ],
        "I/O accesses have at most four bytes"
    );
}

#[test]
fn the_msix_table_and_pending_bits_are_the_models_and_their_neighbours_the_devices() {
    let user = User::awake();
    user.write(2, 0xffc, &[0xd1, 0xd2, 0xd3, 0xd4, 0x78, 0x56, 0x34, 0x12]);
    assert_eq!(user.device.news(), [Told::Write(2, 0xffc, 4, 0xd4d3_d2d1)]);
    let entry: [u8; 16] = user.read(2, 0x1000);
    assert_eq!(&entry[..4], &[0x78, 0x56, 0x34, 0x12], "message address");
    assert_eq!(&entry[12..], &[1, 0, 0, 0], "vector control: masked at power-on");
    assert_eq!(user.read::<8>(2, 0xc00), [0; 8]);
    assert_eq!(user.device.news(), []);
    user.read::<16>(2, 0x1000 + u64::from(VECTORS) * 16 - 8);
    assert_eq!(
        user.device.news(),
        [Told::Read(2, 0x1000 + u64::from(VECTORS) * 16, 8)]
    );
}

#[test]
fn what_does_not_decode_reads_ones_and_drops_writes() {
    let user = User::new();
    for (command, decoding) in [
        (0, [false, false]),
        (IO, [true, false]),
        (MEMORY, [false, true]),
        (MASTER, [false, false]),
    ] {
        user.command(command);
        user.device.news();
        for (bar, decodes) in [1, 0].into_iter().zip(decoding) {
            assert_eq!(
                user.virt.answers(bar),
                decodes,
                "BAR {bar} with COMMAND {command:#x}"
            );
            let value: [u8; 4] = user.read(bar, 0);
            user.write(bar, 0, &[1]);
            assert_eq!(
                value == [0xff; 4],
                !decodes,
                "BAR {bar} with COMMAND {command:#x} read {value:x?}"
            );
            assert_eq!(
                user.device.news().len(),
                if decodes { 2 } else { 0 },
                "BAR {bar}, COMMAND {command:#x}"
            );
        }
        assert_eq!(
            user.read::<4>(2, 0x1000) == [0xff; 4],
            !decoding[1],
            "MSI-X table, COMMAND {command:#x}"
        );
    }
}

#[test]
fn nothing_but_configuration_space_answers_during_a_reset_which_can_be_waited_for() {
    let user = User::awake();
    let regions =
        || [0, region_index::ROM, CONFIG, region_index::VGA, 9].map(|region| user.virt.answers(region));
    assert_eq!(regions(), [true, true, true, false, false]);
    user.device.hold();
    let control = user.capability(0x10) + 8;
    user.write(CONFIG, control, &0x8000_u16.to_le_bytes());
    user.device.wait_until_resetting();
    assert_eq!(regions(), [false, false, true, false, false]);
    std::thread::scope(|scope| {
        scope.spawn(|| user.device.release());
        user.virt.settle();
    });
    assert_eq!(regions(), [true, true, true, false, false]);
    user.virt.gone(uvfio_core::GoneReason::Unplugged, false);
    assert_eq!(regions(), [true; 5], "what is gone reads ones");
}

#[test]
fn in_d3hot_only_configuration_space_answers() {
    let user = User::awake();
    let pmcsr = user.capability(1) + 4;
    user.write(CONFIG, pmcsr, &3u16.to_le_bytes());
    assert_eq!(user.read::<4>(0, 0), [0xff; 4]);
    assert_eq!(user.read16(pmcsr) & 3, 3);
    assert_eq!(user.read16(0), 0x1234);
    assert!(!user.virt.dma().enabled());
    common::eventually("the device is told of D3hot", || {
        user.device
            .told()
            .contains(&Told::Power(PowerState::D0, PowerState::D3hot))
    });
    user.write(CONFIG, pmcsr, &0u16.to_le_bytes());
    common::eventually("a reset, since No_Soft_Reset is 0", || {
        user.device.told().contains(&Told::Reset(ResetKind::D3hot))
    });
}

#[test]
fn the_rom_is_read_behind_memory_decoding_and_padded_with_ones() {
    let user = User::new();
    assert_eq!(user.read::<2>(region_index::ROM, 0), [0xff; 2]);
    user.command(MEMORY);
    let rom: [u8; 2048] = user.read(region_index::ROM, 0);
    assert_eq!(&rom[..ROM.len()], ROM);
    assert_eq!(rom[ROM.len()..], vec![0xff; 2048 - ROM.len()]);
    user.write(region_index::ROM, 0, &[0]);
    assert_eq!(user.read::<2>(region_index::ROM, 0), ROM[..2]);
}

#[test]
fn an_access_that_does_not_lie_within_its_region_is_refused_whole() {
    let user = User::awake();
    let sizes = [0x1000, 32, 0x2000, 0, 0x2000, 0, 2048, 4096, 0];
    for (region, have) in (0u32..).zip(sizes) {
        assert_eq!(
            user.virt.region_info(region).unwrap().bytes,
            have,
            "region {region}"
        );
        for (offset, len) in [
            (have, 1),
            (have.saturating_sub(1), 2),
            (u64::MAX, 1),
            (u64::MAX - 3, 8),
            (1 << 40, 4),
            (0, 0x4000),
        ] {
            if have > 0 || len > 0 {
                let expected = Err(AccessError::OutOfRange {
                    region,
                    offset,
                    bytes: len as u64,
                    have,
                });
                assert_eq!(user.virt.read(region, offset, &mut vec![0; len]), expected);
                assert_eq!(user.virt.write(region, offset, &vec![0; len]), expected);
            }
        }
        assert_eq!(
            user.virt.read(region, have, &mut []),
            Ok(()),
            "nothing, at the end of region {region}"
        );
    }
    for region in [9, 100, u32::MAX] {
        assert_eq!(
            user.virt.read(region, 0, &mut [0]),
            Err(AccessError::NoSuchRegion(region))
        );
        assert_eq!(
            user.virt.write(region, 0, &[0]),
            Err(AccessError::NoSuchRegion(region))
        );
        assert_eq!(
            user.virt.region_info(region).unwrap_err(),
            AccessError::NoSuchRegion(region)
        );
    }
    assert_eq!(user.device.news(), []);
}

#[test]
fn configuration_space_reads_the_same_whole_and_in_any_pieces() {
    let user = User::awake();
    let whole: [u8; 4096] = user.read(CONFIG, 0);
    assert_eq!(&whole[..4], &[0x34, 0x12, 0xcd, 0xab]);
    for step in [1, 2, 3, 4, 5, 7, 8, 13] {
        let mut pieces = vec![0; 4096];
        for (i, piece) in pieces.chunks_mut(step).enumerate() {
            user.virt.read(CONFIG, (i * step) as u64, piece).unwrap();
        }
        assert!(pieces == whole, "in pieces of {step}");
    }
}

#[test]
fn bus_mastering_has_two_doors_and_one_state() {
    let user = User::new();
    user.virt.set_bus_master(true);
    assert_eq!(user.read16(common::COMMAND) & MASTER, MASTER);
    assert!(user.virt.dma().enabled());
    user.command(0);
    assert!(!user.virt.dma().enabled());
    assert_eq!(
        user.device.news(),
        [Told::BusMaster(true), Told::BusMaster(false)]
    );
}

#[test]
fn vital_product_data_come_from_the_device_and_go_to_it() {
    let user = User::awake();
    let vpd = user.capability(3);
    user.write(CONFIG, vpd + 2, &4u16.to_le_bytes());
    assert_eq!(
        user.read16(vpd + 2),
        0x8004,
        "the flag tells that the data are there"
    );
    assert_eq!(user.read::<4>(CONFIG, vpd + 4), *b"est\x78");
    user.write(CONFIG, vpd + 2, &8u16.to_le_bytes());
    assert_eq!(user.read::<4>(CONFIG, vpd + 4), [0; 4], "past the end");
    user.write(CONFIG, vpd + 4, b"data");
    user.write(CONFIG, vpd + 2, &0x8000u16.to_le_bytes());
    assert_eq!(user.read16(vpd + 2), 0, "the flag tells that the data are stored");
    assert_eq!(
        user.device.news(),
        [Told::WriteVpd(0, u32::from_le_bytes(*b"data"))]
    );
}

#[test]
fn mappable_parts_come_with_their_memory() {
    let memory = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 0x2000).unwrap();
    let user = User::of(Recorder {
        mappable: Some(memory),
        ..Recorder::default()
    });
    let info = user.virt.region_info(4).unwrap();
    assert_eq!(info.mappable, [(0x1000, 0x1000)]);
    assert!(info.memory.is_some());
    assert!(user.virt.region_info(0).unwrap().memory.is_none());
    user.virt.gone(uvfio_core::GoneReason::Unplugged, false);
    let mut bytes = [0; 0x1000];
    rustix::io::pread(info.memory.unwrap(), &mut bytes, 0x1000).unwrap();
    assert!(
        bytes == [0xff; 0x1000],
        "mapped memory of a gone device reads ones"
    );
}

#[test]
fn registers_that_can_be_mapped_are_handed_out_until_the_device_is_gone_and_never_written_by_their_file() {
    let registers = rustix::fs::memfd_create("registers", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&registers, 0x6000).unwrap();
    let user = User::of(Recorder {
        registers: Some((registers.try_clone().unwrap(), 0x4000)),
        ..Recorder::default()
    });
    let info = user.virt.region_info(4).unwrap();
    assert_eq!((info.mappable, info.memory_at), (vec![(0x1000, 0x1000)], 0x4000));
    assert!(info.memory.is_some());
    user.virt.gone(uvfio_core::GoneReason::Revoked, false);
    let info = user.virt.region_info(4).unwrap();
    assert_eq!((info.mappable, info.memory_at), (Vec::new(), 0));
    assert!(info.memory.is_none(), "the registers of a gone device");
    let mut bytes = [0; 0x6000];
    rustix::io::pread(registers, &mut bytes, 0).unwrap();
    assert!(bytes == [0; 0x6000], "a gone device's registers are not written");
}

#[test]
fn the_device_is_told_of_memory_in_command_whatever_else_goes_on() {
    let user = User::new();
    let told = || std::mem::take(&mut *user.device.memory.lock().unwrap());
    user.command(MEMORY);
    user.command(MEMORY | MASTER);
    assert_eq!(told(), [true], "switched on");
    user.virt.reset(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(user.read16(COMMAND) & MEMORY, MEMORY, "COMMAND after a reset");
    assert_eq!(told(), [], "through a reset");
    user.command(0);
    assert_eq!(told(), [false], "switched off");
    user.command(MEMORY);
    user.virt.gone(uvfio_core::GoneReason::Revoked, false);
    assert_eq!(told(), [true, false], "gone");
}

#[test]
fn registers_can_be_saved_and_restored() {
    let user = User::awake();
    user.write(CONFIG, 0x10, &0xfe00_0000u32.to_le_bytes());
    let saved = user.virt.save();
    user.command(0);
    user.write(CONFIG, 0x10, &[0; 4]);
    user.device.news();
    user.virt.restore(saved.clone()).unwrap();
    assert_eq!(
        (user.read32(0x10), user.read16(4) & 7),
        (0xfe00_0000, IO | MEMORY | MASTER)
    );
    assert_eq!(user.device.news(), [Told::BusMaster(true)]);
    assert_eq!(user.virt.snapshot(), saved);
}
