//! VFIO_IOMMU_DIRTY_PAGES. As for every device that exists and does not say which pages it writes, all that is mapped
//! counts as dirty.

use std::mem::size_of;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::Iommu;
use super::type1::past_the_end;
use crate::Caller;
use crate::argument::{Argument, field};
use crate::refusal::{Outcome, Refusal};
use crate::space::{PAGE, cut};

/// The longest bitmap, in bytes: what the kernel has it at.
pub(super) const MAX_BITMAP_BYTES: u64 = 1 << 28;

/// The most of a bitmap that is written at a time, in bytes.
const PIECE: u64 = 64 << 10;

/// `struct vfio_bitmap`.
pub(super) struct Bitmap {
    /// Bytes that a bit stands for.
    pub(super) page: u64,
    /// Its size in bytes.
    bytes: u64,
    /// Where it is in the process.
    address: u64,
}

impl Bitmap {
    /// The one at `at` in an argument.
    pub(super) fn of(argument: &mut Argument<'_>, at: usize) -> Outcome<Self> {
        argument.extend(at, size_of::<sys::vfio_bitmap>())?;
        Ok(Self {
            page: argument.u64(at + field!(vfio_bitmap.pgsize)),
            bytes: argument.u64(at + field!(vfio_bitmap.size)),
            address: argument.u64(at + field!(vfio_bitmap.data)),
        })
    }

    /// Checks that it holds the pages of `bytes` bytes.
    pub(super) fn check(&self, bytes: u64) -> Outcome<()> {
        let pages = if self.page.is_power_of_two() {
            bytes / self.page
        } else {
            0
        };
        let needs = pages.div_ceil(64).saturating_mul(8);
        if pages == 0 || self.bytes < needs || self.bytes > MAX_BITMAP_BYTES {
            return Err(Refusal::invalid(format!(
                "a bitmap of {} bytes does not hold the pages of {} bytes in {bytes:#x}",
                self.bytes, self.page
            )));
        }
        Ok(())
    }

    /// Sets the bits of ranges, by first and last address; bit 0 stands for the page at `base`.
    pub(super) fn report(
        &self,
        caller: &dyn Caller,
        base: u64,
        ranges: impl Iterator<Item = (u64, u64)>,
    ) -> Outcome<()> {
        for (first, last) in ranges {
            let (mut bit, end) = ((first - base) / PAGE, (last - base) / PAGE);
            while bit <= end {
                let start = bit / 8;
                let bytes = (end / 8 - start + 1).min(PIECE);
                let past = ((start + bytes) * 8).min(end + 1);
                self.set(caller, start, bytes, bit..past).map_err(|errno| {
                    Refusal::new(
                        errno,
                        format!("the bitmap at {:#x} can't be written", self.address),
                    )
                })?;
                bit = past;
            }
        }
        Ok(())
    }

    /// Sets bits that lie within `bytes` bytes from byte `start` on.
    fn set(
        &self,
        caller: &dyn Caller,
        start: u64,
        bytes: u64,
        bits: std::ops::Range<u64>,
    ) -> Result<(), Errno> {
        let address = self.address.checked_add(start).ok_or(Errno::FAULT)?;
        let mut piece = vec![0; usize::try_from(bytes).map_err(|_| Errno::FAULT)?];
        caller.read(address, &mut piece)?;
        for bit in bits {
            if let Some(byte) = piece.get_mut((bit / 8 - start) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
        caller.write(address, &piece)
    }
}

impl Iommu {
    /// VFIO_IOMMU_DIRTY_PAGES.
    pub(super) fn dirty_pages(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        if !self.v2 {
            return Err(Refusal::new(
                Errno::ACCESS,
                "dirty pages are tracked with type 1 version 2 only",
            ));
        }
        let least = field!(vfio_iommu_type1_dirty_bitmap.data);
        let mut argument = Argument::new(caller, address, least)?;
        match argument.u32(field!(vfio_iommu_type1_dirty_bitmap.flags)) {
            sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_START => self.tracking = true,
            sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP => self.tracking = false,
            sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP => self.get_bitmap(&mut argument, least)?,
            flags => {
                return Err(Refusal::invalid(format!(
                    "flags {flags:#x} are not one of START, STOP and GET_BITMAP"
                )));
            }
        }
        Ok(())
    }

    fn get_bitmap(&self, argument: &mut Argument<'_>, at: usize) -> Outcome<()> {
        let size = size_of::<sys::vfio_iommu_type1_dirty_bitmap_get>();
        if argument.argsz() - at < size {
            return Err(Refusal::invalid(
                "argsz leaves no room for a range and its bitmap",
            ));
        }
        argument.extend(at, size)?;
        let iova = argument.u64(at + field!(vfio_iommu_type1_dirty_bitmap_get.iova));
        let bytes = argument.u64(at + field!(vfio_iommu_type1_dirty_bitmap_get.size));
        let bitmap = Bitmap::of(argument, at + field!(vfio_iommu_type1_dirty_bitmap_get.bitmap))?;
        if iova.checked_add(bytes).is_none() {
            return Err(past_the_end(iova, bytes));
        }
        bitmap.check(bytes)?;
        self.check_tracking(&bitmap)?;
        if bytes == 0 || !(iova | bytes).is_multiple_of(PAGE) {
            return Err(Refusal::invalid(format!(
                "iova {iova:#x} and size {bytes:#x} must be multiples of {PAGE}, and the size not 0"
            )));
        }
        let last = iova
            .checked_add(bytes - 1)
            .ok_or_else(|| past_the_end(iova, bytes))?;
        let ranges = self.space.ranges();
        if let Some(other) = cut(&ranges, iova, last) {
            return Err(Refusal::invalid(format!(
                "iova {iova:#x}..={last:#x} would cut the mapping at {other:#x}"
            )));
        }
        let within = ranges.range(iova..=last);
        bitmap.report(
            argument.caller(),
            iova,
            within.map(|(&first, range)| (first, range.last)),
        )
    }
}
