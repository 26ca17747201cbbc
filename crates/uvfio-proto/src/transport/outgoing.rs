//! The writing end, shared by the thread that answers and those that do DMA by message.
//!
//! A message is sent whole or not at all, as far as the other side can tell: where a sender gives up in the
//! middle of one, the rest is kept and goes out before the next message.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::MAX_FDS;

/// How long a sender that may give up waits before it looks again whether it should.
const GLANCE: Duration = Duration::from_millis(20);

/// When to give up sending.
pub struct GiveUp<'a> {
    /// At this time.
    pub at: Instant,
    /// Or when this says so.
    pub when: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for GiveUp<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GiveUp")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl GiveUp<'_> {
    fn now(&self) -> bool {
        (self.when)() || Instant::now() >= self.at
    }
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
        Self {
            stream,
            turn: Mutex::default(),
            free: Condvar::new(),
        }
    }

    /// Sends a message of two parts, with descriptors; waits as long as it takes, unless it is to be given up.
    ///
    /// # Errors
    /// The system's, or as it was given up.
    pub fn send(
        &self,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        give_up: Option<&GiveUp<'_>>,
    ) -> Result<(), SendError> {
        let mut tail = self.take_turn(give_up)?;
        let result = self.flush(&mut tail, give_up).and_then(|()| {
            let [first, second] = *parts;
            let sent = self.push(parts, fds, give_up);
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
    fn flush(&self, tail: &mut Vec<u8>, give_up: Option<&GiveUp<'_>>) -> Result<(), SendError> {
        if tail.is_empty() {
            return Ok(());
        }
        let Progress { bytes, stopped } = self.push(&[tail, &[]], &[], give_up);
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
    fn push(&self, parts: &[&[u8]; 2], fds: &[BorrowedFd<'_>], give_up: Option<&GiveUp<'_>>) -> Progress {
        let [first, second] = *parts;
        let all = first.len() + second.len();
        let mut bytes = 0;
        let mut fds = fds;
        let stopped = |bytes, why| Progress {
            bytes,
            stopped: Some(why),
        };
        let mut flags = SendFlags::NOSIGNAL;
        if give_up.is_some() {
            flags |= SendFlags::DONTWAIT;
        }
        while bytes < all {
            if give_up.is_some_and(GiveUp::now) {
                return stopped(bytes, Stopped::GivenUp);
            }
            let pieces = [
                IoSlice::new(first.get(bytes..).unwrap_or_default()),
                IoSlice::new(
                    second
                        .get(bytes.saturating_sub(first.len())..)
                        .unwrap_or_default(),
                ),
            ];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return stopped(bytes, Stopped::Io(Errno::TOOMANYREFS.into()));
            }
            match sendmsg(&*self.stream, &pieces, &mut control, flags) {
                Ok(sent) => {
                    bytes += sent;
                    // They went with the first byte.
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
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

    fn take_turn(&self, give_up: Option<&GiveUp<'_>>) -> Result<Vec<u8>, SendError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while turn.taken {
            if give_up.is_some_and(GiveUp::now) {
                return Err(SendError::GivenUp);
            }
            turn.waiting += 1;
            turn = match give_up {
                None => self.free.wait(turn).unwrap_or_else(PoisonError::into_inner),
                Some(_) => {
                    self.free
                        .wait_timeout(turn, GLANCE)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
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
