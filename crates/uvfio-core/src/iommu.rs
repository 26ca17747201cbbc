//! The IOMMU in front of a device that exists, as the address space uses it.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use crate::DmaAccess;

/// Why an IOMMU did not take a range, or did not let go of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct IommuError {
    /// The kernel's error number.
    pub errno: i32,
    /// What was asked, the rule that it breaks, and what to do.
    pub why: String,
}

/// What stands between a device that exists and memory.
///
/// A [`DmaSpace`](crate::DmaSpace) that has one keeps it in step: what the user maps with a descriptor is mapped here,
/// too, and what is unmapped there is unmapped here before the user learns of it. Ranges without a descriptor are left
/// out, so that the device's accesses to them are stopped. Calls come one at a time, and only for ranges that the
/// space's own rules allow.
pub trait Iommu: Debug + Send + Sync {
    /// Where ranges may be mapped, (first address, last address), in ascending order.
    fn usable(&self) -> Vec<(u64, u64)>;

    /// Lets the device reach `bytes` bytes of `file` from `offset` on at `iova`; all multiples of 4096. The memory
    /// stays where it is until it is unmapped, whatever becomes of `file`.
    ///
    /// # Errors
    /// Nothing is mapped then.
    fn map(
        &self,
        iova: u64,
        bytes: u64,
        access: DmaAccess,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), IommuError>;

    /// Undoes every mapping wholly inside `iova ..= last`; on return the device reaches none of them.
    ///
    /// # Errors
    /// What is left then may be anything; the space stops the device.
    fn unmap(&self, iova: u64, last: u64) -> Result<(), IommuError>;
}
