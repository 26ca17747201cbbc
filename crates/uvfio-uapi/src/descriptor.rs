//! Descriptors that callers name in their requests: how they are told apart, and how eventfds among them are signalled.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::refusal::{Outcome, Refusal};
use crate::{Caller, Given};

/// The caller's eventfd `number`: EBADF where it has no such descriptor, EINVAL where that is not an eventfd.
pub(crate) fn eventfd(caller: &dyn Caller, number: i32) -> Outcome<OwnedFd> {
    let not_one = || Refusal::invalid(format!("descriptor {number} is not an eventfd"));
    match given(caller, number)? {
        Given::Ours(_) => Err(not_one()),
        Given::Other(file) if is_eventfd(&file) => Ok(file),
        Given::Other(file) => {
            // Its owner may have made a file whose closing waits.
            uvfio_core::close_elsewhere(file);
            Err(not_one())
        }
    }
}

/// The caller's descriptor `number`.
pub(crate) fn given(caller: &dyn Caller, number: i32) -> Outcome<Given> {
    let found = if number < 0 {
        Err(Errno::BADF)
    } else {
        caller.descriptor(number)
    };
    found.map_err(|errno| Refusal::new(errno, format!("there is no descriptor {number}")))
}

/// Whether a file is an eventfd, by the name that the kernel gives it: real files' names start with a slash.
fn is_eventfd(file: &OwnedFd) -> bool {
    rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())
        .is_ok_and(|name| name.as_bytes() == b"anon_inode:[eventfd]")
}

/// Signals an eventfd, unless it is full: then it is signalled already.
///
/// Waits where its user fills it between the look and the write, until the user empties it. There is no write of an
/// eventfd that could not: RWF_NOWAIT is for reads of it alone, and O_NONBLOCK can be taken away by the user. So of a
/// user's eventfd this is for a thread that only this user needs, and which has no lock.
pub fn signal_eventfd(eventfd: &OwnedFd) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut ready = [PollFd::new(eventfd, PollFlags::OUT)];
    // Of one that only the kernel can have filled so far, it tells an error, which is no room either.
    if poll(&mut ready, Some(&now)).is_ok() && ready[0].revents().contains(PollFlags::OUT) {
        while rustix::io::write(eventfd, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }
}
