//! The kernel's VFIO user interface as a library: what `ioctl`, `read`, `write` and `mmap` of `/dev/vfio/*` do, over
//! [`VirtualDevice`](uvfio_core::VirtualDevice)s and others ([`Backend`]), whoever catches the calls and however.
//!
//! ```text
//! who catches calls    descriptors, processes, instructions: gives each open file a FileId
//!   -> Uapi            one "kernel": the files open, the groups and who holds them
//!     container        IOMMU type 1: what its devices reach of their users' memory
//!     group            which container, which devices are open
//!     iommufd          address spaces by number, and devices by files of their own (cdev)
//!     device           regions, interrupts, resets over a VirtualDevice or another Backend
//! ```
//!
//! Errors are the kernel's error numbers. Why a call was refused is logged as a sentence (target `uapi`).

mod argument;
mod backend;
mod caller;
mod cdev;
mod container;
mod descriptor;
mod device;
mod file;
mod follow;
mod group;
mod iommufd;
mod locked;
mod refusal;
mod requests;
mod space;
mod uapi;

pub use backend::{Backend, DmaRange};
pub use caller::{Account, Caller, CountedBy, Given, ProcessMemory};
pub use descriptor::signal_eventfd;
pub use device::Asked;
pub use file::{Answer, FileId, Node, Part};
pub use refusal::Refusal;
pub use uapi::{Function, Uapi};
