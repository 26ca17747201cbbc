//! Memory that is shared with a device, and the only accesses to it.
//!
//! The device may read and change any byte at any time. So no reference to it is ever made (`&[u8]`, `&mut [u8]`):
//! there is only the address, private to this module, and volatile accesses, each one instruction of the width asked
//! for where it is aligned. Each read comes before what its thread reads after it, each write after what it wrote
//! before it: what a descriptor ring needs, and what PCI's posted writes promise.
#![allow(unsafe_code)] // mmap, and access to memory that is not Rust's

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::Word;

/// A shared mapping of part of a file.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access is volatile, by value.
unsafe impl Send for Mapped {}
// SAFETY: as above; no method needs exclusive access, and no reference to the memory exists.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps `bytes` bytes of `file` from byte `offset` on, for reads and writes.
    ///
    /// The file must not be cut short later: callers map only files that are sealed against it, or that they were
    /// told to trust.
    pub(crate) fn new(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> rustix::io::Result<Self> {
        let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(Errno::INVAL);
        }
        Self::of_device(file, offset, bytes)
    }

    /// As [`new`](Self::new), of a file whose size says nothing: the kernel's own for a device, which refuses what is
    /// not there.
    ///
    /// An access while the device does not answer ends the process by SIGBUS: callers go by the kernel meanwhile
    /// (module `answering`).
    pub(crate) fn of_device(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> rustix::io::Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, prot, MapFlags::SHARED, file, offset) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, bytes: length })
    }

    /// The address of `len` bytes at `offset`, if they lie within the mapping.
    fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.bytes {
            return None;
        }
        Some(self.base.as_ptr().wrapping_add(offset))
    }

    /// Reads a word at a multiple of its size; none outside the mapping or misaligned.
    pub(crate) fn read<W: Word>(&self, offset: u64) -> Option<W> {
        let at = self.at(offset, W::BYTES).filter(|at| is_aligned(*at, W::BYTES))?;
        // SAFETY: within the mapping and aligned, as just checked; its pages exist (see `new`, `of_device`).
        let value = unsafe { load(at, W::BYTES) };
        fence(Ordering::Acquire);
        Some(W::from_u64(value))
    }

    /// Writes a word; as [`read`](Self::read).
    pub(crate) fn write<W: Word>(&self, offset: u64, value: W) -> Option<()> {
        let at = self.at(offset, W::BYTES).filter(|at| is_aligned(*at, W::BYTES))?;
        fence(Ordering::SeqCst);
        // SAFETY: within the mapping and aligned, as just checked; its pages exist (see `new`, `of_device`).
        unsafe { store(at, W::BYTES, value.to_u64()) };
        Some(())
    }

    /// Copies out, in ascending order, by aligned words of 8, 4, 2 or 1 bytes.
    pub(crate) fn copy_out(&self, offset: u64, data: &mut [u8]) -> Option<()> {
        let from = self.at(offset, data.len())?;
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = from.wrapping_add(done);
            let width = widest(at, rest.len());
            // SAFETY: `at` and what follows lie within the mapping, and `widest` gives an alignment that it has.
            let value = unsafe { load(at, width) }.to_le_bytes();
            rest.iter_mut()
                .zip(value)
                .take(width)
                .for_each(|(to, from)| *to = from);
            done += width;
        }
        fence(Ordering::Acquire);
        Some(())
    }

    /// Copies in; as [`copy_out`](Self::copy_out).
    pub(crate) fn copy_in(&self, offset: u64, data: &[u8]) -> Option<()> {
        let to = self.at(offset, data.len())?;
        fence(Ordering::SeqCst);
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = to.wrapping_add(done);
            let width = widest(at, rest.len());
            let mut value = [0; 8];
            value
                .iter_mut()
                .zip(rest)
                .take(width)
                .for_each(|(to, from)| *to = *from);
            // SAFETY: as in `copy_out`.
            unsafe { store(at, width, u64::from_le_bytes(value)) };
            done += width;
        }
        Some(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no address is left outside this value.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%errno, bytes = self.bytes, "shared memory could not be unmapped");
        }
    }
}

fn is_aligned(at: *mut u8, bytes: usize) -> bool {
    at.addr().is_multiple_of(bytes)
}

/// The widest aligned access at `at` that `left` bytes have room for; `left` is not 0.
fn widest(at: *mut u8, left: usize) -> usize {
    [8, 4, 2]
        .into_iter()
        .find(|&width| width <= left && is_aligned(at, width))
        .unwrap_or(1)
}

/// One volatile read of 1, 2, 4 or 8 bytes, little-endian.
///
/// # Safety
/// `at` must be mapped, and aligned to `width`.
unsafe fn load(at: *mut u8, width: usize) -> u64 {
    match width {
        // SAFETY: the caller's promise.
        1 => u64::from(unsafe { at.read_volatile() }),
        // SAFETY: the caller's promise.
        2 => u64::from(u16::from_le(unsafe { at.cast::<u16>().read_volatile() })),
        // SAFETY: the caller's promise.
        4 => u64::from(u32::from_le(unsafe { at.cast::<u32>().read_volatile() })),
        // SAFETY: the caller's promise.
        _ => u64::from_le(unsafe { at.cast::<u64>().read_volatile() }),
    }
}

/// One volatile write of 1, 2, 4 or 8 bytes, little-endian.
///
/// # Safety
/// As [`load`].
unsafe fn store(at: *mut u8, width: usize, value: u64) {
    match width {
        // SAFETY: the caller's promise.
        1 => unsafe { at.write_volatile(value as u8) },
        // SAFETY: the caller's promise.
        2 => unsafe { at.cast::<u16>().write_volatile((value as u16).to_le()) },
        // SAFETY: the caller's promise.
        4 => unsafe { at.cast::<u32>().write_volatile((value as u32).to_le()) },
        // SAFETY: the caller's promise.
        _ => unsafe { at.cast::<u64>().write_volatile(value.to_le()) },
    }
}
