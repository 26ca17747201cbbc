//! What a function was when it was taken over first: for whoever resets it when its owner's process has died, and
//! before the next owner gets it. (An owner compares with what it has found itself.)

use uvfio_pci::PowerState;

use super::declare::{Declared, PAGE, Seen};
use super::error::{HardwareError, Lie};
use super::registers::{Registers, Switches};
use super::verify::{HardwareConfig, Held};
use super::{bar_bytes, bars};
use crate::sysfs::ConfigFile;
use crate::vfio::{DeviceFile, Region, Result as VfioResult};

/// A function's configuration space: by VFIO, its first bytes, and by `/sys`.
pub(super) struct Found {
    pub(super) config: Region,
    pub(super) page: [u8; PAGE],
    pub(super) hardware: Option<HardwareConfig>,
}

impl Found {
    /// Reads it, and makes sure that both ways lead to the same function.
    pub(super) fn of(device: &DeviceFile, file: Option<ConfigFile>) -> Result<Self, HardwareError> {
        let vfio = |source| HardwareError::Vfio {
            device: device.name().to_owned(),
            source,
        };
        let config = device.config().map_err(vfio)?;
        let mut page = [0; PAGE];
        if config.info().size < page.len() as u64 {
            return Err(HardwareError::Lie {
                device: device.name().to_owned(),
                lie: Lie::Short {
                    bytes: config.info().size,
                },
            });
        }
        config.read(0, &mut page).map_err(vfio)?;
        let hardware = file.map(|file| HardwareConfig::of(file, &page)).transpose();
        let hardware = hardware.map_err(|why| HardwareError::OtherFunction {
            device: device.name().to_owned(),
            why,
        })?;
        Ok(Self {
            config,
            page,
            hardware,
        })
    }
}

/// What of a function's configuration space is verified after a reset, as it was when nobody had used it. It keeps
/// nothing of the function open.
#[derive(Clone, Debug)]
pub struct Baseline {
    device: String,
    declared: Declared,
    quiet: Held,
}

impl Baseline {
    /// Of a function that is open and has no user: it is brought to D0, bus mastering is off then, and its memory
    /// answers. `config` is its configuration space through `/sys`, where that is open.
    ///
    /// # Errors
    /// Where the kernel refuses something, or what the device says of itself cannot be true.
    pub fn of(device: &DeviceFile, config: Option<ConfigFile>) -> Result<Self, HardwareError> {
        let vfio = |source| HardwareError::Vfio {
            device: device.name().to_owned(),
            source,
        };
        let found = Found::of(device, config)?;
        let bars = bars(device).map_err(vfio)?;
        // How many interrupts the kernel grants shows later, and nothing of them is verified.
        let declared = Declared::new(&Seen {
            page: &found.page,
            bars: bar_bytes(&bars),
            messages: 0,
            vectors: 0,
            line: false,
            resettable: false,
        });
        let declared = declared.map_err(|lie| HardwareError::Lie {
            device: device.name().to_owned(),
            lie,
        })?;
        let registers = Registers::new(Box::new(found.config), found.hardware, &declared);
        Self::taken(device.name(), declared, &registers).map_err(vfio)
    }

    fn taken(device: &str, declared: Declared, registers: &Registers) -> VfioResult<Self> {
        Ok(Self {
            device: device.to_owned(),
            declared,
            quiet: registers.quieten()?,
        })
    }

    /// Has the function as it was, after its reset and without a user, and compares; settings and BARs that it has lost
    /// are put back. Bus mastering is off then, and its memory answers.
    ///
    /// # Errors
    /// [`HardwareError::Reset`] with the first register that differs, or where the kernel refuses something.
    pub fn verify(&self, device: &DeviceFile, config: Option<ConfigFile>) -> Result<(), HardwareError> {
        let region = device.config();
        let region = region.map_err(|source| HardwareError::Vfio {
            device: self.device.clone(),
            source,
        })?;
        // Whose configuration space that is is compared like everything else, once the device answers again.
        let hardware = config.map(HardwareConfig::unchecked);
        self.compare(&Registers::new(Box::new(region), hardware, &self.declared))
    }

    fn compare(&self, registers: &Registers) -> Result<(), HardwareError> {
        let device = || self.device.clone();
        match registers.put_back(&self.quiet) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(HardwareError::Reset {
                device: device(),
                why: format!("it did not come back from its reset: {why}"),
            }),
            Err(source) => Err(HardwareError::Vfio {
                device: device(),
                source,
            }),
        }
    }
}

impl Registers {
    /// Has the function quiet, and says what it holds then.
    pub(super) fn quieten(&self) -> VfioResult<Held> {
        self.set_power(PowerState::D0)?;
        self.set_command(Switches::QUIET)?;
        self.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::made_up::{declared, function, function_with_sysfs};

    #[test]
    fn a_function_is_compared_with_what_it_was_at_first_whatever_has_happened_since() {
        for (at, byte, says) in [
            (0x02, 0xe9, "Device ID (register 0x02) is 0x11e9, and was 0x11e8"),
            (0x08, 0x99, "Revision ID (register 0x08) is 0x99, and was 0x10"),
            (0x42, 0x02, "Version (register 0x42) is 0x2, and was 0x3"),
        ] {
            let (bytes, registers) = function();
            let was = Baseline::taken("0000:01:00.0", declared(&bytes), &registers).unwrap();
            was.compare(&registers).unwrap();
            bytes.put(at, &[byte]);
            assert_eq!(
                was.compare(&registers).unwrap_err().to_string(),
                format!("0000:01:00.0: it did not come back from its reset: {says}")
            );
        }
    }

    #[test]
    fn what_a_user_has_set_is_taken_back_and_bus_mastering_is_off() {
        let (bytes, registers) = function();
        let was = Baseline::taken("0000:01:00.0", declared(&bytes), &registers).unwrap();
        bytes.put(0x04, &[0x47, 0x01]);
        bytes.put(0x0c, &[0x10]);
        was.compare(&registers).unwrap();
        let page = bytes.page.lock().unwrap();
        assert_eq!((&page[0x04..0x06], page[0x0c]), (&[0x42, 0x05][..], 0));
    }

    #[test]
    fn a_lost_bar_that_nobody_puts_back_is_named() {
        let (kernel, hardware, registers) = function_with_sysfs(64, false);
        let was = Baseline::taken("0000:01:00.0", declared(&kernel), &registers).unwrap();
        hardware.put(0x10, &[0; 4]);
        let error = was.compare(&registers).unwrap_err().to_string();
        assert!(
            error.contains("register 0x10) is 0x0, and was 0xfe000000"),
            "{error}"
        );
    }
}
