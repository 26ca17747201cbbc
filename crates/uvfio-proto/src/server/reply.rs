//! The reply to one command: a buffer that is kept, so that a region access allocates nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use crate::error::Errno;
use crate::message::{HEADER_BYTES, Header, HeaderFlags, Kind};
use crate::transport::{Blocked, Outgoing, SendError};

/// A reply while it is put together.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Header and payload. Never shrinks in capacity: a read's data is written straight into it.
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
    errno: Option<Errno>,
}

impl Reply {
    /// Starts an empty one.
    pub(super) fn begin(&mut self) {
        // `send` writes the header: what stands in its place meanwhile does not matter.
        self.bytes.resize(HEADER_BYTES, 0);
        self.fds.clear();
        self.errno = None;
    }

    /// Appends a structure.
    pub(super) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.put_bytes(value.as_bytes());
    }

    /// Appends bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `bytes` zeros, to be filled in place. The caller has checked their number against the limit.
    pub(super) fn space(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.bytes.len();
        if bytes <= 8 {
            // A store, where a length that is only known now makes it a call of `memset`.
            self.bytes.extend_from_slice(&[0; 8]);
            self.bytes.truncate(from + bytes);
        } else {
            self.bytes.resize(from + bytes, 0);
        }
        self.bytes.get_mut(from..).unwrap_or_default()
    }

    /// Sends a descriptor with it, after those that were put before.
    pub(super) fn put_fd(&mut self, fd: Arc<OwnedFd>) {
        self.fds.push(fd);
    }

    /// Makes it an error: a header and nothing else.
    pub(super) fn refuse(&mut self, errno: Errno) {
        self.begin();
        self.errno = Some(errno);
    }

    /// Sends it in answer to `request`; while the client does not take it, `blocked` is called.
    pub(super) fn send(
        &mut self,
        out: &Outgoing,
        request: &Header,
        mut blocked: impl FnMut(),
    ) -> Result<(), SendError> {
        let mut blocked = || {
            blocked();
            Blocked::Wait
        };
        let mut flags = Kind::REPLY;
        if self.errno.is_some() {
            flags |= HeaderFlags::ERROR.bits();
        }
        let header = Header {
            id: request.id,
            command: request.command,
            bytes: self.bytes.len() as u32,
            flags,
            errno: self.errno.map_or(0, |errno| errno.0),
        };
        // It always fits: `begin` made the place.
        let _ = header.write_to_prefix(&mut self.bytes);
        // Nearly every reply has none, and then nothing is allocated.
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let sent = out.reply(&self.bytes, &fds, &mut blocked);
        drop(fds);
        self.fds.clear();
        sent
    }
}
