//! Memory of the client's that has no descriptor: DMA_READ and DMA_WRITE, from server to client
//! ("VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE").
//!
//! A device's thread sends a command and waits; the socket's thread hands it the answer by message id. Waiting
//! ends with the answer, after the time-out, on [`abandon`](DmaMessages::abandon) (a reset, an unmap) or when
//! the connection closes. An answer that comes later is known by its id and dropped: its id is used again only
//! after it has come.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use uvfio_core::{DmaError, DmaMessages, DmaTicket};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Errno;
use crate::message::{Command, DmaAccess, HEADER_BYTES, Header};
use crate::transport::{Blocked, Outgoing, SendError};

/// Most commands whose answer is due or given up; a client that answers none of so many gets no more.
const MAX_OPEN: usize = 256;

/// Most bytes in one message: QEMU refuses more.
const MAX_CHUNK: u32 = 1 << 20;

const ABANDONED: &str = "abandoned by a reset, an unmap or the user's leaving";

/// The channel of one connection.
#[derive(Debug)]
pub(crate) struct DmaChannel {
    out: Arc<Outgoing>,
    chunk: usize,
    timeout: Duration,
    open: Mutex<Open>,
    changed: Condvar,
    /// The thread that reads the socket, which must never wait for an answer.
    reader: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct Open {
    commands: BTreeMap<u16, Slot>,
    next_id: u16,
    /// Accesses under way, by number; each may take several commands.
    accesses: BTreeMap<u64, Under>,
    next_access: u64,
    closed: bool,
}

/// An access under way, and whether it is abandoned.
#[derive(Debug)]
struct Under {
    first: u64,
    last: u64,
    abandoned: bool,
}

impl Open {
    fn is_abandoned(&self, number: u64) -> bool {
        self.accesses.get(&number).is_none_or(|access| access.abandoned)
    }
}

/// A command whose answer has not been fetched.
#[derive(Debug)]
enum Slot {
    /// Somebody waits for it.
    Due(DmaAccess, Command),
    /// Nobody waits any more.
    GivenUp(Command),
    /// It has come; a read's data with it.
    Answered(Result<Vec<u8>, &'static str>),
}

/// A reply that nothing was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

impl DmaChannel {
    /// A channel to a client that takes `max_data` bytes in a message.
    pub(crate) fn new(out: Arc<Outgoing>, max_data: u32, timeout: Duration) -> Self {
        Self {
            out,
            chunk: max_data.clamp(1, MAX_CHUNK) as usize,
            timeout,
            open: Mutex::default(),
            changed: Condvar::new(),
            reader: OnceLock::new(),
        }
    }

    /// Says that the calling thread reads the socket from now on.
    pub(crate) fn read_here(&self) {
        let _ = self.reader.set(std::thread::current().id());
    }

    /// Takes a reply from the socket.
    ///
    /// # Errors
    /// Where no command of ours is open that it could answer.
    pub(crate) fn answer(&self, header: &Header, payload: &[u8]) -> Result<(), Unasked> {
        let mut open = self.lock();
        let slot = open.commands.get_mut(&header.id).ok_or(Unasked)?;
        match slot {
            Slot::Due(asked, command) if *command as u16 == header.command => {
                let result = judge(*asked, *command, header, payload);
                if let Err(why) = &result {
                    tracing::warn!(
                        target: "audit",
                        "{} of {:#x} bytes at {:#x} by message: {why} (error number {})",
                        command.name(), asked.count, asked.iova, Errno(header.errno).0
                    );
                }
                *slot = Slot::Answered(result);
                self.changed.notify_all();
            }
            Slot::GivenUp(command) if *command as u16 == header.command => {
                open.commands.remove(&header.id);
            }
            _ => return Err(Unasked),
        }
        Ok(())
    }

    /// Ends every access, now and later: the connection is gone.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Sends one command and waits for its answer.
    fn ask(
        &self,
        command: Command,
        access: DmaAccess,
        data: &[u8],
        number: u64,
    ) -> Result<Vec<u8>, &'static str> {
        if self.reader.get() == Some(&std::thread::current().id()) {
            return Err("asked for by the thread that would have to read the answer");
        }
        let until = Instant::now() + self.timeout;
        let id = self.open(command, access, number)?;
        let header = Header {
            id,
            command: command as u16,
            bytes: (HEADER_BYTES + size_of::<DmaAccess>() + data.len()) as u32,
            ..Header::default()
        };
        let mut first = [0; HEADER_BYTES + size_of::<DmaAccess>()];
        let _ = header.write_to_prefix(&mut first);
        let _ = access.write_to_suffix(&mut first);
        let mut blocked = || {
            let open = self.lock();
            if open.closed || open.is_abandoned(number) || Instant::now() >= until {
                Blocked::GiveUp
            } else {
                Blocked::Wait
            }
        };
        // Once more when it is our turn to write: the answer to the request that abandoned it waits for its own turn
        // after that, so no client sees this command behind that answer.
        let mut still = || !self.lock().is_abandoned(number);
        match self.out.send_if(&[&first, data], &[], &mut blocked, &mut still) {
            Ok(()) => self.wait(id, command, number, until),
            Err(SendError::Delayed) => {
                // It goes out with the next message, and is answered then; which may have been by now.
                let mut open = self.lock();
                match open.commands.get(&id) {
                    Some(Slot::Answered(_)) => drop(open.commands.remove(&id)),
                    _ => drop(open.commands.insert(id, Slot::GivenUp(command))),
                }
                Err("given up while it was sent")
            }
            Err(SendError::GivenUp) => {
                let mut open = self.lock();
                open.commands.remove(&id);
                Err(if open.is_abandoned(number) {
                    ABANDONED
                } else {
                    "the client does not read its socket"
                })
            }
            Err(SendError::Io(_)) => {
                self.lock().commands.remove(&id);
                Err("the connection is gone")
            }
        }
    }

    /// Opens a command under an id that no other open one has.
    fn open(&self, command: Command, access: DmaAccess, number: u64) -> Result<u16, &'static str> {
        let mut open = self.lock();
        if open.is_abandoned(number) {
            return Err(ABANDONED);
        }
        if open.closed {
            return Err("the connection is gone");
        }
        if open.commands.len() >= MAX_OPEN {
            return Err("the client has left too many commands without an answer");
        }
        let mut id = open.next_id;
        while open.commands.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        open.next_id = id.wrapping_add(1);
        open.commands.insert(id, Slot::Due(access, command));
        Ok(id)
    }

    fn wait(&self, id: u16, command: Command, number: u64, until: Instant) -> Result<Vec<u8>, &'static str> {
        let mut open = self.lock();
        loop {
            if let Some(Slot::Answered(_)) = open.commands.get(&id)
                && let Some(Slot::Answered(result)) = open.commands.remove(&id)
            {
                return result;
            }
            let left = until.saturating_duration_since(Instant::now());
            let why = if open.closed {
                "the connection is gone"
            } else if open.is_abandoned(number) {
                ABANDONED
            } else if left.is_zero() {
                "the client gave no answer in time"
            } else {
                open = self
                    .changed
                    .wait_timeout(open, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            };
            open.commands.insert(id, Slot::GivenUp(command));
            return Err(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reply to `asked` says.
fn judge(
    asked: DmaAccess,
    command: Command,
    header: &Header,
    payload: &[u8],
) -> Result<Vec<u8>, &'static str> {
    if header.is_error() {
        return Err("the client refused");
    }
    // The specification's table of DMA_WRITE's reply has a count of 4 bytes.
    let (got, data) = match DmaAccess::read_from_prefix(payload) {
        Ok((got, data)) => (got, data),
        Err(_) if command == Command::DmaWrite => match <[u64; 1]>::read_from_prefix(payload) {
            Ok(([iova], rest)) => match u32::read_from_prefix(rest) {
                Ok((count, rest)) => (
                    DmaAccess {
                        iova,
                        count: u64::from(count),
                    },
                    rest,
                ),
                Err(_) => return Err("the client's answer is too short"),
            },
            Err(_) => return Err("the client's answer is too short"),
        },
        Err(_) => return Err("the client's answer is too short"),
    };
    if got != asked {
        return Err("the client's answer is to another access");
    }
    if command == Command::DmaRead && data.len() as u64 != asked.count {
        return Err("the client's answer has not the bytes that were asked for");
    }
    Ok(if command == Command::DmaRead {
        data.to_vec()
    } else {
        Vec::new()
    })
}

impl DmaMessages for DmaChannel {
    fn begin(&self, first: u64, last: u64) -> DmaTicket {
        let mut open = self.lock();
        let number = open.next_access;
        open.next_access = number.wrapping_add(1);
        let access = Under {
            first,
            last,
            abandoned: false,
        };
        open.accesses.insert(number, access);
        DmaTicket(number)
    }

    fn end(&self, ticket: DmaTicket) {
        self.lock().accesses.remove(&ticket.0);
    }

    fn read(&self, DmaTicket(number): DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        // Several messages are abandoned as one access.
        let mut at = iova;
        for piece in data.chunks_mut(self.chunk) {
            let access = DmaAccess {
                iova: at,
                count: piece.len() as u64,
            };
            let got = self
                .ask(Command::DmaRead, access, &[], number)
                .map_err(|why| DmaError::Message { iova: at, why })?;
            if got.len() == piece.len() {
                piece.copy_from_slice(&got);
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write(&self, DmaTicket(number): DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for piece in data.chunks(self.chunk) {
            let access = DmaAccess {
                iova: at,
                count: piece.len() as u64,
            };
            self.ask(Command::DmaWrite, access, piece, number)
                .map_err(|why| DmaError::Message { iova: at, why })?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn abandon(&self) {
        self.abandon_range(0, u64::MAX);
    }

    fn abandon_range(&self, first: u64, last: u64) {
        for access in self.lock().accesses.values_mut() {
            access.abandoned |= access.first <= last && access.last >= first;
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
