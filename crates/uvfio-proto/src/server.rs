//! Serves one client from one virtual device.
//!
//! One thread reads a command, carries it out and answers it, in the order they come; no command waits for the
//! client. What a client sends is checked here, once, before the device sees it:
//!
//! - A command that is malformed or refused is answered with an error number and noted in the audit log; the next
//!   one is served.
//! - What can't be framed (a size below a header's or beyond the limit, a type that isn't one, a reply to
//!   nothing) ends the connection, for nobody knows where the next message begins.
//! - Descriptors that a command does not take are closed with it.

mod dma;
mod feature;
mod info;
mod irqs;
mod outcome;
mod regions;
mod reply;
mod request;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uvfio_core::{DmaMessages, VirtualDevice};

use crate::dma_channel::DmaChannel;
use crate::error::Refusal;
use crate::journal::{self, Agreed, Journal, Notes};
use crate::message::{Command, DEFAULT_DATA_BYTES, Header, Kind};
use crate::transport::{Incoming, MAX_FDS, Message, Outgoing, ReceiveError, SendError};
use crate::version::{self, Capabilities, MAX_MSG_FDS};
pub use outcome::{End, ResumeError, ServeError};
use reply::Reply;
use request::Request;

/// What one client may use, and how long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most data in one read or write, bytes; the receive buffer grows no further than this and a header.
    /// From 4096 to 64 MiB (QEMU takes no more).
    pub max_data_bytes: u32,
    /// Most DMA mappings that are promised to the client, at most 65,535; the device's policy decides.
    pub max_mappings: u32,
    /// How long DEVICE_RESET may wait; a longer reset goes on after the reply. Clients give up after 5 s.
    pub reset_patience: Duration,
    /// How long one message to the client may take, sending and answer together.
    pub dma_timeout: Duration,
    /// How long a client that has connected may take until its VERSION is there, whole; after that the connection is
    /// closed, for the device serves nobody else meanwhile.
    pub version_patience: Duration,
}

impl Limits {
    /// The same, with what is out of range put in range.
    pub(crate) fn checked(self) -> Self {
        Self {
            max_data_bytes: self.max_data_bytes.clamp(4096, 64 << 20),
            ..self
        }
    }
}

impl Default for Limits {
    /// 1 MiB, 65,535 mappings, 3 s for a reset, 5 s for DMA by message, 10 s for VERSION.
    fn default() -> Self {
        Self {
            max_data_bytes: DEFAULT_DATA_BYTES,
            max_mappings: 65_535,
            reset_patience: Duration::from_secs(3),
            dma_timeout: Duration::from_secs(5),
            version_patience: Duration::from_secs(10),
        }
    }
}

/// Ends a server from another thread.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    stream: Arc<UnixStream>,
    stopped: Arc<AtomicBool>,
}

impl ServerHandle {
    /// Ends the connection; [`Server::serve`] returns [`End::Shutdown`], even where it waits for a client that does
    /// not read.
    pub fn shutdown(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// One client's connection.
pub struct Server {
    device: Arc<VirtualDevice>,
    limits: Limits,
    stream: Arc<UnixStream>,
    stopped: Arc<AtomicBool>,
    incoming: Incoming,
    out: Arc<Outgoing>,
    reply: Reply,
    /// Bytes of ones that complete a reply of another server's, which died.
    owed: usize,
    /// Set once the version is agreed.
    session: Option<Session>,
}

/// What was agreed with the client.
struct Session {
    channel: Arc<DmaChannel>,
    /// Most descriptors that the client can take in one message.
    most_fds: usize,
    /// The client sent no JSON. One such, SPDK's, maps a region's second area from a second descriptor that nobody
    /// sends; it is shown one area only.
    one_area: bool,
    /// Begun by a server that died: there may be replies to commands of which only that one knew.
    inherited: bool,
}

impl Server {
    /// A server of `device` for the client at the other end of `stream`.
    #[must_use]
    pub fn new(stream: UnixStream, device: Arc<VirtualDevice>, limits: Limits) -> Self {
        let limits = limits.checked();
        let stream = Arc::new(stream);
        let incoming = Incoming::new(Arc::clone(&stream), journal::longest(&limits));
        Self::over(stream, device, limits, incoming, None)
    }

    /// The same, so that another server can go on in its place if this one dies: what is needed for that is kept in a
    /// journal, which must be new.
    ///
    /// # Errors
    /// Where `journal` is not one ([`Journal::create`]) for these limits, or can't be mapped.
    pub fn with_journal(
        stream: UnixStream,
        device: Arc<VirtualDevice>,
        limits: Limits,
        journal: &OwnedFd,
    ) -> std::io::Result<Self> {
        let limits = limits.checked();
        let stream = Arc::new(stream);
        let (buffer, notes) = Journal::open(journal.as_fd(), &limits)?;
        let incoming = Incoming::with_journal(Arc::clone(&stream), journal::longest(&limits), buffer);
        Ok(Self::over(stream, device, limits, incoming, Some(notes)))
    }

    /// A server that goes on in the place of one that died, with the journal of that one. `device` should be gone: of
    /// what the client had mapped and attached, nothing is left.
    ///
    /// # Errors
    /// Where the journal is none, or the stream can't be put in step ([`ResumeError::OutOfStep`]): the connection is
    /// closed then.
    pub fn resume(
        stream: UnixStream,
        device: Arc<VirtualDevice>,
        limits: Limits,
        journal: &OwnedFd,
    ) -> Result<Self, ResumeError> {
        let close = stream.try_clone().map_err(ResumeError::Io)?;
        let resumed = Self::resume_in_step(stream, device, limits.checked(), journal);
        if resumed.is_err() {
            // Others may hold duplicates of the socket: dropping this one would not close it.
            let _ = close.shutdown(std::net::Shutdown::Both);
        }
        resumed
    }

    fn resume_in_step(
        stream: UnixStream,
        device: Arc<VirtualDevice>,
        limits: Limits,
        journal: &OwnedFd,
    ) -> Result<Self, ResumeError> {
        let stream = Arc::new(stream);
        let longest = journal::longest(&limits);
        let (mut buffer, notes) = Journal::open(journal.as_fd(), &limits).map_err(ResumeError::Io)?;
        let left = buffer.take_over(longest)?;
        let incoming = Incoming::resume(Arc::clone(&stream), longest, buffer, left.received, left.before);
        let mut server = Self::over(stream, device, limits, incoming, Some(notes));
        server.owed = left.rest_of_reply;
        if let Some(agreed) = left.agreed {
            server.begin_session(agreed, true);
        }
        Ok(server)
    }

    fn over(
        stream: Arc<UnixStream>,
        device: Arc<VirtualDevice>,
        limits: Limits,
        incoming: Incoming,
        journal: Option<Notes>,
    ) -> Self {
        // Whoever accepted it may have set it otherwise; an error shows at the first read.
        let _ = stream.set_nonblocking(false);
        Self {
            device,
            limits,
            stopped: Arc::default(),
            incoming,
            out: Arc::new(Outgoing::with_journal(Arc::clone(&stream), journal)),
            stream,
            reply: Reply::default(),
            owed: 0,
            session: None,
        }
    }

    /// A handle by which another thread can end this.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            stream: Arc::clone(&self.stream),
            stopped: Arc::clone(&self.stopped),
        }
    }

    /// Serves until the client leaves or is shut out. Attaches the device once the version is agreed; whoever calls
    /// this detaches it afterwards.
    ///
    /// # Errors
    /// Where the client broke the protocol in such a way that nothing more can be read, or agreed on no version.
    pub fn serve(&mut self) -> Result<End, ServeError> {
        let result = self.serve_all();
        if let Some(session) = &self.session {
            session.channel.close();
        }
        // Others may hold duplicates of the socket: dropping this one would not close it.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        match result {
            _ if self.stopped.load(Ordering::SeqCst) => Ok(End::Shutdown),
            Err(ServeError::Receive(ReceiveError::Io(error)) | ServeError::Send(error))
                if is_leaving(&error) =>
            {
                Ok(End::Disconnected)
            }
            Err(error) => {
                tracing::warn!(target: "audit", device = self.device.name(), "connection closed: {error}");
                Err(error)
            }
            Ok(()) => Ok(End::Disconnected),
        }
    }

    fn serve_all(&mut self) -> Result<(), ServeError> {
        if self.owed > 0 {
            let rest = vec![0xff; std::mem::take(&mut self.owed)];
            (&*self.stream).write_all(&rest).map_err(ServeError::Send)?;
        }
        if self.session.is_none() && !self.agree()? {
            return Ok(());
        }
        while let Some(message) = self.incoming.next_message()? {
            match message.header.kind() {
                Kind::Command => self.command(message)?,
                Kind::Reply => self.answered(&message)?,
                Kind::Unknown(kind) => return Err(unknown_kind(&message.header, kind)),
            }
        }
        Ok(())
    }

    /// Waits for VERSION, no longer than the limit, and agrees on one; false where the client leaves before.
    #[cold]
    fn agree(&mut self) -> Result<bool, ServeError> {
        let due = Instant::now() + self.limits.version_patience;
        let first = self
            .incoming
            .next_message_until(due)
            .map_err(|error| match error {
                ReceiveError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    ServeError::NoVersion(self.limits.version_patience)
                }
                error => error.into(),
            })?;
        let Some(message) = first else {
            return Ok(false);
        };
        match message.header.kind() {
            Kind::Command => self.first_command(&message)?,
            Kind::Reply => self.answered(&message)?,
            Kind::Unknown(kind) => return Err(unknown_kind(&message.header, kind)),
        }
        Ok(true)
    }

    /// The client has answered a command of ours.
    #[inline(never)]
    fn answered(&self, message: &Message) -> Result<(), ServeError> {
        let Header { id, command, .. } = message.header;
        let payload = self.incoming.payload(message);
        let session = self.session.as_ref().ok_or(ServeError::Unasked { id, command })?;
        let answered = session.channel.answer(&message.header, payload);
        if answered.is_err() && !session.inherited {
            return Err(ServeError::Unasked { id, command });
        }
        Ok(())
    }

    /// Carries out one command and answers it.
    ///
    /// Nearly every message of a client's life reads or writes a region, so those alone are inline, and so is the whole
    /// way from one system call to the next: no function on it is entered before a call and returns after it. A call
    /// leaves the kernel's addresses where the processor keeps those that functions will return to, so the first such
    /// return after it is guessed wrong; two of them, one after each call, cost more than all that is done here
    /// (`cargo xtask bench access` shows what they cost the ping-pong). Functions that are entered and return between
    /// two calls cost nothing of the kind.
    #[inline(always)]
    fn command(&mut self, message: Message) -> Result<(), ServeError> {
        let header = message.header;
        self.reply.begin();
        let bare = message.fds.is_empty() && !message.fds_lost;
        let payload = self.incoming.payload(&message);
        let result = if bare && header.command == Command::RegionRead as u16 {
            regions::read(&self.device, &self.limits, payload, &mut self.reply)
        } else if bare && header.command == Command::RegionWrite as u16 {
            regions::write(&self.device, &self.limits, payload, &mut self.reply)
        } else {
            self.other_command(message)
        };
        if let Err(refusal) = &result {
            self.refused(&header, refusal);
        }
        self.answer(&header)
    }

    #[inline(never)]
    fn other_command(&mut self, message: Message) -> Result<(), Refusal> {
        let number = message.header.command;
        let (command, session) = match (Command::from_number(number), &self.session) {
            (None, _) => return Err(Refusal::NoSuchCommand(number)),
            (Some(_), _) if message.fds_lost => return Err(Refusal::DescriptorsLost(number)),
            (Some(_), None) => return Err(Refusal::BeforeVersion(number)),
            (Some(command), Some(session)) => (command, session),
        };
        let payload = self.incoming.payload(&message);
        Request {
            device: &self.device,
            limits: &self.limits,
            session,
            command,
            payload,
            fds: message.fds,
            reply: &mut self.reply,
        }
        .carry_out()
    }

    /// The command before all others: VERSION.
    #[cold]
    fn first_command(&mut self, message: &Message) -> Result<(), ServeError> {
        let header = message.header;
        self.reply.begin();
        if header.command != Command::Version as u16 {
            return self.close_with(&header, &Refusal::BeforeVersion(header.command), || {
                ServeError::BeforeVersion(header.command)
            });
        }
        if message.fds_lost {
            let refusal = Refusal::DescriptorsLost(header.command);
            let why = refusal.to_string();
            return self.close_with(&header, &refusal, || ServeError::VersionRefused(why));
        }
        let ours = Capabilities {
            max_msg_fds: Some(u64::from(MAX_MSG_FDS)),
            max_data_xfer_size: Some(u64::from(self.limits.max_data_bytes)),
            // QEMU refuses a server that says more.
            max_dma_maps: Some(u64::from(self.limits.max_mappings.min(65_535))),
            pgsizes: None,
            write_multiple: Some(true),
            iova_ranges: Some(true),
        };
        let agreed = version::read(self.incoming.payload(message)).and_then(|proposal| {
            let payload = version::answer(&proposal, header.bytes as usize, &ours)?;
            Ok((proposal, payload))
        });
        let (proposal, payload) = match agreed {
            Ok(agreed) => agreed,
            Err(error) => {
                let refusal = Refusal::Version(error.clone());
                return self.close_with(&header, &refusal, || ServeError::Version(error));
            }
        };
        self.reply.put_bytes(&payload);
        let theirs = proposal.capabilities.as_ref();
        let agreed = Agreed {
            most_fds: theirs
                .map_or(Capabilities::default().msg_fds(), Capabilities::msg_fds)
                .min(MAX_FDS) as u32,
            one_area: theirs.is_none(),
            most_data: theirs.map_or(Capabilities::default().data_bytes(), Capabilities::data_bytes),
        };
        self.incoming.agreed(agreed);
        self.answer(&header)?;
        self.begin_session(agreed, false);
        Ok(())
    }

    /// From now on the device has a user; `inherited`: of another server, which died.
    fn begin_session(&mut self, agreed: Agreed, inherited: bool) {
        let channel = Arc::new(DmaChannel::new(
            Arc::clone(&self.out),
            agreed.most_data.min(self.limits.max_data_bytes),
            self.limits.dma_timeout,
        ));
        channel.read_here();
        let messages: Arc<dyn DmaMessages> = Arc::clone(&channel) as _;
        self.session = Some(Session {
            channel,
            most_fds: agreed.most_fds as usize,
            one_area: agreed.one_area,
            inherited,
        });
        self.device.attach(Some(messages));
    }

    fn close_with(
        &mut self,
        header: &Header,
        refusal: &Refusal,
        error: impl FnOnce() -> ServeError,
    ) -> Result<(), ServeError> {
        self.refused(header, refusal);
        self.answer(header)?;
        Err(error())
    }

    /// Makes the reply an error, and notes it.
    #[cold]
    fn refused(&mut self, header: &Header, refusal: &Refusal) {
        let errno = refusal.errno();
        self.reply.refuse(errno);
        tracing::warn!(
            target: "audit",
            device = self.device.name(),
            id = header.id,
            errno = errno.0,
            "refused: {refusal}"
        );
    }

    /// Sends the reply, unless the client wants none.
    #[inline(always)] // As `command`.
    fn answer(&mut self, header: &Header) -> Result<(), ServeError> {
        if header.no_reply() {
            self.reply.begin();
            return Ok(());
        }
        let incoming = &mut self.incoming;
        self.reply
            .send(&self.out, header, || incoming.take_in())
            .map_err(|error| match error {
                SendError::Io(error) => ServeError::Send(error),
                SendError::GivenUp | SendError::Delayed => {
                    ServeError::Send(std::io::ErrorKind::TimedOut.into())
                }
            })
    }
}

#[cold]
fn unknown_kind(header: &Header, kind: u8) -> ServeError {
    let &Header { id, command, .. } = header;
    ServeError::Kind { id, command, kind }
}

/// Whether an error of the socket's only says that the client has gone.
fn is_leaving(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected
    )
}
