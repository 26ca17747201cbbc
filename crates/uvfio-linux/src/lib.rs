//! PCI devices that exist, as Linux gives them to user space.
//!
//! [`vfio`] is the kernel's VFIO, by group and container; [`sysfs`] is everything that is read from or written to
//! `/sys`: which devices there are, what holds them, how they are reset. Neither has a policy: they do what they are
//! told, and say why where they can't. [`device`] is a function that VFIO gives, as a device of the model: for users
//! who are not trusted.

pub mod device;
pub mod sysfs;
pub mod vfio;
