//! The other end: a client for drivers and tests. It blocks, and has one request under way at a time.
//!
//! The server may send commands of its own, DMA_READ and DMA_WRITE, at any time. They are answered from the
//! [`ClientMemory`] while the client waits for a reply, or in [`Client::serve_incoming`].

mod io_fds;
mod memory;
mod requests;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use zerocopy::IntoBytes;

use crate::error::Errno;
use crate::message::{Command, DEFAULT_DATA_BYTES, HEADER_BYTES, Header, HeaderFlags, Kind, RegionAccess};
use crate::transport::{Blocked, Incoming, Message, Outgoing, ReceiveError, SendError};
use crate::version::{self, Capabilities, MAX_MSG_FDS, VersionError};

pub use io_fds::IoEventFd;
pub use memory::ClientMemory;
pub use requests::{DeviceSummary, IrqSummary, RegionSummary};

/// How long a reply is waited for, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long passes between two looks whether a server's line has room.
const LINE_GLANCE: Duration = Duration::from_millis(20);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused it; the connection can be used on.
    #[error("{}: the server refused: {errno}", command.name())]
    Refused {
        /// The command.
        command: Command,
        /// The server's error number.
        errno: Errno,
    },
    /// The server has closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// No reply in time. It is dropped when it comes.
    #[error("{}: no reply within {patience:?}", command.name())]
    TimedOut {
        /// The command.
        command: Command,
        /// How long was waited.
        patience: Duration,
    },
    /// The server broke the protocol.
    #[error("{}: the server's reply is not as the specification has it: {what}", command.name())]
    Protocol {
        /// The command.
        command: Command,
        /// What is wrong.
        what: &'static str,
    },
    /// No common version.
    #[error("VERSION: {0}")]
    Version(#[from] VersionError),
    /// The stream can't be read.
    #[error(transparent)]
    Receive(ReceiveError),
    /// The system's.
    #[error("the socket: {0}")]
    Io(#[from] std::io::Error),
    /// It was not sent, for it can't be right.
    #[error("{}: not sent: {what}", command.name())]
    Caller {
        /// The command.
        command: Command,
        /// What is wrong.
        what: &'static str,
    },
}

/// A connection to a vfio-user server. Its descriptor is the socket's: for waiting, and for nothing else.
pub struct Client {
    stream: Arc<UnixStream>,
    incoming: Incoming,
    out: Outgoing,
    /// What the server said of itself.
    server: Capabilities,
    memory: Option<Box<dyn ClientMemory>>,
    next_id: u16,
    /// Requests that were given up; their replies are dropped.
    late: BTreeSet<u16>,
    patience: Duration,
    /// The request's header and fixed part.
    scratch: Vec<u8>,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client {
    /// Connects to the socket at `path` and agrees on a version.
    ///
    /// # Errors
    /// Where there is no server, or it does not answer as it should.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::new(UnixStream::connect(path)?)
    }

    /// As [`connect`](Self::connect), but waits no longer than `patience` (not zero) for a place in the server's line,
    /// and no longer than that for each reply: a server that has a user answers the next one when that has left.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`ClientError::TimedOut`] for VERSION where the server does not get to it.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let until = Instant::now() + patience;
        let address = SocketAddrUnix::new(path).map_err(std::io::Error::from)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(std::io::Error::from)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                // The line is full. Nothing tells when it no longer is.
                Err(rustix::io::Errno::AGAIN) if Instant::now() < until => std::thread::sleep(LINE_GLANCE),
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(ClientError::TimedOut {
                        command: Command::Version,
                        patience,
                    });
                }
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Self::new_within(stream, patience)
    }

    /// Agrees on a version over a connected socket.
    ///
    /// # Errors
    /// Where the server does not answer as it should.
    pub fn new(stream: UnixStream) -> Result<Self, ClientError> {
        Self::new_within(stream, PATIENCE)
    }

    /// As [`new`](Self::new), but waits no longer than `patience` (not zero) for each reply.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_within(stream: UnixStream, patience: Duration) -> Result<Self, ClientError> {
        let stream = Arc::new(stream);
        let limit = DEFAULT_DATA_BYTES as usize + HEADER_BYTES + size_of::<RegionAccess>();
        let mut client = Self {
            incoming: Incoming::new(Arc::clone(&stream), limit),
            out: Outgoing::new(Arc::clone(&stream)),
            stream,
            server: Capabilities::default(),
            memory: None,
            next_id: 0,
            late: BTreeSet::new(),
            patience,
            scratch: Vec::new(),
        };
        client.set_patience(patience)?;
        let payload = version::propose(&Capabilities {
            max_msg_fds: Some(u64::from(MAX_MSG_FDS)),
            max_data_xfer_size: Some(u64::from(DEFAULT_DATA_BYTES)),
            max_dma_maps: Some(65_535),
            pgsizes: Some(4096),
            write_multiple: Some(true),
            iova_ranges: Some(true),
        })?;
        let reply = client.ask(Command::Version, &payload, &[], &[])?;
        client.server = version::accept(client.incoming.payload(&reply))?;
        Ok(client)
    }

    /// Waits at most this long for each reply from now on. Not zero.
    ///
    /// # Errors
    /// The system's.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), ClientError> {
        self.stream.set_read_timeout(Some(patience))?;
        self.patience = patience;
        Ok(())
    }

    /// Answers the server's DMA from `memory` from now on; until then it is refused.
    pub fn set_memory(&mut self, memory: Box<dyn ClientMemory>) {
        self.memory = Some(memory);
    }

    /// What the server said of itself.
    #[must_use]
    pub fn server_capabilities(&self) -> &Capabilities {
        &self.server
    }

    /// Whether a message of the server's has been received whole, or what can be none, so that
    /// [`serve_incoming`](Self::serve_incoming) need not wait for it.
    #[must_use]
    pub fn has_incoming(&self) -> bool {
        self.incoming.is_ready()
    }

    /// Answers one command of the server's if one comes within `patience`, and says whether one did.
    ///
    /// # Errors
    /// Where the connection is gone or the server broke the protocol.
    pub fn serve_incoming(&mut self, patience: Duration) -> Result<bool, ClientError> {
        let until = Instant::now() + patience;
        while !self.incoming.is_ready() {
            let left = until.saturating_duration_since(Instant::now());
            let mut waited = [PollFd::new(&*self.stream, PollFlags::IN)];
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut waited, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        let message = self.receive(Command::DmaRead, Instant::now() + self.patience)?;
        match message.header.kind() {
            Kind::Command => {
                self.serve_command(&message)?;
                Ok(true)
            }
            Kind::Reply if self.late.remove(&message.header.id) => Ok(false),
            _ => Err(ClientError::Protocol {
                command: Command::DmaRead,
                what: "a message that answers nothing",
            }),
        }
    }

    /// Sends a request and waits for its reply; the payload is the incoming buffer's.
    fn ask(
        &mut self,
        command: Command,
        fixed: &[u8],
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message, ClientError> {
        let until = Instant::now() + self.patience;
        let id = self.send(command, fixed, data, fds, HeaderFlags::empty(), until)?;
        loop {
            let message = match self.receive(command, until) {
                Err(ClientError::TimedOut { command, patience }) => {
                    self.late.insert(id);
                    return Err(ClientError::TimedOut { command, patience });
                }
                other => other?,
            };
            let header = message.header;
            match header.kind() {
                Kind::Command => self.serve_command(&message)?,
                Kind::Reply if header.id == id && header.command == command as u16 => {
                    if header.is_error() {
                        return Err(ClientError::Refused {
                            command,
                            errno: Errno(header.errno),
                        });
                    }
                    return Ok(message);
                }
                Kind::Reply if self.late.remove(&header.id) => {}
                Kind::Reply => {
                    return Err(ClientError::Protocol {
                        command,
                        what: "a reply to another command",
                    });
                }
                Kind::Unknown(_) => {
                    return Err(ClientError::Protocol {
                        command,
                        what: "neither command nor reply",
                    });
                }
            }
            if Instant::now() >= until {
                self.late.insert(id);
                return Err(ClientError::TimedOut {
                    command,
                    patience: self.patience,
                });
            }
        }
    }

    /// Sends a request without waiting; gives its id.
    fn send(
        &mut self,
        command: Command,
        fixed: &[u8],
        data: &[u8],
        fds: &[BorrowedFd<'_>],
        flags: HeaderFlags,
        until: Instant,
    ) -> Result<u16, ClientError> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let bytes =
            u32::try_from(HEADER_BYTES + fixed.len() + data.len()).map_err(|_| ClientError::Caller {
                command,
                what: "it is longer than a message may be",
            })?;
        let header = Header {
            id,
            command: command as u16,
            bytes,
            flags: flags.bits(),
            errno: 0,
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(header.as_bytes());
        self.scratch.extend_from_slice(fixed);
        let incoming = &mut self.incoming;
        let mut blocked = || {
            incoming.take_in();
            if Instant::now() >= until {
                Blocked::GiveUp
            } else {
                Blocked::Wait
            }
        };
        match self.out.send(&[&self.scratch, data], fds, &mut blocked) {
            Ok(()) => Ok(id),
            Err(SendError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(ClientError::Closed)
            }
            Err(SendError::Io(error)) => Err(error.into()),
            Err(SendError::GivenUp) => Err(ClientError::TimedOut {
                command,
                patience: self.patience,
            }),
            Err(SendError::Delayed) => {
                self.late.insert(id);
                Err(ClientError::TimedOut {
                    command,
                    patience: self.patience,
                })
            }
        }
    }

    /// The next message, whole by `until` however it comes; `command` is what is waited for.
    fn receive(&mut self, command: Command, until: Instant) -> Result<Message, ClientError> {
        use std::io::ErrorKind::{ConnectionReset, TimedOut, WouldBlock};
        match self.incoming.next_message_until(until) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ClientError::Closed),
            Err(ReceiveError::Io(error)) if matches!(error.kind(), WouldBlock | TimedOut) => {
                Err(ClientError::TimedOut {
                    command,
                    patience: self.patience,
                })
            }
            Err(ReceiveError::Io(error)) if error.kind() == ConnectionReset => Err(ClientError::Closed),
            Err(error) => Err(ClientError::Receive(error)),
        }
    }
}
