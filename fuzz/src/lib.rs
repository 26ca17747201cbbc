//! What each fuzz target does with its bytes, and what must hold whatever they are.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target says what it found"
)]

pub mod bytes;
pub mod chains;
pub mod config;
pub mod dma;
pub mod ioat;
pub mod nvme;
pub mod server;
