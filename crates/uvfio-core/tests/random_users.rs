//! Users who do anything, in any order: what holds whatever they do.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;

use std::time::Duration;

use common::{CONFIG, Recorder, User, event};
use proptest::prelude::*;
use rustix::fs::MemfdFlags;
use uvfio_core::{AccessError, Backing, DmaAccess, DmaMap, IrqAction, IrqData, SetIrqs};

#[derive(Debug, Clone)]
enum Deed {
    Read(u32, u64, usize),
    Write(u32, u64, Vec<u8>),
    SetIrqs {
        index: u32,
        start: u32,
        count: u32,
        action: u8,
        data: u8,
        few: u32,
    },
    Signal(u16),
    Intx(bool),
    Map(u64, u64, u8),
    Unmap(u64, u64),
    Dma(u64, usize),
    BusMaster(bool),
    Reset,
    Next,
}

/// Mostly small, sometimes anything.
fn number(small: u64) -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..small, 1 => any::<u64>()]
}

fn vectors() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4u32, 2 => 0..300u32, 1 => any::<u32>()]
}

fn place() -> impl Strategy<Value = (u32, u64)> {
    prop_oneof![
        4 => (Just(CONFIG), number(256)),
        3 => (0..9u32, number(0x2400)),
        1 => (any::<u32>(), number(16)),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let pages = || number(8).prop_map(|p| p.wrapping_mul(4096));
    prop_oneof![
        3 => (place(), 0..40usize).prop_map(|((region, offset), len)| Deed::Read(region, offset, len)),
        6 => (place(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|((r, o), d)| Deed::Write(r, o, d)),
        3 => Just(Deed::Write(CONFIG, 4, vec![7, 0])),
        4 => (0..6u32, vectors(), vectors(), 0..3u8, 0..3u8, 0..8u32)
            .prop_map(|(index, start, count, action, data, few)| Deed::SetIrqs { index, start, count, action, data, few }),
        4 => any::<u16>().prop_map(Deed::Signal),
        1 => any::<bool>().prop_map(Deed::Intx),
        2 => (pages(), pages(), 0..4u8).prop_map(|(iova, bytes, access)| Deed::Map(iova, bytes, access)),
        1 => (pages(), pages()).prop_map(|(iova, bytes)| Deed::Unmap(iova, bytes)),
        2 => (number(0x8000), 0..9000usize).prop_map(|(iova, len)| Deed::Dma(iova, len)),
        1 => any::<bool>().prop_map(Deed::BusMaster),
        1 => Just(Deed::Reset),
        1 => Just(Deed::Next),
    ]
}

fn set_irqs(index: u32, start: u32, count: u32, action: u8, data: u8, few: u32) -> SetIrqs {
    let action = [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger][usize::from(action % 3)];
    let data = match data {
        0 => IrqData::None,
        1 => IrqData::Bool((0..few).map(|i| i as u8).collect()),
        _ => IrqData::EventFd((0..few).map(|i| (i % 3 != 2).then(event)).collect()),
    };
    SetIrqs {
        index,
        start,
        count,
        action,
        data,
    }
}

fn map(iova: u64, bytes: u64, access: u8) -> DmaMap {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 0x4000).unwrap();
    let backing = (access != 3).then_some(Backing { file, offset: 0 });
    DmaMap {
        iova,
        bytes,
        access: DmaAccess::from_bits_truncate(access.into()),
        backing,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accesses_in_range_succeed_others_fail_and_the_next_user_sees_nothing_of_it(
        deeds in prop::collection::vec(deed(), 1..120),
    ) {
        let user = User::of(Recorder::default());
        let page: [u8; 4096] = user.read(CONFIG, 0);
        let sizes = [0x1000, 32, 0x2000, 0, 0x2000, 0, 2048, 4096, 0];
        let within = |region: u32, offset: u64, len: usize| {
            let have = sizes.get(region as usize)?;
            Some(offset.checked_add(len as u64).is_some_and(|end| end <= *have))
        };
        let check = |region, offset, len, result: Result<(), AccessError>| match (within(region, offset, len), result) {
            (Some(true), Ok(()))
            | (Some(false), Err(AccessError::OutOfRange { .. }))
            | (None, Err(AccessError::NoSuchRegion(_))) => Ok(()),
            (_, result) => Err(TestCaseError::fail(format!("region {region} {offset:#x}+{len}: {result:?}"))),
        };
        for deed in deeds {
            match deed {
                Deed::Read(region, offset, len) => {
                    check(region, offset, len, user.virt.read(region, offset, &mut vec![0; len]))?;
                }
                Deed::Write(region, offset, data) => {
                    check(region, offset, data.len(), user.virt.write(region, offset, &data))?;
                }
                Deed::SetIrqs { index, start, count, action, data, few } => {
                    let _ = user.virt.set_irqs(set_irqs(index, start, count, action, data, few));
                }
                Deed::Signal(vector) => user.device.host().signal(vector),
                Deed::Intx(asserted) => user.device.host().set_intx(asserted),
                Deed::Map(iova, bytes, access) => {
                    let _ = user.virt.dma_map(map(iova, bytes, access));
                }
                Deed::Unmap(iova, bytes) => {
                    let _ = user.virt.dma_unmap(iova, bytes);
                }
                Deed::Dma(iova, len) => {
                    let _ = user.device.host().dma().write(iova, &vec![1; len]);
                    let _ = user.device.host().dma().read(iova, &mut vec![0; len]);
                }
                Deed::BusMaster(on) => user.virt.set_bus_master(on),
                Deed::Reset => {
                    user.virt.reset(Duration::from_secs(10)).unwrap();
                }
                Deed::Next => {
                    user.virt.detach().unwrap();
                    user.virt.attach(None);
                    prop_assert!(user.read::<4096>(CONFIG, 0) == page, "configuration space is not as at power-on");
                    prop_assert_eq!(user.virt.dma().usage(), uvfio_core::DmaUsage::default());
                }
            }
        }
        prop_assert!(!user.virt.is_gone());
    }
}
