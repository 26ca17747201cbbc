//! An eventfd of our own, by which a thread that waits for descriptors is told of something.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// Readable from [`raise`](Self::raise) to [`take`](Self::take); neither waits.
#[derive(Debug)]
pub(crate) struct Signal(OwnedFd);

impl Signal {
    /// Not raised.
    ///
    /// # Errors
    /// Where the system has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Raises it; once raised it stays so.
    pub(crate) fn raise(&self) {
        // One that is full is raised already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it was raised since the last call.
    pub(crate) fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
