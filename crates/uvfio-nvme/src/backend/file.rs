//! A file or block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::Backend;

/// Zeroes written at a time where the file system can't.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// The first bytes of a file or block device.
#[derive(Debug)]
pub struct FileBackend {
    file: File,
    bytes: u64,
}

impl FileBackend {
    /// The first `bytes` bytes of `file`, which must be open for reading, and for writing too unless the namespace
    /// is read-only.
    #[must_use]
    pub fn new(file: File, bytes: u64) -> Self {
        Self { file, bytes }
    }

    /// False where the file system can't do this.
    fn allocate(&self, flags: FallocateFlags, offset: u64, bytes: u64) -> io::Result<bool> {
        match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Backend for FileBackend {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, release: bool) -> io::Result<()> {
        if release && self.allocate(FallocateFlags::PUNCH_HOLE, offset, bytes)? {
            return Ok(());
        }
        if self.allocate(FallocateFlags::ZERO_RANGE, offset, bytes)? {
            return Ok(());
        }
        let mut done = 0;
        while done < bytes {
            let now = (bytes - done).min(ZEROES.len() as u64);
            self.file
                .write_all_at(ZEROES.get(..now as usize).unwrap_or_default(), offset + done)?;
            done += now;
        }
        Ok(())
    }

    fn release(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE, offset, bytes).map(drop)
    }
}
