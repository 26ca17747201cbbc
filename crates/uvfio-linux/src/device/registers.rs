//! The hardware's own configuration space, through the kernel's VFIO: the few registers that are read and written here.

use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use uvfio_pci::tables::{advanced, express, header, power};
use uvfio_pci::{Bar, Field, PowerState, Table};

use super::declare::Declared;
use super::verify::HardwareConfig;
use crate::sysfs::ConfigFile;
use crate::vfio::{Region, Result, VfioError};

/// Bytes of configuration space, by their offset.
pub(super) trait Config: Debug + Send + Sync {
    /// Reads bytes.
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()>;
    /// Writes bytes.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;
}

impl Config for ConfigFile {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let bytes = data.len();
        ConfigFile::read(self, offset, data).map_err(|error| of_sysfs("pread", offset, bytes, &error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        ConfigFile::write(self, offset, data).map_err(|error| of_sysfs("pwrite", offset, data.len(), &error))
    }
}

fn of_sysfs(request: &'static str, offset: u64, bytes: usize, error: &io::Error) -> VfioError {
    let about = format!("{bytes:#x} bytes at {offset:#x} of config in /sys");
    match Errno::from_io_error(error) {
        Some(errno) => VfioError::other(request, about, errno),
        // It ended: the function has less than it had.
        None => VfioError::other(request, about, Errno::NXIO),
    }
}

impl Config for Region {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        Region::read(self, offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        Region::write(self, offset, data)
    }
}

/// How long a device may take to end its transactions, before it is reset all the same.
const TRANSACTIONS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a change of the power state may take; 10 ms is the specification's time (PCI Bus Power Management 1.2,
/// 5.6.1).
const POWER_PATIENCE: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// COMMAND's bits that are this module's.
const COMMAND: [&Field; 4] = [
    &header::IO,
    &header::MEMORY,
    &header::BUS_MASTER,
    &header::INTX_DISABLE,
];

/// What of COMMAND is switched as users come, go and will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switches {
    pub(super) memory: bool,
    pub(super) bus_master: bool,
    /// INTx.
    pub(super) line: bool,
}

impl Switches {
    /// As it is between users, and during a reset. With memory on the kernel puts BARs back that a reset has cleared.
    pub(super) const QUIET: Self = Self {
        memory: true,
        bus_master: false,
        line: false,
    };
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    pub(super) config: Box<dyn Config>,
    pub(super) hardware: Option<HardwareConfig>,
    /// What is verified after a reset: where it is, and its table.
    pub(super) structures: Vec<(u16, &'static Table)>,
    power: Option<u16>,
    express: Option<u16>,
    advanced: Option<u16>,
    /// COMMAND's bits that are set while the device has a user or waits for one; memory only where it is on.
    decode: u32,
    /// The device may be bus master.
    master: AtomicBool,
}

impl Registers {
    pub(super) fn new(
        config: Box<dyn Config>,
        hardware: Option<HardwareConfig>,
        declared: &Declared,
    ) -> Self {
        let has = |kind: fn(&Bar) -> bool| declared.bars().iter().any(kind);
        let mut decode = 0;
        if has(|bar| matches!(bar, Bar::Memory32 { .. } | Bar::Memory64 { .. })) {
            decode |= header::MEMORY.mask();
        }
        if has(|bar| matches!(bar, Bar::Io { .. })) {
            decode |= header::IO.mask();
        }
        Self {
            config,
            hardware,
            structures: declared.structures(),
            power: declared.power,
            express: declared.express,
            advanced: declared.advanced,
            decode,
            master: AtomicBool::new(true),
        }
    }

    /// Switches I/O on, and memory (where there is any), bus mastering and INTx as told.
    pub(super) fn set_command(&self, to: Switches) -> Result<()> {
        let off = if to.memory { 0 } else { header::MEMORY.mask() };
        let mine = COMMAND.iter().fold(0, |bits, field| bits | field.mask());
        let master = if to.bus_master {
            header::BUS_MASTER.mask()
        } else {
            0
        };
        let no_line = if to.line { 0 } else { header::INTX_DISABLE.mask() };
        let set = self.decode & !off | master | no_line;
        self.change_command(self.config.as_ref(), mine, set)
    }

    /// Changes bits of COMMAND and leaves the others: has those of `mine` as they are in `set`.
    pub(super) fn change_command(&self, through: &dyn Config, mine: u32, set: u32) -> Result<()> {
        let master = header::BUS_MASTER.mask();
        let before = Self::register_of(through, 0, &header::BUS_MASTER)?;
        let command = (before & !mine | set & mine) as u16;
        if mine & master != 0 {
            // Where it is not known what a failed write did, the bus master may be on.
            self.master.store(true, Ordering::Release);
        }
        through.write(header::BUS_MASTER.register.into(), &command.to_le_bytes())?;
        if mine & master != 0 {
            self.master.store(set & master != 0, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the device may be bus master: not after it was last switched off.
    pub(super) fn bus_master(&self) -> bool {
        self.master.load(Ordering::Acquire)
    }

    /// Changes the power state, and waits until the device says so.
    pub(super) fn set_power(&self, to: PowerState) -> Result<bool> {
        let Some(at) = self.power else { return Ok(true) };
        let state = to.number();
        // What is written as 1 to PME_Status clears it.
        let beside = !(power::STATE.mask() | power::PME_STATUS.mask());
        let before = self.register(at, &power::STATE)?;
        self.write(at, &power::STATE, before & beside | state << power::STATE.lsb)?;
        self.until(POWER_PATIENCE, || Ok(self.get(at, &power::STATE)? == state))
    }

    /// Waits until the device has no transactions under way; false where it still has.
    pub(super) fn wait_for_transactions(&self) -> Result<bool> {
        let pending = [
            (self.express, &express::TRANSACTIONS_PENDING),
            (self.advanced, &advanced::TRANSACTIONS_PENDING),
        ];
        self.until(TRANSACTIONS_PATIENCE, || {
            for (at, field) in pending {
                if let Some(at) = at
                    && self.get(at, field)? != 0
                {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// A field of the structure at `at`.
    fn get(&self, at: u16, field: &Field) -> Result<u32> {
        Ok(field.extract(self.register(at, field)?))
    }

    /// The register that a field is in.
    fn register(&self, at: u16, field: &Field) -> Result<u32> {
        Self::register_of(self.config.as_ref(), at, field)
    }

    pub(super) fn register_of(config: &dyn Config, at: u16, field: &Field) -> Result<u32> {
        let mut bytes = [0; 4];
        let register = bytes.get_mut(..usize::from(field.bytes)).unwrap_or_default();
        config.read(u64::from(at + field.register), register)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the register that a field is in.
    fn write(&self, at: u16, field: &Field, value: u32) -> Result<()> {
        let bytes = value.to_le_bytes();
        let register = bytes.get(..usize::from(field.bytes)).unwrap_or_default();
        self.config.write(u64::from(at + field.register), register)
    }

    /// Writes a field, and what the register's others hold.
    pub(super) fn set(&self, at: u16, field: &Field, value: u32) -> Result<()> {
        let beside = self.register(at, field)? & !field.mask();
        self.write(at, field, beside | value << field.lsb)
    }

    /// Looks until something is so, for as long as `patience`; false where it never was.
    pub(super) fn until(&self, patience: Duration, so: impl Fn() -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        loop {
            if so()? {
                return Ok(true);
            }
            if start.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests;
