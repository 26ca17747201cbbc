//! How a controller is made, and why it could not be.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;

/// The most pairs of I/O queues.
pub const MAX_QUEUES: u16 = 64;
/// The most namespaces.
pub const MAX_NAMESPACES: usize = 1024;

/// How a controller is made.
#[derive(Debug)]
pub struct Config {
    /// Namespaces 1, 2, ...; at least one.
    pub namespaces: Vec<NamespaceConfig>,
    /// Pairs of I/O queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// How it interrupts.
    pub interrupts: InterruptConfig,
    /// Serial number, 1 to 20 printable ASCII characters. Namespace identifiers follow from it, so two controllers
    /// that one system sees need different ones.
    pub serial: String,
    /// How it learns of doorbells.
    pub poll: PollConfig,
}

impl Config {
    /// 16 pairs of I/O queues, MSI-X, shadow doorbells polled as it pays.
    #[must_use]
    pub fn new(serial: impl Into<String>, namespaces: Vec<NamespaceConfig>) -> Self {
        Self {
            namespaces,
            queues: 16,
            interrupts: InterruptConfig::MsiX,
            serial: serial.into(),
            poll: PollConfig::default(),
        }
    }
}

/// How one namespace is made.
#[derive(Debug)]
pub struct NamespaceConfig {
    /// Where its bytes are kept.
    pub backend: BackendConfig,
    /// Bytes of a logical block, 512 or 4096.
    pub block: u32,
    /// Whether every change is refused.
    pub read_only: bool,
}

/// Where a namespace's bytes are kept. Sizes are in bytes, and multiples of the block size.
#[derive(Debug)]
pub enum BackendConfig {
    /// The first bytes of a file or block device, open for reading and (unless read-only) writing.
    File(File, u64),
    /// Memory, gone with the controller.
    Memory(u64),
    /// Something else.
    Other(Arc<dyn Backend>),
}

/// How the controller interrupts besides INTx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptConfig {
    /// MSI-X with a vector for the admin queue and each pair of I/O queues.
    MsiX,
    /// MSI.
    Msi {
        /// Messages: 1, 2, 4, 8, 16 or 32.
        messages: u8,
    },
}

/// How the controller learns of doorbells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollConfig {
    /// By message. Where the host keeps shadow doorbells, it is asked to send one whenever a queue is drained.
    Never,
    /// As [`Never`](Self::Never), but a drained queue's shadow doorbell is looked at for a while first, as long as
    /// that has paid of late.
    Adaptive {
        /// The longest while; zero is [`Never`](Self::Never).
        most: Duration,
    },
    /// The doorbells are memory that the host may map, and a thread never stops looking at them.
    Always,
}

impl PollConfig {
    /// The longest while of [`Default`]: a halt polling hypervisor's.
    pub const MOST: Duration = Duration::from_micros(200);
}

impl Default for PollConfig {
    fn default() -> Self {
        Self::Adaptive { most: Self::MOST }
    }
}

/// Why a controller could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// No namespace, or too many.
    #[error("an NVMe controller has 1 to {MAX_NAMESPACES} namespaces, not {0}")]
    Namespaces(usize),
    /// The number of queues.
    #[error("an NVMe controller has 1 to {MAX_QUEUES} pairs of I/O queues, not {0}")]
    Queues(u16),
    /// The number of messages.
    #[error("MSI has 1, 2, 4, 8, 16 or 32 messages, not {0}")]
    Messages(u8),
    /// The serial number.
    #[error("an NVMe serial number is 1 to 20 printable ASCII characters, which {0:?} is not")]
    Serial(String),
    /// The block size.
    #[error("namespace {namespace}: a block has 512 or 4096 bytes, not {block}")]
    Block {
        /// Which.
        namespace: usize,
        /// What was asked.
        block: u32,
    },
    /// The size.
    #[error(
        "namespace {namespace}: {bytes} bytes are not a whole number of blocks of {block} bytes, at least one; \
         make the image larger or smaller"
    )]
    Size {
        /// Which.
        namespace: usize,
        /// Its size.
        bytes: u64,
        /// Its blocks'.
        block: u32,
    },
    /// The memory.
    #[error("namespace {namespace}: no memory for its {bytes} bytes")]
    Memory {
        /// Which.
        namespace: usize,
        /// Its size.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread.
    #[error("the NVMe controller's threads could not be started")]
    Thread(#[source] std::io::Error),
}
