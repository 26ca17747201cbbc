//! Why a driver did not get what it asked for.

use std::fmt;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use crate::IrqKind;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, DriverError>;

/// What an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A BAR.
    Bar(u8),
    /// Configuration space.
    Config,
    /// A DMA buffer.
    Buffer,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(bar) => write!(f, "BAR {bar}"),
            Self::Config => f.write_str("configuration space"),
            Self::Buffer => f.write_str("the DMA buffer"),
        }
    }
}

/// Why something failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The other side refused; everything can be used on.
    #[error("{what} was refused: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Why not, in the other side's words where it has any.
        why: String,
        /// The error number, positive.
        errno: i32,
    },
    /// The other side has closed the connection; nothing more can be done with this function.
    #[error("{what}: the server has closed the connection; open the function again")]
    Closed {
        /// What was asked.
        what: &'static str,
    },
    /// No answer in time.
    #[error("{what} has not come about within {patience:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        patience: Duration,
    },
    /// The other side does not keep to the protocol.
    #[error("{what}: {why}")]
    Protocol {
        /// What was asked.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// Its reason.
        source: io::Error,
    },
    /// An access outside its place.
    #[error("an access of {bytes} bytes at {offset:#x} lies outside {place}, which has {have:#x} bytes")]
    OutOfBounds {
        /// Where.
        place: Place,
        /// Byte offset.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// How many there are.
        have: u64,
    },
    /// An access that is not naturally aligned: 2 bytes at an odd offset, for example.
    #[error(
        "an access of {bytes} bytes at {offset:#x} of {place} is not aligned to its size; read it as bytes"
    )]
    Misaligned {
        /// Where.
        place: Place,
        /// Byte offset.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// The function has no such BAR.
    #[error("the function has no BAR {0}")]
    NoBar(u8),
    /// Its header is not one that there are tables for.
    #[error("configuration space can't be decoded: {0}")]
    Config(String),
    /// A structure that the function does not have.
    #[error("the function has no {0} capability")]
    NoCapability(&'static str),
    /// A value with bits outside its field.
    #[error("{value:#x} does not fit field {field}")]
    FieldValue {
        /// The field's name.
        field: &'static str,
        /// What was to be written.
        value: u32,
    },
    /// More vectors than there are, or none asked for.
    #[error("{wanted} {kind} vectors were asked for; the function has {have}")]
    Vectors {
        /// Which kind.
        kind: IrqKind,
        /// How many were asked for.
        wanted: u32,
        /// How many there are.
        have: u32,
    },
    /// A vector that was not enabled.
    #[error("vector {vector} is not among the {enabled} that are enabled")]
    NoVector {
        /// Which.
        vector: u32,
        /// How many are.
        enabled: u32,
    },
    /// Another kind of interrupt is enabled.
    #[error("interrupts are enabled already; drop those first")]
    InterruptsInUse,
    /// No room among the usable IOVAs.
    #[error(
        "no {bytes:#x} bytes are free among the usable IOVAs up to {limit:#x}; drop buffers or raise the limit"
    )]
    NoIova {
        /// How many bytes were asked for.
        bytes: u64,
        /// The last address that the device can reach.
        limit: u64,
    },
    /// A buffer of a length that can't be.
    #[error("a DMA buffer can't have {0:#x} bytes")]
    BufferBytes(u64),
    /// The power state was not entered.
    #[error("the function has not gone to the power state asked for; PMCSR says {0}")]
    Power(u32),
    /// For drivers: the device does not do what its specification says.
    #[error("the device: {0}")]
    Device(String),
}

impl DriverError {
    pub(crate) fn system(what: &'static str, errno: Errno) -> Self {
        Self::System {
            what,
            source: errno.into(),
        }
    }

    /// Linux's number for it, positive; for callers who know no other errors.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Refused { errno, .. } if *errno > 0 => return *errno,
            Self::System { source, .. } => return source.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
            Self::Refused { .. } | Self::Power(_) | Self::Device(_) => Errno::IO,
            Self::Closed { .. } => Errno::NODEV,
            Self::TimedOut { .. } => Errno::TIMEDOUT,
            Self::Protocol { .. } => Errno::PROTO,
            Self::OutOfBounds { .. } | Self::NoVector { .. } => Errno::RANGE,
            Self::Misaligned { .. }
            | Self::FieldValue { .. }
            | Self::BufferBytes(_)
            | Self::Vectors { .. } => Errno::INVAL,
            Self::NoBar(_) | Self::NoCapability(_) => Errno::NOENT,
            Self::Config(_) => Errno::NODEV,
            Self::InterruptsInUse => Errno::BUSY,
            Self::NoIova { .. } => Errno::NOSPC,
        };
        errno.raw_os_error()
    }
}
