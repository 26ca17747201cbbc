//! The container as the address space of a user: the IOMMU behind [`uvfio_core::DmaSpace`].

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use uvfio_core::{DmaAccess, Iommu, IommuError};

use crate::vfio::{Access, AddressSpace, Container, Result, SharedMemory, VfioError};

/// The IOMMU of a container. What is mapped stays mapped when the caller's descriptor is closed: the kernel pins it, and
/// counts it against RLIMIT_MEMLOCK of this process.
#[derive(Debug)]
pub(super) struct Space {
    container: Container,
    /// Asked once: it does not change while the group is in its container alone.
    usable: Vec<(u64, u64)>,
}

impl Space {
    pub(super) fn new(container: Container) -> Result<Self> {
        let ranges = container.iommu_info()?.iova_ranges;
        let usable = ranges.map_or_else(
            || vec![(0, u64::MAX)],
            |ranges| {
                ranges
                    .iter()
                    .map(|range| (*range.start(), *range.end()))
                    .collect()
            },
        );
        Ok(Self { container, usable })
    }
}

impl Iommu for Space {
    fn usable(&self) -> Vec<(u64, u64)> {
        self.usable.clone()
    }

    fn map(
        &self,
        iova: u64,
        bytes: u64,
        access: DmaAccess,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> std::result::Result<(), IommuError> {
        let writes = access.contains(DmaAccess::WRITE);
        let kind = match (access.contains(DmaAccess::READ), writes) {
            (true, true) => Access::ReadWrite,
            (false, true) => Access::Write,
            _ => Access::Read,
        };
        // Gone again on return: what the device reaches are the file's pages, not this process's mapping of them.
        let memory = if writes {
            SharedMemory::of_file(file, offset, bytes)
        } else {
            SharedMemory::of_file_to_read(file, offset, bytes)
        };
        let done = memory.and_then(|memory| self.container.map(iova, &memory, 0, bytes, kind));
        done.map_err(|error| refusal(&error))
    }

    fn unmap(&self, iova: u64, last: u64) -> std::result::Result<(), IommuError> {
        let bytes = last.checked_sub(iova).and_then(|more| more.checked_add(1));
        let done = match bytes {
            Some(bytes) => self.container.unmap(iova, bytes),
            // All 2^64 addresses, whose number is no 64-bit number.
            None if (iova, last) == (0, u64::MAX) => self.container.unmap_all(),
            None => Ok(0),
        };
        done.map(drop).map_err(|error| refusal(&error))
    }
}

fn refusal(error: &VfioError) -> IommuError {
    IommuError {
        errno: error.errno().unwrap_or(Errno::INVAL).raw_os_error(),
        why: error.to_string(),
    }
}
