//! A case: one rule, how it is tried, and what may come of it; and where the server to be tried is.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use uvfio_proto::message::Command;

use crate::facts::Facts;
use crate::payload::USUAL_JSON;
use crate::session::Session;
use crate::wire::Link;

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The specification: the section's name.
    Spec(&'static str),
    /// This kit, with the reason: what a client that people run needs, or what keeps a server whole.
    Ours(&'static str),
}

impl Rule {
    /// The section, or the reason where the rule is ours.
    pub(crate) fn parts(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Spec(section) => (Some(section), None),
            Self::Ours(reason) => (None, Some(reason)),
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spec(section) => f.write_str(section),
            Self::Ours(reason) => write!(f, "ours: {reason}"),
        }
    }
}

/// One rule and how it is tried, on a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `group.rule`, by which it is chosen.
    pub name: &'static str,
    /// What is sent.
    pub what: &'static str,
    /// Where the rule comes from.
    pub rule: Rule,
    /// What must come of it.
    pub expected: &'static str,
    pub(crate) run: Run,
}

/// How a case is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// By these steps.
    Steps(fn(&Bench<'_>) -> Step),
    /// By one command that must be answered by an error, after which the session goes on.
    Refused(Command, fn(&Facts) -> Option<Vec<u8>>),
}

/// Why a case goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The rule is broken: this came instead.
    Fail(String),
    /// It can't be tried on this server.
    NotApplicable(String),
    /// Not what the text says, and accepted.
    Deviation(String),
}

/// What a step of a case gives.
pub(crate) type Step<T = ()> = Result<T, Stop>;

/// The rule is broken.
pub(crate) fn fail<T>(got: impl Into<String>) -> Step<T> {
    Err(Stop::Fail(got.into()))
}

/// The case can't be tried here.
pub(crate) fn not_applicable<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::NotApplicable(why.into()))
}

/// Holds a condition, or fails with what was seen.
pub(crate) fn hold(condition: bool, got: impl FnOnce() -> String) -> Step {
    if condition { Ok(()) } else { fail(got()) }
}

/// A trouble of the socket's is the server's: this side only sends and waits.
impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Fail(format!("the socket failed: {error}"))
    }
}

/// How long the kit waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a reply.
    pub reply: Duration,
    /// For a connection and its first reply: a server of one client may still be busy with the one before.
    pub connection: Duration,
}

impl Default for Patience {
    /// 5 s for a reply, since QEMU waits no longer; 15 s for the server to be free.
    fn default() -> Self {
        Self {
            reply: Duration::from_secs(5),
            connection: Duration::from_secs(15),
        }
    }
}

/// The server that is tried.
pub trait Server {
    /// A new connection to it.
    ///
    /// # Errors
    /// The system's; it is tried again for some time.
    fn connect(&self) -> io::Result<UnixStream>;
}

/// A server that listens on a UNIX socket.
#[derive(Clone, Debug)]
pub struct SocketPath(pub PathBuf);

impl Server for SocketPath {
    fn connect(&self) -> io::Result<UnixStream> {
        // A connection that would have to wait for room in the server's queue is an error: whoever asks tries again,
        // and not for ever.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.0)?)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

/// What a case works with.
pub(crate) struct Bench<'a> {
    server: &'a dyn Server,
    patience: Patience,
    facts: Result<&'a Facts, &'a Stop>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        server: &'a dyn Server,
        patience: Patience,
        facts: Result<&'a Facts, &'a Stop>,
    ) -> Self {
        Self {
            server,
            patience,
            facts,
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// What the server says of its device.
    pub(crate) fn facts(&self) -> Step<&'a Facts> {
        match self.facts {
            Ok(facts) => Ok(facts),
            // Not a case that can't be tried: a server of which nothing can be learned must not look well.
            Err(Stop::Fail(why)) => fail(format!("it could not be learned what the device is: {why}")),
            Err(other) => Err(other.clone()),
        }
    }

    /// A connection on which nothing was said yet.
    pub(crate) fn link(&self) -> Step<Link> {
        let late = Instant::now() + self.patience.connection;
        loop {
            match self.server.connect() {
                Ok(stream) => {
                    return Ok(Link::new(stream, self.patience.connection, self.patience.reply));
                }
                Err(error) if Instant::now() >= late => {
                    return fail(format!("no connection: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A connection with a version agreed.
    pub(crate) fn session(&self) -> Step<Session> {
        Session::open(self.link()?, USUAL_JSON)
    }

    /// The server still serves: a new client is answered.
    pub(crate) fn survives(&self) -> Step {
        let trouble = |stop| match stop {
            Stop::Fail(got) => Stop::Fail(format!("afterwards a new client was not served: {got}")),
            other => other,
        };
        self.session()
            .and_then(|mut session| session.check_alive())
            .map_err(trouble)
    }
}

impl Case {
    /// Tries it.
    pub(crate) fn try_on(&self, bench: &Bench<'_>) -> Step {
        match self.run {
            Run::Steps(steps) => steps(bench),
            Run::Refused(command, payload) => {
                let Some(payload) = payload(bench.facts()?) else {
                    return not_applicable("the device has nothing that this could be tried on");
                };
                let mut session = bench.session()?;
                session.refused(command, &payload)?;
                session.check_alive()
            }
        }
    }
}
