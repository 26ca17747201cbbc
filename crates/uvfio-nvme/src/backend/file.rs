//! A file or block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{FallocateFlags, FileType, fallocate, fstat};
use rustix::io::Errno;

use super::Backend;

/// Zeroes written at a time where the file system can't.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// The first bytes of a file or block device.
///
/// A file that is cut short by somebody else stays short: what lies beyond its end can neither be read nor written.
/// (Who cuts it in the midst of a write may find it grown by that write; the next one fails.) After a flush has
/// failed, all later ones fail, until the file is opened anew.
#[derive(Debug)]
pub struct FileBackend {
    file: File,
    bytes: u64,
    /// Whether it is a file whose size may change, so that a write may make it longer.
    may_shrink: bool,
    flushes: Flushes,
}

impl FileBackend {
    /// The first `bytes` bytes of `file`, which must be open for reading, and for writing too unless the namespace
    /// is read-only.
    #[must_use]
    pub fn new(file: File, bytes: u64) -> Self {
        let may_shrink = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        Self {
            file,
            bytes,
            may_shrink,
            flushes: Flushes::default(),
        }
    }

    /// Finds out whether the first `end` bytes are there to be written.
    fn check_there(&self, end: u64) -> io::Result<()> {
        if self.may_shrink && u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0) < end {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file has been cut short: it ends before what is to be written",
            ));
        }
        Ok(())
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
        self.check_there(offset.saturating_add(data.len() as u64))?;
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.flush(|| self.file.sync_data())
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, release: bool) -> io::Result<()> {
        self.check_there(offset.saturating_add(bytes))?;
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

/// Whether what was written has been lost.
///
/// The kernel tells of a failed write-back once, and counts the pages as clean from then on: the next `fdatasync` of
/// the same file succeeds, though what was written is nowhere.
#[derive(Debug, Default)]
struct Flushes {
    lost: AtomicBool,
    /// Held for reading by every flush under way.
    under_way: RwLock<()>,
}

impl Flushes {
    /// Flushes by `sync`, unless a flush has failed before.
    fn flush(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.lost.load(Ordering::SeqCst) {
            let under_way = self.under_way.read().unwrap_or_else(PoisonError::into_inner);
            let outcome = sync();
            if outcome.is_err() {
                self.lost.store(true, Ordering::SeqCst);
            }
            drop(under_way);
            outcome?;
            // Of several at once, one only is told of a failure; the others wait to learn it from that one.
            drop(self.under_way.write().unwrap_or_else(PoisonError::into_inner));
        }
        if self.lost.load(Ordering::SeqCst) {
            return Err(io::Error::other(
                "an earlier flush failed, and what was written before it may be lost; serve the image anew",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn failed() -> io::Result<()> {
        Err(io::ErrorKind::Other.into())
    }

    #[test]
    fn after_one_flush_has_failed_every_later_one_fails() {
        let flushes = Flushes::default();
        flushes.flush(|| Ok(())).unwrap();
        flushes.flush(failed).unwrap_err();
        for _ in 0..3 {
            let error = flushes.flush(|| Ok(())).unwrap_err();
            assert!(error.to_string().contains("an earlier flush failed"), "{error}");
        }
    }

    #[test]
    fn a_flush_that_succeeds_beside_one_that_fails_fails_too() {
        let flushes = Flushes::default();
        let (begun, wait_begun) = channel();
        let (done, wait_done) = channel();
        std::thread::scope(|scope| {
            let flushes = &flushes;
            let failing = scope.spawn(move || {
                flushes.flush(|| {
                    begun.send(()).unwrap();
                    wait_done.recv().unwrap();
                    failed()
                })
            });
            wait_begun.recv().unwrap();
            // The kernel has told the other one, which has yet to say so.
            let beside = flushes.flush(|| {
                done.send(()).unwrap();
                Ok(())
            });
            assert!(failing.join().unwrap().is_err());
            assert!(beside.is_err(), "its data may be among what was lost");
        });
    }

    #[test]
    fn a_file_that_was_cut_short_is_not_made_longer_again() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let backend = FileBackend::new(file.try_clone().unwrap(), 1 << 20);
        backend.write((1 << 20) - 512, &[1; 512]).unwrap();
        file.set_len(4096).unwrap();
        backend.write(0, &[2; 4096]).unwrap();
        for (what, outcome) in [
            ("write", backend.write(8192, &[3; 512])),
            ("write over the end", backend.write(3584, &[3; 1024])),
            ("write of zeroes", backend.write_zeroes(8192, 512, false)),
            ("release with zeroes", backend.write_zeroes(8192, 512, true)),
            ("read", backend.read(8192, &mut [0; 512])),
        ] {
            let error = outcome.expect_err(what);
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{what}: {error}");
        }
        assert_eq!(file.metadata().unwrap().len(), 4096, "the file's size");
    }
}
