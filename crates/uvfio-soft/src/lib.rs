//! Software PCI devices. Each is one module: its registers as a plain value, its threads, and the
//! [`uvfio_core::Device`] over both.

pub mod edu;
pub mod ioat;
pub mod notify;
