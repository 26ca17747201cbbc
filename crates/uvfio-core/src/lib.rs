//! The virtual device: routing, DMA address space, interrupts, and the trait that a device implements.
//!
//! ```text
//! front end (vfio-user, ...) -> VirtualDevice -> model (uvfio-pci)      what a register holds and does
//!                                             -> Device                  real hardware or software
//!                               DmaSpace  <-  Host (given to the Device)
//!                               Lines     <-  Host
//! ```
//!
//! Threads, beside the front end's and the device's own: for each virtual device one delivers interrupts that came
//! about on the front end's thread (`irq::delivery`), one runs effects that take time (`virtual_device::work`); and
//! one a process closes descriptors that nobody knows (`dispose`). Which thread may wait for the user, and which may
//! not, is said in `front_end`.
//!
//! Front ends know [`VirtualDevice`] only; devices know [`Host`] only. No method of [`VirtualDevice`] waits for
//! the user.

mod address;
mod bar_memory;
mod device;
mod dispose;
mod dma;
mod doorbell;
mod front_end;
mod host;
mod iommu;
mod irq;
mod policy;
mod region;
mod shared;
mod virtual_device;

pub use address::*;
pub use bar_memory::*;
pub use device::*;
pub use dispose::close_elsewhere;
pub use dma::*;
pub use doorbell::*;
pub use host::*;
pub use iommu::*;
pub use irq::*;
pub use policy::*;
pub use region::*;
pub use shared::*;
pub use virtual_device::*;
