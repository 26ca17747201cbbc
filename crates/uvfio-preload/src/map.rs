//! Mapping BARs: plain memory as such, registers as pages that can't be accessed.
#![allow(unsafe_code)] // mmap and munmap, as the program calls them.

use core::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libc::{EINVAL, ENODEV, ENOMEM, SYS_mmap, SYS_munmap, off_t, size_t};
use rustix::io::fcntl_dupfd_cloexec;
use uvfio_calls::{Call, MapPart, kind, op};

use crate::ask::ask;
use crate::raw::{int, set_errno, system_call};
use crate::{regions, trap};

const PAGE: usize = 4096;

exported!([mmap, mmap64](
    address: *mut c_void, bytes: size_t, protection: c_int, flags: c_int, descriptor: c_int, offset: off_t
) -> *mut c_void {
    let wanted = Wanted { address: address.expose_provenance(), bytes, protection, flags, descriptor, offset };
    match wanted.map() {
        Ok(start) => core::ptr::with_exposed_provenance_mut(start),
        Err(errno) => {
            set_errno(errno);
            libc::MAP_FAILED
        }
    }
});

exported!([munmap](address: *mut c_void, bytes: size_t) -> c_int {
    let start = address.expose_provenance();
    int(removed(start, bytes))
});

/// munmap, of registers too.
fn removed(start: usize, bytes: usize) -> Result<usize, c_int> {
    // What the kernel refuses takes nothing away; and a length that is no number of pages fits nowhere.
    let pages = bytes.checked_next_multiple_of(PAGE).filter(|pages| *pages > 0);
    if let Some(pages) = pages.filter(|_| start.is_multiple_of(PAGE))
        && !regions::remove(start, pages)
    {
        return Err(ENOMEM);
    }
    unmapped(start, bytes)
}

/// What the program wants mapped.
struct Wanted {
    address: usize,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: off_t,
}

impl Wanted {
    fn map(&self) -> Result<usize, c_int> {
        let mapped = mapped(
            self.address,
            self.bytes,
            self.protection,
            self.flags,
            self.descriptor,
            self.offset,
        );
        match mapped {
            // The kernel's word for a file of ours.
            Err(ENODEV) if self.flags & libc::MAP_ANONYMOUS == 0 => self.map_bar(),
            Ok(start) => {
                // Over registers, perhaps.
                if self.flags & libc::MAP_FIXED != 0 {
                    regions::remove(start, self.bytes.next_multiple_of(PAGE));
                }
                Ok(start)
            }
            refused => refused,
        }
    }

    fn map_bar(&self) -> Result<usize, c_int> {
        let bytes = self.bytes.next_multiple_of(PAGE);
        if self.flags & libc::MAP_TYPE & libc::MAP_SHARED == 0 {
            return Err(self.refusal()?);
        }
        // All of it first, so that the parts find a place side by side.
        let place = libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_32BIT;
        let flags = (self.flags & place) | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = mapped(self.address, bytes, libc::PROT_NONE, flags, -1, 0)?;
        regions::remove(start, bytes);
        self.fill(start, bytes).inspect_err(|_| {
            let _ = removed(start, bytes);
        })?;
        Ok(start)
    }

    /// What is wrong with a mapping that is not shared: it depends on whose file it is.
    fn refusal(&self) -> Result<c_int, c_int> {
        ask(&self.call(0)).map(|_| EINVAL).ok_or(ENODEV)
    }

    /// What the file shows from `at` bytes after the beginning of the mapping on.
    fn call(&self, at: usize) -> Call {
        Call {
            op: op::MAP,
            descriptor: self.descriptor,
            bytes: (self.bytes - at) as u64,
            offset: (self.offset as u64).wrapping_add(at as u64),
            ..Call::default()
        }
    }

    fn fill(&self, start: usize, bytes: usize) -> Result<(), c_int> {
        let mut at = 0;
        while at < bytes {
            let (reply, descriptors) = ask(&self.call(at)).ok_or(ENODEV)?;
            if reply.kind != kind::PARTS {
                return Err(if reply.kind == kind::ERROR {
                    reply.value as c_int
                } else {
                    EINVAL
                });
            }
            let mut descriptors = descriptors.into_iter().flatten();
            let mut progress = false;
            for part in reply.parts.iter().take(reply.value as usize) {
                let length = part.bytes as usize;
                if length == 0 || length > bytes - at {
                    return Err(EINVAL);
                }
                if part.memory == 0 {
                    self.registers(start, at, length)?;
                } else {
                    let memory = descriptors.next().ok_or(EINVAL)?;
                    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                    let MapPart { offset, .. } = *part;
                    mapped(
                        start + at,
                        length,
                        self.protection,
                        flags,
                        memory.as_raw_fd(),
                        offset as off_t,
                    )?;
                }
                at += length;
                progress = true;
            }
            if !progress {
                return Err(EINVAL);
            }
        }
        Ok(())
    }

    fn registers(&self, start: usize, at: usize, bytes: usize) -> Result<(), c_int> {
        trap::arm()?;
        // SAFETY: open, as the supervisor has just found it to be a file of ours; used for this call only.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.descriptor) };
        let duplicate = fcntl_dupfd_cloexec(descriptor, regions::LOWEST)
            .or_else(|_| fcntl_dupfd_cloexec(descriptor, 3))
            .map_err(rustix::io::Errno::raw_os_error)?;
        let offset = (self.offset as u64).wrapping_add(at as u64);
        let added = regions::add(start + at, bytes, duplicate, offset);
        added.then_some(()).ok_or(ENOMEM)
    }
}

/// mmap; an error is the number.
fn mapped(
    address: usize,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: off_t,
) -> Result<usize, c_int> {
    let arguments = [
        address,
        bytes,
        protection as usize,
        flags as usize,
        descriptor as usize,
        offset as usize,
    ];
    system_call(SYS_mmap, arguments)
}

fn unmapped(address: usize, bytes: usize) -> Result<usize, c_int> {
    system_call(SYS_munmap, [address, bytes, 0, 0, 0, 0])
}
