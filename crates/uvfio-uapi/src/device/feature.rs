//! VFIO_DEVICE_FEATURE. There are the low-power features; they are a hint, and change no D-state.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::Device;
use crate::argument::{Argument, field};
use crate::refusal::{Outcome, Refusal};
use crate::{Caller, descriptor};

/// VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, which the kernel knows of every device, and refuses of those without migration.
const MIG_PRECOPY_INFO: u32 = 12;

/// Whether the user has put the device to sleep.
#[derive(Debug, Default)]
pub(super) enum LowPower {
    /// It is awake.
    #[default]
    Off,
    /// Until the user says otherwise: accesses wake it for their time only.
    On,
    /// Until the next access, of which the eventfd tells.
    UntilWoken(OwnedFd),
}

impl LowPower {
    /// An access comes: the eventfd that is to be told of it, if one is.
    pub(super) fn wake(&mut self) -> Option<OwnedFd> {
        match std::mem::take(self) {
            Self::UntilWoken(eventfd) => Some(eventfd),
            unchanged => {
                *self = unchanged;
                None
            }
        }
    }
}

impl Device {
    /// VFIO_DEVICE_FEATURE.
    pub(super) fn feature(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_device_feature.data);
        let mut argument = Argument::new(caller, address, least)?;
        let flags = argument.u32(field!(vfio_device_feature.flags));
        let (get, set, probe) = (
            flags & sys::VFIO_DEVICE_FEATURE_GET != 0,
            flags & sys::VFIO_DEVICE_FEATURE_SET != 0,
            flags & sys::VFIO_DEVICE_FEATURE_PROBE != 0,
        );
        let known = sys::VFIO_DEVICE_FEATURE_MASK
            | sys::VFIO_DEVICE_FEATURE_GET
            | sys::VFIO_DEVICE_FEATURE_SET
            | sys::VFIO_DEVICE_FEATURE_PROBE;
        if flags & !known != 0 {
            return Err(Refusal::invalid(format!(
                "flags {:#x} are not known",
                flags & !known
            )));
        }
        if get && set && !probe {
            return Err(Refusal::invalid("GET and SET go together only with PROBE"));
        }
        let feature = flags & sys::VFIO_DEVICE_FEATURE_MASK;
        let bytes = match feature {
            sys::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | sys::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT => 0,
            sys::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP => {
                size_of::<sys::vfio_device_low_power_entry_with_wakeup>()
            }
            MIG_PRECOPY_INFO => {
                return Err(Refusal::invalid(
                    "what is told while state is copied beforehand is for devices that can be migrated",
                ));
            }
            _ => {
                return Err(Refusal::new(
                    Errno::NOTTY,
                    format!("feature {feature} is not there; 3, 4 and 5 (low power) are"),
                ));
            }
        };
        // All of them can be set, and not got.
        if get {
            return Err(Refusal::invalid(format!("feature {feature} can be set, not got")));
        }
        if probe {
            return Ok(());
        }
        if !set {
            return Err(Refusal::invalid("it needs GET, SET or PROBE"));
        }
        if argument.argsz() - least < bytes {
            return Err(Refusal::invalid(format!(
                "argsz leaves no room for the {bytes} bytes of feature {feature}"
            )));
        }
        argument.extend(least, bytes)?;
        let enters = match feature {
            sys::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT => LowPower::Off,
            sys::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY => LowPower::On,
            _ => {
                let at = least + field!(vfio_device_low_power_entry_with_wakeup.wakeup_eventfd);
                let number = argument.descriptor(at);
                if number < 0 {
                    return Err(Refusal::invalid("it needs an eventfd to be woken by"));
                }
                LowPower::UntilWoken(descriptor::eventfd(caller, number)?)
            }
        };
        let mut state = self.low_power();
        if !matches!(enters, LowPower::Off) && !matches!(*state, LowPower::Off) {
            return Err(Refusal::invalid("the device is in low power already"));
        }
        *state = enters;
        Ok(())
    }
}
