//! The IOMMU in front of a device that exists is kept in step with what its user maps.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{IO, MASTER, MEMORY, Recorder, Told, User};
use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Backing, DmaAccess, DmaMap, Iommu, IommuError, MapError};
use uvfio_pci::ResetKind;

const PAGE: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

/// What the IOMMU was asked.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Map {
        iova: u64,
        bytes: u64,
        offset: u64,
        inode: u64,
    },
    Unmap(u64, u64),
}

/// An IOMMU that notes what it is asked; it refuses ranges from `reserved` on.
#[derive(Debug, Default)]
struct Noting {
    asked: Mutex<Vec<Asked>>,
    reserved: Option<u64>,
    stuck: AtomicBool,
}

impl Noting {
    fn news(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Iommu for Noting {
    fn usable(&self) -> Vec<(u64, u64)> {
        vec![(0, self.reserved.map_or(u64::MAX, |first| first - 1))]
    }

    fn map(
        &self,
        iova: u64,
        bytes: u64,
        _access: DmaAccess,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), IommuError> {
        if self.reserved.is_some_and(|first| iova + bytes > first) {
            let why = "it is reserved".into();
            return Err(IommuError { errno: 22, why });
        }
        let inode = rustix::fs::fstat(file).unwrap().st_ino;
        self.asked.lock().unwrap().push(Asked::Map {
            iova,
            bytes,
            offset,
            inode,
        });
        Ok(())
    }

    fn unmap(&self, iova: u64, last: u64) -> Result<(), IommuError> {
        self.asked.lock().unwrap().push(Asked::Unmap(iova, last));
        match self.stuck.load(Ordering::Relaxed) {
            true => Err(IommuError {
                errno: 5,
                why: "it is stuck".into(),
            }),
            false => Ok(()),
        }
    }
}

fn user(iommu: Noting) -> (User, Arc<Noting>) {
    let iommu = Arc::new(iommu);
    let user = User::of(Recorder {
        iommu: Some(iommu.clone()),
        ..Recorder::default()
    });
    user.command(IO | MEMORY | MASTER);
    assert_eq!(user.device.news(), [Told::BusMaster(true)]);
    iommu.news();
    (user, iommu)
}

fn memory() -> (OwnedFd, u64) {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 16 * PAGE).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let inode = rustix::fs::fstat(&file).unwrap().st_ino;
    (file, inode)
}

fn map(iova: u64, pages: u64, file: Option<(&OwnedFd, u64)>) -> DmaMap {
    DmaMap {
        iova,
        bytes: pages * PAGE,
        access: DmaAccess::READ | DmaAccess::WRITE,
        backing: file.map(|(file, offset)| Backing {
            file: file.try_clone().unwrap(),
            offset,
        }),
    }
}

#[test]
fn what_is_mapped_with_a_descriptor_is_mapped_in_the_iommu_and_nothing_else_is() {
    let (user, iommu) = user(Noting::default());
    let (file, inode) = memory();
    user.virt
        .dma_map(map(0x10000, 2, Some((&file, 3 * PAGE))))
        .unwrap();
    user.virt.dma_map(map(0x20000, 2, None)).unwrap();
    let mapped = Asked::Map {
        iova: 0x10000,
        bytes: 2 * PAGE,
        offset: 3 * PAGE,
        inode,
    };
    assert_eq!(iommu.news(), [mapped]);
    // What the space's own rules refuse does not come to the IOMMU.
    user.virt.dma_map(map(0x11000, 1, Some((&file, 0)))).unwrap_err();
    user.virt.dma_map(map(0x30800, 1, Some((&file, 0)))).unwrap_err();
    user.virt
        .dma_map(map(0x40000, 1, Some((&file, 16 * PAGE))))
        .unwrap_err();
    assert_eq!(iommu.news(), []);
}

#[test]
fn an_unmap_reaches_the_iommu_before_its_answer_and_one_that_would_cut_does_not() {
    let (user, iommu) = user(Noting::default());
    let (file, _) = memory();
    user.virt.dma_map(map(0x10000, 2, Some((&file, 0)))).unwrap();
    user.virt.dma_map(map(0x20000, 2, None)).unwrap();
    iommu.news();
    user.virt.dma_unmap(0x11000, PAGE).unwrap_err();
    assert_eq!(iommu.news(), []);
    // A range by message was never in it.
    assert_eq!(user.virt.dma_unmap(0x20000, 2 * PAGE), Ok(2 * PAGE));
    assert_eq!(iommu.news(), []);
    assert_eq!(user.virt.dma_unmap(0x8000, 0x10000), Ok(2 * PAGE));
    assert_eq!(iommu.news(), [Asked::Unmap(0x8000, 0x17fff)]);
}

#[test]
fn a_range_that_the_iommu_refuses_holds_the_device_back_until_it_is_unmapped() {
    let (user, iommu) = user(Noting {
        reserved: Some(0xfee0_0000),
        ..Noting::default()
    });
    let (file, _) = memory();
    let refused = user.virt.dma_map(map(0xfee0_0000, 1, Some((&file, 0))));
    let want = MapError::Iommu {
        iova: 0xfee0_0000,
        bytes: PAGE,
        errno: 22,
    };
    assert_eq!(refused, Err(want));
    assert_eq!(user.device.news(), [Told::BusMaster(false)]);
    user.virt.dma_map(map(0x1000, 1, Some((&file, 0)))).unwrap();
    assert_eq!(
        user.device.news(),
        [],
        "one range that is well does not make up for it"
    );
    iommu.news();
    assert_eq!(user.virt.dma_unmap(0xfee0_0000, PAGE), Ok(0));
    assert_eq!(user.device.news(), [Told::BusMaster(true)]);
    assert_eq!(iommu.news(), [], "it never had that range");
}

#[test]
fn an_iommu_that_does_not_let_go_costs_the_device_its_access() {
    let (user, iommu) = user(Noting {
        stuck: true.into(),
        ..Noting::default()
    });
    let (file, _) = memory();
    user.virt.dma_map(map(0x1000, 1, Some((&file, 0)))).unwrap();
    user.virt.dma_unmap(0x1000, PAGE).unwrap();
    assert_eq!(iommu.news().len(), 2);
    assert_eq!(user.device.news(), [Told::BusMaster(false)]);
    user.virt.reset(PATIENCE).unwrap();
    user.virt.dma_map(map(0x1000, 1, Some((&file, 0)))).unwrap();
    assert_eq!(
        user.device.news(),
        [Told::Reset(ResetKind::FunctionLevel)],
        "neither a reset nor a mapping in its place makes up for it"
    );
}

#[test]
fn an_iommu_that_has_not_let_go_costs_the_next_user_the_access_too_until_it_has() {
    let (user, iommu) = user(Noting {
        stuck: true.into(),
        ..Noting::default()
    });
    let next = |user: &User| {
        user.virt.detach().unwrap();
        user.virt.attach(None);
        user.command(IO | MEMORY | MASTER);
        user.virt.reset(PATIENCE).unwrap();
        user.device.news().contains(&Told::BusMaster(true))
    };
    assert!(!next(&user), "the memory of the user before is within reach");
    iommu.stuck.store(false, Ordering::Relaxed);
    assert!(next(&user), "everything was unmapped when the user left");
}

#[test]
fn with_the_user_goes_everything_in_the_iommu() {
    let (user, iommu) = user(Noting::default());
    let (file, _) = memory();
    user.virt.dma_map(map(0x1000, 1, Some((&file, 0)))).unwrap();
    iommu.news();
    user.virt.detach().unwrap();
    assert_eq!(iommu.news(), [Asked::Unmap(0, u64::MAX)]);
}
