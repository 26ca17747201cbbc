//! The writing end, shared by the thread that answers and those that do DMA by message.
//!
//! A message is sent whole or not at all, as far as the other side can tell: where a sender gives up in the
//! middle of one, the rest is kept and goes out before the next message.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
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
    /// Locked while a message goes out; nobody waits for the lock itself, since who waits asks `blocked` meanwhile.
    turn: Mutex<Turn>,
    /// How many wait for the turn: waking nobody would still be a system call, for every message.
    waiting: AtomicUsize,
    /// For those that wait.
    waiters: Mutex<()>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    /// The rest of a message that was given up.
    tail: Vec<u8>,
    /// Where it is noted how far a message has gone.
    journal: Option<Notes>,
}

impl Outgoing {
    /// Writes to `stream`.
    #[must_use]
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Self::with_journal(stream, None)
    }

    /// The same, noting in a journal how far each message has gone.
    pub(crate) fn with_journal(stream: Arc<UnixStream>, journal: Option<Notes>) -> Self {
        let tail = Vec::new();
        Self {
            stream,
            turn: Mutex::new(Turn { tail, journal }),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::default(),
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

    /// Sends the reply to the message that is being answered, with descriptors. While it can't go on it asks `blocked`,
    /// again and again.
    ///
    /// # Errors
    /// The system's, or as it was given up.
    #[inline(always)] // Of the way through that `Server::command` tells of.
    pub fn reply(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Result<(), SendError> {
        // Nearly always: nobody else is sending, nothing is left over, and the socket takes all of it.
        if let Some(mut turn) = self.turn_if_free()
            && turn.tail.is_empty()
        {
            if let Some(journal) = &mut turn.journal {
                journal.begin(Sending::Reply, bytes.len());
            }
            let pieces = [IoSlice::new(bytes)];
            let sent = self.send_some(turn.journal.as_mut(), Sending::Reply, &pieces, fds);
            if sent == Ok(bytes.len()) {
                self.give_turn(turn);
                return Ok(());
            }
            let result = self.go_on(&mut turn, sent, bytes, fds, blocked);
            self.give_turn(turn);
            return result;
        }
        self.send_as(Sending::Reply, &[bytes, &[]], fds, blocked, &mut || true)
    }

    /// Goes on with a reply of which the first call did not send all.
    #[cold]
    fn go_on(
        &self,
        turn: &mut Turn,
        sent: rustix::io::Result<usize>,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
    ) -> Result<(), SendError> {
        let (sent, fds) = match sent {
            // They went with the first byte.
            Ok(sent @ 1..) => (sent, &[][..]),
            // To be tried again.
            Ok(0) | Err(Errno::INTR | Errno::AGAIN) => (0, fds),
            Err(error) => return Err(SendError::Io(error.into())),
        };
        let rest = bytes.get(sent..).unwrap_or_default();
        let mut pushed = self.push(turn.journal.as_mut(), Sending::Reply, &[rest, &[]], fds, blocked);
        pushed.bytes += sent;
        pushed.settle(&mut turn.tail, &[bytes, &[]])
    }

    fn send_as(
        &self,
        what: Sending,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), SendError> {
        let mut turn = self.take_turn(blocked)?;
        let result = self.send_in_turn(&mut turn, what, parts, fds, blocked, still);
        self.give_turn(turn);
        result
    }

    fn send_in_turn(
        &self,
        turn: &mut Turn,
        what: Sending,
        parts: &[&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        blocked: &mut dyn FnMut() -> Blocked,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), SendError> {
        self.flush(turn, blocked)?;
        if !still() {
            return Err(SendError::GivenUp);
        }
        let [first, second] = *parts;
        if let Some(journal) = &mut turn.journal {
            journal.begin(what, first.len() + second.len());
        }
        let pushed = self.push(turn.journal.as_mut(), what, parts, fds, blocked);
        pushed.settle(&mut turn.tail, parts)
    }

    /// Sends the rest of an earlier message.
    fn flush(&self, turn: &mut Turn, blocked: &mut dyn FnMut() -> Blocked) -> Result<(), SendError> {
        let Turn { tail, journal } = turn;
        if tail.is_empty() {
            return Ok(());
        }
        let Progress { bytes, stopped } =
            self.push(journal.as_mut(), Sending::Command, &[tail, &[]], &[], blocked);
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
        mut journal: Option<&mut Notes>,
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
            // The kernel is quicker with one piece than with two of which one is empty.
            let pieces = if second.is_empty() { &pieces[..1] } else { &pieces };
            match self.send_some(journal.as_deref_mut(), what, pieces, fds) {
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

    /// Sends what the socket takes at once.
    #[inline(always)] // As `reply`.
    fn send_some(
        &self,
        journal: Option<&mut Notes>,
        what: Sending,
        pieces: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> rustix::io::Result<usize> {
        match journal {
            Some(journal) => journal.send(what, self.stream.as_fd(), pieces, fds),
            None => send_now(&self.stream, pieces, fds),
        }
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

    fn take_turn(&self, blocked: &mut dyn FnMut() -> Blocked) -> Result<MutexGuard<'_, Turn>, SendError> {
        loop {
            if let Some(turn) = self.turn_if_free() {
                return Ok(turn);
            }
            if blocked() == Blocked::GiveUp {
                return Err(SendError::GivenUp);
            }
            let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_add(1, Ordering::SeqCst);
            // Whoever had the turn may have given it before it could see that somebody waits.
            let turn = self.turn_if_free();
            if turn.is_none() {
                let _ = self.free.wait_timeout(waiters, GLANCE);
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
    }

    fn turn_if_free(&self) -> Option<MutexGuard<'_, Turn>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn give_turn(&self, turn: MutexGuard<'_, Turn>) {
        drop(turn);
        // Who begins to wait right now may be missed, and looks again after a glance.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_one();
        }
    }

    #[cold]
    fn wake_one(&self) {
        let _waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        self.free.notify_one();
    }
}

/// How far a message has gone.
struct Progress {
    bytes: usize,
    stopped: Option<Stopped>,
}

impl Progress {
    /// What the sender of these parts is told. Where it gave up in the middle, the rest is kept in `tail`.
    fn settle(self, tail: &mut Vec<u8>, parts: &[&[u8]; 2]) -> Result<(), SendError> {
        match self.stopped {
            None => Ok(()),
            Some(Stopped::Io(error)) => Err(error.into()),
            Some(Stopped::GivenUp) if self.bytes == 0 => Err(SendError::GivenUp),
            Some(Stopped::GivenUp) => {
                let [first, second] = *parts;
                let into_second = self.bytes.saturating_sub(first.len());
                tail.extend_from_slice(first.get(self.bytes..).unwrap_or_default());
                tail.extend_from_slice(second.get(into_second..).unwrap_or_default());
                Err(SendError::Delayed)
            }
        }
    }
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
