//! Runs a program that was written for the kernel's VFIO over virtual devices: as it is, with no VFIO in the kernel, no
//! IOMMU, no hardware, no root.
//!
//! ```text
//! Run            the supervisor: has the devices and the Uapi over them       this process
//!   inside       namespaces, what the program finds in them, its end          the program's parent
//!     program    its calls on files of VFIO's are caught
//! ```

mod calls;
mod channel;
mod descendants;
mod files;
mod filter;
mod inside;
mod locked;
mod machine;
mod namespace;
mod notify;
mod place;
mod process;
mod program;
mod removal;
mod run;
mod signals;
mod tree;

pub use inside::inside;
pub use locked::{LockedMemory, LockedMemoryError};
pub use program::is_static;
pub use removal::Order;
pub use run::{Run, RunError, Via};
pub use uvfio_uapi::Backend;
