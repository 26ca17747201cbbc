//! The conformance and hostility kit: judges anybody's vfio-user server, or client, from the other end of its socket.
//!
//! ```text
//! wire       a stream, whole messages with their descriptors, and whatever bytes a case wants to send
//! payload    payloads, put together by hand, right or wrong
//! facts      what the server says of its device; no case assumes more
//! engine     a device whose DMA can be commanded, and the client's side of DMA by message
//! session    a connection after VERSION: commands, and what every reply must keep to
//! case       one rule, how it is tried, and what may come of it
//! cases      the table of all of them
//! report     what came of each
//! client     the other way: a server that judges its client
//! ```
//!
//! Nothing here uses the project's own server, client or transport: only the layouts of messages are shared.
//! Section names are those of QEMU's `docs/interop/vfio-user.rst`.

#![forbid(unsafe_code)]

mod case;
mod cases;
pub mod client;
mod engine;
mod facts;
mod payload;
mod report;
mod session;
mod wire;

pub use case::{Case, Patience, Rule, Server, SocketPath};
pub use cases::all;
pub use report::{Outcome, Report, Row, check_server};
