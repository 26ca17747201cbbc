//! The hardware's own configuration space, through the kernel's VFIO: the few registers that are read and written here,
//! and the comparison that says whether a device came back from a reset.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use uvfio_pci::tables::{advanced, express, header, power};
use uvfio_pci::{Bar, Field, PowerState};

use super::declare::Declared;
use crate::vfio::{Region, Result};

/// Bytes of configuration space, by their offset.
pub(super) trait Config: Debug + Send + Sync {
    /// Reads bytes.
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()>;
    /// Writes bytes.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;
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
/// How long a change of the power state may take; 10 ms is the specification's time (PCI Bus Power Management 1.2, 5.6.1).
const POWER_PATIENCE: Duration = Duration::from_millis(200);
/// How long a device may be silent after a reset (PCI Express Base 5.0, 6.6.1).
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Registers of which a reset changes nothing.
const SAME: [&Field; 9] = [
    &header::VENDOR,
    &header::DEVICE,
    &header::REVISION,
    &header::INTERFACE,
    &header::SUBCLASS,
    &header::BASE_CLASS,
    &header::HEADER_LAYOUT,
    &header::SUBSYSTEM_VENDOR,
    &header::SUBSYSTEM,
];

/// COMMAND's bits that are this module's.
const COMMAND: [&Field; 4] = [
    &header::IO,
    &header::MEMORY,
    &header::BUS_MASTER,
    &header::INTX_DISABLE,
];

/// What configuration space held when the device was quiet: what must be there again after each reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held(Vec<(u16, &'static Field, u32)>);

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    config: Box<dyn Config>,
    power: Option<u16>,
    express: Option<u16>,
    advanced: Option<u16>,
    /// COMMAND's bits that are set while the device has a user or waits for one; memory only where it is on.
    decode: u32,
}

impl Registers {
    pub(super) fn new(config: Box<dyn Config>, declared: &Declared) -> Self {
        let has = |kind: fn(&Bar) -> bool| declared.bars().iter().any(kind);
        let mut decode = header::INTX_DISABLE.mask();
        if has(|bar| matches!(bar, Bar::Memory32 { .. } | Bar::Memory64 { .. })) {
            decode |= header::MEMORY.mask();
        }
        if has(|bar| matches!(bar, Bar::Io { .. })) {
            decode |= header::IO.mask();
        }
        Self {
            config,
            power: declared.power,
            express: declared.express,
            advanced: declared.advanced,
            decode,
        }
    }

    /// Switches I/O on, INTx off, and bus mastering and memory (where there is any) as told.
    pub(super) fn set_command(&self, bus_master: bool, memory: bool) -> Result<()> {
        let off = if memory { 0 } else { header::MEMORY.mask() };
        let mine = COMMAND.iter().fold(0, |bits, field| bits | field.mask());
        let master = if bus_master { header::BUS_MASTER.mask() } else { 0 };
        let before = self.register(0, &header::BUS_MASTER)?;
        self.write(
            0,
            &header::BUS_MASTER,
            before & !mine | self.decode & !off | master,
        )
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

    /// What registers hold that a reset must not change.
    pub(super) fn held(&self) -> Result<Held> {
        let mut held = Vec::new();
        for field in SAME.iter().chain(&COMMAND) {
            held.push((0, *field, self.get(0, field)?));
        }
        for bar in (header::BAR0..).step_by(4).take(6) {
            held.push((bar, &header::BAR_REGISTER, self.get(bar, &header::BAR_REGISTER)?));
        }
        if let Some(at) = self.power {
            held.push((at, &power::STATE, self.get(at, &power::STATE)?));
        }
        Ok(Held(held))
    }

    /// Compares with what was held before; `Err` within says what is wrong, for people.
    pub(super) fn same(&self, before: &Held) -> Result<std::result::Result<(), String>> {
        // The kernel answers for some registers itself, vendor and device ID and BARs among them. Revision and class
        // are the device's.
        let answers = |registers: &Self| -> Result<bool> {
            let ones = |field: &Field| Ok(registers.get(0, field)? == field.extract(u32::MAX));
            Ok(!(ones(&header::REVISION)? && ones(&header::BASE_CLASS)? && ones(&header::SUBCLASS)?))
        };
        if !self.until(ANSWER_PATIENCE, || answers(self))? {
            let why = "its revision and class read all ones: the device does not answer";
            return Ok(Err(why.to_owned()));
        }
        let now = self.held()?;
        let differs = before.0.iter().zip(&now.0).find(|(before, now)| before != now);
        Ok(match differs {
            None => Ok(()),
            Some(((at, field, before), (.., now))) => Err(format!(
                "{} (register {:#04x}) is {now:#x}, and was {before:#x}",
                field.name,
                at + field.register
            )),
        })
    }

    /// A field of the structure at `at`.
    fn get(&self, at: u16, field: &Field) -> Result<u32> {
        Ok(field.extract(self.register(at, field)?))
    }

    /// The register that a field is in.
    fn register(&self, at: u16, field: &Field) -> Result<u32> {
        let mut bytes = [0; 4];
        let register = bytes.get_mut(..usize::from(field.bytes)).unwrap_or_default();
        self.config.read(u64::from(at + field.register), register)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the register that a field is in.
    fn write(&self, at: u16, field: &Field, value: u32) -> Result<()> {
        let bytes = value.to_le_bytes();
        let register = bytes.get(..usize::from(field.bytes)).unwrap_or_default();
        self.config.write(u64::from(at + field.register), register)
    }

    /// Looks until something is so, for as long as `patience`; false where it never was.
    fn until(&self, patience: Duration, so: impl Fn() -> Result<bool>) -> Result<bool> {
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
