//! Memory that is gone with the controller: for tests and scratch space.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{Backend, FileBackend};

/// A memfd: what was never written, or was released, takes no memory.
#[derive(Debug)]
pub struct MemoryBackend(FileBackend);

impl MemoryBackend {
    /// `bytes` bytes of zeroes.
    ///
    /// # Errors
    /// Where the system gives no memfd of that size.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let memory = memfd_create(c"nvme-namespace", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, bytes)?;
        Ok(Self(FileBackend::new(File::from(memory), bytes)))
    }
}

impl Backend for MemoryBackend {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, _release: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, bytes, true)
    }

    fn release(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.release(offset, bytes)
    }
}
