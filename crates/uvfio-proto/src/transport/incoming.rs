//! The reading end.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use uvfio_core::close_elsewhere;
use zerocopy::FromBytes;

use super::{Descriptors, MAX_FDS, MOST_RECEIVED, ReceiveError};
use crate::journal::{self, Agreed, Attached, Received};
use crate::message::{HEADER_BYTES, Header};

/// The buffer of an idle connection, bytes.
const FIRST_BYTES: usize = 8 * 1024;

/// Reads messages from a stream, through one buffer that grows to the longest message seen.
///
/// One `recvmsg` takes all that is there, so that a message that came whole costs one call. Nothing is
/// allocated from a number on the wire beyond the limit.
#[derive(Debug)]
pub struct Incoming {
    stream: Arc<UnixStream>,
    buffer: Buffer,
    /// Bytes of the message given out last; they lie before `start`, until the next is asked for.
    current: usize,
    /// What of the buffer has been received and not given out.
    start: usize,
    end: usize,
    /// How many bytes came before `buffer[0]`.
    before: u64,
    /// Descriptors of messages not given out yet.
    arrived: Arrivals,
    /// Where descriptors were lost: at most twice, as [`note_loss`](Self::note_loss) says.
    lost: Vec<u64>,
    limit: usize,
}

/// Where received bytes are kept.
#[derive(Debug)]
enum Buffer {
    /// With us.
    Own(Vec<u8>),
    /// Where they outlive us, and how many bytes of that are in use.
    Journal(journal::Buffer, usize),
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Journal(journal, used) => journal.bytes().get(..*used).unwrap_or_default(),
        }
    }
}

/// A descriptor, with the byte of the stream that it came with.
#[derive(Debug)]
struct Arrived {
    at: u64,
    fd: OwnedFd,
}

/// Descriptors of messages that have not come whole.
#[derive(Debug, Default)]
struct Arrivals(Vec<Arrived>);

impl Drop for Arrivals {
    fn drop(&mut self) {
        // As those of a message that nobody takes ([`Descriptors`]).
        for Arrived { fd, .. } in self.0.drain(..) {
            close_elsewhere(fd);
        }
    }
}

/// A message; its payload is [`Incoming::payload`] until the next is read.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// The descriptors that came with it, at most [`MAX_FDS`], all close-on-exec.
    pub fds: Descriptors,
    /// Whether descriptors were lost: too many, or this process can have no more.
    pub fds_lost: bool,
    payload: Range<usize>,
}

/// How far the next message has come.
enum Begun {
    /// Whole: so many bytes with its header.
    Whole(Header, usize),
    /// Not; so many bytes of it should be had next.
    Wants(usize),
}

impl Incoming {
    /// Reads `stream`; a message longer than `limit` bytes with its header is an error.
    #[must_use]
    pub fn new(stream: Arc<UnixStream>, limit: usize) -> Self {
        let limit = limit.max(HEADER_BYTES);
        Self {
            stream,
            buffer: Buffer::Own(vec![0; FIRST_BYTES.min(limit)]),
            current: 0,
            start: 0,
            end: 0,
            before: 0,
            arrived: Arrivals::default(),
            lost: Vec::new(),
            limit,
        }
    }

    /// Reads `stream` into a journal, of which nothing has been used yet.
    pub(crate) fn with_journal(stream: Arc<UnixStream>, limit: usize, journal: journal::Buffer) -> Self {
        Self {
            buffer: Buffer::Journal(journal, FIRST_BYTES),
            ..Self::new(stream, limit)
        }
    }

    /// Goes on where the last reader of a journal ended: with the bytes in `received`, of which the journal's first
    /// is byte `before` of the stream.
    pub(crate) fn resume(
        stream: Arc<UnixStream>,
        limit: usize,
        journal: journal::Buffer,
        received: Range<usize>,
        before: u64,
    ) -> Self {
        let used = received.end.max(FIRST_BYTES);
        Self {
            buffer: Buffer::Journal(journal, used),
            start: received.start,
            end: received.end,
            before,
            ..Self::new(stream, limit)
        }
    }

    /// The next message; `None` where the other side has closed after the last one. Waits for it.
    ///
    /// A time-out of the socket's is [`ReceiveError::Io`] (`WouldBlock`), after which the same message can be
    /// waited for again.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<Message>, ReceiveError> {
        self.next_until(None)
    }

    /// As [`next_message`](Self::next_message), waiting no longer than until `until` for the whole of it, however it
    /// comes; then it is [`ReceiveError::Io`] (`TimedOut`).
    ///
    /// # Errors
    /// See [`ReceiveError`].
    pub fn next_message_until(&mut self, until: Instant) -> Result<Option<Message>, ReceiveError> {
        self.next_until(Some(until))
    }

    #[inline(always)] // Of the way through that `Server::command` tells of.
    fn next_until(&mut self, until: Option<Instant>) -> Result<Option<Message>, ReceiveError> {
        self.current = 0;
        if let Buffer::Journal(journal, _) = &mut self.buffer {
            journal.done(self.before + self.start as u64);
        }
        // Nearly always nothing of the next message came with the last one.
        let mut begun = if self.start == self.end {
            Begun::Wants(HEADER_BYTES)
        } else {
            self.left_over()?
        };
        loop {
            let want = match begun {
                Begun::Whole(header, bytes) => return Ok(Some(self.take(header, bytes))),
                Begun::Wants(bytes) => bytes,
            };
            self.make_room(want);
            if let Some(until) = until {
                self.wait_readable(until)?;
            }
            if self.receive(RecvFlags::empty())? == 0 {
                return match self.end - self.start {
                    0 => Ok(None),
                    have => Err(ReceiveError::CutShort { have }),
                };
            }
            begun = self.begun()?;
        }
    }

    /// What has been received of the next message.
    #[inline]
    fn begun(&self) -> Result<Begun, ReceiveError> {
        let received = self.buffer.bytes().get(self.start..self.end).unwrap_or_default();
        let Ok((header, _)) = Header::read_from_prefix(received) else {
            return Ok(Begun::Wants(HEADER_BYTES));
        };
        let bytes = self.check(&header)?;
        Ok(if bytes <= received.len() {
            Begun::Whole(header, bytes)
        } else {
            Begun::Wants(bytes)
        })
    }

    #[cold]
    fn left_over(&self) -> Result<Begun, ReceiveError> {
        self.begun()
    }

    /// Waits until there is something to receive, or the stream has ended.
    #[cold]
    fn wait_readable(&self, until: Instant) -> Result<(), ReceiveError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut waited = [PollFd::new(&*self.stream, PollFlags::IN)];
            match poll(&mut waited, Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
    }

    /// Whether a whole message lies in the buffer, or what can be none, so that it need not be waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !matches!(self.begun(), Ok(Begun::Wants(_)))
    }

    /// Takes in what is there without waiting, as far as the buffer may grow. Payloads given out are lost.
    ///
    /// It stops where descriptors come, so that only one message of those taken in can have any. What goes wrong
    /// here goes wrong again, or shows as the stream's end, in [`next_message`](Self::next_message).
    pub fn take_in(&mut self) {
        while self.arrived.0.is_empty() && self.lost.is_empty() {
            let held = self.end - self.start;
            if held >= self.limit {
                return;
            }
            self.make_room((held + FIRST_BYTES).min(self.limit));
            if !matches!(self.receive(RecvFlags::DONTWAIT), Ok(1..)) {
                return;
            }
        }
    }

    /// Notes in the journal, where there is one, what VERSION agreed on.
    pub(crate) fn agreed(&mut self, session: Agreed) {
        if let Buffer::Journal(journal, _) = &mut self.buffer {
            journal.agreed(session);
        }
    }

    /// The payload of the message that [`next_message`](Self::next_message) gave last.
    #[must_use]
    #[inline]
    pub fn payload(&self, message: &Message) -> &[u8] {
        self.buffer
            .bytes()
            .get(message.payload.clone())
            .unwrap_or_default()
    }

    /// The length of the message that `header` begins.
    #[inline]
    fn check(&self, header: &Header) -> Result<usize, ReceiveError> {
        let &Header {
            id, command, bytes, ..
        } = header;
        match usize::try_from(bytes).unwrap_or(usize::MAX) {
            short if short < HEADER_BYTES => Err(ReceiveError::TooShort { id, command, bytes }),
            long if long > self.limit => Err(ReceiveError::TooLong {
                id,
                command,
                bytes,
                limit: self.limit,
            }),
            fits => Ok(fits),
        }
    }

    /// Gives out the first `bytes` received as a message, with the descriptors that came within them.
    #[inline]
    fn take(&mut self, header: Header, bytes: usize) -> Message {
        let payload = self.start + HEADER_BYTES..self.start + bytes;
        self.start += bytes;
        self.current = bytes;
        let end = self.before + self.start as u64;
        let mut message = Message {
            header,
            fds: Descriptors::default(),
            fds_lost: false,
            payload,
        };
        if !self.arrived.0.is_empty() || !self.lost.is_empty() {
            self.hand_over(&mut message, end);
        }
        message
    }

    /// Gives a message, which ends at byte `end` of the stream, the descriptors that came with its bytes.
    #[cold]
    fn hand_over(&mut self, message: &mut Message, end: u64) {
        if !self.arrived.0.is_empty() {
            for Arrived { fd, .. } in self.arrived.0.extract_if(.., |arrived| arrived.at < end) {
                if message.fds.len() < MAX_FDS {
                    message.fds.push(fd);
                } else {
                    close_elsewhere(fd);
                    message.fds_lost = true;
                }
            }
        }
        if !self.lost.is_empty() {
            message.fds_lost |= self.lost.extract_if(.., |at| *at < end).count() > 0;
        }
    }

    /// Makes the buffer hold a message of `want` bytes from `start` on.
    fn make_room(&mut self, want: usize) {
        if self.start == self.end
            && self.current == 0
            && let Buffer::Journal(journal, used) = &mut self.buffer
            && want <= *used
        {
            // Nothing is kept: the next byte goes to the beginning.
            self.before += self.end as u64;
            journal.moved(self.before);
            (self.start, self.end) = (0, 0);
            return;
        }
        self.move_or_grow(want);
    }

    #[inline(never)]
    fn move_or_grow(&mut self, want: usize) {
        let Buffer::Own(buffer) = &mut self.buffer else {
            return self.make_room_in_journal(want);
        };
        if self.start == self.end {
            self.before += self.end as u64;
            (self.start, self.end) = (0, 0);
        }
        if self.start + want > buffer.len() {
            buffer.copy_within(self.start..self.end, 0);
            self.before += self.start as u64;
            (self.start, self.end) = (0, self.end - self.start);
        }
        if want > buffer.len() {
            buffer.resize(want.next_power_of_two().min(self.limit), 0);
        }
    }

    /// The same in a journal, where the message that is being answered is kept, too, and a move must leave the bytes
    /// where they are until it is done: whoever goes on after us finds them in either place, and whole.
    fn make_room_in_journal(&mut self, want: usize) {
        let Buffer::Journal(journal, used) = &mut self.buffer else {
            return;
        };
        let kept = self.start - self.current;
        let apart = self.end - kept <= kept;
        if kept > 0 && apart && (kept == self.end || self.start + want > *used) {
            journal.copy_to_front(kept..self.end);
            self.before += kept as u64;
            journal.moved(self.before);
            (self.start, self.end) = (self.current, self.end - kept);
        }
        if self.start + want > *used {
            *used = (self.start + want).next_power_of_two().min(journal.bytes().len());
        }
    }

    /// Receives what there is, and gives the number of bytes: 0 at the stream's end.
    #[inline(always)] // As `next_until`.
    fn receive(&mut self, flags: RecvFlags) -> Result<usize, ReceiveError> {
        let end = self.before + self.end as u64;
        let Received { bytes, attached } = match &mut self.buffer {
            Buffer::Own(buffer) => receive(
                &self.stream,
                buffer.get_mut(self.end..).unwrap_or_default(),
                flags,
            )?,
            Buffer::Journal(journal, used) => {
                let dont_wait = flags.contains(RecvFlags::DONTWAIT);
                journal.receive(self.stream.as_fd(), self.end..*used, end, dont_wait)?
            }
        };
        self.end += bytes;
        if let Some(attached) = attached {
            self.keep(attached, (end + bytes as u64).saturating_sub(1));
        }
        Ok(bytes)
    }

    /// Keeps descriptors for the message that they belong to: it has byte `at` of the stream.
    #[cold]
    fn keep(&mut self, attached: Attached, at: u64) {
        let Attached { fds, mut lost } = attached;
        for fd in fds {
            // A message that comes byte by byte may bring more than one call can.
            if self.arrived.0.len() < 2 * MAX_FDS {
                self.arrived.0.push(Arrived { at, fd });
            } else {
                close_elsewhere(fd);
                lost = true;
            }
        }
        if lost {
            self.note_loss(at);
        }
    }

    /// Keeps in mind that the message that holds byte `at` has lost descriptors.
    ///
    /// Two places are enough. While there is one, it is received only when the first message is incomplete, so
    /// that every place lies in that one, except the last, which may lie in another; and the first place is never
    /// given up.
    fn note_loss(&mut self, at: u64) {
        if self.lost.len() < 2 {
            self.lost.push(at);
        } else if let Some(last) = self.lost.last_mut() {
            *last = at;
        }
    }
}

fn receive(stream: &UnixStream, free: &mut [u8], flags: RecvFlags) -> Result<Received, std::io::Error> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_RECEIVED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut pieces = [IoSliceMut::new(free)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(stream, &mut pieces, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    let lost = got.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received {
        bytes: got.bytes,
        attached: (lost || !fds.is_empty()).then_some(Attached { fds, lost }),
    })
}
