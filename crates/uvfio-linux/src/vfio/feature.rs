//! Features that a device may have (`VFIO_DEVICE_FEATURE`).

use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::argument::Argument;
use super::device::DeviceFile;
use super::error::{Asked, Result};
use super::request;
use super::rule::Rule;

/// The features that can be read or set here. Of the others in vfio.h it can be asked whether they are there
/// ([`DeviceFile::feature_probe`]); their data hold addresses of this process (DMA logging) or descriptors (states of a
/// migration).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Sets the token that users of a physical function and of its virtual ones must share: 16 bytes.
    VfToken,
    /// Lets the function sleep until it is used again: set, no data.
    LowPowerEntry,
    /// Wakes the function: set, no data.
    LowPowerExit,
    /// What migration the device can do: get, `struct vfio_device_feature_migration`.
    Migration,
    /// How much data its migration would take: get, `struct vfio_device_feature_mig_data_size`.
    MigrationDataSize,
    /// Bus master of devices whose configuration space is not PCI's: set, `struct vfio_device_feature_bus_master`.
    BusMaster,
}

impl Feature {
    /// Its number in vfio.h.
    pub fn number(self) -> u16 {
        (match self {
            Self::VfToken => sys::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
            Self::LowPowerEntry => sys::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
            Self::LowPowerExit => sys::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
            Self::Migration => sys::VFIO_DEVICE_FEATURE_MIGRATION,
            Self::MigrationDataSize => sys::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
            Self::BusMaster => sys::VFIO_DEVICE_FEATURE_BUS_MASTER,
        }) as u16
    }
}

/// What can be done with a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It can be read.
    Get,
    /// It can be set.
    Set,
}

impl Use {
    fn flag(self) -> u32 {
        match self {
            Self::Get => sys::VFIO_DEVICE_FEATURE_GET,
            Self::Set => sys::VFIO_DEVICE_FEATURE_SET,
        }
    }
}

impl DeviceFile {
    /// Whether a feature, by its number in vfio.h, is there for this use. Nothing is changed.
    pub fn feature_probe(&self, number: u16, way: Use) -> Result<bool> {
        let flags = u32::from(number) | way.flag() | sys::VFIO_DEVICE_FEATURE_PROBE;
        let mut argument = argument(flags, &[]);
        match self.send(request::DEVICE_FEATURE, &mut argument) {
            Ok(_) => Ok(true),
            // ENOTTY: no such feature. EINVAL: not for this use.
            Err(Errno::NOTTY | Errno::INVAL) => Ok(false),
            Err(errno) => Err(self.asked_feature("probe of", number).refused(Rule::Other, errno)),
        }
    }

    /// Reads a feature: as many bytes as its structure in vfio.h has.
    pub fn feature_get(&self, feature: Feature, bytes: usize) -> Result<Vec<u8>> {
        let flags = u32::from(feature.number()) | sys::VFIO_DEVICE_FEATURE_GET;
        let mut argument = argument(flags, &vec![0; bytes]);
        self.feature_sent(
            "get",
            feature.number(),
            self.send(request::DEVICE_FEATURE, &mut argument),
        )?;
        let data = argument.bytes().get(size_of::<sys::vfio_device_feature>()..);
        Ok(data.unwrap_or_default().to_vec())
    }

    /// Sets a feature to the bytes of its structure in vfio.h.
    pub fn feature_set(&self, feature: Feature, data: &[u8]) -> Result<()> {
        let flags = u32::from(feature.number()) | sys::VFIO_DEVICE_FEATURE_SET;
        let mut argument = argument(flags, data);
        self.feature_sent(
            "set",
            feature.number(),
            self.send(request::DEVICE_FEATURE, &mut argument),
        )?;
        Ok(())
    }

    /// Lets the function sleep until it is used again, as [`Feature::LowPowerEntry`], and has the kernel signal an
    /// eventfd when it wakes by itself.
    pub fn sleep_until(&self, eventfd: BorrowedFd<'_>) -> Result<()> {
        let number = sys::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP as u16;
        let base = size_of::<sys::vfio_device_feature>();
        let at = base + offset_of!(sys::vfio_device_low_power_entry_with_wakeup, wakeup_eventfd);
        let data = [0; size_of::<sys::vfio_device_low_power_entry_with_wakeup>()];
        let mut argument = argument(u32::from(number) | sys::VFIO_DEVICE_FEATURE_SET, &data)
            .set_u32(at, eventfd.as_raw_fd().cast_unsigned());
        self.feature_sent("set", number, self.send(request::DEVICE_FEATURE, &mut argument))?;
        Ok(())
    }

    /// A dma-buf of part of a BAR, which other devices can be given. `offset` and `bytes` are multiples of the page.
    /// The kernel takes it back while the function's memory is off, and for good when the device is closed.
    pub fn export_dma_buf(&self, region: u32, offset: u64, bytes: u64) -> Result<OwnedFd> {
        let number = sys::VFIO_DEVICE_FEATURE_DMA_BUF as u16;
        let base = size_of::<sys::vfio_device_feature>();
        let ranges = base + size_of::<sys::vfio_device_feature_dma_buf>();
        let data =
            [0; size_of::<sys::vfio_device_feature_dma_buf>() + size_of::<sys::vfio_region_dma_range>()];
        let mut argument = argument(u32::from(number) | sys::VFIO_DEVICE_FEATURE_GET, &data)
            .set_u32(
                base + offset_of!(sys::vfio_device_feature_dma_buf, region_index),
                region,
            )
            .set_u32(
                base + offset_of!(sys::vfio_device_feature_dma_buf, open_flags),
                open_flags(),
            )
            .set_u32(base + offset_of!(sys::vfio_device_feature_dma_buf, nr_ranges), 1)
            .set_u64(ranges + offset_of!(sys::vfio_region_dma_range, offset), offset)
            .set_u64(ranges + offset_of!(sys::vfio_region_dma_range, length), bytes);
        let sent = request::descriptor_by_argument(self, request::DEVICE_FEATURE, &mut argument);
        self.feature_sent("dma-buf of a BAR by", number, sent)
    }

    fn asked_feature(&self, what: &str, number: u16) -> Asked {
        Asked::new(
            request::DEVICE_FEATURE.name,
            format!("{what} feature {number} of {}", self.name()),
        )
    }

    fn feature_sent<T>(&self, what: &str, number: u16, sent: rustix::io::Result<T>) -> Result<T> {
        sent.map_err(|errno| {
            let rule = match errno {
                Errno::NOTTY => Rule::Unsupported,
                Errno::BUSY => Rule::Contended,
                _ => Rule::Other,
            };
            self.asked_feature(what, number).refused(rule, errno)
        })
    }
}

fn open_flags() -> u32 {
    (rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC).bits()
}

fn argument(flags: u32, data: &[u8]) -> Argument {
    Argument::with_data::<sys::vfio_device_feature>(data)
        .set_u32(offset_of!(sys::vfio_device_feature, flags), flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::argument::u32_at;

    #[test]
    fn a_feature_is_named_in_the_low_half_of_the_flags_and_its_data_follow() {
        let mut argument = argument(
            u32::from(Feature::LowPowerExit.number()) | Use::Set.flag(),
            &[1, 2, 3, 4],
        );
        let bytes = argument.sealed().to_vec();
        assert_eq!(
            (bytes.len(), u32_at(&bytes, 0), u32_at(&bytes, 4)),
            (12, 12, 0x2_0005)
        );
        assert_eq!(bytes[8..], [1, 2, 3, 4]);
    }
}
