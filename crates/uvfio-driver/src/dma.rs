//! Memory that the device reaches.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Allowed, SharedMapping};

use crate::bounds::check;
use crate::function::Shared;
use crate::iova::PAGE;
use crate::{DriverError, Place, Result, Word};

/// Memory of this program's that the device may read and write, at an IOVA of its own.
///
/// The device may change any byte at any time, so there is no way to a slice of it: words and bytes are copied in and
/// out. A read comes before what its thread reads after it, so that data read after a flag are those that the flag
/// announced; a write comes after what its thread wrote before.
///
/// Dropping it unmaps it: the device must be done with it. Where that is not certain (a command that was given up),
/// reset the device first.
pub struct DmaBuffer {
    shared: Arc<Shared>,
    memory: SharedMapping,
    file: OwnedFd,
    iova: u64,
    /// As asked for.
    bytes: u64,
    /// As mapped.
    mapped: u64,
}

impl DmaBuffer {
    pub(crate) fn new(shared: &Arc<Shared>, bytes: u64) -> Result<Self> {
        let mapped = bytes
            .checked_next_multiple_of(PAGE)
            .filter(|mapped| *mapped > 0 && i64::try_from(*mapped).is_ok())
            .ok_or(DriverError::BufferBytes(bytes))?;
        let file = sealed_memory(mapped).map_err(|errno| DriverError::system("memory for DMA", errno))?;
        let memory = SharedMapping::of_file(file.as_fd(), 0, mapped, Allowed::ALL)
            .map_err(|errno| DriverError::system("mapping memory for DMA", errno))?;
        let iova = {
            let mut iovas = shared.iovas();
            let limit = iovas.limit();
            iovas
                .take(mapped)
                .ok_or(DriverError::NoIova { bytes: mapped, limit })?
        };
        let done = shared.transport().map(iova, mapped, file.as_fd());
        if let Err(error) = done {
            shared.iovas().give_back(iova);
            return Err(error);
        }
        Ok(Self {
            shared: Arc::clone(shared),
            memory,
            file,
            iova,
            bytes,
            mapped,
        })
    }

    /// Where it begins for the device: a multiple of 4096.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Its length, as asked for. Zeros at first.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file behind it: a memfd, sealed against shrinking and growing.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads a word at a multiple of its size, by one access.
    ///
    /// # Errors
    /// Where the offset is outside the buffer or misaligned.
    pub fn read<W: Word>(&self, offset: u64) -> Result<W> {
        self.check(offset, W::BYTES as u64, true)?;
        self.memory
            .read(offset)
            .ok_or_else(|| self.outside(offset, W::BYTES))
    }

    /// Writes a word at a multiple of its size, by one access.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<W: Word>(&self, offset: u64, value: W) -> Result<()> {
        self.check(offset, W::BYTES as u64, true)?;
        self.memory
            .write(offset, value)
            .ok_or_else(|| self.outside(offset, W::BYTES))
    }

    /// Copies bytes out, in ascending order.
    ///
    /// # Errors
    /// Where they lie outside the buffer.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len() as u64, false)?;
        self.memory
            .copy_out(offset, data)
            .ok_or_else(|| self.outside(offset, data.len()))
    }

    /// Copies bytes in, in ascending order.
    ///
    /// # Errors
    /// Where they lie outside the buffer.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, false)?;
        self.memory
            .copy_in(offset, data)
            .ok_or_else(|| self.outside(offset, data.len()))
    }

    fn check(&self, offset: u64, bytes: u64, single: bool) -> Result<()> {
        check(Place::Buffer, offset, bytes, self.bytes, single)
    }

    fn outside(&self, offset: u64, bytes: usize) -> DriverError {
        DriverError::OutOfBounds {
            place: Place::Buffer,
            offset,
            bytes: bytes as u64,
            have: self.bytes,
        }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        let unmapped = self.shared.transport().unmap(self.iova, self.mapped);
        match unmapped {
            Ok(()) => self.shared.iovas().give_back(self.iova),
            // Its addresses are not given out again, since the device may still reach what was there.
            Err(error) => tracing::debug!(iova = self.iova, %error, "a DMA buffer could not be unmapped"),
        }
    }
}

fn sealed_memory(bytes: u64) -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("uvfio-dma", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}
