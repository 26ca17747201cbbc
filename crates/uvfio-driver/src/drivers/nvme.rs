//! A driver for NVMe controllers: identify, queues, read, write, flush; polled or by interrupt, with or without shadow
//! doorbells; it survives a reset.
//!
//! ```text
//! disk          a namespace: requests, one at a time or many
//! erase         erases all namespaces
//! controller    enable, identify, create queues, reset; waiting
//! active        the list of active namespaces
//! queue         a pair of queues, their doorbells and shadow doorbells
//! spec          every number
//! ```
//!
//! ```no_run
//! use uvfio_driver::Function;
//! use uvfio_driver::drivers::nvme::{Disk, Options, Result};
//!
//! # fn main() -> Result<()> {
//! let function = Function::connect("/tmp/nvme.sock")?;
//! let mut disk = Disk::open(function, Options::default())?;
//! let mut first = vec![0; disk.block_bytes() as usize];
//! disk.read(0, &mut first)?;
//! # Ok(())
//! # }
//! ```
//!
//! Section numbers are those of the NVM Express Base Specification 1.4.

mod active;
mod controller;
mod disk;
mod erase;
mod error;
mod queue;
mod spec;
#[cfg(test)]
mod tests;

pub use controller::{Controller, Identity, Options, Waiting};
pub use disk::{Disk, Done, Request};
pub use erase::{check_erasable, erase};
pub use error::{NvmeError, Result};
pub use spec::Status;

/// A little-endian number of `bytes` bytes, at most 8; 0 where there are no such bytes.
fn number(data: &[u8], at: usize, bytes: usize) -> u64 {
    let part = data.get(at..at + bytes).unwrap_or_default();
    part.iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
