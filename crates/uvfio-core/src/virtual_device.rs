//! One virtual device, as front ends know it.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    AccessError, Device, DeviceError, DmaMap, DmaMessages, IrqError, IrqInfo, MapError, Policy, RegionInfo, SetIrqs,
    UnmapError,
};

/// How a reset by request went, as far as it is known when the caller must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetProgress {
    /// The device is reset.
    Done,
    /// It goes on behind the caller's back; accesses are answered from the model until it is done.
    UnderWay,
}

/// Why a device is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// Taken away by whoever governs it.
    Revoked,
    /// It is no longer there.
    Unplugged,
    /// It failed.
    Failed(String),
}

/// Why a virtual device could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// The device declares something impossible.
    #[error("{device} declares an impossible function: {why}")]
    Blueprint {
        /// Device's name.
        device: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A thread could not be started.
    #[error("{device}: a thread could not be started: {why}")]
    Thread {
        /// Device's name.
        device: &'static str,
        /// The system's reason.
        why: String,
    },
}

/// A PCI device as its user sees it: the only object that front ends know.
///
/// Accesses within a region never fail, whatever the device's state: what does not decode reads all ones and drops
/// writes. Once the device is gone everything does, and requests are acknowledged without effect.
pub struct VirtualDevice {
    device: Arc<dyn Device>,
}

impl VirtualDevice {
    /// Makes a virtual device over `device`, with no user yet.
    ///
    /// # Errors
    /// Where the device's blueprint breaks a rule, or threads can't be started.
    pub fn new(device: Arc<dyn Device>, policy: &Policy) -> Result<Arc<Self>, CreateError> {
        let _ = policy;
        Ok(Arc::new(Self { device }))
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.device.name()
    }

    /// A user has come. `messages` is its way for DMA by message, where the front end has one.
    pub fn attach(&self, messages: Option<Arc<dyn DmaMessages>>) {
        let _ = messages;
    }

    /// The user has gone, by whatever way: interrupts off, memory unmapped, bus master off, the device reset
    /// (conventional) and back at its power-on configuration. Waits until that is done.
    ///
    /// # Errors
    /// Where the device does not come back; it is gone then and must get no second user.
    pub fn detach(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Whether the user may ask for a reset.
    #[must_use]
    pub fn resettable(&self) -> bool {
        true
    }

    /// What region `region` is.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    pub fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError> {
        Err(AccessError::NoSuchRegion(region))
    }

    /// What interrupt index `index` is.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo, IrqError> {
        Err(IrqError::NoSuchIndex(index))
    }

    /// Reads a region: any offset, any length. Never waits, never allocates.
    ///
    /// # Errors
    /// Only where the access does not lie within the region.
    pub fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let _ = (offset, data);
        Err(AccessError::NoSuchRegion(region))
    }

    /// Writes a region: any offset, any length. Effects that take time run on another thread. Never waits, never
    /// allocates.
    ///
    /// # Errors
    /// Only where the access does not lie within the region; nothing is changed then.
    pub fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let _ = (offset, data);
        Err(AccessError::NoSuchRegion(region))
    }

    /// SET_IRQS.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn set_irqs(&self, request: SetIrqs) -> Result<(), IrqError> {
        let _ = request;
        Ok(())
    }

    /// Resets the function (as by FLR), waiting at most `patience` for it to be done.
    ///
    /// # Errors
    /// Where the device did not come back.
    pub fn reset(&self, patience: Duration) -> Result<ResetProgress, DeviceError> {
        let _ = patience;
        Ok(ResetProgress::Done)
    }

    /// Maps memory of the user's for the device.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn dma_map(&self, map: DmaMap) -> Result<(), MapError> {
        let _ = map;
        Ok(())
    }

    /// Unmaps; see [`crate::DmaSpace::unmap`].
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn dma_unmap(&self, iova: u64, bytes: u64) -> Result<u64, UnmapError> {
        let _ = (iova, bytes);
        Ok(0)
    }

    /// Bus mastering by request (DEVICE_FEATURE); the same bit as COMMAND's.
    pub fn set_bus_master(&self, on: bool) {
        let _ = on;
    }

    /// Takes the device away; there is no way back for this user. ERR is signalled only if `signal_error`
    /// (it stops a whole QEMU machine).
    pub fn gone(&self, reason: GoneReason, signal_error: bool) {
        let _ = (reason, signal_error);
    }

    /// Whether the device is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        false
    }
}
