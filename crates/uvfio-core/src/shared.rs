//! A mapping of a file into this process, and the only accesses to it: registers of a device, or memory that one
//! reaches, for those who drive or own devices. (What a device of ours does to its user's memory goes through
//! [`DmaSpace`](crate::DmaSpace), which trusts no file.)
//!
//! The other side may read and change any byte at any time. So no reference to what is mapped is ever made (`&[u8]`,
//! `&mut [u8]`): there is only the address, private to this module, and volatile accesses, each one instruction of
//! the width asked for where it is aligned. A read comes before what its thread reads after it, a write after what it
//! wrote before it: what a descriptor ring needs, and what PCI's posted writes promise.
#![allow(unsafe_code)] // mmap, and access to memory that is not Rust's

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

mod sealed {
    pub trait Sealed {}
}

/// A number that one access carries: `u8`, `u16`, `u32` or `u64`. PCI is little-endian; values here are the
/// processor's.
pub trait Word: Copy + sealed::Sealed {
    /// How many bytes: 1, 2, 4 or 8.
    const BYTES: usize;

    /// Widened.
    fn to_u64(self) -> u64;

    /// The low bytes of a wider one.
    fn from_u64(wide: u64) -> Self;
}

macro_rules! word {
    ($($word:ty),*) => { $(
        impl sealed::Sealed for $word {}
        impl Word for $word {
            const BYTES: usize = size_of::<$word>();

            fn to_u64(self) -> u64 {
                u64::from(self)
            }

            fn from_u64(wide: u64) -> Self {
                wide as $word
            }
        }
    )* };
}

word!(u8, u16, u32, u64);

/// Which accesses a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
}

impl Allowed {
    /// Both.
    pub const ALL: Self = Self {
        read: true,
        write: true,
    };
}

/// A shared mapping of part of a file.
#[derive(Debug)]
pub struct SharedMapping {
    base: NonNull<u8>,
    bytes: usize,
    allowed: Allowed,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access is volatile, by value.
unsafe impl Send for SharedMapping {}
// SAFETY: as above; no method needs exclusive access, and no reference to the memory exists.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps `bytes` bytes of `file` from byte `offset` on, which must be a multiple of the page.
    ///
    /// An access to what is not there (a file that was cut short, a device whose memory is off) ends the process by
    /// SIGBUS.
    ///
    /// # Errors
    /// The kernel's; EINVAL for no bytes.
    pub fn new(file: BorrowedFd<'_>, offset: u64, bytes: u64, allowed: Allowed) -> rustix::io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        if bytes == 0 {
            return Err(Errno::INVAL);
        }
        let mut prot = ProtFlags::empty();
        prot.set(ProtFlags::READ, allowed.read);
        prot.set(ProtFlags::WRITE, allowed.write);
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, file, offset) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, bytes, allowed })
    }

    /// As [`new`](Self::new), of a file whose size says what there is (a device's says nothing).
    ///
    /// The file must not be cut short later: it should be sealed against that, or its owner trusted.
    ///
    /// # Errors
    /// As [`new`](Self::new); EINVAL beyond the file's end.
    pub fn of_file(
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        allowed: Allowed,
    ) -> rustix::io::Result<Self> {
        let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(Errno::INVAL);
        }
        Self::new(file, offset, bytes, allowed)
    }

    /// How many bytes are mapped.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Which accesses it was made for.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// The address, as a number, of `size` bytes at `offset`, if they lie within the mapping.
    #[must_use]
    pub fn address(&self, offset: u64, size: u64) -> Option<u64> {
        let at = self.at(offset, usize::try_from(size).ok()?)?;
        Some(at.expose_provenance() as u64)
    }

    /// The address of `bytes` bytes at `offset`, if they lie within the mapping.
    fn at(&self, offset: u64, bytes: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(bytes)? > self.bytes {
            return None;
        }
        Some(self.base.as_ptr().wrapping_add(offset))
    }

    /// Where a word can be accessed.
    fn word_at<W: Word>(&self, offset: u64, allowed: bool) -> Option<*mut u8> {
        self.at(offset, W::BYTES)
            .filter(|at| allowed && is_aligned(*at, W::BYTES))
    }

    /// Reads a word; none outside the mapping, misaligned, or where reads are not allowed.
    #[must_use]
    pub fn read<W: Word>(&self, offset: u64) -> Option<W> {
        let at = self.word_at::<W>(offset, self.allowed.read)?;
        // SAFETY: within the mapping, aligned and readable, as just checked.
        let value = unsafe { load(at, W::BYTES) };
        fence(Ordering::Acquire);
        Some(W::from_u64(value))
    }

    /// Writes a word; as [`read`](Self::read).
    pub fn write<W: Word>(&self, offset: u64, value: W) -> Option<()> {
        let at = self.word_at::<W>(offset, self.allowed.write)?;
        fence(Ordering::SeqCst);
        // SAFETY: within the mapping, aligned and writable, as just checked.
        unsafe { store(at, W::BYTES, value.to_u64()) };
        Some(())
    }

    /// Copies out, in ascending order, by aligned words of 8, 4, 2 or 1 bytes; none outside the mapping, or where reads
    /// are not allowed.
    pub fn copy_out(&self, offset: u64, data: &mut [u8]) -> Option<()> {
        let from = self.at(offset, data.len()).filter(|_| self.allowed.read)?;
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = from.wrapping_add(done);
            let width = widest(at, rest.len());
            // SAFETY: `at` and what follows lie within the mapping, readable, and `widest` gives an alignment that it
            // has.
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
    pub fn copy_in(&self, offset: u64, data: &[u8]) -> Option<()> {
        let to = self.at(offset, data.len()).filter(|_| self.allowed.write)?;
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
            // SAFETY: as in `copy_out`, writable.
            unsafe { store(at, width, u64::from_le_bytes(value)) };
            done += width;
        }
        Some(())
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no pointer to it is left outside this value, and what a device reaches is pinned
        // by the kernel on its own account.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%errno, bytes = self.bytes, "a mapping could not be undone");
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
/// `at` must be mapped for reads, and aligned to `width`.
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
/// `at` must be mapped for writes, and aligned to `width`.
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn mapping(allowed: Allowed) -> SharedMapping {
        let file = std::fs::File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(8192).unwrap();
        SharedMapping::new(file.as_fd(), 4096, 4096, allowed).unwrap()
    }

    #[test]
    fn words_of_each_width_are_little_endian() {
        let memory = mapping(Allowed::ALL);
        memory.write(8, 0x1122_3344_5566_7788_u64).unwrap();
        assert_eq!(memory.read::<u8>(8), Some(0x88));
        assert_eq!(memory.read::<u16>(10), Some(0x5566));
        memory.write(12, 0xaabb_ccdd_u32).unwrap();
        assert_eq!(memory.read::<u64>(8), Some(0xaabb_ccdd_5566_7788));
    }

    #[test]
    fn nothing_is_accessed_outside_or_across_the_end_or_misaligned() {
        let memory = mapping(Allowed::ALL);
        assert_eq!(memory.read::<u32>(4092), Some(0));
        for offset in [4093, 4094, 4096, 8192, u64::MAX, u64::MAX - 3] {
            assert_eq!(memory.read::<u32>(offset), None, "read at {offset:#x}");
            assert_eq!(memory.write(offset, 1_u32), None, "write at {offset:#x}");
        }
        assert_eq!(memory.read::<u32>(2), None);
        assert_eq!(
            memory.address(4095, 1).is_some(),
            memory.address(4095, 2).is_none()
        );
        assert_eq!(memory.address(1, u64::MAX), None);
    }

    #[test]
    fn an_access_that_the_mapping_was_not_made_for_is_refused_instead_of_made() {
        let readable = mapping(Allowed {
            read: true,
            write: false,
        });
        assert_eq!(
            (readable.read::<u32>(0), readable.write(0, 1_u32)),
            (Some(0), None)
        );
        let writable = mapping(Allowed {
            read: false,
            write: true,
        });
        assert_eq!(
            (writable.read::<u32>(0), writable.write(0, 1_u32)),
            (None, Some(()))
        );
    }
}
