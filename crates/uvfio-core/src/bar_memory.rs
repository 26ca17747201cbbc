//! BAR memory of a software device that its user may map.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::dma::mapping::{Mapping, Trust};
use crate::{Mappable, Mapped};

/// The unit of what can be mapped, bytes.
const PAGE: u64 = 4096;

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
pub enum BarMemoryError {
    /// The numbers.
    #[error("{bytes:#x} bytes at {offset:#x} of a BAR can't be mapped: both must be multiples of 4096")]
    Range {
        /// Where in the BAR.
        offset: u64,
        /// How long.
        bytes: u64,
    },
    /// The system.
    #[error("the system gives no memory for a BAR: {0}")]
    System(#[from] std::io::Error),
}

/// Part of a BAR as memory, zero at first, that the user may map and change at any moment. Made anew for each user:
/// one who has left still has the old one.
#[derive(Debug)]
pub struct BarMemory {
    file: Arc<OwnedFd>,
    mapping: Mapping,
    offset: u64,
    bytes: u64,
}

impl BarMemory {
    /// Makes `bytes` bytes from `offset` of the BAR on, both multiples of 4096.
    ///
    /// # Errors
    /// Where a number is not possible, or the system gives no memory.
    pub fn new(offset: u64, bytes: u64) -> Result<Self, BarMemoryError> {
        let whole = bytes != 0 && offset.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE);
        let end = offset
            .checked_add(bytes)
            .filter(|_| whole)
            .ok_or(BarMemoryError::Range { offset, bytes })?;
        let errno = |errno| BarMemoryError::System(std::io::Error::from(errno));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("uvfio-bar", flags).map_err(errno)?;
        // A call that a confined worker may make.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, end).map_err(errno)?;
        // The user holds it, too: its size must stay, or an access would be a fault.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(errno)?;
        let mapping = Mapping::new(file.as_fd(), end, true).map_err(errno)?;
        Ok(Self {
            file: Arc::new(file),
            mapping,
            offset,
            bytes,
        })
    }

    /// As [`Device::mappable`](crate::Device::mappable) tells of it.
    #[must_use]
    pub fn mappable(&self) -> Mappable {
        Mappable {
            offset: self.offset,
            bytes: self.bytes,
            file: Arc::clone(&self.file),
            bar_at: 0,
            kind: Mapped::Memory,
        }
    }

    /// Reads the little-endian dword at `offset` of the BAR, a multiple of 4: all of it at once. What lies outside
    /// reads 0.
    #[must_use]
    pub fn read_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        match self.mapping.read(offset, &mut bytes, Trust::Sealed) {
            Ok(()) => u32::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    /// Writes the little-endian dword at `offset` of the BAR, a multiple of 4, at once. Outside, nothing happens.
    pub fn write_u32(&self, offset: u64, value: u32) {
        // Nothing is outside but by a mistake of the device's, which then sees no change.
        let _ = self.mapping.write(offset, &value.to_le_bytes(), Trust::Sealed);
    }

    /// Makes every byte 0, as a reset does.
    pub fn clear(&self) {
        for offset in (self.offset..self.offset + self.bytes).step_by(4) {
            self.write_u32(offset, 0);
        }
    }
}
