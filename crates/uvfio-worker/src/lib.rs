//! The part of uvfio that serves one device to one user at a time.
//!
//! ```text
//! "nvme,file=disk.img" -> DeviceSpec -> Arc<dyn Device> -> VirtualDevice
//!                                                               ^
//! socket -> accept -> uvfio_proto::Server  ---------------------+     one user after another,
//!                                                                     detach (reset) in between
//! ```
//!
//! [`run()`] does this within a process. `uvfio serve` does it with two:
//!
//! ```text
//! Supervisor   trusted: opens images, accepts users, follows the operator's orders; reads nothing that a user sends
//!    |         and gives a function back that the kernel wants, or that is gone (events, supervisor/removal)
//!    | channel
//! worker_main  confined (confine), then serves; where it dies, a second one takes over its user's socket
//! ```
#![deny(unsafe_code)] // One module closes descriptors by number.

mod channel;
mod child;
mod confine;
mod control;
mod devices;
mod events;
mod image;
mod leases;
mod log;
mod log_pipe;
mod memory;
mod nvme;
mod opened;
mod orders;
mod owned;
mod process;
mod run;
mod shape;
mod signal;
mod socket;
mod spec;
mod supervisor;

pub use confine::{
    Begun, CALLS, Call, ConfineError, Files, HARDWARE_CALLS, LANDLOCK_KNOWN, Only,
    begin as begin_confinement, landlock_version,
};
pub use control::Control;
pub use devices::{KINDS, Kind};
pub use image::{Image, ImageError};
pub use leases::Leases;
pub use log::{LogError, finish_log, log_to_stderr, say};
pub use opened::Opened;
pub use orders::Orders;
pub use owned::{NotBack, OwnError, Owned, Terms};
pub use process::worker_main;
pub use run::{Ended, Source, WorkerError, run};
pub use socket::{SocketError, SocketFile};
pub use spec::{BuildError, DeviceSpec, SpecError};
pub use supervisor::{BetweenUsers, Job, Supervisor, SupervisorError};
