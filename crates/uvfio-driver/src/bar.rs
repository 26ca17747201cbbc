//! BARs: windows onto a device's registers, checked at every access.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::SealFlags;
use uvfio_core::{Allowed, SharedMapping};

use crate::bounds::check;
use crate::function::{MapBars, Shared};
use crate::transport::{Owner, Region};
use crate::{Config, DriverError, Place, Result, Word};

/// A BAR. Accesses go straight to memory where the region offers some and [`MapBars`] allows it, and by message
/// elsewhere; either way in the order in which one thread makes them. Of a function that the kernel gave
/// ([`Vfio`](crate::Vfio)) the mapping is the device itself: while its memory is off in COMMAND or it sleeps, accesses go
/// by the kernel, which refuses them. Only an access that another thread makes in the very moment in which this one
/// turns memory off, or puts the function to sleep, ends the program (SIGBUS): stop using BARs first. So it is where a
/// server has handed out the function itself (`uvfio serve --bars device-fd`). That can take it back at any moment, and
/// then an access ends the program, too; with [`MapBars::Never`] it reads all ones.
///
/// A word is read and written by one access of its width, at a multiple of its size.
#[derive(Clone)]
pub struct Bar {
    shared: Arc<Shared>,
    index: u8,
    bytes: u64,
    areas: Vec<Area>,
    /// Whether they are of the device itself, which does not always answer.
    of_device: bool,
    posted: bool,
}

/// A part that is mapped.
#[derive(Clone)]
struct Area {
    offset: u64,
    bytes: u64,
    memory: Arc<SharedMapping>,
}

impl Area {
    /// The offset in the mapping of `bytes` bytes at `offset` of the BAR, if all of them are in it.
    fn holds(&self, offset: u64, bytes: u64) -> Option<u64> {
        let within = offset.checked_sub(self.offset)?;
        (within.checked_add(bytes)? <= self.bytes).then_some(within)
    }
}

impl Bar {
    pub(crate) fn open(shared: &Arc<Shared>, index: u8, map: MapBars) -> Result<Self> {
        if index > 5 {
            return Err(DriverError::NoBar(index));
        }
        let region = shared.transport().region(index.into())?;
        if region.bytes == 0 {
            return Err(DriverError::NoBar(index));
        }
        let areas = map_areas(index, &region, map);
        let of_device = region.owner == Owner::Kernel && !areas.is_empty();
        if of_device {
            Config::new(Arc::clone(shared)).watch_memory()?;
        }
        Ok(Self {
            shared: Arc::clone(shared),
            index,
            bytes: region.bytes,
            areas,
            of_device,
            posted: false,
        })
    }

    /// The same BAR, whose writes by message do not wait until they are done. Later accesses by message come after
    /// them; a refusal is lost.
    #[must_use]
    pub fn posted(mut self) -> Self {
        self.posted = true;
        self
    }

    /// Which BAR this is, 0 to 5.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether `bytes` bytes at `offset` are reached without messages, or calls of the kernel.
    #[must_use]
    pub fn is_mapped(&self, offset: u64, bytes: u64) -> bool {
        self.area(offset, bytes).is_some()
    }

    /// Reads a word.
    ///
    /// # Errors
    /// Where the offset is outside the BAR or misaligned, or the other side did not answer.
    pub fn read<W: Word>(&self, offset: u64) -> Result<W> {
        self.check(offset, W::BYTES as u64, true)?;
        if let Some((area, within)) = self.area(offset, W::BYTES as u64)
            && let Some(value) = area.memory.read(within)
        {
            return Ok(value);
        }
        let mut bytes = [0; 8];
        let used = bytes.get_mut(..W::BYTES).unwrap_or_default();
        self.shared.transport().read(self.index.into(), offset, used)?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes a word. What this thread wrote to DMA buffers before can be seen by the device when it sees this.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<W: Word>(&self, offset: u64, value: W) -> Result<()> {
        self.check(offset, W::BYTES as u64, true)?;
        if let Some((area, within)) = self.area(offset, W::BYTES as u64)
            && area.memory.write(within, value).is_some()
        {
            return Ok(());
        }
        let bytes = value.to_u64().to_le_bytes();
        self.send(offset, bytes.get(..W::BYTES).unwrap_or_default())
    }

    /// Reads bytes, by whatever widths.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for the alignment.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len() as u64, false)?;
        if let Some((area, within)) = self.area(offset, data.len() as u64)
            && area.memory.copy_out(within, data).is_some()
        {
            return Ok(());
        }
        self.shared.transport().read(self.index.into(), offset, data)
    }

    /// Writes bytes, by whatever widths.
    ///
    /// # Errors
    /// As [`read_bytes`](Self::read_bytes).
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, false)?;
        if let Some((area, within)) = self.area(offset, data.len() as u64)
            && area.memory.copy_in(within, data).is_some()
        {
            return Ok(());
        }
        self.send(offset, data)
    }

    fn send(&self, offset: u64, data: &[u8]) -> Result<()> {
        // The socket's system call, or the device's lock, comes after what was written to memory before.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let mut transport = self.shared.transport();
        if self.posted {
            transport.write_posted(self.index.into(), offset, data)
        } else {
            transport.write(self.index.into(), offset, data)
        }
    }

    fn check(&self, offset: u64, bytes: u64, single: bool) -> Result<()> {
        check(Place::Bar(self.index), offset, bytes, self.bytes, single)
    }

    fn area(&self, offset: u64, bytes: u64) -> Option<(&Area, u64)> {
        if self.of_device && !self.shared.answering.answers() {
            return None;
        }
        self.areas
            .iter()
            .find_map(|area| Some((area, area.holds(offset, bytes)?)))
    }
}

/// statfs(2)'s number for tmpfs, which memfds are of. One of hugetlbfs may have no page left behind a sealed mapping.
const TMPFS: i64 = 0x0102_1994;

/// Whether every access to a mapping of `memory` succeeds, whatever others do with the file.
fn is_sealed(memory: &OwnedFd) -> bool {
    // Asked first: only memory has seals, and only then is the file system asked.
    let seals = rustix::fs::fcntl_get_seals(memory);
    // Its type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let tmpfs = || rustix::fs::fstatfs(memory).is_ok_and(|fs| fs.f_type as i64 == TMPFS);
    seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) && tmpfs()
}

/// Maps what a region offers, as far as it is allowed and works; the rest goes by message.
fn map_areas(index: u8, region: &Region, map: MapBars) -> Vec<Area> {
    let Some(memory) = &region.memory else {
        return Vec::new();
    };
    let allowed = match map {
        MapBars::Never => false,
        MapBars::Sealed => region.owner == Owner::Kernel || is_sealed(memory),
        MapBars::Always => true,
    };
    if !allowed {
        tracing::debug!(bar = index, "its memory is not mapped; accesses go by message");
        return Vec::new();
    }
    let mut areas = Vec::new();
    for &(offset, bytes) in &region.mappable {
        let Some(in_file) = region.file_offset.checked_add(offset) else {
            continue;
        };
        let mapped = match region.owner {
            Owner::Server => SharedMapping::of_file(memory.as_fd(), in_file, bytes, Allowed::ALL),
            Owner::Kernel => SharedMapping::new(memory.as_fd(), in_file, bytes, Allowed::ALL),
        };
        match mapped {
            Ok(memory) => areas.push(Area {
                offset,
                bytes,
                memory: Arc::new(memory),
            }),
            Err(errno) => {
                tracing::debug!(bar = index, offset, bytes, %errno, "an area can't be mapped; accesses go by message");
            }
        }
    }
    areas
}
