//! Open files: what the program has a descriptor of, and the supervisor the other end.
//!
//! A file is a pair of connected UNIX sockets. The kernel knows the program's end by a number (SO_COOKIE) that stays with
//! it however it is duplicated and whoever has it, and tells our end when the last of its descriptors is closed. That has
//! come about before close(2) comes back: who looks before each call misses none.
//!
//! Nothing goes over them. They are of the kind SOCK_SEQPACKET, shut down both ways, of which a read gives 0 and a write
//! EPIPE without a signal, so that the library in the program sees which of those are ours. Our end is hung up from the
//! beginning then; so what it tells is looked at by edges, and the first is taken before the program has its end.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair, sockopt};
use uvfio_uapi::{FileId, Uapi};

/// How many closed files are looked for at once.
const AT_ONCE: usize = 64;

/// A node's device and inode numbers.
pub(crate) type Inode = (u64, u64);

/// The files of one run.
pub(crate) struct Files {
    uapi: Arc<Uapi>,
    /// Our ends, each with its program's end's number as data
    closed: OwnedFd,
    /// Readable when no more files are to be watched
    end: OwnedFd,
    /// Whoever takes what `closed` tells has it until all of that is closed: who looks next finds nothing half done. Never
    /// taken by who has `open`
    closing: Mutex<()>,
    /// Never held while a file is closed: that may wait for calls, which look here
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    id: FileId,
    node: Option<Inode>,
    /// Closing it would make the program's end another kind of file
    _ours: OwnedFd,
}

impl Files {
    pub(crate) fn new(uapi: Arc<Uapi>) -> io::Result<Self> {
        Ok(Self {
            uapi,
            closed: epoll::create(CreateFlags::CLOEXEC)?,
            end: eventfd(0, EventfdFlags::CLOEXEC)?,
            closing: Mutex::default(),
            open: Mutex::default(),
        })
    }

    /// A descriptor for an open file, to be given to the program: one that was opened by a node, if it was. Where there can
    /// be none the file is closed.
    pub(crate) fn descriptor(&self, id: FileId, node: Option<Inode>) -> Result<OwnedFd, Errno> {
        let made = || {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .map_err(|_| Errno::NFILE)?;
            rustix::net::shutdown(&ours, Shutdown::Both)?;
            let number = sockopt::socket_cookie(&theirs)?;
            // Until the first event has been taken, none of the others may be.
            let closing = self.closing();
            // That it is hung up is told unasked.
            epoll::add(&self.closed, &ours, EventData::new_u64(number), EventFlags::ET)?;
            self.close_told(&closing);
            let open = Open {
                id,
                node,
                _ours: ours,
            };
            self.lock().insert(number, open);
            Ok(theirs)
        };
        made().inspect_err(|_| self.uapi.close(id))
    }

    /// Which file a descriptor is of; none where it is of none of ours.
    pub(crate) fn of(&self, descriptor: BorrowedFd<'_>) -> Option<FileId> {
        self.look(descriptor, |open| open.id)
    }

    /// By which node a descriptor of ours was opened, if by any; none where it is of none of ours.
    pub(crate) fn node_of(&self, descriptor: BorrowedFd<'_>) -> Option<Option<Inode>> {
        self.look(descriptor, |open| open.node)
    }

    fn look<T>(&self, descriptor: BorrowedFd<'_>, at: impl FnOnce(&Open) -> T) -> Option<T> {
        let unix = sockopt::socket_domain(descriptor).is_ok_and(|domain| domain == AddressFamily::UNIX);
        let number = unix.then(|| sockopt::socket_cookie(descriptor).ok()).flatten()?;
        self.lock().get(&number).map(at)
    }

    /// Closes every file of which the program has closed the last descriptor.
    pub(crate) fn close_closed(&self) {
        self.close_told(&self.closing());
    }

    /// Closes the files that are told to be closed. What is told of one that is not in the table yet is its first event.
    fn close_told(&self, _: &MutexGuard<'_, ()>) {
        let mut events = Vec::with_capacity(AT_ONCE);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while epoll::wait(&self.closed, spare_capacity(&mut events), Some(&now)).is_ok_and(|count| count > 0)
        {
            for event in events.drain(..) {
                let closed = self.lock().remove(&event.data.u64());
                if let Some(closed) = closed {
                    self.uapi.close(closed.id);
                }
            }
        }
    }

    /// Closes files as they are closed, also where no call comes to notice it, until [`end`](Self::end).
    pub(crate) fn watch(&self) {
        loop {
            let mut ready = [
                PollFd::new(&self.closed, PollFlags::IN),
                PollFd::new(&self.end, PollFlags::IN),
            ];
            // Interrupted: as if nothing had happened.
            let _ = poll(&mut ready, None);
            if !ready[1].revents().is_empty() {
                return;
            }
            self.close_closed();
        }
    }

    /// Closes all that are left, and watches no more.
    pub(crate) fn end(&self) {
        // Can't fail: the counter is far from full.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        let _closing = self.closing();
        let left: Vec<Open> = self.lock().drain().map(|(_, open)| open).collect();
        for open in left {
            self.uapi.close(open.id);
        }
    }

    fn closing(&self) -> MutexGuard<'_, ()> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
