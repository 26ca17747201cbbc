//! A mapping of a file into this process, and the only accesses to it: registers of a device, or memory that one
//! reaches.
//!
//! The other side may read and change any byte at any time. So no reference to what is mapped is ever made (`&[u8]`,
//! `&mut [u8]`): there is only the address, private to this module, and volatile accesses, each one instruction of
//! the width asked for. A read comes before what its thread reads after it, a write after what it wrote before it.
#![allow(unsafe_code)] // mmap, and access to memory that is not Rust's

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

mod sealed {
    pub trait Sealed {}
}

/// A number that one access carries: `u8`, `u16`, `u32` or `u64`. Devices are little-endian; values here are the
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
pub(super) struct Allowed {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Allowed {
    pub(super) const ALL: Self = Self {
        read: true,
        write: true,
    };
}

/// A shared mapping of part of a file.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    allowed: Allowed,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access is volatile, by value.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method needs exclusive access, and no reference to the memory exists.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of `file` from byte `offset` on, which must be a multiple of the page.
    ///
    /// An access to what is not there (a file that was cut short, a device whose memory is off) ends the process by
    /// SIGBUS.
    pub(super) fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        allowed: Allowed,
    ) -> rustix::io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        let mut prot = ProtFlags::empty();
        prot.set(ProtFlags::READ, allowed.read);
        prot.set(ProtFlags::WRITE, allowed.write);
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, file, offset) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, bytes, allowed })
    }

    /// How many bytes are mapped.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Which accesses it was made for.
    pub(super) fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// The address, as a number, of `size` bytes at `offset`, if they lie within the mapping.
    pub(super) fn address(&self, offset: u64, size: u64) -> Option<u64> {
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
            .filter(|at| allowed && at.addr().is_multiple_of(W::BYTES))
    }

    /// Reads a word; none outside the mapping, misaligned, or where reads are not allowed.
    pub(super) fn read<W: Word>(&self, offset: u64) -> Option<W> {
        let at = self.word_at::<W>(offset, self.allowed.read)?;
        // SAFETY: within the mapping, aligned and readable, as just checked.
        let value = unsafe { load(at, W::BYTES) };
        fence(Ordering::Acquire);
        Some(W::from_u64(value))
    }

    /// Writes a word; as [`read`](Self::read).
    pub(super) fn write<W: Word>(&self, offset: u64, value: W) -> Option<()> {
        let at = self.word_at::<W>(offset, self.allowed.write)?;
        fence(Ordering::SeqCst);
        // SAFETY: within the mapping, aligned and writable, as just checked.
        unsafe { store(at, W::BYTES, value.to_u64()) };
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no pointer to it is left outside this value, and what a device reaches is pinned
        // by the kernel on its own account.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%errno, bytes = self.bytes, "a mapping could not be undone");
        }
    }
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

    fn mapping(allowed: Allowed) -> Mapping {
        let file = std::fs::File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(8192).unwrap();
        Mapping::new(file.as_fd(), 4096, 4096, allowed).unwrap()
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
