//! How a function is reached.
//!
//! A transport carries VFIO's requests and nothing more: [`crate::Function`] and its parts are the same over each.
//! Three are here: a vfio-user server's socket, the kernel's VFIO, and a virtual device of this process.

mod in_process;
mod socket;
mod vfio;

use std::fmt;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

pub use in_process::InProcess;
pub use socket::Socket;
pub use vfio::Vfio;

use crate::Result;

/// VFIO's index of configuration space; BARs 0 to 5 are 0 to 5.
pub const CONFIG_REGION: u32 = 7;

/// A region, as the transport tells of it.
#[derive(Debug, Default)]
pub struct Region {
    /// Size in bytes; 0 where the function has no such region.
    pub bytes: u64,
    /// Parts that can be mapped, (offset in the region, bytes).
    pub mappable: Vec<(u64, u64)>,
    /// The file of these parts.
    pub memory: Option<OwnedFd>,
    /// Whose file that is.
    pub owner: Owner,
    /// Where the region begins in that file, in bytes.
    pub file_offset: u64,
}

/// Whose the file of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Owner {
    /// The other side's: ordinary memory, which it may cut short unless that is sealed.
    #[default]
    Server,
    /// The kernel's: the device itself. Nobody can cut it short, and its size says nothing; but an access by a mapping
    /// ends the program (SIGBUS) while the function's memory is off in COMMAND, or it sleeps.
    Kernel,
}

impl Owner {
    /// Whose a file is that a server has handed out: a descriptor of the kernel's VFIO may be among them.
    pub(crate) fn of(file: &OwnedFd) -> Self {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        // No server can name a file of its own so: names of real files start with a slash.
        match rustix::fs::readlink(link, Vec::new()) {
            Ok(name) if name.as_bytes() == b"anon_inode:[vfio-device]" => Self::Kernel,
            _ => Self::Server,
        }
    }
}

/// A kind of interrupt; the numbers are VFIO's indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum IrqKind {
    /// INTx: one level-triggered line, masked by itself on delivery.
    Intx = 0,
    /// MSI: 1 to 32 messages.
    Msi = 1,
    /// MSI-X: up to 2048 vectors.
    MsiX = 2,
    /// The device has reported an error.
    Error = 3,
    /// The device is wanted back.
    Request = 4,
}

impl fmt::Display for IrqKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::MsiX => "MSI-X",
            Self::Error => "ERR",
            Self::Request => "REQ",
        })
    }
}

/// What is asked of a function, in VFIO's terms. Every call waits for its answer; none is made by two threads at
/// once. Ranges are checked by the caller, and by the other side again.
pub trait Transport: Send {
    /// Whether [`reset`](Self::reset) works.
    ///
    /// # Errors
    /// Where the other side did not answer; so for every method.
    fn resettable(&mut self) -> Result<bool>;

    /// What region `index` is.
    ///
    /// # Errors
    /// As above.
    fn region(&mut self, index: u32) -> Result<Region>;

    /// How many interrupts of a kind there are.
    ///
    /// # Errors
    /// As above.
    fn vectors(&mut self, kind: IrqKind) -> Result<u32>;

    /// Reads a region.
    ///
    /// # Errors
    /// As above, and where the range lies outside.
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Writes a region, and comes back once that is done.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()>;

    /// Writes a region without waiting where the transport can; later accesses come after it. A refusal is lost.
    ///
    /// # Errors
    /// Where it can't be sent.
    fn write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.write(region, offset, data)
    }

    /// Enables vectors 0 to `eventfds.len()` of a kind, each delivered by its eventfd.
    ///
    /// # Errors
    /// As above, and where another kind is enabled.
    fn enable_vectors(&mut self, kind: IrqKind, eventfds: &[BorrowedFd<'_>]) -> Result<()>;

    /// Disables a kind of interrupt.
    ///
    /// # Errors
    /// As above.
    fn disable_vectors(&mut self, kind: IrqKind) -> Result<()>;

    /// Masks or unmasks INTx.
    ///
    /// # Errors
    /// As above, and where INTx is not enabled.
    fn mask_intx(&mut self, masked: bool) -> Result<()>;

    /// Maps `bytes` bytes of `file`, from its start, at `iova`, for the device to read and write.
    ///
    /// # Errors
    /// As above, and where something is mapped there already.
    fn map(&mut self, iova: u64, bytes: u64, file: BorrowedFd<'_>) -> Result<()>;

    /// Unmaps; when it returns the device touches the range no more.
    ///
    /// # Errors
    /// As above.
    fn unmap(&mut self, iova: u64, bytes: u64) -> Result<()>;

    /// Resets the function, and comes back once that is done.
    ///
    /// # Errors
    /// As above, and where the device did not come back.
    fn reset(&mut self) -> Result<()>;

    /// Where memory may be mapped, (first address, last address), in ascending order; none where the other side
    /// does not tell.
    ///
    /// # Errors
    /// As above.
    fn usable_iova(&mut self) -> Result<Option<Vec<(u64, u64)>>>;
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::Owner;

    #[test]
    fn a_file_of_a_servers_is_not_taken_for_the_kernels_whatever_it_is_called() {
        for name in ["bar", "anon_inode:[vfio-device]"] {
            let file = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
            assert_eq!(Owner::of(&file), Owner::Server, "a memfd called {name}");
        }
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(Owner::of(&eventfd), Owner::Server, "an eventfd");
    }
}
