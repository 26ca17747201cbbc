//! A stream to the peer: whole messages come in, whatever bytes and descriptors a case likes go out.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, send, sendmsg,
};
use uvfio_proto::message::{Command, HEADER_BYTES, Header};
use zerocopy::FromBytes;

/// Longest message that is taken from a peer, bytes: a full read, and then some.
const LONGEST: usize = (64 << 20) + 4096;

/// Most descriptors that the kernel passes with one message.
const MOST_FDS: usize = 253;

/// A message from the peer.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            id,
            command,
            bytes,
            flags,
            errno,
        } = self.header;
        let name = Command::from_number(command).map_or("unknown", Command::name);
        write!(
            f,
            "a message with id {id}, command {command} ({name}), size {bytes}, flags {flags:#x}, error {errno}, {} descriptors",
            self.fds.len()
        )
    }
}

/// What came of waiting for a message.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A whole one.
    Message(Message),
    /// The peer has closed; in the middle of a message if `cut`.
    Closed {
        /// Bytes of a message that never became whole.
        cut: usize,
    },
    /// Nothing, or not all of it, in the time given.
    Silence {
        /// Bytes of a message that came.
        have: usize,
    },
    /// A header that begins no message.
    Garbled(Header),
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => message.fmt(f),
            Self::Closed { cut: 0 } => f.write_str("the connection was closed"),
            Self::Closed { cut } => write!(f, "the connection was closed after {cut} bytes of a message"),
            Self::Silence { have: 0 } => f.write_str("nothing came"),
            Self::Silence { have } => write!(f, "only {have} bytes of a message came"),
            Self::Garbled(header) => write!(f, "a header that begins no message: {header:?}"),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    received: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// How long the next message may take.
    next: Duration,
    /// How long those after it may take.
    later: Duration,
}

impl Link {
    /// A connection whose first message may take `first`, later ones `later`.
    pub(crate) fn new(stream: UnixStream, first: Duration, later: Duration) -> Self {
        Self {
            stream,
            received: Vec::new(),
            fds: Vec::new(),
            next: first,
            later,
        }
    }

    /// Sends bytes, with descriptors on the first of them.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.stream.set_write_timeout(Some(self.later.max(self.next)))?;
        let mut sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += send(&self.stream, rest, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// The next message; waits as long as it may take.
    pub(crate) fn receive(&mut self) -> io::Result<Heard> {
        let late = Instant::now() + self.next;
        loop {
            if let Ok((header, rest)) = Header::read_from_prefix(&self.received) {
                let bytes = header.bytes as usize;
                if !(HEADER_BYTES..=LONGEST).contains(&bytes) {
                    return Ok(Heard::Garbled(header));
                }
                if let Some(payload) = rest.get(..bytes - HEADER_BYTES) {
                    let payload = payload.to_vec();
                    self.received.drain(..bytes);
                    self.next = self.later;
                    return Ok(Heard::Message(Message {
                        header,
                        payload,
                        fds: std::mem::take(&mut self.fds),
                    }));
                }
            }
            if !readable(&self.stream, late.saturating_duration_since(Instant::now()))? {
                return Ok(Heard::Silence {
                    have: self.received.len(),
                });
            }
            if !self.fill()? {
                return Ok(Heard::Closed {
                    cut: self.received.len(),
                });
            }
        }
    }

    /// Takes in what is there; `false` at the stream's end.
    fn fill(&mut self) -> io::Result<bool> {
        // No further than the message under way, so that descriptors belong to it.
        let want = match Header::read_from_prefix(&self.received) {
            Ok((header, _)) => (header.bytes as usize).saturating_sub(self.received.len()),
            Err(_) => HEADER_BYTES - self.received.len(),
        };
        let mut buffer = vec![0; want.clamp(1, 1 << 16)];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = match recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(got) => got.bytes,
            Err(Errno::CONNRESET | Errno::PIPE) => 0,
            Err(error) => return Err(error.into()),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        self.received
            .extend_from_slice(buffer.get(..got).unwrap_or_default());
        Ok(got > 0)
    }
}

/// Whether something can be read, or the other end has gone, within a time.
pub(crate) fn readable(fd: impl std::os::fd::AsFd, within: Duration) -> io::Result<bool> {
    let late = Instant::now() + within;
    loop {
        let left = late.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
