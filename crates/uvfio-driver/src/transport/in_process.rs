//! A virtual device in this process: for tests without sockets, and for programs that bring their device along.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use uvfio_core::{
    AccessError, Backing, Device, DmaAccess, DmaMap, IrqAction, IrqData, IrqError, MapError, Policy,
    ResetProgress, SetIrqs, UnmapError, VirtualDevice,
};

use super::{IrqKind, Owner, Region, Transport};
use crate::{DriverError, Result};

/// How long a reset may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The user of a virtual device in this process; detaches it when dropped.
pub struct InProcess {
    device: Arc<VirtualDevice>,
}

impl InProcess {
    /// Attaches to a virtual device. A user who is attached already is detached.
    #[must_use]
    pub fn attach(device: Arc<VirtualDevice>) -> Self {
        device.attach(None);
        Self { device }
    }

    /// Makes a device virtual, and attaches to it.
    ///
    /// # Errors
    /// Where it can't be made virtual.
    pub fn over(device: Arc<dyn Device>) -> Result<Self> {
        let device = VirtualDevice::new(device, &Policy::default())
            .map_err(|error| refused("the virtual device", &error, rustix::io::Errno::INVAL))?;
        Ok(Self::attach(device))
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Err(error) = self.device.detach() {
            tracing::error!(%error, "the device did not come back from its user");
        }
    }
}

fn refused(what: &'static str, why: &dyn std::fmt::Display, errno: rustix::io::Errno) -> DriverError {
    DriverError::Refused {
        what,
        why: why.to_string(),
        errno: errno.raw_os_error(),
    }
}

fn access(what: &'static str) -> impl Fn(AccessError) -> DriverError {
    move |error| refused(what, &error, rustix::io::Errno::INVAL)
}

fn irq(what: &'static str) -> impl Fn(IrqError) -> DriverError {
    move |error| refused(what, &error, rustix::io::Errno::INVAL)
}

fn map_error(error: MapError) -> DriverError {
    let errno = match error {
        MapError::Exists { .. } => rustix::io::Errno::EXIST,
        MapError::Quota { .. } => rustix::io::Errno::NOSPC,
        MapError::Invalid { .. } | MapError::Kernel { .. } | MapError::Iommu { .. } => {
            rustix::io::Errno::INVAL
        }
    };
    refused("a DMA mapping", &error, errno)
}

fn unmap_error(error: UnmapError) -> DriverError {
    refused("a DMA unmapping", &error, rustix::io::Errno::INVAL)
}

impl Transport for InProcess {
    fn resettable(&mut self) -> Result<bool> {
        Ok(self.device.resettable())
    }

    fn region(&mut self, index: u32) -> Result<Region> {
        let info = self.device.region_info(index).map_err(access("a region"))?;
        Ok(Region {
            bytes: info.bytes,
            mappable: info.mappable,
            owner: info.memory.as_ref().map(Owner::of).unwrap_or_default(),
            memory: info.memory,
            file_offset: info.memory_at,
        })
    }

    fn vectors(&mut self, kind: IrqKind) -> Result<u32> {
        let info = self
            .device
            .irq_info(kind as u32)
            .map_err(irq("a kind of interrupt"))?;
        Ok(info.count)
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        self.device.read(region, offset, data).map_err(access("a read"))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.device.write(region, offset, data).map_err(access("a write"))
    }

    fn enable_vectors(&mut self, kind: IrqKind, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        let owned = eventfds
            .iter()
            .map(|fd| fd.try_clone_to_owned().map(Some))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|source| DriverError::System {
                what: "another descriptor for an eventfd",
                source,
            })?;
        let request = SetIrqs {
            index: kind as u32,
            start: 0,
            count: owned.len() as u32,
            action: IrqAction::Trigger,
            data: IrqData::EventFd(owned),
        };
        self.device.set_irqs(request).map_err(irq("interrupts"))
    }

    fn disable_vectors(&mut self, kind: IrqKind) -> Result<()> {
        let request = SetIrqs {
            index: kind as u32,
            start: 0,
            count: 0,
            action: IrqAction::Trigger,
            data: IrqData::None,
        };
        self.device.set_irqs(request).map_err(irq("disabling interrupts"))
    }

    fn mask_intx(&mut self, masked: bool) -> Result<()> {
        let action = if masked {
            IrqAction::Mask
        } else {
            IrqAction::Unmask
        };
        let request = SetIrqs {
            index: IrqKind::Intx as u32,
            start: 0,
            count: 1,
            action,
            data: IrqData::None,
        };
        self.device.set_irqs(request).map_err(irq("masking INTx"))
    }

    fn map(&mut self, iova: u64, bytes: u64, file: BorrowedFd<'_>) -> Result<()> {
        let file = file.try_clone_to_owned().map_err(|source| DriverError::System {
            what: "another descriptor for memory",
            source,
        })?;
        let map = DmaMap {
            iova,
            bytes,
            access: DmaAccess::READ | DmaAccess::WRITE,
            backing: Some(Backing { file, offset: 0 }),
        };
        self.device.dma_map(map).map_err(map_error)
    }

    fn unmap(&mut self, iova: u64, bytes: u64) -> Result<()> {
        self.device.dma_unmap(iova, bytes).map_err(unmap_error)?;
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        match self.device.reset(PATIENCE) {
            Ok(ResetProgress::Done) => Ok(()),
            Ok(ResetProgress::UnderWay) => Err(DriverError::TimedOut {
                what: "a reset",
                patience: PATIENCE,
            }),
            Err(error) => Err(refused("a reset", &error, rustix::io::Errno::IO)),
        }
    }

    fn usable_iova(&mut self) -> Result<Option<Vec<(u64, u64)>>> {
        Ok(Some(self.device.dma().usable()))
    }
}
