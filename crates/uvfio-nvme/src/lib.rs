//! An NVMe controller in software: NVM Express 1.4 over PCI Express.
//!
//! ```text
//! socket's thread     registers (controller)  doorbells (doorbell, submission, completion): store and wake
//! admin thread        enable, disable, shutdown (shared)   admin commands (admin)   events
//! doorbells' thread   watches doorbells that are mapped (doorbell_page), where the configuration wants that
//! I/O threads         fetch (submission) -> execute (io: prp, namespace, backend) -> post (completion) -> interrupt
//! everyone            the user's memory only through the gate (session), so that a reset can close it
//! ```
//!
//! Every number of the specification stands in `spec`.

#![forbid(unsafe_code)]

mod admin;
mod backend;
mod changes;
mod completion;
mod config;
mod controller;
mod device;
mod doorbell;
mod doorbell_page;
mod errors;
mod events;
mod executor;
mod features;
mod identity;
mod interrupts;
mod io;
mod namespace;
mod polling;
mod prp;
mod session;
mod shared;
mod spec;
mod statistics;
mod submission;
mod sync;

pub use backend::*;
pub use config::*;
pub use device::Nvme;
pub use statistics::Statistics;
