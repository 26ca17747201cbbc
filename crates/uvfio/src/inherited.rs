//! Descriptors that the process was started with, by number.
#![allow(unsafe_code)] // A number from the command line becomes a descriptor in no other way.

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// A duplicate of descriptor `number`; the original stays open and is not used by anything else here.
///
/// # Errors
/// Where no such descriptor is open.
pub(crate) fn duplicate(number: u16) -> rustix::io::Result<OwnedFd> {
    // SAFETY: a `u16` is never -1, the one number that a borrowed descriptor must not have. The call below only asks
    // the kernel to duplicate the number, which fails with EBADF where it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(RawFd::from(number)) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 3)
}

/// Descriptor `number` itself, which is not passed on to other programs.
///
/// # Errors
/// Where no such descriptor is open.
pub(crate) fn take(number: u16) -> rustix::io::Result<OwnedFd> {
    let taken = duplicate(number)?;
    // SAFETY: it is open, as was just seen, and by the words of whoever started this process it is this process's; nothing
    // else here uses it.
    drop(unsafe { OwnedFd::from_raw_fd(RawFd::from(number)) });
    Ok(taken)
}
