//! The connection to the server.
//!
//! Whoever asks something sends the request and reads until its reply has come, and meanwhile answers what the server
//! asks. While nobody does, a thread of its own answers: it waits for the socket, which is taken from it as long as
//! anybody asks, so that it is not woken by each reply. It also sees the server close the connection.
//!
//! The first failure that is not a refusal ends the connection, for good.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use uvfio_proto::message::Command;
use uvfio_proto::{Client, ClientError};

/// The last error number of Linux that programs know (EHWPOISON).
const LAST_ERRNO: i32 = 133;

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The server refused it.
    Refused(Errno),
    /// There is no server any more.
    Gone,
}

/// The connection.
pub(crate) struct Link {
    path: PathBuf,
    client: Mutex<Client>,
    /// A second descriptor of the socket, which needs no lock.
    socket: OwnedFd,
    /// Tells the thread when the server says something that nobody waits for.
    unasked: OwnedFd,
    /// How many ask, or wait until they may.
    asking: AtomicUsize,
    patience: Duration,
    gone: AtomicBool,
    /// The connection is ended from here.
    over: AtomicBool,
    /// What else is to be done when the server is gone.
    farewell: Box<dyn Fn() + Send + Sync>,
}

impl Link {
    /// Has a connected client's server answered from now on.
    pub(crate) fn start(
        path: &Path,
        client: Client,
        patience: Duration,
        farewell: Box<dyn Fn() + Send + Sync>,
    ) -> std::io::Result<Arc<Self>> {
        let socket = client.as_fd().try_clone_to_owned()?;
        let unasked = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &unasked,
            &socket,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        let link = Arc::new(Self {
            path: path.to_owned(),
            client: Mutex::new(client),
            socket,
            unasked,
            asking: AtomicUsize::new(0),
            patience,
            gone: AtomicBool::new(false),
            over: AtomicBool::new(false),
            farewell,
        });
        let served = Arc::clone(&link);
        std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || served.attend())?;
        Ok(link)
    }

    /// Whether the server is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Asks the server.
    pub(crate) fn ask<T>(
        &self,
        request: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, Unanswered> {
        self.ask_within(self.patience, request)
    }

    /// As [`ask`](Self::ask), with another patience for each reply.
    pub(crate) fn ask_within<T>(
        &self,
        patience: Duration,
        request: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, Unanswered> {
        let _asking = Asking::begin(self);
        let mut client = self.lock();
        if self.is_gone() {
            return Err(Unanswered::Gone);
        }
        let other = patience != self.patience;
        let answer = self
            .with_patience(&mut client, other.then_some(patience))
            .and_then(|()| request(&mut client))
            .and_then(|answer| {
                self.with_patience(&mut client, other.then_some(self.patience))?;
                Ok(answer)
            });
        let answer = match answer {
            Ok(answer) => Ok(answer),
            Err(ClientError::Refused { command, errno }) => {
                tracing::info!(target: "uapi", request = command.name(), %errno, "the server refused");
                if other && let Err(error) = client.set_patience(self.patience) {
                    return Err(self.lose(client, &error));
                }
                let errno = i32::try_from(errno.0)
                    .ok()
                    .filter(|number| (1..=LAST_ERRNO).contains(number));
                Err(Unanswered::Refused(
                    errno.map_or(Errno::IO, Errno::from_raw_os_error),
                ))
            }
            Err(error) => return Err(self.lose(client, &error)),
        };
        // What lies in the buffer already does not wake the thread.
        if let Err(error) = answer_buffered(&mut client) {
            self.lose(client, &error);
        }
        answer
    }

    fn with_patience(&self, client: &mut Client, patience: Option<Duration>) -> Result<(), ClientError> {
        patience.map_or(Ok(()), |patience| client.set_patience(patience))
    }

    /// Ends the connection. The server learns of it by that.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        // ENOTCONN where the server has gone already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Ends the connection while it is used: from now on the server is gone.
    pub(crate) fn revoke(&self) {
        // Without the client's lock: whoever has it may be reading memory for the server that the user lets nobody have.
        self.end();
        if !self.gone.swap(true, Ordering::AcqRel) {
            (self.farewell)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection to a server that can't be used on.
    pub(crate) fn give_up(&self, command: Command, what: &'static str) {
        self.lose(self.lock(), &ClientError::Protocol { command, what });
    }

    /// There is no server any more, whose connection ended by `error`.
    fn lose(&self, client: MutexGuard<'_, Client>, error: &ClientError) -> Unanswered {
        if !self.gone.swap(true, Ordering::AcqRel) {
            if !self.over.load(Ordering::Acquire) {
                tracing::error!("the device behind {} is gone: {error}", self.path.display());
            }
            let _ = shutdown(&self.socket, Shutdown::Both);
            drop(client);
            (self.farewell)();
        }
        Unanswered::Gone
    }

    /// The thread: answers the server while nobody asks it anything.
    fn attend(&self) {
        loop {
            let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
            match epoll::wait(&self.unasked, &mut events, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    self.lose(self.lock(), &std::io::Error::from(error).into());
                    return;
                }
            }
            let mut client = self.lock();
            if self.is_gone() {
                return;
            }
            let answered = client
                .serve_incoming(Duration::ZERO)
                .and_then(|_| answer_buffered(&mut client));
            if let Err(error) = answered {
                self.lose(client, &error);
                return;
            }
        }
    }
}

/// Answers what the server has asked, as far as it has been received.
fn answer_buffered(client: &mut Client) -> Result<(), ClientError> {
    while client.has_incoming() {
        client.serve_incoming(Duration::ZERO)?;
    }
    Ok(())
}

/// Keeps the thread from being woken by replies, until it is dropped.
struct Asking<'a>(&'a Link);

impl<'a> Asking<'a> {
    fn begin(link: &'a Link) -> Self {
        if link.asking.fetch_add(1, Ordering::AcqRel) == 0 {
            watch(link, epoll::EventFlags::empty());
        }
        Self(link)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // Whoever counts down to nobody comes after whoever has taken the socket away.
        if self.0.asking.fetch_sub(1, Ordering::AcqRel) == 1 {
            watch(self.0, epoll::EventFlags::IN);
        }
    }
}

/// What of the socket wakes the thread; its end always does.
fn watch(link: &Link, what: epoll::EventFlags) {
    // Of a descriptor that was added: it can't fail.
    let _ = epoll::modify(&link.unasked, &link.socket, epoll::EventData::new_u64(0), what);
}
