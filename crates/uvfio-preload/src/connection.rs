//! The connection that is kept between calls.
//!
//! The program knows nothing of it, so all may happen to it: fork leaves it to two processes, of which the other is the
//! parent; the program may close it by its number, and get that number for a file of its own. So it is used only by the
//! process that made it, and only while it is the socket that was made (SO_COOKIE). A thread that finds it in use, or a
//! signal's handler that interrupts one, makes another.
#![allow(unsafe_code)] // A number that was kept becomes a descriptor again.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustix::process::getpid;
use uvfio_calls::SOCKET;

use crate::ask::again;
use crate::regions::LOWEST;

/// Whether what follows is being looked at; who finds it so does without.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The number of the descriptor that is kept; -1 where none is.
static KEPT: AtomicI32 = AtomicI32::new(-1);
/// The process that made it.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Which socket it is.
static COOKIE: AtomicU64 = AtomicU64::new(0);

/// The connection that is kept, if there is one that this process can use. It is not kept any more then.
pub(crate) fn take() -> Option<OwnedFd> {
    if KEPT.load(Ordering::Relaxed) < 0 || BUSY.swap(true, Ordering::Acquire) {
        return None;
    }
    let number = KEPT.swap(-1, Ordering::Relaxed);
    let (owner, cookie) = (OWNER.load(Ordering::Relaxed), COOKIE.load(Ordering::Relaxed));
    BUSY.store(false, Ordering::Release);
    if number < 0 || owner != getpid().as_raw_pid() {
        return None;
    }
    // SAFETY: a number that is not negative, for a question that the kernel answers whatever it is.
    let kept = unsafe { BorrowedFd::borrow_raw(number) };
    let same = sockopt::socket_cookie(kept).is_ok_and(|now| now == cookie);
    // SAFETY: it is the socket that `keep` was given, and was noted once.
    same.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Keeps a connection for the next call, unless there is one.
pub(crate) fn keep(connection: OwnedFd) {
    let Ok(cookie) = sockopt::socket_cookie(&connection) else {
        return;
    };
    if BUSY.swap(true, Ordering::Acquire) {
        return;
    }
    // One that fork has left here is forgotten; exec closes it.
    let owner = getpid().as_raw_pid();
    if KEPT.load(Ordering::Relaxed) < 0 || OWNER.load(Ordering::Relaxed) != owner {
        OWNER.store(owner, Ordering::Relaxed);
        COOKIE.store(cookie, Ordering::Relaxed);
        KEPT.store(connection.into_raw_fd(), Ordering::Relaxed);
    }
    BUSY.store(false, Ordering::Release);
}

/// A new connection, by a number that the program does not expect to get next.
pub(crate) fn make() -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = SocketAddrUnix::new(SOCKET)?;
    again(|| connect(&socket, &address))?;
    if socket.as_raw_fd() >= LOWEST {
        return Ok(socket);
    }
    Ok(fcntl_dupfd_cloexec(&socket, LOWEST).unwrap_or(socket))
}
