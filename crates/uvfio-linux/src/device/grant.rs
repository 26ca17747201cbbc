//! How a user reaches the BARs of a function: by messages, or by a file of the kernel's that it maps.
//!
//! Linux has no descriptor that gives one BAR and nothing else. The device's own gives everything that the kernel's
//! VFIO lets be done with the function; a dma-buf of a part of a BAR gives that part, but no kernel up to 7.3 maps one
//! into a process. What is mapped is past the model, so the pages of the MSI-X table and its pending bits never are.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use uvfio_core::{Allowed, Mappable, Mapped, SharedMapping};

use super::error::HardwareError;
use crate::vfio::{DeviceFile, Region, RegionInfo};

/// How the user of a function that exists reaches its BARs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BarGrant {
    /// Each access is a message, and one of the kernel's.
    #[default]
    Trapped,
    /// Mapped, by a dma-buf that gives no more than what is mapped, and that the kernel can take back.
    DmaBuf,
    /// Mapped, by the descriptor of the function: its user is trusted as far as the kernel trusts whoever has that. It
    /// can't be taken back: the function stays in use until the last mapping is undone.
    DeviceFd,
}

impl BarGrant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Trapped, Self::DmaBuf, Self::DeviceFd];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trapped => "trapped",
            Self::DmaBuf => "dmabuf",
            Self::DeviceFd => "device-fd",
        }
    }
}

/// A part of a BAR, or of what is not to be seen of one: the first byte, and the one after the last.
pub(super) type Span = (u64, u64);

/// What the user may map, by BAR.
#[derive(Debug, Default)]
pub(super) struct Mappings([Vec<Mappable>; 6]);

impl Mappings {
    /// Of these BARs, but the pages of what is `hidden`: spans by BAR.
    pub(super) fn new(
        grant: BarGrant,
        device: &DeviceFile,
        bars: &[Option<Region>; 6],
        hidden: &[(u8, Span)],
    ) -> Result<Self, HardwareError> {
        let mut all = Self::default();
        if grant == BarGrant::Trapped {
            return Ok(all);
        }
        let page = rustix::param::page_size() as u64;
        for ((n, parts), region) in (0..).zip(&mut all.0).zip(bars) {
            let Some(info) = region.as_ref().map(Region::info) else {
                continue;
            };
            let hidden = hidden.iter().filter(|(bar, _)| *bar == n).map(|(_, span)| *span);
            let areas = areas(info, hidden, page);
            *parts = match grant {
                BarGrant::Trapped => Vec::new(),
                BarGrant::DmaBuf => by_dma_buf(device, n, &areas)?,
                BarGrant::DeviceFd => by_device(device, info, &areas)?,
            };
        }
        if all.is_empty() {
            return Err(HardwareError::NothingToMap {
                device: device.name().to_owned(),
                grant,
            });
        }
        Ok(all)
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Those of a BAR.
    pub(super) fn of(&self, bar: u8) -> Vec<Mappable> {
        self.0.get(usize::from(bar)).cloned().unwrap_or_default()
    }
}

/// By the descriptor of the function, in which each BAR has its place.
fn by_device(device: &DeviceFile, info: &RegionInfo, areas: &[Span]) -> Result<Vec<Mappable>, HardwareError> {
    if areas.is_empty() {
        return Ok(Vec::new());
    }
    let file = device.as_fd().try_clone_to_owned();
    let file = Arc::new(file.map_err(|why| HardwareError::System {
        device: device.name().to_owned(),
        what: "another descriptor for it",
        why: why.to_string(),
    })?);
    let part = |&(first, end): &Span| Mappable {
        offset: first,
        bytes: end - first,
        file: Arc::clone(&file),
        bar_at: info.offset,
        kind: Mapped::Registers,
    };
    Ok(areas.iter().map(part).collect())
}

/// By a dma-buf of the BAR's first part. It begins where its file does: a region has one file, in which its own offset
/// is not below 0. The rest of the BAR is reached by messages.
fn by_dma_buf(device: &DeviceFile, bar: u8, areas: &[Span]) -> Result<Vec<Mappable>, HardwareError> {
    let Some(&(0, bytes)) = areas.first() else {
        return Ok(Vec::new());
    };
    let refused = |what, why: String| HardwareError::NoDmaBuf {
        device: device.name().to_owned(),
        bar,
        what,
        why,
    };
    let exported = device.export_dma_buf(bar.into(), 0, bytes);
    let file = exported.map_err(|error| refused("does not export it as a dma-buf", error.to_string()))?;
    let mapped = SharedMapping::new(file.as_fd(), 0, bytes, Allowed::ALL);
    mapped.map_err(|errno| refused("can't map a dma-buf of it into a process", errno.to_string()))?;
    Ok(vec![Mappable {
        offset: 0,
        bytes,
        file: Arc::new(file),
        bar_at: 0,
        kind: Mapped::Registers,
    }])
}

/// The whole pages of a region that the kernel lets be mapped, but those in which something hidden lies.
fn areas(info: &RegionInfo, hidden: impl Iterator<Item = Span>, page: u64) -> Vec<Span> {
    if !(info.mappable && info.readable && info.writable) {
        return Vec::new();
    }
    let whole = [(0, info.size)];
    let given = info.areas.as_deref().unwrap_or(&whole);
    let mut areas: Vec<Span> = given
        .iter()
        .filter_map(|&(offset, bytes)| {
            let end = offset.checked_add(bytes)?.min(info.size);
            Some((offset.checked_next_multiple_of(page)?, end / page * page))
        })
        .collect();
    for (first, end) in hidden {
        let first = first / page * page;
        let end = end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let around = |&(from, to): &Span| [(from, to.min(first)), (from.max(end), to)];
        areas = areas.iter().flat_map(around).collect();
    }
    // Parts of less than a page, and what nothing is left of.
    areas.retain(|(from, to)| from < to);
    areas.sort_unstable();
    areas
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    fn region(size: u64, areas: Option<&[(u64, u64)]>) -> RegionInfo {
        RegionInfo {
            index: 0,
            size,
            offset: 0,
            readable: true,
            writable: true,
            mappable: true,
            areas: areas.map(<[_]>::to_vec),
            kind: None,
            msix_mappable: true,
        }
    }

    #[track_caller]
    fn mapped(info: &RegionInfo, hidden: &[Span], expected: &[Span]) {
        let got = areas(info, hidden.iter().copied(), PAGE);
        assert_eq!(got, expected, "{info:?} without {hidden:x?}");
    }

    #[test]
    fn pages_with_msix_structures_are_left_out_and_the_others_are_not() {
        let nvme = region(0x4000, None);
        mapped(&nvme, &[], &[(0, 0x4000)]);
        mapped(&nvme, &[(0x2000, 0x2410), (0x3000, 0x3010)], &[(0, 0x2000)]);
        mapped(&nvme, &[(0x1ff0, 0x2010)], &[(0, 0x1000), (0x3000, 0x4000)]);
        mapped(&nvme, &[(0x3000, 0x3010), (0, 0x10)], &[(0x1000, 0x3000)]);
        mapped(&nvme, &[(0x800, 0x3801)], &[]);
        // Structures that would lie outside the BAR.
        mapped(&nvme, &[(0x3fff, u64::MAX)], &[(0, 0x3000)]);
    }

    #[test]
    fn what_the_kernel_does_not_let_be_mapped_is_not() {
        let parts = region(0x4000, Some(&[(0x3000, 0x1000), (0, 0x1000)]));
        mapped(&parts, &[], &[(0, 0x1000), (0x3000, 0x4000)]);
        mapped(&parts, &[(0, 1)], &[(0x3000, 0x4000)]);
        // Beyond the region, beyond 2^64, and less than a page.
        mapped(
            &region(0x2000, Some(&[(0x1000, 0x5000), (u64::MAX, 2)])),
            &[],
            &[(0x1000, 0x2000)],
        );
        mapped(&region(0x100, None), &[], &[]);
        mapped(
            &region(0x3000, Some(&[(0x800, 0x1900)])),
            &[],
            &[(0x1000, 0x2000)],
        );
        for change in [
            |info: &mut RegionInfo| info.mappable = false,
            |info: &mut RegionInfo| info.readable = false,
            |info: &mut RegionInfo| info.writable = false,
        ] {
            let mut info = region(0x4000, None);
            change(&mut info);
            mapped(&info, &[], &[]);
        }
    }
}
