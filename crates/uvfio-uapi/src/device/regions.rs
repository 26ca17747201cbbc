//! Reads, writes and mappings of a device's file: region `n` begins at byte `n` << 40.

use uvfio_core::region_index;
use uvfio_pci::{Bar, Window};

use rustix::io::Errno;

use super::Device;
use crate::Part;
use crate::refusal::{Outcome, Refusal};
use crate::space::PAGE;

/// Where regions begin in the file, as a power of two.
const REGION_SHIFT: u32 = 40;

/// Where a region begins in the file.
pub(super) const fn offset_of_region(region: u32) -> u64 {
    (region as u64) << REGION_SHIFT
}

/// The region and the offset in it of a byte of the file.
pub(super) const fn split(offset: u64) -> (u32, u64) {
    let region = offset >> REGION_SHIFT;
    (region as u32, offset & ((1 << REGION_SHIFT) - 1))
}

/// How an access goes on.
#[derive(Clone, Copy)]
enum Run {
    /// Bytes of the device.
    Device(usize),
    /// Bytes of the MSI-X table, which reads and writes of the file do not reach.
    Hidden(usize),
}

impl Device {
    /// `pread`: how many bytes were read.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) -> Outcome<usize> {
        let _used = self.enter()?;
        let (region, at, bytes) = self.accessed(offset, data.len(), false)?;
        let mut done = 0;
        while done < bytes {
            let n = match self.next(region, at + done as u64, bytes - done) {
                Run::Device(n) => {
                    let part = data.get_mut(done..done + n).unwrap_or_default();
                    self.device
                        .read(region, at + done as u64, part)
                        .map_err(|error| Refusal::invalid(error.to_string()))?;
                    n
                }
                Run::Hidden(n) => {
                    data.get_mut(done..done + n).unwrap_or_default().fill(0xff);
                    n
                }
            };
            done += n;
        }
        Ok(bytes)
    }

    /// `pwrite`: how many bytes were written.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Outcome<usize> {
        let _used = self.enter()?;
        let (region, at, bytes) = self.accessed(offset, data.len(), true)?;
        let mut done = 0;
        while done < bytes {
            let n = match self.next(region, at + done as u64, bytes - done) {
                Run::Device(n) => {
                    let part = data.get(done..done + n).unwrap_or_default();
                    self.device
                        .write(region, at + done as u64, part)
                        .map_err(|error| Refusal::invalid(error.to_string()))?;
                    n
                }
                Run::Hidden(n) => n,
            };
            done += n;
        }
        if region == region_index::CONFIG {
            // A reset, or another power state: done when the write is, as with the kernel.
            self.device.settle();
        }
        Ok(bytes)
    }

    /// A load from a mapping.
    pub(crate) fn load(&self, offset: u64, data: &mut [u8]) -> Outcome<()> {
        let _used = self.enter()?;
        let (region, at) = self.mapped(offset, data.len())?;
        self.device
            .read(region, at, data)
            .map_err(|error| Refusal::invalid(error.to_string()))
    }

    /// A store to a mapping.
    pub(crate) fn store(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        let _used = self.enter()?;
        let (region, at) = self.mapped(offset, data.len())?;
        self.device
            .write(region, at, data)
            .map_err(|error| Refusal::invalid(error.to_string()))
    }

    /// What a mapping shows.
    pub(crate) fn mappings(&self, offset: u64, bytes: u64) -> Outcome<Vec<Part>> {
        let _used = self.enter()?;
        let (region, at) = split(offset);
        let info = self
            .device
            .region_info(region)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        if region >= region_index::ROM || !self.may_be_mapped(region) {
            return Err(Refusal::invalid(format!("region {region} can't be mapped")));
        }
        let end = bytes
            .checked_next_multiple_of(PAGE)
            .and_then(|bytes| at.checked_add(bytes))
            .filter(|end| bytes > 0 && at.is_multiple_of(PAGE) && *end <= info.bytes);
        let Some(end) = end else {
            return Err(Refusal::invalid(format!(
                "{bytes:#x} bytes from {at:#x} on are not whole pages of the {:#x} bytes of region {region}",
                info.bytes
            )));
        };
        let mut parts = Vec::new();
        let mut next = at;
        let mut plain = info.mappable.clone();
        plain.sort_unstable();
        for (start, length) in plain {
            let stop = start.saturating_add(length).clamp(next, end);
            let start = start.clamp(next, end);
            let Some(memory) = info.memory.as_ref().filter(|_| start < stop) else {
                continue;
            };
            if next < start {
                parts.push(Part::Trapped { bytes: start - next });
            }
            parts.push(Part::Memory {
                bytes: stop - start,
                file: memory
                    .try_clone()
                    .map_err(|_| Refusal::new(Errno::MFILE, "no descriptor is left for the BAR's memory"))?,
                offset: info.memory_at.saturating_add(start),
            });
            next = stop;
        }
        if next < end {
            parts.push(Part::Trapped { bytes: end - next });
        }
        Ok(parts)
    }

    /// How large a region is, in bytes: 0 for a BAR that the function has not; none for a region that it can't have.
    pub(super) fn region_bytes(&self, region: u32) -> Option<u64> {
        let layout = self.device.layout();
        Some(match region {
            0..region_index::ROM => match layout.bar(region as u8) {
                Bar::None => 0,
                Bar::Memory32 { bytes, .. } | Bar::Io { bytes } => bytes.into(),
                Bar::Memory64 { bytes, .. } => bytes,
            },
            region_index::ROM => layout.rom_bytes().into(),
            region_index::CONFIG => layout.config_bytes().into(),
            _ => return None,
        })
    }

    /// Checks an access by read or write: the region, the offset in it, and how many bytes of it there are.
    fn accessed(&self, offset: u64, len: usize, write: bool) -> Outcome<(u32, u64, usize)> {
        let (region, at) = split(offset);
        if len == 0 {
            return Ok((region, at, 0));
        }
        let have = match region {
            region_index::ROM if write => None,
            _ => self.region_bytes(region),
        };
        let have = have.ok_or_else(|| {
            let how = if write { "written" } else { "read" };
            Refusal::invalid(format!("region {region} can't be {how}"))
        })?;
        if region == region_index::CONFIG {
            return match at.checked_add(len as u64) {
                Some(end) if end <= have => Ok((region, at, len)),
                _ => Err(Refusal::new(
                    Errno::FAULT,
                    format!(
                        "{len} bytes from {at:#x} on do not lie within {have} bytes of configuration space"
                    ),
                )),
            };
        }
        if at >= have {
            return Err(Refusal::invalid(format!(
                "byte {at:#x} lies outside the {have:#x} bytes of region {region}"
            )));
        }
        self.check_answers(region)?;
        let bytes = usize::try_from(have - at).map_or(len, |room| len.min(room));
        Ok((region, at, bytes))
    }

    /// Checks an access by a mapping.
    fn mapped(&self, offset: u64, len: usize) -> Outcome<(u32, u64)> {
        let (region, at) = split(offset);
        if region >= region_index::ROM || !self.may_be_mapped(region) || !matches!(len, 1 | 2 | 4 | 8) {
            return Err(Refusal::invalid(format!(
                "an access of {len} bytes at {at:#x} of region {region} can't come from a mapping"
            )));
        }
        self.check_answers(region)?;
        Ok((region, at))
    }

    /// EIO where a region may not be accessed now. I/O ports always may: where they are off, they read all ones.
    fn check_answers(&self, region: u32) -> Outcome<()> {
        let ports =
            u8::try_from(region).is_ok_and(|bar| matches!(self.device.layout().bar(bar), Bar::Io { .. }));
        if ports || self.device.answers(region) {
            return Ok(());
        }
        Err(Refusal::new(
            Errno::IO,
            format!("region {region} does not answer: memory is off in COMMAND, or the function sleeps"),
        ))
    }

    /// The next run of an access by read or write: the device's, or the MSI-X table's.
    fn next(&self, region: u32, at: u64, left: usize) -> Run {
        let layout = self.device.layout();
        let table = layout.window_span(Window::MsixTable);
        let Some(span) = table.filter(|span| u32::from(span.bar) == region) else {
            return Run::Device(left);
        };
        let start = u64::from(span.offset);
        let end = start + u64::from(layout.window_bytes(Window::MsixTable));
        let until = |border: u64| usize::try_from(border - at).map_or(left, |n| n.min(left));
        if at < start {
            Run::Device(until(start))
        } else if at < end {
            Run::Hidden(until(end))
        } else {
            Run::Device(left)
        }
    }
}
