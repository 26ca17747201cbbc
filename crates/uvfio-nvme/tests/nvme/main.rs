//! The controller through the real virtual device, driven by a small NVMe driver with its own idea of the
//! specification's numbers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test's helpers may

mod admin;
mod driver;
mod features;
mod hostile;
mod interrupts;
mod io;
mod logs;
mod mapped;
mod messages;
mod registers;
mod reset;
mod shadow;
mod store;
