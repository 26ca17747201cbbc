//! What a user finds of a function in its header: by our server, or by the kernel's VFIO itself.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use vfio_user::Client;

use crate::vfio::{CONFIG, Device};

/// Double words that say what the function is (PCI Local Bus Specification 3.0, 6.2): device and vendor, class and
/// revision, subsystem.
const IDENTITY: [u64; 3] = [0x00, 0x08, 0x2c];
const BARS: [u64; 6] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];

/// Configuration space, however it is reached.
trait Config {
    fn read(&mut self, offset: u64) -> Result<u32>;
    fn write(&mut self, offset: u64, value: u32) -> Result<()>;
}

impl Config for Client {
    fn read(&mut self, offset: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.region_read(CONFIG, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn write(&mut self, offset: u64, value: u32) -> Result<()> {
        Ok(self.region_write(CONFIG, offset, &value.to_le_bytes())?)
    }
}

impl Config for Device {
    fn read(&mut self, offset: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(Device::read(self, CONFIG, offset)?))
    }

    fn write(&mut self, offset: u64, value: u32) -> Result<()> {
        Device::write(self, CONFIG, offset, &value.to_le_bytes())
    }
}

/// The function behind a socket, or at an address, in one line: its identity, and what each BAR holds after ones were
/// written to it.
pub(crate) fn of(target: &str) -> Result<String> {
    if target.starts_with('/') {
        face(&mut Client::new(Path::new(target))?)
    } else {
        face(&mut Device::open(target)?)
    }
}

fn face(config: &mut impl Config) -> Result<String> {
    let mut line = String::from("identity");
    for register in IDENTITY {
        write!(line, " {:08x}", config.read(register)?)?;
    }
    line += ", BARs";
    for register in BARS {
        let before = config.read(register)?;
        config.write(register, u32::MAX)?;
        write!(line, " {:08x}", config.read(register)?)?;
        config.write(register, before)?;
    }
    Ok(line)
}
