//! The connection that is kept between calls.
//!
//! The program knows nothing of it, so all may happen to it: fork leaves it to two processes, of which the other is the
//! parent; the program may close it by its number, and get that number for a file of its own. So it is used only by the
//! process that made it, and only while it is the socket that was made (SO_COOKIE). A thread that finds it in use, or a
//! signal's handler that interrupts one, makes another.
#![allow(unsafe_code)] // A number that was kept becomes a descriptor again.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

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

/// A connection to the supervisor, of this thread alone.
pub(crate) struct Connection {
    socket: OwnedFd,
    owner: i32,
    cookie: u64,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The connection that is kept, if there is one that this process can use. It is not kept any more then.
pub(crate) fn take() -> Option<Connection> {
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
    same.then(|| Connection {
        // SAFETY: it is the socket that `keep` was given, and was noted once.
        socket: unsafe { OwnedFd::from_raw_fd(number) },
        owner,
        cookie,
    })
}

/// Keeps a connection for the next call, unless there is one. The process that made it is noted, whoever keeps it: a
/// child's is its parent's still, and is not taken.
pub(crate) fn keep(connection: Connection) {
    let Connection {
        socket,
        owner,
        cookie,
    } = connection;
    if BUSY.swap(true, Ordering::Acquire) {
        return;
    }
    // One that fork has left here is forgotten; exec closes it.
    if KEPT.load(Ordering::Relaxed) < 0 || OWNER.load(Ordering::Relaxed) != owner {
        OWNER.store(owner, Ordering::Relaxed);
        COOKIE.store(cookie, Ordering::Relaxed);
        KEPT.store(socket.into_raw_fd(), Ordering::Relaxed);
    }
    BUSY.store(false, Ordering::Release);
}

/// A new connection, by a number that the program does not expect to get next.
pub(crate) fn make() -> rustix::io::Result<Connection> {
    let socket = connected()?;
    Ok(Connection {
        owner: getpid().as_raw_pid(),
        cookie: sockopt::socket_cookie(&socket)?,
        socket,
    })
}

fn connected() -> rustix::io::Result<OwnedFd> {
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
