//! The machine: `/sys`, and what stands beside it.

use std::path::PathBuf;

use super::tree::Tree;
use super::{Address, Error, Sysfs};

/// A machine, or a made-up tree that stands for one.
#[derive(Clone, Debug)]
pub struct Host {
    pub(super) sysfs: Sysfs,
    pub(super) proc: Tree,
    pub(super) dev: Tree,
    /// Where notes of former drivers are kept
    pub(super) notes: PathBuf,
    /// The folder in which `dev`, `proc` and `sys` lie: `/`
    pub(super) root: PathBuf,
    pub(super) kernel: std::sync::Arc<dyn Kernel>,
}

/// How a value gets into an attribute. The kernel acts while it is written; in a test, something that plays the kernel.
pub(super) trait Kernel: std::fmt::Debug + Send + Sync {
    fn write(&self, sysfs: &Sysfs, path: &std::path::Path, value: &str) -> Result<(), Error>;
}

/// The kernel that runs.
#[derive(Debug)]
struct Running;

impl Kernel for Running {
    fn write(&self, sysfs: &Sysfs, path: &std::path::Path, value: &str) -> Result<(), Error> {
        sysfs.tree.write(path, value)
    }
}

impl Default for Host {
    /// This machine.
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// The machine whose `sys`, `proc`, `dev` and `run` lie in `root`. Nothing outside of it is written.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            sysfs: Sysfs::at(root.join("sys")),
            proc: Tree::at(root.join("proc")),
            dev: Tree::at(root.join("dev")),
            notes: root.join("run/uvfio/bound"),
            root,
            kernel: std::sync::Arc::new(Running),
        }
    }

    /// Its `/sys`.
    #[must_use]
    pub const fn sysfs(&self) -> &Sysfs {
        &self.sysfs
    }

    /// Writes to an attribute in `/sys`, named from there.
    pub(super) fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.kernel.write(&self.sysfs, &self.sysfs.tree.path(path), value)
    }

    /// Writes to an attribute of a function.
    pub(super) fn write_function(&self, address: Address, attribute: &str, value: &str) -> Result<(), Error> {
        self.write(&format!("bus/pci/devices/{address}/{attribute}"), value)
    }
}
