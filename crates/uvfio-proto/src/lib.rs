//! The vfio-user protocol: messages, server and client.
//!
//! ```text
//! message        what lies on the wire
//! version        the first message: version and capabilities
//! error          every refusal, and its error number
//! transport      a UNIX stream cut into messages, with their descriptors
//! journal        what outlives a server that dies
//! server         serves one client from one `VirtualDevice`
//! dma_channel    memory of the client's without descriptor: commands from server to client
//! client         the other end, for drivers and tests
//! ```
//!
//! Section names in the documentation are those of QEMU's `docs/interop/vfio-user.rst`, the living specification.

// One module has memory between processes; the others have no `unsafe`.
#![deny(unsafe_code)]

pub mod client;
mod dma_channel;
pub mod error;
pub mod journal;
pub mod message;
pub mod server;
pub mod transport;
pub mod version;

pub use client::{Client, ClientError, ClientMemory};
pub use error::{Errno, Refusal};
pub use journal::Journal;
pub use journal::OutOfStep;
pub use server::{End, Limits, ResumeError, ServeError, Server, ServerHandle};
