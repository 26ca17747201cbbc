//! Where a namespace's bytes are kept.

mod file;
mod memory;

use std::io;

pub use file::FileBackend;
pub use memory::MemoryBackend;

/// The store below one namespace.
///
/// Called by many threads at once, with ranges inside [`bytes`](Backend::bytes) only. Calls may take their time:
/// they delay the commands of their own queue alone, and no reset waits for them.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Size in bytes; must not change.
    fn bytes(&self) -> u64;

    /// Reads `data.len()` bytes at byte `offset`.
    ///
    /// # Errors
    /// The host sees Unrecovered Read Error.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` at byte `offset`. Need not be durable before [`flush`](Backend::flush).
    ///
    /// # Errors
    /// The host sees Write Fault, or Capacity Exceeded for [`io::ErrorKind::StorageFull`].
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes durable everything that was written before the call.
    ///
    /// # Errors
    /// The host sees Write Fault.
    fn flush(&self) -> io::Result<()>;

    /// Makes `bytes` bytes at `offset` read as zeroes; `release` allows to give the space back.
    ///
    /// # Errors
    /// As [`write`](Backend::write).
    fn write_zeroes(&self, offset: u64, bytes: u64, release: bool) -> io::Result<()>;

    /// Gives back the space of `bytes` bytes at `offset`, if it can; they read as zeroes then.
    ///
    /// # Errors
    /// As [`write`](Backend::write); not being able to is none.
    fn release(&self, offset: u64, bytes: u64) -> io::Result<()>;
}
