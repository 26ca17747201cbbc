//! The part of uvfio that serves one device to one user at a time.
//!
//! ```text
//! "nvme,file=disk.img" -> DeviceSpec -> Arc<dyn Device> -> VirtualDevice
//!                                                               ^
//! socket -> accept -> uvfio_proto::Server  ---------------------+     one user after another,
//!                                                                     detach (reset) in between
//! ```
//!
//! Here it is a library, used in-process by `uvfio serve`; see [`run()`].
#![forbid(unsafe_code)]

mod control;
mod devices;
mod image;
mod log;
mod nvme;
mod run;
mod socket;
mod spec;

pub use control::Control;
pub use devices::{KINDS, Kind};
pub use image::ImageError;
pub use log::{LogError, log_to_stderr};
pub use run::{Ended, Source, WorkerError, run};
pub use socket::{SocketError, SocketFile};
pub use spec::{BuildError, DeviceSpec, SpecError};
