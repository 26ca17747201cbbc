//! What a device has to do so that it can be had by this interface.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{
    AccessError, DeviceError, DmaAccess, DmaMap, DmaMessages, GoneReason, IrqError, RegionInfo,
    ResetProgress, SetIrqs, VirtualDevice,
};
use uvfio_pci::{Layout, View};

use crate::Refusal;

/// A range of memory that a device's user has mapped.
#[derive(Clone, Copy, Debug)]
pub struct DmaRange<'a> {
    /// First address, as the device says it; a multiple of 4096.
    pub iova: u64,
    /// Length in bytes, a multiple of 4096.
    pub bytes: u64,
    /// What the device may do.
    pub access: DmaAccess,
    /// The file that the range is, and the range's offset in it, where there is one that may be handed on.
    pub file: Option<(BorrowedFd<'a>, u64)>,
}

/// A device as this interface knows it: a [`VirtualDevice`] of this process, or one that somebody else has.
///
/// Calls may come from any number of threads at a time. None of them is made with a lock that an access to the user's
/// memory takes, so they may wait for a device that accesses it meanwhile; they should not wait without end.
pub trait Backend: Send + Sync {
    /// A user has come: `memory` is the way to what it has mapped, until [`detach`](Self::detach).
    ///
    /// # Errors
    /// Where it can't have a user; [`detach`](Self::detach) is called all the same.
    fn attach(&self, memory: Arc<dyn DmaMessages>) -> Result<(), Refusal>;

    /// The user has gone: interrupts off, memory forgotten, the device reset and as it was at first.
    ///
    /// # Errors
    /// Where it does not come back; it is gone then.
    fn detach(&self) -> Result<(), DeviceError>;

    /// The layout of configuration space, with the sizes of BARs and of the ROM. The same for ever.
    fn layout(&self) -> &Layout;

    /// Whether its BARs have addresses already, which are not to be changed.
    fn is_placed(&self) -> bool {
        false
    }

    /// Whether the user may ask for a reset.
    fn resettable(&self) -> bool;

    /// What region `region` is.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError>;

    /// How many interrupts index `index` has; 0 for one that is not there.
    fn vectors(&self, index: u32) -> u32;

    /// Reads a region: any offset, any length. All ones where nothing answers.
    ///
    /// # Errors
    /// Only where the access does not lie within the region.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError>;

    /// Writes a region; as [`read`](Self::read). Dropped where nothing answers.
    ///
    /// # Errors
    /// Only where the access does not lie within the region.
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError>;

    /// Whether a region answers accesses now; of a device that is gone, every one does. See
    /// [`VirtualDevice::answers`].
    fn answers(&self, region: u32) -> bool;

    /// Waits until what a write of configuration space has begun is done.
    fn settle(&self) {}

    /// SET_IRQS.
    ///
    /// # Errors
    /// With the kernel's error number.
    fn set_irqs(&self, request: SetIrqs) -> Result<(), Refusal>;

    /// Resets the function, waiting at most `patience` for it to be done.
    ///
    /// # Errors
    /// Where it did not come back, or can't be reset at all.
    fn reset(&self, patience: Duration) -> Result<ResetProgress, DeviceError>;

    /// Asks the user to give the device back, by the REQ interrupt.
    fn request_removal(&self);

    /// Takes the device from its user: it is gone, and there is no way back. Nothing is signalled by that.
    fn revoke(&self);

    /// Whether the device is gone.
    fn is_gone(&self) -> bool;

    /// Whether it is to be told what its user maps and unmaps. Others look at each access. The same for ever.
    fn follows_mappings(&self) -> bool {
        false
    }

    /// The user has mapped a range. Only where it [follows](Self::follows_mappings), as [`unmap`](Self::unmap), and
    /// one call at a time.
    ///
    /// # Errors
    /// Where the device can't have it: the user's request is refused then.
    fn map(&self, range: &DmaRange<'_>) -> Result<(), Refusal> {
        let _ = range;
        Ok(())
    }

    /// A range that was mapped is not any more: on return the device does not touch it.
    fn unmap(&self, iova: u64, bytes: u64) {
        let _ = (iova, bytes);
    }
}

impl Backend for VirtualDevice {
    fn attach(&self, memory: Arc<dyn DmaMessages>) -> Result<(), Refusal> {
        Self::attach(self, Some(memory));
        // All addresses go by message; the way looks each up. Two maps: one can't have 2^64 bytes.
        for iova in [0, 1 << 63] {
            let map = DmaMap {
                iova,
                bytes: 1 << 63,
                access: DmaAccess::all(),
                backing: None,
            };
            self.dma_map(map)
                .map_err(|error| Refusal::new(Errno::NOMEM, error.to_string()))?;
        }
        Ok(())
    }

    fn detach(&self) -> Result<(), DeviceError> {
        self.detach()
    }

    fn layout(&self) -> &Layout {
        self.layout()
    }

    fn is_placed(&self) -> bool {
        // In the other views the addresses are those of the host's, of a device that exists.
        self.layout().view() != View::Virtual
    }

    fn resettable(&self) -> bool {
        self.resettable()
    }

    fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError> {
        self.region_info(region)
    }

    fn vectors(&self, index: u32) -> u32 {
        self.irq_info(index).map_or(0, |info| info.count)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.read(region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.write(region, offset, data)
    }

    fn answers(&self, region: u32) -> bool {
        self.answers(region)
    }

    fn settle(&self) {
        self.settle();
    }

    fn set_irqs(&self, request: SetIrqs) -> Result<(), Refusal> {
        self.set_irqs(request).map_err(|error| refusal_of(&error))
    }

    fn reset(&self, patience: Duration) -> Result<ResetProgress, DeviceError> {
        self.reset(patience)
    }

    fn request_removal(&self) {
        self.request_removal();
    }

    fn revoke(&self) {
        self.gone(GoneReason::Revoked, false);
    }

    fn is_gone(&self) -> bool {
        self.is_gone()
    }
}

/// What the kernel says to what the virtual device refuses.
fn refusal_of(error: &IrqError) -> Refusal {
    let errno = match error {
        IrqError::NotMaskable(_) | IrqError::MaskByEventFd => Errno::NOTTY,
        IrqError::NoSuchIndex(_)
        | IrqError::OutOfRange { .. }
        | IrqError::NotAnEventFd(_)
        | IrqError::NotEnabled(_)
        | IrqError::OtherInUse { .. } => Errno::INVAL,
    };
    Refusal::new(errno, error.to_string())
}
