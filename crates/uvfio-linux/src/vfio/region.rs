//! A region of a device: configuration space, a BAR, the ROM; by calls of the kernel, or mapped.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::error::{Asked, Result, VfioError};
use super::info::RegionInfo;
use super::rule::Rule;
use uvfio_core::{Allowed, SharedMapping, Word};

/// A region of an open device.
#[derive(Clone, Debug)]
pub struct Region {
    file: Arc<OwnedFd>,
    device: Arc<str>,
    info: RegionInfo,
}

impl Region {
    /// The number of the expansion ROM's region.
    pub const ROM: u32 = sys::VFIO_PCI_ROM_REGION_INDEX;
    /// The number of configuration space's region.
    pub const CONFIG: u32 = sys::VFIO_PCI_CONFIG_REGION_INDEX;

    pub(super) fn new(file: Arc<OwnedFd>, device: Arc<str>, info: RegionInfo) -> Self {
        Self { file, device, info }
    }

    /// What the kernel says about it.
    pub fn info(&self) -> &RegionInfo {
        &self.info
    }

    /// Reads bytes. The kernel makes aligned accesses of them, of up to 4 bytes (8 in BARs).
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let asked = || self.asked("pread", offset, data.len());
        let at = self.place(asked, offset, data.len(), self.info.readable)?;
        let wanted = data.len();
        let done = whole(wanted, |done| {
            let Some(rest) = data.get_mut(done..) else {
                return Ok(0);
            };
            rustix::io::pread(&*self.file, rest, at.saturating_add(done as u64))
        });
        self.ended("pread", offset, wanted, done)
    }

    /// Writes bytes; as [`read`](Self::read).
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let asked = || self.asked("pwrite", offset, data.len());
        let at = self.place(asked, offset, data.len(), self.info.writable)?;
        let done = whole(data.len(), |done| {
            let rest = data.get(done..).unwrap_or_default();
            rustix::io::pwrite(&*self.file, rest, at.saturating_add(done as u64))
        });
        self.ended("pwrite", offset, data.len(), done)
    }

    /// Reads a word, little-endian; at a multiple of its size it is one access, but for 8 bytes of configuration space.
    pub fn read_word<W: Word>(&self, offset: u64) -> Result<W> {
        let mut bytes = [0; 8];
        self.read(offset, bytes.get_mut(..W::BYTES).unwrap_or_default())?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes a word; as [`read_word`](Self::read_word).
    pub fn write_word<W: Word>(&self, offset: u64, value: W) -> Result<()> {
        self.write(
            offset,
            value.to_u64().to_le_bytes().get(..W::BYTES).unwrap_or_default(),
        )
    }

    /// Maps `bytes` bytes from `offset` on, both multiples of the page: accesses then are the processor's own, and no
    /// call of the kernel. The range must lie within what can be mapped of the region ([`RegionInfo::can_map`]).
    ///
    /// While the function's memory is off (COMMAND), while it sleeps or is reset, an access ends the process by SIGBUS.
    /// The mapping keeps the device open, even when everything else of it is closed.
    pub fn window(&self, offset: u64, bytes: u64) -> Result<Window> {
        let asked = || self.asked("mmap", offset, usize::try_from(bytes).unwrap_or(usize::MAX));
        if !self.info.can_map(offset, bytes) {
            return Err(asked().invalid(self.what_can_be_mapped()));
        }
        let at = self
            .info
            .offset
            .checked_add(offset)
            .ok_or_else(|| asked().invalid("beyond 2^64"))?;
        let allowed = Allowed {
            read: self.info.readable,
            write: self.info.writable,
        };
        match SharedMapping::new(self.file.as_fd(), at, bytes, allowed) {
            Ok(mapping) => Ok(Window { mapping }),
            Err(errno) => {
                let page = rustix::param::page_size() as u64;
                let rule = match errno {
                    Errno::INVAL if !(offset | bytes).is_multiple_of(page) => Rule::Misaligned { page },
                    Errno::INVAL => Rule::Unsupported,
                    _ => Rule::Other,
                };
                Err(asked().refused(rule, errno))
            }
        }
    }

    fn what_can_be_mapped(&self) -> String {
        match &self.info.areas {
            _ if !self.info.mappable => "the region cannot be mapped".to_owned(),
            None => format!("the region has {:#x} bytes", self.info.size),
            Some(areas) => {
                let areas: Vec<_> = areas
                    .iter()
                    .map(|(at, bytes)| format!("{at:#x} ({bytes:#x} bytes)"))
                    .collect();
                format!("only these areas can be mapped: {}", areas.join(", "))
            }
        }
    }

    fn asked(&self, request: &'static str, offset: u64, bytes: usize) -> Asked {
        let about = format!(
            "{bytes:#x} bytes at {offset:#x} of region {} of {}",
            self.info.index, self.device
        );
        Asked::new(request, about)
    }

    /// Where in the device's file an access begins, if it is allowed.
    fn place(&self, asked: impl Fn() -> Asked, offset: u64, bytes: usize, allowed: bool) -> Result<u64> {
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| end > self.info.size) {
            return Err(asked().invalid(format!("the region has {:#x} bytes", self.info.size)));
        }
        if !allowed {
            return Err(asked().invalid("the region does not allow this kind of access"));
        }
        self.info
            .offset
            .checked_add(offset)
            .ok_or_else(|| asked().invalid("beyond 2^64"))
    }

    fn ended(
        &self,
        request: &'static str,
        offset: u64,
        wanted: usize,
        done: rustix::io::Result<usize>,
    ) -> Result<()> {
        match done {
            Ok(done) if done == wanted => Ok(()),
            Ok(done) => Err(VfioError::Partial {
                asked: self.asked(request, offset, wanted),
                wanted,
                done,
            }),
            Err(errno) => {
                let rule = match errno {
                    Errno::IO => Rule::MemoryOff,
                    _ => Rule::Other,
                };
                Err(self.asked(request, offset, wanted).refused(rule, errno))
            }
        }
    }
}

/// Calls `part` with how much is done until all is, it fails, or it gets no further.
fn whole(
    wanted: usize,
    mut part: impl FnMut(usize) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < wanted {
        match part(done) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// A mapped part of a region; offsets are from its start. See [`Region::window`] for when accesses end the process.
#[derive(Debug)]
pub struct Window {
    mapping: SharedMapping,
}

impl Window {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes()
    }

    /// Whether reads and writes are possible.
    pub fn allows(&self) -> (bool, bool) {
        let allowed = self.mapping.allowed();
        (allowed.read, allowed.write)
    }

    /// Reads a register at a multiple of its size, by one access; `None` outside the window, or where it cannot be
    /// read.
    pub fn read<W: Word>(&self, offset: u64) -> Option<W> {
        self.mapping.read(offset)
    }

    /// Writes a register; as [`read`](Self::read).
    pub fn write<W: Word>(&self, offset: u64, value: W) -> Option<()> {
        self.mapping.write(offset, value)
    }
}

#[cfg(test)]
mod tests;
