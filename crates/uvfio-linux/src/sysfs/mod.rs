//! What `/sys` knows of PCI functions, and what it does to them.
//!
//! ```text
//! address     0000:00:1f.2
//! tree        a folder such as /sys, read with care
//! function    one function: ids, BARs, driver, reset methods, SR-IOV, errors (resource, aer)
//! config      its configuration space, as much of it as this user may read
//! group       IOMMU groups: members, what is in the way, reserved regions
//! host        the machine: /sys with /proc, /dev and /run beside it
//! holder      who has a group or a device open
//! uses        what the system needs a function for: file systems, swap, the network
//! binding     gives a function to vfio-pci, and back to its driver (former: which that was)
//! reset       resets a function
//! remapping   whether a device can raise its own interrupts only
//! ```
//!
//! Everything begins at a folder that the caller names, so that a made-up tree serves as well as the machine's own:
//!
//! ```
//! use uvfio_linux::sysfs::Sysfs;
//!
//! for (address, function) in Sysfs::default().functions()? {
//!     match function {
//!         Ok(function) => println!("{address} {:04x}:{:04x}", function.vendor, function.device),
//!         Err(error) => println!("{address} {error}"),
//!     }
//! }
//! # Ok::<(), uvfio_linux::sysfs::Error>(())
//! ```

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

mod aer;
mod binding;
mod config;
mod error;
mod former;
mod function;
mod group;
mod holder;
mod host;
mod remapping;
mod reset;
mod resource;
mod tree;
mod uses;

pub use aer::{ErrorCounter, ErrorCounters};
pub use binding::{Bound, Unbound};
pub use config::{Config, ConfigFile};
pub use error::Error;
pub use function::{Function, LostBar, ResetMethods, Sriov};
pub use group::{Group, Member, ReservedRegion};
pub use holder::{Holder, OpenVfio};
pub use host::Host;
pub use remapping::Remapping;
pub use resource::{Resource, Space};
pub use uses::{Use, Uses};
pub use uvfio_core::{Address, AddressError};

use tree::Tree;

/// `/sys`, or a tree like it. Only reads.
#[derive(Clone, Debug)]
pub struct Sysfs {
    tree: Tree,
}

/// A function in a list of all, or why it can't be shown.
pub type Listed = (Address, Result<Function, Error>);

impl Default for Sysfs {
    /// The machine's own.
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// The tree at `root`, which stands for `/sys`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { tree: Tree::at(root) }
    }

    /// The folder that stands for `/sys`.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.tree.root()
    }

    /// The addresses of all PCI functions, in order. A machine without PCI has none.
    ///
    /// # Errors
    /// Where the list of functions can't be read.
    pub fn addresses(&self) -> Result<Vec<Address>, Error> {
        let names = self.tree.names(&self.tree.path("bus/pci/devices"))?;
        let mut addresses: Vec<Address> = names
            .unwrap_or_default()
            .iter()
            .filter_map(|name| Address::of_name(name))
            .collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// One function.
    ///
    /// # Errors
    /// [`Error::NoFunction`], or where its vendor, device or class can't be read.
    pub fn function(&self, address: Address) -> Result<Function, Error> {
        Function::read(&self.tree, address)?.ok_or(Error::NoFunction { address })
    }

    /// All functions, in order of their addresses; those that vanish meanwhile are left out, and one that can't be
    /// read does not hide the others.
    ///
    /// # Errors
    /// Where the list of functions can't be read.
    pub fn functions(&self) -> Result<Vec<Listed>, Error> {
        let read = |address| Some((address, Function::read(&self.tree, address).transpose()?));
        Ok(self.addresses()?.into_iter().filter_map(read).collect())
    }
}

/// Whether a driver's name is one of VFIO's. All of them have it in their names: `vfio-pci`, `mlx5_vfio_pci`.
fn is_vfio_driver(name: &str) -> bool {
    name.contains("vfio")
}

#[cfg(test)]
mod made_up;
#[cfg(test)]
mod tests_acting;
#[cfg(test)]
mod tests_reading;
