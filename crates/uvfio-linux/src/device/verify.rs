//! What configuration space must hold again after a reset, and whether the hardware does hold it.
//!
//! The kernel's VFIO answers for some registers from copies of its own: vendor and device ID, BARs, payload sizes. So
//! bytes are read through `config` in `/sys`, which asks the hardware, as far as its descriptor reaches; the rest
//! through VFIO.

use uvfio_pci::tables::header;
use uvfio_pci::{Access, Action, After, Field, Treatment, View};

use super::declare::value;
use super::registers::{Config, Registers, Switches};
use crate::sysfs::ConfigFile;
use crate::vfio::Result;

/// How long a device may be silent after a reset (PCI Express Base 5.0, 6.6.1).
const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Registers by which a function is known, and for which no kernel answers itself. (For a virtual function it answers
/// for vendor and device ID: the hardware reads all ones there.)
const KNOWN_BY: [&Field; 5] = [
    &header::REVISION,
    &header::SUBCLASS,
    &header::BASE_CLASS,
    &header::SUBSYSTEM_VENDOR,
    &header::SUBSYSTEM,
];

/// Configuration space as the hardware has it, up to some byte.
#[derive(Debug)]
pub(super) struct HardwareConfig {
    pub(super) config: Box<dyn Config>,
    /// How many bytes of it may be read.
    pub(super) bytes: u64,
    pub(super) writable: bool,
}

impl HardwareConfig {
    /// Takes the descriptor where it is that of the function whose first bytes VFIO read as `page`; else what differs.
    pub(super) fn of(file: ConfigFile, page: &[u8]) -> std::result::Result<Self, String> {
        let mut seen = [0; 64];
        file.read(0, &mut seen).map_err(|error| error.to_string())?;
        for field in KNOWN_BY {
            let (there, here) = (value(&seen, 0, field), value(page, 0, field));
            if there != here {
                let Field { name, register, .. } = field;
                return Err(format!(
                    "{name} (register {register:#04x}) is {there:#x} there and {here:#x} here"
                ));
            }
        }
        Ok(Self::unchecked(file))
    }

    /// Takes the descriptor for that of the function.
    pub(super) fn unchecked(file: ConfigFile) -> Self {
        Self {
            bytes: file.bytes(),
            writable: file.is_writable(),
            config: Box::new(file),
        }
    }
}

/// What registers held: the structure's offset, the field, its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held(Vec<(u16, &'static Field, u32)>);

impl Held {
    /// The same, with settings as they are in `before`: what a user may have changed, and a reset puts back.
    pub(super) fn with_settings_of(&self, before: &Self) -> Self {
        let both = self.0.iter().zip(&before.0);
        Self(
            both.map(|(fixed, set)| if is_setting(fixed.1) { *set } else { *fixed })
                .collect(),
        )
    }

    /// The first difference, for people.
    fn difference(&self, now: &Self) -> Option<String> {
        let mut pairs = self.0.iter().zip(&now.0);
        let ((at, field, before), (.., now)) = pairs.find(|(before, now)| before != now)?;
        Some(format!(
            "{} (register {:#04x}) is {now:#x}, and was {before:#x}",
            field.name,
            at + field.register
        ))
    }

    fn bars(&self) -> impl Iterator<Item = (u16, u32)> {
        let bars = self.0.iter().filter(|(_, field, _)| is_bar(field));
        bars.map(|(at, _, value)| (*at, *value))
    }
}

fn is_bar(field: &Field) -> bool {
    *field == header::BAR_REGISTER
}

/// Something that stays as it was set, through a function level reset too. Not the interrupt line, of which the
/// hardware makes nothing.
fn is_setting(field: &Field) -> bool {
    field.access == Access::Rw
        && field.resets.flr == After::Kept
        && field.action == Action::None
        && *field != header::INTERRUPT_LINE
}

/// Whether a register must hold after a reset what it held before: what the device says of itself, what is set, memory,
/// I/O, bus master and power state, which are switched here. Interrupts are not: the kernel's, and off at a reset.
fn must_hold(field: &Field) -> bool {
    match field.access {
        Access::Ro | Access::HwInit => field.treatment(View::Virtual) == Treatment::Constant,
        _ => {
            is_setting(field)
                || matches!(
                    field.action,
                    Action::Decode | Action::BusMaster | Action::PowerState
                )
        }
    }
}

impl Registers {
    /// How much of what is verified is asked of the hardware itself: how many bytes of configuration space.
    pub(super) fn asked_of_hardware(&self) -> u64 {
        self.hardware.as_ref().map_or(0, |hardware| hardware.bytes)
    }

    /// What registers hold that must be there again after a reset.
    pub(super) fn held(&self) -> Result<Held> {
        let mut held = Vec::new();
        for (at, table) in &self.structures {
            for field in table.fields.iter().filter(|field| must_hold(field)) {
                held.push((*at, field, self.real(*at, field)?));
            }
        }
        for at in (header::BAR0..).step_by(4).take(6) {
            let bar = &header::BAR_REGISTER;
            held.push((at, bar, self.real(at, bar)?));
        }
        Ok(Held(held))
    }

    /// Whether it answers: revision and class, which are always the device's own, don't read all ones.
    pub(super) fn answers(&self) -> Result<bool> {
        let ones = |field: &Field| Ok(self.real(0, field)? == field.extract(u32::MAX));
        Ok(!(ones(&header::REVISION)? && ones(&header::BASE_CLASS)? && ones(&header::SUBCLASS)?))
    }

    /// Whether the hardware's BARs are where they were.
    pub(super) fn has_bars_of(&self, quiet: &Held) -> Result<bool> {
        for (at, was) in quiet.bars() {
            if self.real(at, &header::BAR_REGISTER)? != was {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has put back what was lost, with COMMAND as it is when the device is quiet, and compares; `Err` within says what
    /// is wrong, for people.
    pub(super) fn put_back(&self, expected: &Held) -> Result<std::result::Result<(), String>> {
        if !self.until(ANSWER_PATIENCE, || self.answers())? {
            let why = "its revision and class read all ones: the device does not answer";
            return Ok(Err(why.to_owned()));
        }
        // The kernel's VFIO compares the BARs with its own copy whenever COMMAND is written, and puts them back.
        self.set_command(Switches::QUIET)?;
        for (at, field, was) in &expected.0 {
            if is_bar(field) {
                self.put_bar_back(*at, *was)?;
            } else if is_setting(field) && self.real(*at, field)? != *was {
                self.set(*at, field, *was)?;
            }
        }
        self.same(expected)
    }

    fn put_bar_back(&self, at: u16, was: u32) -> Result<()> {
        match &self.hardware {
            Some(hardware) if hardware.writable && self.real(at, &header::BAR_REGISTER)? != was => {
                hardware.config.write(at.into(), &was.to_le_bytes())
            }
            _ => Ok(()),
        }
    }

    /// Compares with what must be there; `Err` within says what is wrong, for people.
    fn same(&self, expected: &Held) -> Result<std::result::Result<(), String>> {
        Ok(expected.difference(&self.held()?).map_or(Ok(()), Err))
    }

    /// A field of the structure at `at`, of the hardware where that can be asked.
    fn real(&self, at: u16, field: &Field) -> Result<u32> {
        let config = self.shown(u64::from(at + field.register), field.bytes);
        Ok(field.extract(Self::register_of(config, at, field)?))
    }
}

#[cfg(test)]
mod tests;
