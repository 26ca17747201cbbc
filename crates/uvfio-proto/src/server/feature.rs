//! DEVICE_FEATURE.
//!
//! The answers are those of Linux's VFIO: a feature that a device has not is ENOTTY (migration, DMA logging and
//! waking from low power among them), a method that a feature has not is EINVAL. One feature is ours: the usable
//! ranges of IOVAs, which vfio-user has no request for.

use uvfio_core::VirtualDevice;
use zerocopy::{FromBytes, IntoBytes};

use super::Request;
use crate::error::Refusal;
use crate::message::{Feature, FeatureFlags, IovaRange, feature_number};

/// Bits of the flags that hold the feature's number.
const NUMBER: u32 = 0xffff;

/// What can be done with a feature.
enum Method {
    /// Its data can be got.
    Get(fn(&VirtualDevice) -> Vec<u8>),
    /// It can be set from data.
    Set(fn(&VirtualDevice, &[u8]) -> Result<(), Wrong>),
}

/// A field of a feature's data that holds what it must not.
struct Wrong {
    field: &'static str,
    value: u64,
    rule: &'static str,
}

/// The features. What the hints of low power promise, the device does by itself: it stays in the D-state that
/// PMCSR says, and answers every access.
const FEATURES: [(u16, Method); 4] = [
    (feature_number::LOW_POWER_ENTRY, Method::Set(|_, _| Ok(()))),
    (feature_number::LOW_POWER_EXIT, Method::Set(|_, _| Ok(()))),
    (feature_number::BUS_MASTER, Method::Set(set_bus_master)),
    (feature_number::IOVA_RANGES, Method::Get(iova_ranges)),
];

fn iova_ranges(device: &VirtualDevice) -> Vec<u8> {
    let ranges: Vec<IovaRange> = device
        .dma()
        .usable()
        .into_iter()
        .map(|(first, last)| IovaRange { first, last })
        .collect();
    ranges.as_bytes().to_vec()
}

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
    #[inline(never)]
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
        let Some((_, method)) = FEATURES.iter().find(|&&(known, _)| known == number) else {
            return Err(Refusal::NoSuchFeature(number));
        };
        let probed = flags.contains(FeatureFlags::PROBE);
        match method {
            Method::Set(_) if methods.contains(FeatureFlags::GET) => {
                return Err(self.field("flags", asked.flags, "this feature can only be set"));
            }
            Method::Get(_) if methods.contains(FeatureFlags::SET) => {
                return Err(self.field("flags", asked.flags, "this feature can only be got"));
            }
            Method::Set(set) if !probed => {
                set(self.device, data)
                    .map_err(|Wrong { field, value, rule }| self.field(field, value, rule))?;
            }
            Method::Get(get) if !probed => {
                let data = get(self.device);
                self.answer_get(asked, &data);
                return Ok(());
            }
            Method::Set(_) | Method::Get(_) => {}
        }
        // The reply is the request's payload.
        self.reply.put_bytes(self.payload);
        Ok(())
    }
    /// A feature's data; where the client has no room for them, only how much they need.
    fn answer_get(&mut self, asked: Feature, data: &[u8]) {
        let needed = (size_of::<Feature>() + data.len()) as u32;
        let fixed = Feature {
            argsz: needed,
            flags: asked.flags,
        };
        self.reply.put_bytes(fixed.as_bytes());
        if asked.argsz >= needed {
            self.reply.put_bytes(data);
        }
    }
}
