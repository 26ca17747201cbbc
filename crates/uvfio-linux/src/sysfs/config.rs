//! Configuration space through `/sys`, as much of it as this user may read.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::tree::{is_absent, unreadable};
use super::{Address, Error, Sysfs};

/// The most that a function has, in bytes.
const MOST: u64 = 4096;
/// Without `CAP_SYS_ADMIN` only the header may be read; a space that is cut short elsewhere is shown up to one of
/// these.
const LENGTHS: [usize; 3] = [4096, 256, 64];

/// What could be read of a function's configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The bytes: 4096, 256 or 64
    pub bytes: Vec<u8>,
    /// How many there are in all: 4096 or 256
    pub whole: usize,
}

impl Config {
    /// Whether only a part could be read, which is so for ordinary users.
    #[must_use]
    pub const fn is_part(&self) -> bool {
        self.bytes.len() < self.whole
    }
}

/// A function's configuration space, held open: what the hardware holds, where the region of the kernel's VFIO
/// answers for some of it (vendor and device ID, BARs) from a copy.
///
/// How much may be read is decided when it is opened and holds for the descriptor, whoever has it.
#[derive(Debug)]
pub struct ConfigFile {
    file: File,
    bytes: u64,
    writable: bool,
}

impl ConfigFile {
    /// Takes a descriptor of `config`, opened by whomever.
    ///
    /// # Errors
    /// Where not even a header can be read by it.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        let file = File::from(descriptor);
        // The kernel gives what is left, up to what may be read; 0 behind it.
        let may_read = |at| Ok::<_, io::Error>(file.read_at(&mut [0; 4], at)? == 4);
        let mut bytes = None;
        for length in LENGTHS {
            if may_read(length as u64 - 4)? {
                bytes = Some(length as u64);
                break;
            }
        }
        Ok(Self {
            bytes: bytes.ok_or(io::ErrorKind::UnexpectedEof)?,
            writable: flags & OFlags::ACCMODE == OFlags::RDWR,
            file,
        })
    }

    /// How many bytes may be read, from 0 on: 4096, 256 or, for an ordinary user, 64.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it was opened to be written. A kernel that is locked down refuses each write all the same.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads bytes; those at a multiple of their number (1, 2 or 4) in one access of the hardware's.
    ///
    /// # Errors
    /// Where they are not all to be read: [`bytes`](Self::bytes); the function is there no more.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    /// Writes bytes; as [`read`](Self::read). Nothing lies between this and the hardware.
    ///
    /// # Errors
    /// Where it is not [writable](Self::is_writable), or the kernel is locked down.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

impl AsFd for ConfigFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Sysfs {
    /// Opens a function's configuration space, to be read or, where `write`, to be written too.
    ///
    /// # Errors
    /// [`Error::NoFunction`], or where it may not be opened so: only root may write it.
    pub fn open_config(&self, address: Address, write: bool) -> Result<ConfigFile, Error> {
        let path = self.config_path(address);
        let file = self.tree.open(&path, write)?;
        let file = file.ok_or(Error::NoFunction { address })?;
        ConfigFile::from_descriptor(file.into()).map_err(|source| unreadable(&path, source))
    }

    fn config_path(&self, address: Address) -> PathBuf {
        self.tree.path(format!("bus/pci/devices/{address}/config"))
    }

    /// Reads a function's configuration space. This wakes a function that sleeps.
    ///
    /// # Errors
    /// [`Error::NoFunction`], or where not even its header can be read.
    pub fn config(&self, address: Address) -> Result<Config, Error> {
        let path = self.config_path(address);
        let mut bytes = self
            .tree
            .bytes(&path, MOST)?
            .ok_or(Error::NoFunction { address })?;
        let whole = match fs::metadata(&path) {
            Ok(metadata) => metadata.len().min(MOST) as usize,
            Err(error) if is_absent(&error) => return Err(Error::NoFunction { address }),
            Err(source) => return Err(unreadable(&path, source)),
        };
        let Some(length) = LENGTHS.into_iter().find(|length| *length <= bytes.len()) else {
            let short = std::io::Error::other(format!("{} bytes are less than a header", bytes.len()));
            return Err(unreadable(&path, short));
        };
        bytes.truncate(length);
        Ok(Config { bytes, whole })
    }
}
