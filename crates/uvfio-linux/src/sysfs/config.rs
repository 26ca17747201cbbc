//! Configuration space through `/sys`, as much of it as this user may read.

use std::fs;

use super::tree::{is_absent, unreadable};
use super::{Address, Error, Sysfs};

/// The most that a function has, in bytes.
const MOST: u64 = 4096;
/// Without `CAP_SYS_ADMIN` only the header may be read; a space that is cut short elsewhere is shown up to one of these.
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

impl Sysfs {
    /// Reads a function's configuration space. This wakes a function that sleeps.
    ///
    /// # Errors
    /// [`Error::NoFunction`], or where not even its header can be read.
    pub fn config(&self, address: Address) -> Result<Config, Error> {
        let path = self.tree.path(format!("bus/pci/devices/{address}/config"));
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
