//! Descriptors that callers name in their requests.

use std::os::fd::{AsRawFd as _, OwnedFd};

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
