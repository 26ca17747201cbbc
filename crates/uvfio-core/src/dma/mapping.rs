//! One kernel mapping of a user's file, and the only copies into and out of it.
//!
//! The memory is shared with a program that we don't trust, and that may change any byte at any time. So:
//!
//! - No reference (`&[u8]`, `&mut [u8]`) to it is ever made: the compiler may assume that what lies behind one
//!   does not change, and would be wrong. There is only the address, private to this module.
//! - Plain copies go in naturally aligned words of 8, 4, 2 or 1 bytes, in ascending order, each one relaxed atomic
//!   access. That is defined whatever the other side does, and gives devices what PCI Express gives them in
//!   practice: an aligned access of up to 8 bytes is never seen half done, and 16 bytes land low half first.
//! - A write comes after everything that its thread wrote before, and a read before everything that it reads
//!   after: what posted writes promise.
//! - Plain copies are done only where a fault can't happen ([`Trust::Sealed`], and within the size checked when the
//!   range was mapped). Elsewhere the kernel copies (`process_vm_readv` and `process_vm_writev` on ourselves) and
//!   ends short instead of raising SIGBUS. Such a copy of 8 aligned bytes is one move in practice; that is not
//!   promised, and one of 4 bytes need not be.
#![allow(unsafe_code)] // mmap, and access to memory that is not Rust's

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags};

/// Whether a file can be cut short while it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trust {
    /// It can't.
    Sealed,
    /// It can: the kernel must do the copying.
    MayShrink,
}

/// The file ends before what was to be copied.
#[derive(Debug)]
pub(crate) struct Short;

/// The first `bytes` bytes of a file, mapped shared.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access is by atomics or by the kernel.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` bytes of a file; `bytes` must be a multiple of the file's page size.
    pub(crate) fn new(file: BorrowedFd<'_>, bytes: u64, writable: bool) -> rustix::io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| rustix::io::Errno::NOMEM)?;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // No reservation of huge pages in the user's name: they are reached by checked copies anyway.
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, flags, file, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        // A user's memory has no place in our core dump. Nothing is lost where the kernel doesn't know the advice.
        // SAFETY: concerns only the mapping just made.
        let _ =
            unsafe { rustix::mm::madvise(base.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxDontDump) };
        Ok(Self {
            base,
            bytes,
            writable,
        })
    }

    /// How many bytes of the file are mapped.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// The address of `len` bytes at `offset`, if they lie within the mapping.
    fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: within the mapping, as just checked.
        Some(unsafe { self.base.as_ptr().add(offset) })
    }

    /// Copies out of the file. With [`Trust::Sealed`] the range must lie within the size that the file had when it
    /// was found to be sealed.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8], trust: Trust) -> Result<(), Short> {
        let from = self.at(offset, data.len()).ok_or(Short)?;
        match trust {
            // SAFETY: `at` checked the range; the caller vouches that its pages exist.
            Trust::Sealed => unsafe { load(from, data) },
            Trust::MayShrink => {
                let own = rustix::process::getpid().as_raw_nonzero().get();
                let local = libc::iovec {
                    iov_base: data.as_mut_ptr().cast(),
                    iov_len: data.len(),
                };
                let remote = libc::iovec {
                    iov_base: from.cast(),
                    iov_len: data.len(),
                };
                // SAFETY: `local` is `data`, borrowed for the call; `remote` is ours, and the kernel checks it.
                let copied =
                    unsafe { libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0) };
                if usize::try_from(copied).ok() != Some(data.len()) {
                    return Err(Short);
                }
            }
        }
        fence(Ordering::Acquire);
        Ok(())
    }

    /// Copies into the file; as [`read`](Self::read).
    pub(crate) fn write(&self, offset: u64, data: &[u8], trust: Trust) -> Result<(), Short> {
        let to = self
            .at(offset, data.len())
            .filter(|_| self.writable)
            .ok_or(Short)?;
        fence(Ordering::Release);
        match trust {
            // SAFETY: `at` checked the range, and it is writable; the caller vouches that its pages exist.
            Trust::Sealed => unsafe { store(to, data) },
            Trust::MayShrink => {
                let own = rustix::process::getpid().as_raw_nonzero().get();
                let local = libc::iovec {
                    iov_base: data.as_ptr().cast_mut().cast(),
                    iov_len: data.len(),
                };
                let remote = libc::iovec {
                    iov_base: to.cast(),
                    iov_len: data.len(),
                };
                // SAFETY: the kernel only reads `local`; `remote` is ours, and the kernel checks it.
                let copied =
                    unsafe { libc::process_vm_writev(own, &raw const local, 1, &raw const remote, 1, 0) };
                if usize::try_from(copied).ok() != Some(data.len()) {
                    return Err(Short);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no address is left outside this value.
        if let Err(e) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(
                errno = e.raw_os_error(),
                bytes = self.bytes,
                "a user's memory could not be unmapped"
            );
        }
    }
}

/// The widest naturally aligned access at `address` that `left` bytes have room for.
fn width(address: usize, left: usize) -> usize {
    let aligned = 1 << address.trailing_zeros().min(3);
    let fits = 1 << (usize::BITS - 1 - left.leading_zeros()).min(3);
    aligned.min(fits)
}

/// Copies out of shared memory.
///
/// # Safety
/// `data.len()` bytes at `from` must be mapped and readable. They may change meanwhile.
unsafe fn load(from: *mut u8, data: &mut [u8]) {
    let mut at = 0;
    while at < data.len() {
        let left = data.len() - at;
        let here = from.wrapping_add(at);
        if here.addr().is_multiple_of(8) && left >= 8 {
            for (i, word) in data[at..].chunks_exact_mut(8).enumerate() {
                // SAFETY: aligned, and within the range as `word` is within `data`.
                let value = unsafe { AtomicU64::from_ptr(here.cast::<u64>().wrapping_add(i)) };
                word.copy_from_slice(&value.load(Ordering::Relaxed).to_ne_bytes());
            }
            at += left & !7;
            continue;
        }
        let n = width(here.addr(), left);
        let out = &mut data[at..at + n];
        match n {
            4 => {
                // SAFETY: aligned to 4 and within the range, as `width` says.
                let value = unsafe { AtomicU32::from_ptr(here.cast()) };
                out.copy_from_slice(&value.load(Ordering::Relaxed).to_ne_bytes());
            }
            2 => {
                // SAFETY: aligned to 2 and within the range, as `width` says.
                let value = unsafe { AtomicU16::from_ptr(here.cast()) };
                out.copy_from_slice(&value.load(Ordering::Relaxed).to_ne_bytes());
            }
            _ => {
                // SAFETY: within the range.
                let value = unsafe { AtomicU8::from_ptr(here) };
                out[0] = value.load(Ordering::Relaxed);
            }
        }
        at += n;
    }
}

/// Copies into shared memory.
///
/// # Safety
/// `data.len()` bytes at `to` must be mapped and writable. They may change meanwhile.
unsafe fn store(to: *mut u8, data: &[u8]) {
    let mut at = 0;
    while at < data.len() {
        let left = data.len() - at;
        let here = to.wrapping_add(at);
        if here.addr().is_multiple_of(8) && left >= 8 {
            for (i, word) in data[at..].chunks_exact(8).enumerate() {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(word);
                // SAFETY: aligned, and within the range as `word` is within `data`.
                let target = unsafe { AtomicU64::from_ptr(here.cast::<u64>().wrapping_add(i)) };
                target.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
            }
            at += left & !7;
            continue;
        }
        let n = width(here.addr(), left);
        match data[at..at + n] {
            [a, b, c, d] => {
                // SAFETY: aligned to 4 and within the range, as `width` says.
                let target = unsafe { AtomicU32::from_ptr(here.cast()) };
                target.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Relaxed);
            }
            [a, b] => {
                // SAFETY: aligned to 2 and within the range, as `width` says.
                let target = unsafe { AtomicU16::from_ptr(here.cast()) };
                target.store(u16::from_ne_bytes([a, b]), Ordering::Relaxed);
            }
            [a, ..] => {
                // SAFETY: within the range.
                let target = unsafe { AtomicU8::from_ptr(here) };
                target.store(a, Ordering::Relaxed);
            }
            [] => return,
        }
        at += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_copies_exactly_its_bytes() {
        for offset in 0..9 {
            for len in 0..40 {
                let pattern: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
                let mut memory = [0u64; 8];
                let base = memory.as_mut_ptr().cast::<u8>();
                let mut back = vec![0; len];
                // SAFETY: 9 + 40 bytes are within the 64 of `memory`, which nothing else touches.
                unsafe { store(base.wrapping_add(offset), &pattern) };
                // SAFETY: as above.
                unsafe { load(base.wrapping_add(offset), &mut back) };
                assert_eq!(back, pattern, "offset {offset} length {len}");
                let whole: Vec<u8> = memory.iter().flat_map(|w| w.to_ne_bytes()).collect();
                let mut expected = vec![0; 64];
                expected[offset..offset + len].copy_from_slice(&pattern);
                assert_eq!(whole, expected, "offset {offset} length {len}");
            }
        }
    }

    #[test]
    fn the_widest_aligned_access_is_chosen() {
        for (address, left, expected) in [
            (8, 8, 8),
            (8, 7, 4),
            (4, 8, 4),
            (2, 9, 2),
            (1, 9, 1),
            (12, 4, 4),
            (16, 3, 2),
            (0, 100, 8),
        ] {
            assert_eq!(
                width(address, left),
                expected,
                "address {address}, {left} bytes left"
            );
        }
    }
}
