//! The user's side of the socket.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A request that was not granted.
#[derive(Debug)]
pub(super) struct Refused {
    /// The error number of the server's reply; none where there was none.
    pub(super) errno: Option<i32>,
    why: String,
}

impl Refused {
    pub(super) fn absent(why: String) -> Self {
        Self { errno: None, why }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => f.write_str(&errno_name(errno)),
            None => f.write_str(&self.why),
        }
    }
}

/// The usual name of an error number, where it is one that the server sends.
fn errno_name(errno: i32) -> String {
    use rustix::io::Errno;
    let names = [
        (Errno::INVAL, "EINVAL"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::RANGE, "ERANGE"),
    ];
    names
        .iter()
        .find(|(known, _)| known.raw_os_error() == errno)
        .map_or_else(|| io::Error::from_raw_os_error(errno).to_string(), |(_, name)| (*name).to_owned())
}
