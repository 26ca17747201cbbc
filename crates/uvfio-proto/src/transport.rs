//! A UNIX stream cut into messages, with the descriptors that came with them.
//!
//! A stream keeps no message boundaries: a message may come in pieces, or several in one piece. Descriptors come
//! with a piece, not with a message. Linux ends a `recvmsg` after the piece that brought descriptors, so these
//! belong to the message that holds the last byte received; that is exact for every sender that sends each
//! message by a call of its own.
//!
//! Whoever can't send because the other side does not read goes on reading itself, as far as its buffer goes
//! ([`Incoming::take_in`]). Else two sides that both send would wait for each other for ever.

mod descriptors;
mod incoming;
mod outgoing;

pub use descriptors::Descriptors;
pub use incoming::{Incoming, Message};
pub use outgoing::{Blocked, Outgoing, SendError};

/// Most descriptors taken with one message; more are lost and the message is refused. VERSION promises fewer
/// ([`crate::version::MAX_MSG_FDS`]), but there are clients that don't listen.
pub const MAX_FDS: usize = 64;

/// Most descriptors that one call can bring (Linux: `SCM_MAX_FD`). There is room for all of them: those for which there
/// is none the kernel closes on the receiving thread, and such a close may not come back (see [`Descriptors`]).
pub(crate) const MOST_RECEIVED: usize = 253;

/// Why no message came. After it the stream can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The system's.
    #[error("the socket can't be read: {0}")]
    Io(#[from] std::io::Error),
    /// The other side left in the middle of a message.
    #[error("the stream ended within a message, after {have} of its bytes")]
    CutShort {
        /// How many bytes of it there were.
        have: usize,
    },
    /// A header says that the message is shorter than a header.
    #[error("message {id}, command {command}: its size field is {bytes}, and a header alone has 16 bytes")]
    TooShort {
        /// Message's id.
        id: u16,
        /// Its command.
        command: u16,
        /// The size field.
        bytes: u32,
    },
    /// A header says that the message is longer than any may be.
    #[error(
        "message {id}, command {command}: its size field is {bytes}; the longest that is taken is {limit}"
    )]
    TooLong {
        /// Message's id.
        id: u16,
        /// Its command.
        command: u16,
        /// The size field.
        bytes: u32,
        /// The limit, bytes with header.
        limit: usize,
    },
}
