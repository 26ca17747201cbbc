//! What the kernel tells about devices, regions, interrupts and IOMMUs, as types.
//!
//! Parsing is pure: bytes in, values or [`Malformed`] out.

use std::mem::offset_of;
use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio as sys;

use super::argument::{u16_at, u32_at, u64_at};
use super::chain::{Link, Malformed, elements, walk};

/// `struct vfio_device_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device is a PCI function.
    pub pci: bool,
    /// [`reset`](super::DeviceFile::reset) works: the function was reset when it was opened.
    pub reset: bool,
    /// How many regions there are; numbers from 9 on are the device's own.
    pub regions: u32,
    /// How many interrupts there are.
    pub irqs: u32,
    /// Widths of atomic operations that the function's root port completes (`VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP`), as
    /// vfio.h numbers them; `None`: the kernel does not say.
    pub atomic_completion: Option<u32>,
}

impl DeviceInfo {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let flags = u32_at(bytes, offset_of!(sys::vfio_device_info, flags));
        let mut atomic_completion = None;
        if flags & sys::VFIO_DEVICE_FLAGS_CAPS != 0 {
            let first = u32_at(bytes, offset_of!(sys::vfio_device_info, cap_offset));
            for link in walk(bytes, size_of::<sys::vfio_device_info>(), first)? {
                if u32::from(link.id) == sys::VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP {
                    let at = offset_of!(sys::vfio_device_info_cap_pci_atomic_comp, flags);
                    atomic_completion = Some(u32_at(link.bytes, at));
                }
            }
        }
        Ok(Self {
            pci: flags & sys::VFIO_DEVICE_FLAGS_PCI != 0,
            reset: flags & sys::VFIO_DEVICE_FLAGS_RESET != 0,
            regions: u32_at(bytes, offset_of!(sys::vfio_device_info, num_regions)),
            irqs: u32_at(bytes, offset_of!(sys::vfio_device_info, num_irqs)),
            atomic_completion,
        })
    }
}

/// `struct vfio_region_info`, with its capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its number: 0 to 5 BARs, 6 the expansion ROM, 7 configuration space, 8 VGA, from 9 on the device's own.
    pub index: u32,
    /// In bytes; 0: there is none.
    pub size: u64,
    /// Where it lies in the device's file.
    pub offset: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// It, or [`areas`](Self::areas) of it, can be mapped.
    pub mappable: bool,
    /// The only areas that can be mapped, as (offset, bytes) within the region; `None`: all of it.
    pub areas: Option<Vec<(u64, u64)>>,
    /// What a device's own region is.
    pub kind: Option<RegionKind>,
    /// The region holds the MSI-X table, and the page that it lies in can be mapped all the same: the IOMMU is trusted
    /// to keep the device from forging interrupts.
    pub msix_mappable: bool,
}

/// `struct vfio_region_info_cap_type`: what a device's own region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionKind {
    /// Whose numbering: a PCI vendor's with bit 31 set, else VFIO's.
    pub kind: u32,
    /// The number.
    pub subtype: u32,
}

impl RegionInfo {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let flags = u32_at(bytes, offset_of!(sys::vfio_region_info, flags));
        let mut info = Self {
            index: u32_at(bytes, offset_of!(sys::vfio_region_info, index)),
            size: u64_at(bytes, offset_of!(sys::vfio_region_info, size)),
            offset: u64_at(bytes, offset_of!(sys::vfio_region_info, offset)),
            readable: flags & sys::VFIO_REGION_INFO_FLAG_READ != 0,
            writable: flags & sys::VFIO_REGION_INFO_FLAG_WRITE != 0,
            mappable: flags & sys::VFIO_REGION_INFO_FLAG_MMAP != 0,
            areas: None,
            kind: None,
            msix_mappable: false,
        };
        if flags & sys::VFIO_REGION_INFO_FLAG_CAPS != 0 {
            let first = u32_at(bytes, offset_of!(sys::vfio_region_info, cap_offset));
            for link in walk(bytes, size_of::<sys::vfio_region_info>(), first)? {
                info.take(&link)?;
            }
        }
        Ok(info)
    }

    fn take(&mut self, link: &Link<'_>) -> Result<(), Malformed> {
        match u32::from(link.id) {
            sys::VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                let count = u32_at(
                    link.bytes,
                    offset_of!(sys::vfio_region_info_cap_sparse_mmap, nr_areas),
                );
                let from = offset_of!(sys::vfio_region_info_cap_sparse_mmap, areas);
                self.areas = Some(pairs(link, "list of areas", from, count)?);
            }
            sys::VFIO_REGION_INFO_CAP_TYPE => {
                self.kind = Some(RegionKind {
                    kind: u32_at(link.bytes, offset_of!(sys::vfio_region_info_cap_type, type_)),
                    subtype: u32_at(link.bytes, offset_of!(sys::vfio_region_info_cap_type, subtype)),
                });
            }
            sys::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => self.msix_mappable = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether `size` bytes at `offset` lie within the region and within what can be mapped of it.
    pub fn can_map(&self, offset: u64, size: u64) -> bool {
        let within = |start: u64, bytes: u64| {
            let end = offset.checked_add(size);
            offset >= start
                && end.is_some_and(|end| start.checked_add(bytes).is_some_and(|limit| end <= limit))
        };
        let area = |areas: &Vec<(u64, u64)>| areas.iter().any(|(start, bytes)| within(*start, *bytes));
        self.mappable && size > 0 && within(0, self.size) && self.areas.as_ref().is_none_or(area)
    }
}

/// `struct vfio_irq_info`: one kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// How many vectors; 0: the device has no interrupts of this kind.
    pub count: u32,
    /// Each can be signalled by an eventfd.
    pub eventfd: bool,
    /// It can be masked and unmasked by request.
    pub maskable: bool,
    /// It is masked whenever it is signalled, until it is unmasked.
    pub automasked: bool,
    /// Vectors can be added while others are enabled (`VFIO_IRQ_INFO_NORESIZE` is off).
    pub resizable: bool,
}

impl IrqInfo {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let flags = u32_at(bytes, offset_of!(sys::vfio_irq_info, flags));
        Self {
            count: u32_at(bytes, offset_of!(sys::vfio_irq_info, count)),
            eventfd: flags & sys::VFIO_IRQ_INFO_EVENTFD != 0,
            maskable: flags & sys::VFIO_IRQ_INFO_MASKABLE != 0,
            automasked: flags & sys::VFIO_IRQ_INFO_AUTOMASKED != 0,
            resizable: flags & sys::VFIO_IRQ_INFO_NORESIZE == 0,
        }
    }
}

/// `struct vfio_iommu_type1_info`, with its capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuInfo {
    /// Sizes of pages that the IOMMU knows, one bit each (bit 12: 4096 bytes); `None`: the kernel does not say.
    pub page_sizes: Option<u64>,
    /// What addresses can be mapped; `None`: the kernel does not say.
    pub iova_ranges: Option<Vec<RangeInclusive<u64>>>,
    /// How many more mappings there may be; `None`: the kernel does not say.
    pub mappings_left: Option<u32>,
    /// It can tell which pages devices wrote.
    pub dirty_tracking: bool,
}

impl IommuInfo {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let flags = u32_at(bytes, offset_of!(sys::vfio_iommu_type1_info, flags));
        let sizes = u64_at(bytes, offset_of!(sys::vfio_iommu_type1_info, iova_pgsizes));
        let mut info = Self {
            page_sizes: (flags & sys::VFIO_IOMMU_INFO_PGSIZES != 0).then_some(sizes),
            iova_ranges: None,
            mappings_left: None,
            dirty_tracking: false,
        };
        if flags & sys::VFIO_IOMMU_INFO_CAPS != 0 {
            let first = u32_at(bytes, offset_of!(sys::vfio_iommu_type1_info, cap_offset));
            for link in walk(bytes, size_of::<sys::vfio_iommu_type1_info>(), first)? {
                info.take(&link)?;
            }
        }
        Ok(info)
    }

    fn take(&mut self, link: &Link<'_>) -> Result<(), Malformed> {
        match u32::from(link.id) {
            sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let count = u32_at(
                    link.bytes,
                    offset_of!(sys::vfio_iommu_type1_info_cap_iova_range, nr_iovas),
                );
                let from = offset_of!(sys::vfio_iommu_type1_info_cap_iova_range, iova_ranges);
                let ranges = pairs(link, "list of address ranges", from, count)?;
                self.iova_ranges = Some(ranges.into_iter().map(|(first, last)| first..=last).collect());
            }
            sys::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                let at = offset_of!(sys::vfio_iommu_type1_info_dma_avail, avail);
                self.mappings_left = Some(u32_at(link.bytes, at));
            }
            sys::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION => self.dirty_tracking = true,
            _ => {}
        }
        Ok(())
    }

    /// The smallest page in bytes, of which addresses and sizes must be multiples.
    pub fn smallest_page(&self) -> Option<u64> {
        self.page_sizes
            .filter(|sizes| *sizes != 0)
            .map(|sizes| 1 << sizes.trailing_zeros())
    }
}

/// `struct vfio_pci_hot_reset_info`: what a reset of the bus or slot would reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotResetInfo {
    /// Every function that it reaches, this one among them.
    pub functions: Vec<Dependent>,
}

/// A function that a reset of the bus or slot reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// Number of the IOMMU group that it is in.
    pub group: u32,
    /// PCI segment.
    pub segment: u16,
    /// PCI bus.
    pub bus: u8,
    /// Device and function, as PCI packs them.
    pub devfn: u8,
}

impl std::fmt::Display for Dependent {
    /// As Linux names the function, such as `0000:00:03.0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (device, function) = (self.devfn >> 3, self.devfn & 7);
        write!(f, "{:04x}:{:02x}:{device:02x}.{function}", self.segment, self.bus)
    }
}

impl HotResetInfo {
    /// How many functions there are, also where there was no room for them.
    pub(super) fn count(bytes: &[u8]) -> u32 {
        u32_at(bytes, offset_of!(sys::vfio_pci_hot_reset_info, count))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const BYTES: usize = size_of::<sys::vfio_pci_dependent_device>();
        let from = offset_of!(sys::vfio_pci_hot_reset_info, devices);
        let list = elements::<BYTES>(bytes, "list of functions", from, Self::count(bytes))?;
        let function = |bytes: &[u8; BYTES]| Dependent {
            group: u32_at(
                bytes,
                offset_of!(sys::vfio_pci_dependent_device, __bindgen_anon_1),
            ),
            segment: u16_at(bytes, offset_of!(sys::vfio_pci_dependent_device, segment)),
            bus: bytes[offset_of!(sys::vfio_pci_dependent_device, bus)],
            devfn: bytes[offset_of!(sys::vfio_pci_dependent_device, devfn)],
        };
        Ok(Self {
            functions: list.iter().map(function).collect(),
        })
    }
}

/// `count` pairs of 64-bit numbers, `from` bytes after the start of a capability.
fn pairs(link: &Link<'_>, what: &'static str, from: usize, count: u32) -> Result<Vec<(u64, u64)>, Malformed> {
    let list = link.elements::<16>(what, from, count)?;
    Ok(list
        .iter()
        .map(|pair| (u64_at(pair, 0), u64_at(pair, 8)))
        .collect())
}

#[cfg(test)]
mod tests;
