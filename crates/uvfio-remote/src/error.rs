//! Why a server's function can't be used.

use std::path::PathBuf;
use std::time::Duration;

use uvfio_pci::DumpError;
use uvfio_proto::ClientError;

/// Why there is no device behind a socket.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Nobody listens there.
    #[error("no server can be reached at {}: {why}", path.display())]
    NotThere {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        why: std::io::Error,
    },
    /// Nobody answers.
    #[error(
        "the server at {} did not answer within {patience:?}: it serves another user, or does not speak vfio-user",
        path.display()
    )]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// It does not speak the protocol, or not this version, or breaks it.
    #[error("what listens at {} is not a vfio-user server that can be used: {why}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: ClientError,
    },
    /// What the server says of the function can't be true.
    #[error("what the server at {} has is not a PCI function that can be used: {lie}", path.display())]
    Lie {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        lie: Lie,
    },
    /// The system refused something.
    #[error("the server at {}: {what}: {why}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What.
        what: &'static str,
        /// The system's reason.
        why: std::io::Error,
    },
}

/// What of a function can't be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Regions are missing.
    #[error("it has {0} regions; configuration space is the 8th")]
    Regions(u32),
    /// Configuration space of an odd size.
    #[error("its configuration space has {0} bytes; there are such of 256 and of 4096")]
    ConfigBytes(u64),
    /// Configuration space that is none.
    #[error("its configuration space: {0}")]
    Config(DumpError),
    /// A BAR that can't be.
    #[error("BAR {bar} has {bytes:#x} bytes: {rule}")]
    Bar {
        /// Which.
        bar: u8,
        /// The region's size.
        bytes: u64,
        /// The rule.
        rule: &'static str,
    },
    /// A ROM that can't be.
    #[error("the expansion ROM has {0:#x} bytes; it may have a power of two from 2 KiB to 16 MiB")]
    Rom(u64),
    /// The MSI-X table is nowhere.
    #[error("its MSI-X table is said to be in BAR {bar} at {offset:#x}, where there is no room for it")]
    MsixTable {
        /// In which BAR.
        bar: u8,
        /// Where there.
        offset: u32,
    },
    /// More interrupts than there can be.
    #[error("interrupt index {index} has {count} vectors; there can be {most}")]
    Vectors {
        /// Which index.
        index: u32,
        /// How many were said.
        count: u32,
        /// How many there can be.
        most: u32,
    },
}
