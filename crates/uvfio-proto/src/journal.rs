//! What must outlive a server that dies, so that another one can answer in its place: in shared memory.
//!
//! A client whose server is killed has sent messages that it wants answered, in order, once each. Some lie in the
//! socket; those that the server had already received would be lost with it. So a server with a journal receives
//! into shared memory, and notes there how far it is:
//!
//! ```text
//! bytes of the stream:   ... answered | received, not answered | in the socket ...
//!                                   done                      end
//! ```
//!
//! A message counts as answered when the next one is looked for. For the message in between, the journal has how much
//! of its reply was sent. Each note is one store, so that a server may be killed between any two instructions.
//! What the kernel does in a system call is noted by the kernel: `recvmmsg` and `sendmmsg` write the number of bytes
//! into the structure that they are given, and that lies in the journal. A call that has begun is not torn by a
//! signal, however fatal; so there is no moment at which bytes have moved and the journal does not say so.
//!
//! The next server ([`crate::Server::resume`]) believes nothing that it has not checked: whoever broke the first one
//! may have written the journal, too.

mod memory;
mod page;

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use zerocopy::FromBytes;

use crate::message::{HEADER_BYTES, Header, RegionAccess};
use crate::server::Limits;
use memory::Memory;
pub(crate) use memory::{Attached, Received};
use page::PAGE_BYTES;

/// Makes journals; a server opens them.
#[derive(Debug)]
pub struct Journal;

impl Journal {
    /// A new journal for one connection: shared memory that can't change its size. What is never used of it takes no
    /// memory.
    ///
    /// # Errors
    /// Where the system has no memory or no descriptor.
    pub fn create(limits: &Limits) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create(c"journal", flags)?;
        ftruncate(&memory, file_bytes(limits))?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(memory)
    }

    /// Opens a journal for the server of a connection with these limits.
    pub(crate) fn open(file: BorrowedFd<'_>, limits: &Limits) -> io::Result<(Buffer, Notes)> {
        let bytes = file_bytes(limits);
        let sealed = fcntl_get_seals(file)?.contains(SealFlags::SHRINK);
        if !sealed || u64::try_from(fstat(file)?.st_size) != Ok(bytes) {
            return Err(io::Error::other(
                "this is no journal for a connection with these limits",
            ));
        }
        let memory = Arc::new(Memory::map(file, bytes)?);
        let notes = Notes {
            memory: Arc::clone(&memory),
        };
        Ok((Buffer { memory }, notes))
    }
}

/// The longest message with its header, bytes.
pub(crate) fn longest(limits: &Limits) -> usize {
    limits.max_data_bytes as usize + HEADER_BYTES + size_of::<RegionAccess>()
}

/// Room for the message that is being answered, those taken in meanwhile, and a move that overlaps neither.
fn file_bytes(limits: &Limits) -> u64 {
    let bytes = PAGE_BYTES + 4 * longest(limits) + 8 * 1024;
    bytes.next_multiple_of(PAGE_BYTES) as u64
}

/// What is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// The reply to the message that is being answered.
    Reply,
    /// A command of ours.
    Command,
}

/// The bytes received. There is one a journal and process.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Arc<Memory>,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// Moves bytes to the buffer's beginning, which they must not overlap: they stay where they were until
    /// [`moved`](Self::moved) says that they have.
    pub(crate) fn copy_to_front(&mut self, from: Range<usize>) {
        self.bytes_mut().copy_within(from, 0);
    }

    /// What was agreed with the client; noted before VERSION is answered.
    pub(crate) fn agreed(&mut self, session: Agreed) {
        self.memory.page().agree(session);
    }

    /// Byte `before` of the stream lies at the buffer's beginning from now on.
    pub(crate) fn moved(&mut self, before: u64) {
        self.memory.page().moved(before);
    }

    /// All bytes of the stream before this one are of messages that are answered.
    pub(crate) fn done(&mut self, done: u64) {
        self.memory.page().done(done);
    }

    /// Receives into a part of the buffer; the bytes are the stream's from `end` on.
    #[inline(always)] // Of the way through that `Server::command` tells of.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        into: Range<usize>,
        end: u64,
        dont_wait: bool,
    ) -> io::Result<Received> {
        let free = self.memory.bytes_of(self).get_mut(into).unwrap_or_default();
        self.memory.receive(socket, free, end, dont_wait)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_of(self)
    }
}

/// The notes of what is sent, for whoever has the turn to send. There is one a journal and process.
#[derive(Debug)]
pub(crate) struct Notes {
    memory: Arc<Memory>,
}

impl Notes {
    /// A message of `total` bytes begins to go out.
    pub(crate) fn begin(&mut self, what: Sending, total: usize) {
        self.memory.page().begin(what, total as u64);
    }

    /// Sends what the socket takes at once.
    #[inline(always)] // Of the way through that `Server::command` tells of.
    pub(crate) fn send(
        &mut self,
        what: Sending,
        socket: BorrowedFd<'_>,
        pieces: &[io::IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> rustix::io::Result<usize> {
        self.memory.send(what, socket, pieces, fds, self)
    }
}

/// What VERSION agreed on, as far as a server must remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Most descriptors in one message to the client.
    pub(crate) most_fds: u32,
    pub(crate) one_area: bool,
    /// Most bytes of data in one message to the client.
    pub(crate) most_data: u32,
}

/// What a server that died has left.
#[derive(Debug)]
pub(crate) struct Left {
    /// Where in the buffer the messages lie that were received and not answered.
    pub(crate) received: Range<usize>,
    /// The number of the buffer's first byte in the stream.
    pub(crate) before: u64,
    /// What was agreed, where VERSION was answered.
    pub(crate) agreed: Option<Agreed>,
    /// Bytes of the first message's reply that are still to be sent; its beginning has been.
    pub(crate) rest_of_reply: usize,
}

/// Why the stream can't be put in step again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfStep {
    /// The notes contradict each other.
    #[error("the journal contradicts itself")]
    Journal,
    /// The client has a part of one of our commands.
    #[error("a command of the server's was cut: {sent} of its {total} bytes were sent")]
    CommandCut {
        /// Bytes sent.
        sent: u64,
        /// Of so many.
        total: u64,
    },
    /// The client has a part of a reply that can't be completed without the device.
    #[error("the reply to command {command} was cut: {sent} of its {total} bytes were sent")]
    ReplyCut {
        /// To which command.
        command: u16,
        /// Bytes sent.
        sent: u64,
        /// Of so many.
        total: u64,
    },
}

impl Buffer {
    /// Reads what the last server has left, checks it, and puts the notes in order.
    pub(crate) fn take_over(&mut self, longest: usize) -> Result<Left, OutOfStep> {
        let noted = self.memory.left();
        let length = self.bytes().len();
        let place = |at: u64| {
            at.checked_sub(noted.before)
                .and_then(|at| usize::try_from(at).ok())
                .filter(|at| *at <= length)
                .ok_or(OutOfStep::Journal)
        };
        let (mut start, end) = (place(noted.done)?, place(noted.end)?);
        // No stream is so long; what is still received is added to this.
        if noted.end > u64::MAX / 2 {
            return Err(OutOfStep::Journal);
        }
        let received = self.bytes().get(start..end).ok_or(OutOfStep::Journal)?;
        if noted.command_sent > 0 && noted.command_sent < noted.command_total {
            return Err(OutOfStep::CommandCut {
                sent: noted.command_sent,
                total: noted.command_total,
            });
        }
        let mut rest_of_reply = 0;
        if let Some((sent, total)) = noted.reply.filter(|(sent, _)| *sent > 0) {
            let (first, _) = Header::read_from_prefix(received).map_err(|_| OutOfStep::Journal)?;
            let rest = total
                .checked_sub(sent)
                .and_then(|rest| usize::try_from(rest).ok());
            rest_of_reply = rest.filter(|rest| *rest <= longest).ok_or(OutOfStep::Journal)?;
            // The data of a read from a device that is gone are all ones, wherever they begin.
            let data = sent as usize >= HEADER_BYTES + size_of::<RegionAccess>();
            let read = first.command == crate::message::Command::RegionRead as u16;
            if rest_of_reply > 0 && !(read && data) {
                return Err(OutOfStep::ReplyCut {
                    command: first.command,
                    sent,
                    total,
                });
            }
            start += first.bytes as usize;
            if (first.bytes as usize) < HEADER_BYTES || start > end {
                return Err(OutOfStep::Journal);
            }
        }
        let done = noted.before + start as u64;
        let page = self.memory.page();
        page.received(noted.end);
        page.done(done);
        Ok(Left {
            received: start..end,
            before: noted.before,
            agreed: noted.agreed.filter(|_| done > 0),
            rest_of_reply,
        })
    }
}
