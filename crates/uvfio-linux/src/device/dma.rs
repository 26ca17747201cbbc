//! The container as the address space of a user: the IOMMU behind [`uvfio_core::DmaSpace`].

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use uvfio_core::{DmaAccess, Iommu, IommuError};

use crate::vfio::{Access, AddressSpace, Container, Result, SharedMemory, VfioError};

/// The IOMMU of a container. What is mapped stays mapped when the caller's descriptor is closed: the kernel pins it, and
/// counts it against RLIMIT_MEMLOCK of this process.
#[derive(Debug)]
pub(super) struct Space {
    container: Box<dyn AddressSpace>,
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
        Ok(Self {
            container: Box::new(container),
            usable,
        })
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
            // An empty range.
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the container was asked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Asked {
        Map(u64, u64, u64, Access),
        Unmap(u64, u64),
        UnmapAll,
    }

    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<Asked>>>);

    impl AddressSpace for Recorder {
        fn map(
            &self,
            iova: u64,
            memory: &SharedMemory,
            offset: u64,
            size: u64,
            access: Access,
        ) -> Result<()> {
            let first = memory.read(offset).unwrap_or_default();
            self.0.lock().unwrap().push(Asked::Map(iova, size, first, access));
            Ok(())
        }

        fn unmap(&self, iova: u64, size: u64) -> Result<u64> {
            self.0.lock().unwrap().push(Asked::Unmap(iova, size));
            Ok(size)
        }

        fn unmap_all(&self) -> Result<u64> {
            self.0.lock().unwrap().push(Asked::UnmapAll);
            Ok(0)
        }
    }

    fn space() -> (Space, Recorder) {
        let recorder = Recorder::default();
        let space = Space {
            container: Box::new(recorder.clone()),
            usable: Vec::new(),
        };
        (space, recorder)
    }

    #[test]
    fn unmaps_reach_as_far_as_addresses_do() {
        let (space, recorder) = space();
        for (iova, last) in [
            (0x1000, 0x1fff),
            (0x1000, u64::MAX),
            (0, u64::MAX),
            (0, u64::MAX - 1),
            (2, 1),
            (2, 0),
        ] {
            space.unmap(iova, last).unwrap();
        }
        let expected = [
            Asked::Unmap(0x1000, 0x1000),
            Asked::Unmap(0x1000, 0u64.wrapping_sub(0x1000)),
            Asked::UnmapAll,
            Asked::Unmap(0, u64::MAX),
        ];
        assert_eq!(*recorder.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_file_is_mapped_from_its_offset_with_the_access_asked_for() {
        let (space, recorder) = space();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x3000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &7_u64.to_le_bytes(), 0x1000).unwrap();
        let map = |access, file: BorrowedFd<'_>| space.map(0x10_0000, 0x2000, access, file, 0x1000);
        let (read, write) = (DmaAccess::READ, DmaAccess::WRITE);
        map(read | write, file.as_file().as_fd()).unwrap();
        map(write, file.as_file().as_fd()).unwrap();
        let readable = File::open(file.path()).unwrap();
        map(read, readable.as_fd()).unwrap();
        let kinds = [Access::ReadWrite, Access::Write, Access::Read];
        let expected = kinds.map(|kind| Asked::Map(0x10_0000, 0x2000, 7, kind));
        assert_eq!(*recorder.0.lock().unwrap(), expected);

        let error = map(write, readable.as_fd()).unwrap_err();
        assert_eq!(error.errno, Errno::ACCESS.raw_os_error(), "{error}");
        assert_eq!(recorder.0.lock().unwrap().len(), 3, "nothing more was asked for");
    }
}
