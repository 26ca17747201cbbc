//! Memory that a device can be given.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::Errno;

use super::error::{Asked, Result};
use super::rule::Rule;
use uvfio_core::{Allowed, SharedMapping, Word};

/// Memory of a file, mapped into this process, that devices may be given by
/// [`AddressSpace::map`](super::AddressSpace::map).
///
/// It is accessed by words: a device may change it at any time, so there is never a reference to it. The kernel keeps
/// what a device was given until that mapping of the device's is undone, even when this value is dropped.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: SharedMapping,
}

impl SharedMemory {
    /// New memory of `bytes` bytes, a multiple of 4096, all zeros, that cannot be cut short.
    pub fn new(bytes: u64) -> Result<Self> {
        let asked = || Asked::new("memfd_create", format!("{bytes:#x} bytes of memory for a device"));
        let refused = |errno| asked().refused(Rule::Other, errno);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("uvfio-dma", flags).map_err(refused)?;
        rustix::fs::ftruncate(&file, bytes).map_err(refused)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(refused)?;
        Self::of_file(file.as_fd(), 0, bytes)
    }

    /// `bytes` bytes of `file` from `offset` on, for instance of a user's memory; both are multiples of its page.
    ///
    /// A file that is cut short later costs this process a SIGBUS when it accesses what is gone, and makes a later
    /// mapping for a device fail; what devices have been given stays.
    pub fn of_file(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<Self> {
        Self::of_file_allowed(file, offset, bytes, Allowed::ALL)
    }

    /// As [`of_file`](Self::of_file), for a file that may be open for reading only. Devices may then only read it, and
    /// [`write`](Self::write) writes nothing.
    pub fn of_file_to_read(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<Self> {
        let allowed = Allowed {
            read: true,
            write: false,
        };
        Self::of_file_allowed(file, offset, bytes, allowed)
    }

    fn of_file_allowed(file: BorrowedFd<'_>, offset: u64, bytes: u64, allowed: Allowed) -> Result<Self> {
        let asked = || {
            Asked::new(
                "mmap",
                format!("memory for a device, bytes {offset:#x} and {bytes:#x} on of a file"),
            )
        };
        let size = fstat(file)
            .map_err(|errno| asked().refused(Rule::Other, errno))?
            .st_size;
        let size = u64::try_from(size).unwrap_or_default();
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(asked().invalid(format!("the file has {size:#x} bytes")));
        }
        match SharedMapping::new(file, offset, bytes, allowed) {
            Ok(mapping) => Ok(Self { mapping }),
            Err(errno) => {
                let rule = if errno == Errno::ACCESS {
                    Rule::NoPermission
                } else {
                    Rule::Other
                };
                Err(asked().refused(rule, errno))
            }
        }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes()
    }

    /// Reads a word at a multiple of its size; `None` outside.
    pub fn read<W: Word>(&self, offset: u64) -> Option<W> {
        self.mapping.read(offset)
    }

    /// Writes a word at a multiple of its size; `None` outside, and nothing is written.
    pub fn write<W: Word>(&self, offset: u64, value: W) -> Option<()> {
        self.mapping.write(offset, value)
    }

    pub(super) fn mapping(&self) -> &SharedMapping {
        &self.mapping
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn new_memory_is_zero_and_holds_what_is_written() {
        let memory = SharedMemory::new(0x2000).unwrap();
        assert_eq!((memory.bytes(), memory.read::<u64>(0x1ff8)), (0x2000, Some(0)));
        memory.write(0x1ff8, 0x1234_u16).unwrap();
        assert_eq!(memory.read::<u32>(0x1ff8), Some(0x1234));
        assert_eq!(memory.write(0x2000, 1_u8), None);
    }

    #[test]
    fn memory_of_a_file_is_that_file_from_the_offset_on() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x3000).unwrap();
        let memory = SharedMemory::of_file(file.as_fd(), 0x1000, 0x2000).unwrap();
        memory.write(0, 0xaa_u8).unwrap();
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 0x1000).unwrap();
        assert_eq!(byte, [0xaa]);
    }

    #[test]
    fn memory_beyond_the_end_of_its_file_is_refused_and_so_is_a_file_that_cannot_be_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x3000).unwrap();
        for (offset, bytes) in [(0x1000, 0x2001), (0x3000, 1), (0, 0), (u64::MAX, 2)] {
            let error = SharedMemory::of_file(file.as_file().as_fd(), offset, bytes).unwrap_err();
            assert!(
                error.to_string().contains("the file has 0x3000 bytes"),
                "{bytes:#x} at {offset:#x}: {error}"
            );
        }
        let readable = File::open(file.path()).unwrap();
        let error = SharedMemory::of_file(readable.as_fd(), 0, 0x1000).unwrap_err();
        assert_eq!(error.rule(), Some(&Rule::NoPermission), "{error}");
        let memory = SharedMemory::of_file_to_read(readable.as_fd(), 0x1000, 0x2000).unwrap();
        assert_eq!((memory.read::<u8>(0), memory.write(0, 1_u8)), (Some(0), None));
    }
}
