//! How serving a client ends.

use std::time::Duration;

use crate::journal::OutOfStep;
use crate::transport::ReceiveError;
use crate::version::VersionError;

/// How serving ended without fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed the connection.
    Disconnected,
    /// [`ServerHandle::shutdown`](super::ServerHandle::shutdown) did.
    Shutdown,
}

/// Why serving ended with a fault; the connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The stream can't be read on.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The socket can't be written.
    #[error("the socket can't be written: {0}")]
    Send(std::io::Error),
    /// A type that the specification does not know.
    #[error("message {id}, command {command}: type {kind} is neither a command (0) nor a reply (1)")]
    Kind {
        /// Message's id.
        id: u16,
        /// Its command.
        command: u16,
        /// Its type.
        kind: u8,
    },
    /// A reply to nothing.
    #[error("message {id}, command {command}: a reply, and no command of ours waits for it")]
    Unasked {
        /// Message's id.
        id: u16,
        /// Its command.
        command: u16,
    },
    /// The first message was not VERSION.
    #[error("command {0} came before VERSION, which must be the first")]
    BeforeVersion(u16),
    /// No VERSION in time.
    #[error("the client has sent no VERSION within {0:?}")]
    NoVersion(Duration),
    /// No common version.
    #[error("VERSION: {0}")]
    Version(#[from] VersionError),
    /// VERSION was refused for its descriptors.
    #[error("VERSION was refused: {0}")]
    VersionRefused(String),
}

/// Why a server could not go on in the place of another.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The stream can't be put in step.
    #[error("the stream can't be put in step: {0}")]
    OutOfStep(#[from] OutOfStep),
    /// The system's.
    #[error("the journal or the socket can't be used: {0}")]
    Io(std::io::Error),
}
