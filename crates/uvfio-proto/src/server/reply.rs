//! The reply to one command: a buffer that is kept, so that a region access allocates nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use crate::error::Errno;
use crate::message::{HEADER_BYTES, Header, HeaderFlags, Kind, RegionAccess};
use crate::transport::{Blocked, Outgoing, SendError};

/// Bytes of data that are zeroed by a store.
const SHORT: usize = 8;

/// A reply while it is put together.
#[derive(Debug)]
pub(super) struct Reply {
    /// Header and payload are the first `used` of these; as many as the longest reply had, so that nearly none
    /// allocates.
    bytes: Vec<u8>,
    used: usize,
    fds: Vec<Arc<OwnedFd>>,
    errno: Option<Errno>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES + size_of::<RegionAccess>() + SHORT],
            used: HEADER_BYTES,
            fds: Vec::new(),
            errno: None,
        }
    }
}

impl Reply {
    /// Starts an empty one.
    #[inline]
    pub(super) fn begin(&mut self) {
        // `send` writes the header: what stands in its place meanwhile does not matter.
        self.used = HEADER_BYTES;
        if !self.fds.is_empty() {
            self.fds.clear();
        }
        self.errno = None;
    }

    /// Appends a structure.
    #[inline]
    pub(super) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        // It always fits.
        let _ = value.write_to(self.room(size_of::<T>()));
    }

    /// Appends bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        let _ = bytes.write_to(self.room(bytes.len()));
    }

    /// Appends `bytes` zeros, to be filled in place. The caller has checked their number against the limit.
    #[inline]
    pub(super) fn space(&mut self, bytes: usize) -> &mut [u8] {
        if bytes > SHORT {
            return self.long_space(bytes);
        }
        // What follows is not used. A length that is only known now would make it a call of `memset`.
        let from = self.used;
        let _ = [0_u8; SHORT].write_to(self.room(SHORT));
        self.used = from + bytes;
        self.bytes.get_mut(from..self.used).unwrap_or_default()
    }

    #[inline(never)]
    fn long_space(&mut self, bytes: usize) -> &mut [u8] {
        let space = self.room(bytes);
        space.fill(0);
        space
    }

    /// The next `bytes` bytes, whatever they hold.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.used;
        self.used = from + bytes;
        if self.used > self.bytes.len() {
            self.grow();
        }
        self.bytes.get_mut(from..self.used).unwrap_or_default()
    }

    #[cold]
    fn grow(&mut self) {
        self.bytes.resize(self.used, 0);
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
    #[inline(always)] // Of the way through that `Server::command` tells of.
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
            bytes: self.used as u32,
            flags,
            errno: self.errno.map_or(0, |errno| errno.0),
        };
        // It always fits: `default` made the place.
        let _ = header.write_to_prefix(&mut self.bytes);
        if !self.fds.is_empty() {
            return self.send_with_fds(out, &mut blocked);
        }
        let bytes = self.bytes.get(..self.used).unwrap_or_default();
        out.reply(bytes, &[], &mut blocked)
    }

    #[cold]
    fn send_with_fds(
        &mut self,
        out: &Outgoing,
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Result<(), SendError> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let bytes = self.bytes.get(..self.used).unwrap_or_default();
        let sent = out.reply(bytes, &fds, blocked);
        drop(fds);
        self.fds.clear();
        sent
    }
}
