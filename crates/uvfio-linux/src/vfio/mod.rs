//! The kernel's VFIO, by group and container.
//!
//! For a process that owns an IOMMU group, or was passed its descriptors. The way to a device:
//!
//! 1. [`Container::open`], and [`Group::open`] by the group's number;
//! 2. [`Group::set_container`], then [`Container::set_iommu`];
//! 3. [`Group::device`] for a function of the group by its address;
//! 4. [`AddressSpace::map`] for memory that the device may reach, [`DeviceFile::set_eventfds`] for its interrupts,
//!    [`DeviceFile::region`] for its registers.
//!
//! ```no_run
//! use std::os::fd::AsFd as _;
//! use uvfio_linux::vfio::{Access, AddressSpace as _, Container, Group, Irq, SharedMemory};
//!
//! let container = Container::open()?;
//! let group = Group::open(8)?;
//! group.set_container(&container)?;
//! container.set_iommu()?;
//! let device = group.device("0000:01:00.0")?;
//!
//! let memory = SharedMemory::new(0x10000)?;
//! container.map(0x100_0000, &memory, 0, 0x10000, Access::ReadWrite)?;
//! let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
//! device.set_eventfds(Irq::Msi, 0, &[Some(eventfd.as_fd())])?;
//! let registers = device.region(0)?.window(0, 0x1000)?;
//! let identification: Option<u32> = registers.read(0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Container and group must stay open until the device is; then the device keeps both. Closing the group before that
//! takes it out of its container, which loses its IOMMU.
//!
//! The example `hardware` of this crate uses nearly all of it, on the devices of a virtual machine (`cargo xtask vm
//! hardware`).
//!
//! Each of these types can be had from a descriptor that somebody else has opened, and turned back into one. Nothing
//! here has a policy: everything that the kernel can do for a user of VFIO is done as asked, and what it refuses comes
//! back as a [`VfioError`] with the kernel's number and a sentence that says which [`Rule`] refused, and what to do.
//!
//! A range of addresses for devices is a trait, [`AddressSpace`], since iommufd will be a second one.

mod answer;
mod argument;
mod chain;
mod container;
mod device;
mod error;
mod feature;
mod group;
mod info;
mod irqs;
mod locked;
mod memory;
mod region;
pub mod request;
mod rule;
mod space;

pub use container::{Container, Extension};
pub use device::DeviceFile;
pub use error::{Asked, Malformed, Result, Rule, VfioError};
pub use feature::{Feature, Use};
pub use group::{Group, GroupStatus};
pub use info::{Dependent, DeviceInfo, HotResetInfo, IommuInfo, IrqInfo, RegionInfo, RegionKind};
pub use irqs::Irq;
pub use locked::watch_locked_memory;
pub use memory::SharedMemory;
pub use region::{Region, Window};
pub use space::{Access, AddressSpace};
pub use uvfio_core::Word;
