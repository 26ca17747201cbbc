//! For authors of drivers: a PCI function over any transport, with safe access to all of it.
//!
//! ```text
//! Function     one function, opened over a Transport: reset, power, bus mastering
//!   Config       configuration space, and Structure: one capability, by the fields of `uvfio_pci::tables`
//!   Bar          a BAR as a bounds-checked window: mapped where the region offers it, by message elsewhere
//!   DmaBuffer    memory that the device reaches at an IOVA
//!   Interrupts   vectors by eventfd: wait, poll, or the caller's own loop
//!   Events       errors, and the wish to have the device back
//! Transport    how the function is reached: Socket (vfio-user), Vfio (the kernel's, for functions of this machine),
//!              InProcess (a virtual device, for tests)
//! drivers      drivers written with these, for others to use: NVMe
//! ```
//!
//! Nothing here imposes a runtime: every call blocks for as long as its answer takes, and every interrupt is a file
//! descriptor. All handles can be used from several threads.
//!
//! ```no_run
//! use std::time::Duration;
//! use uvfio_driver::{Function, IrqKind};
//!
//! # fn main() -> uvfio_driver::Result<()> {
//! let function = Function::connect("/tmp/edu.sock")?;
//! let registers = function.bar(0)?;
//! let vectors = function.interrupts(IrqKind::Msi, 1)?;
//! registers.write::<u32>(0x60, 1)?; // edu: raise an interrupt
//! vectors.wait(0, Some(Duration::from_secs(1)))?;
//! # Ok(())
//! # }
//! ```

mod answering;
mod bar;
mod bounds;
mod config;
mod dma;
pub mod drivers;
mod error;
mod function;
mod interrupts;
mod iova;
pub mod testing;
pub mod transport;

pub use bar::Bar;
pub use config::{CapabilityAt, Config, Structure};
pub use dma::DmaBuffer;
pub use error::{DriverError, Place, Result};
pub use function::{Function, Identity, MapBars, Options};
pub use interrupts::{Event, Events, Interrupts};
pub use transport::{InProcess, IrqKind, Socket, Transport, Vfio};
pub use uvfio_core::Word;
pub use uvfio_pci::{PowerState, tables};
