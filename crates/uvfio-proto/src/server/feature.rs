//! DEVICE_FEATURE.
//!
//! The answers are those of Linux's VFIO: a feature that a device has not is ENOTTY (migration, DMA logging and
//! waking from low power among them), a method that a feature has not is EINVAL.

use uvfio_core::VirtualDevice;
use zerocopy::FromBytes;

use super::Request;
use crate::error::Refusal;
use crate::message::{Feature, FeatureFlags, feature_number};

/// Bits of the flags that hold the feature's number.
const NUMBER: u32 = 0xffff;

/// Sets a feature from its data.
type Set = fn(&VirtualDevice, &[u8]) -> Result<(), Wrong>;

/// A field of a feature's data that holds what it must not.
struct Wrong {
    field: &'static str,
    value: u64,
    rule: &'static str,
}

/// The features, all of which can only be set. What the hints of low power promise, the device does by itself: it
/// stays in the D-state that PMCSR says, and answers every access.
const FEATURES: [(u16, Set); 3] = [
    (feature_number::LOW_POWER_ENTRY, |_, _| Ok(())),
    (feature_number::LOW_POWER_EXIT, |_, _| Ok(())),
    (feature_number::BUS_MASTER, set_bus_master),
];

fn set_bus_master(device: &VirtualDevice, data: &[u8]) -> Result<(), Wrong> {
    let wrong = |value, rule| Wrong {
        field: "data",
        value,
        rule,
    };
    match u32::read_from_prefix(data) {
        Ok((on @ (0 | 1), _)) => {
            device.set_bus_master(on == 1);
            Ok(())
        }
        Ok((other, _)) => Err(wrong(other.into(), "bus mastering is 0, off, or 1, on")),
        Err(_) => Err(wrong(
            data.len() as u64,
            "bus mastering has 4 bytes of data; that is how many there are",
        )),
    }
}

impl Request<'_> {
    pub(super) fn feature(&mut self) -> Result<(), Refusal> {
        let (asked, data) = self.read::<Feature>("it must have at least 8: argsz, flags")?;
        self.check_argsz(
            asked.argsz,
            size_of::<Feature>(),
            "the reply has at least 8 bytes",
        )?;
        let number = (asked.flags & NUMBER) as u16;
        let Some(flags) = FeatureFlags::from_bits(asked.flags & !NUMBER) else {
            return Err(self.field("flags", asked.flags, "only bits 0 to 18 have a meaning"));
        };
        let methods = flags.difference(FeatureFlags::PROBE);
        if flags.is_empty() || flags == FeatureFlags::GET | FeatureFlags::SET {
            return Err(self.field("flags", asked.flags, "one of GET, SET, PROBE must be set"));
        }
        let Some((_, set)) = FEATURES.into_iter().find(|&(known, _)| known == number) else {
            return Err(Refusal::NoSuchFeature(number));
        };
        if methods.contains(FeatureFlags::GET) {
            return Err(self.field("flags", asked.flags, "this feature can only be set"));
        }
        if !flags.contains(FeatureFlags::PROBE) {
            set(self.device, data).map_err(|Wrong { field, value, rule }| self.field(field, value, rule))?;
        }
        // The reply is the request's payload.
        self.reply.put_bytes(self.payload);
        Ok(())
    }
}
