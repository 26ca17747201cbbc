//! Who calls: the thread that made a system call, as whoever caught it reaches it.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;

use crate::FileId;

/// The thread that calls.
pub trait Caller {
    /// Copies out of its memory.
    ///
    /// # Errors
    /// EFAULT where not all of it can be read.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Copies into its memory.
    ///
    /// # Errors
    /// EFAULT where not all of it can be written.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno>;

    /// What its descriptor `number` is.
    ///
    /// # Errors
    /// EBADF where it has none of that number.
    fn descriptor(&self, number: i32) -> Result<Given, Errno>;

    /// The memory of its process, for DMA: whatever is there at the moment of an access.
    fn memory(&self) -> Arc<dyn ProcessMemory>;

    /// Whether anything can be mapped for it, so that it may be offered an mmap of a BAR at all.
    fn can_map(&self) -> bool {
        true
    }

    /// Whether [`Part::Trapped`](crate::Part::Trapped) can be had, so that this caller may be offered an mmap of a BAR that is not plain
    /// memory.
    fn can_trap(&self) -> bool {
        false
    }
}

/// A descriptor of the caller's.
#[derive(Debug)]
pub enum Given {
    /// An open file of this interface.
    Ours(FileId),
    /// Another; a duplicate of it.
    Other(OwnedFd),
}

/// The memory of a process. It may change, and go, at any time; an access then fails.
pub trait ProcessMemory: Debug + Send + Sync {
    /// Copies out.
    ///
    /// # Errors
    /// EFAULT where not all of it can be read; ESRCH where the process is gone.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Copies in.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno>;

    /// Whether a range can be mapped for DMA now: all of it is there, and can be written where `write` is set. The
    /// kernel pins pages at that moment and refuses what is not there.
    ///
    /// # Errors
    /// EFAULT where it is not. The default looks at the first byte and the last only.
    fn check(&self, address: u64, bytes: u64, write: bool) -> Result<(), Errno> {
        let last = bytes
            .checked_sub(1)
            .and_then(|more| address.checked_add(more))
            .ok_or(Errno::FAULT)?;
        for at in [address, last] {
            let mut byte = [0];
            self.read(at, &mut byte)?;
        }
        let _ = write;
        Ok(())
    }

    /// The memory that is at a range now, by the same addresses, and stays that whatever the process then maps there; none
    /// where it can't be kept. The kernel, which pins pages, keeps all. The default keeps nothing.
    fn kept(&self, address: u64, bytes: u64) -> Option<Arc<dyn ProcessMemory>> {
        let _ = (address, bytes);
        None
    }

    /// Where memory that is mapped for DMA counts as locked (RLIMIT_MEMLOCK, without CAP_IPC_LOCK). The default is nowhere:
    /// there is no limit.
    fn account(&self, counted: CountedBy) -> Option<Account> {
        let _ = counted;
        None
    }

    /// The file that a range is, and the range's offset in it, where whoever has a device may be handed a duplicate of
    /// its descriptor, and with it the whole file. The default is none.
    fn file(&self, address: u64, bytes: u64) -> Option<(BorrowedFd<'_>, u64)> {
        let _ = (address, bytes);
        None
    }
}

/// Whose locked memory is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedBy {
    /// A process': containers do so.
    Process,
    /// That of all processes of a user: `/dev/iommu` does so.
    User,
}

/// What is locked, and how much may be.
#[derive(Clone, Debug)]
pub struct Account {
    /// Bytes that are mapped for DMA. This crate adds and subtracts them.
    pub locked: Arc<AtomicU64>,
    /// Most bytes that there may be, at this moment.
    pub limit: u64,
}
