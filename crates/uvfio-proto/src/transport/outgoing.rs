//! The writing end, shared by the thread that answers and those that do DMA by message.
//!
//! A message is sent whole or not at all, as far as the other side can tell: where a sender gives up in the
//! middle of one, the rest is kept and goes out before the next message.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::MAX_FDS;
use crate::journal::{Notes, Sending};

/// How long a sender that can't go on waits before it asks again whether it should.
const GLANCE: Duration = Duration::from_millis(20);

/// What a sender does that can't go on: the other side does not read, or another thread is sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Wait.
    Wait,
    /// Give up.
    GiveUp,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The system's.
    #[error("the socket can't be written: {0}")]
    Io(#[from] std::io::Error),
    /// Given up before the first byte: it was not sent at all.
    #[error("given up before it was sent")]
    GivenUp,
    /// Given up after the first byte: it will be sent with the next message.
    #[error("given up while it was sent")]
    Delayed,
}

/// Writes messages to a stream.
#[derive(Debug)]
pub struct Outgoing {
    stream: Arc<UnixStream>,
    /// Where it is noted how far a message has gone.
    journal: Option<Arc<Notes>>,
    turn: Mutex<Turn>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    taken: bool,
    /// How many wait for it: waking nobody would still be a system call, for every message.
    waiting: usize,
    /// The rest of a message that was given up.
    tail: Vec<u8>,
}

impl Outgoing {
    /// Writes to `stream`.
    #[must_use]
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Self::with_journal(stream, None)
    }

    /// The same, noting in a journal how far each message has gone.
    pub(crate) fn with_journal(stream: Arc<UnixStream>, journal: Option<Arc<Notes>>) -> Self {
        Self {
            stream,
            journal,
            turn: Mutex::default(),
            free: Condvar::new(),
        }
    }

    /// Sends a command of two parts, with descriptors; as [`reply`](Self::reply).
    ///
    /// # Errors
    /// The system's, or as it was given up.
    pub fn send(
        &self,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Result<(), SendError> {
        self.send_if(parts, fds, blocked, &mut || true)
    }

    /// As [`send`](Self::send), if `still` says so right before the first byte, when no other message can come
    /// between. Otherwise it is given up.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_if(
        &self,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), SendError> {
        self.send_as(Sending::Command, parts, fds, blocked, still)
    }

    /// Sends the reply to the message that is being answered, in two parts, with descriptors. While it can't go on it
    /// asks `blocked`, again and again.
    ///
    /// # Errors
    /// The system's, or as it was given up.
    pub fn reply(
        &self,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Result<(), SendError> {
        self.send_as(Sending::Reply, parts, fds, blocked, &mut || true)
    }

    fn send_as(
        &self,
        what: Sending,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), SendError> {
        let mut tail = self.take_turn(blocked)?;
        let result = self.flush(&mut tail, blocked).and_then(|()| {
            if !still() {
                return Err(SendError::GivenUp);
            }
            let [first, second] = *parts;
            if let Some(journal) = &self.journal {
                journal.begin(what, first.len() + second.len());
            }
            let sent = self.push(what, parts, fds, blocked);
            match sent {
                Progress {
                    bytes: 0,
                    stopped: Some(Stopped::GivenUp),
                } => Err(SendError::GivenUp),
                Progress {
                    stopped: Some(Stopped::Io(error)),
                    ..
                } => Err(error.into()),
                Progress {
                    bytes,
                    stopped: Some(Stopped::GivenUp),
                } => {
                    tail.extend_from_slice(first.get(bytes..).unwrap_or_default());
                    let into_second = bytes.saturating_sub(first.len());
                    tail.extend_from_slice(second.get(into_second..).unwrap_or_default());
                    Err(SendError::Delayed)
                }
                Progress { stopped: None, .. } => Ok(()),
            }
        });
        self.give_turn(tail);
        result
    }

    /// Sends the rest of an earlier message.
    fn flush(&self, tail: &mut Vec<u8>, blocked: &mut dyn FnMut() -> Blocked) -> Result<(), SendError> {
        if tail.is_empty() {
            return Ok(());
        }
        let Progress { bytes, stopped } = self.push(Sending::Command, &[tail, &[]], &[], blocked);
        tail.drain(..bytes.min(tail.len()));
        match stopped {
            None => {
                // It may have been long, and is rare.
                *tail = Vec::new();
                Ok(())
            }
            Some(Stopped::GivenUp) => Err(SendError::GivenUp),
            Some(Stopped::Io(error)) => Err(error.into()),
        }
    }

    /// Sends until all is sent, or it is given up.
    fn push(
        &self,
        what: Sending,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Progress {
        let [first, second] = *parts;
        let all = first.len() + second.len();
        let mut bytes = 0;
        let mut fds = fds;
        let stopped = |bytes, why| Progress {
            bytes,
            stopped: Some(why),
        };
        while bytes < all {
            let pieces = [
                IoSlice::new(first.get(bytes..).unwrap_or_default()),
                IoSlice::new(
                    second
                        .get(bytes.saturating_sub(first.len())..)
                        .unwrap_or_default(),
                ),
            ];
            let sent = match &self.journal {
                Some(journal) => journal.send(what, self.stream.as_fd(), &pieces, fds),
                None => send_now(&self.stream, &pieces, fds),
            };
            match sent {
                Ok(sent) => {
                    bytes += sent;
                    // They went with the first byte.
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if blocked() == Blocked::GiveUp {
                        return stopped(bytes, Stopped::GivenUp);
                    }
                    if let Err(error) = self.wait_writable() {
                        return stopped(bytes, Stopped::Io(error));
                    }
                }
                Err(error) => return stopped(bytes, Stopped::Io(error.into())),
            }
        }
        Progress { bytes, stopped: None }
    }

    /// Waits a moment for the socket to take more.
    fn wait_writable(&self) -> Result<(), std::io::Error> {
        let mut waited = [PollFd::new(&*self.stream, PollFlags::OUT)];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(GLANCE.subsec_nanos()),
        };
        match poll(&mut waited, Some(&moment)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_turn(&self, blocked: &mut dyn FnMut() -> Blocked) -> Result<Vec<u8>, SendError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while turn.taken {
            if blocked() == Blocked::GiveUp {
                return Err(SendError::GivenUp);
            }
            turn.waiting += 1;
            turn = self
                .free
                .wait_timeout(turn, GLANCE)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            turn.waiting -= 1;
        }
        turn.taken = true;
        Ok(std::mem::take(&mut turn.tail))
    }

    fn give_turn(&self, tail: Vec<u8>) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.taken = false;
        turn.tail = tail;
        if turn.waiting > 0 {
            self.free.notify_one();
        }
    }
}

/// How far a message has gone.
struct Progress {
    bytes: usize,
    stopped: Option<Stopped>,
}

enum Stopped {
    GivenUp,
    Io(std::io::Error),
}

/// Sends what the socket takes at once.
fn send_now(
    stream: &UnixStream,
    pieces: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(
        stream,
        pieces,
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
}
