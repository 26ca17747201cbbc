//! What `fstat` and `statx` say of files of VFIO's: of those that were opened by a node, what `stat` says of that; of a
//! device, what the kernel says of a file without a place. There are programs that compare the two before they use a file,
//! QEMU among them.
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::{c_char, c_int, c_uint};
use std::os::fd::{AsRawFd as _, OwnedFd};

use libc::{AT_EMPTY_PATH, S_IFCHR, S_IFMT, S_IFSOCK, SYS_fstat, SYS_newfstatat, SYS_statx};
use rustix::event::{EventfdFlags, eventfd};
use uvfio_calls::{Call, kind, op};

use crate::ask::ask;
use crate::raw::{int, system_call};

exported!([fstat, fstat64](descriptor: c_int, result: *mut libc::stat) -> c_int {
    looked_at(SYS_fstat, descriptor, [result.expose_provenance(), 0, 0, 0, 0], result, || true)
});

// What `fstat` is in programs that were linked with a libc before 2.33.
exported!([__fxstat, __fxstat64](_version: c_int, descriptor: c_int, result: *mut libc::stat) -> c_int {
    looked_at(SYS_fstat, descriptor, [result.expose_provenance(), 0, 0, 0, 0], result, || true)
});

exported!([fstatat, fstatat64](
    folder: c_int, path: *const c_char, result: *mut libc::stat, flags: c_int
) -> c_int {
    let rest = [path.expose_provenance(), result.expose_provenance(), flags as usize, 0, 0];
    looked_at(SYS_newfstatat, folder, rest, result, || names_nothing(path, flags))
});

exported!([statx](
    folder: c_int, path: *const c_char, flags: c_int, mask: c_uint, result: *mut libc::statx
) -> c_int {
    let rest = [path.expose_provenance(), flags as usize, mask as usize, result.expose_provenance(), 0];
    let done = system_call(SYS_statx, with(folder, rest));
    if done.is_err() || !names_nothing(path, flags) {
        return int(done);
    }
    // SAFETY: the kernel has just filled it.
    let Some(found) = (unsafe { result.as_mut() }) else {
        return int(done);
    };
    if u32::from(found.stx_mode) & S_IFMT != S_IFSOCK {
        return int(done);
    }
    match what(folder) {
        What::Node { device, inode } => {
            found.stx_dev_major = libc::major(device);
            found.stx_dev_minor = libc::minor(device);
            found.stx_ino = inode;
            found.stx_mode = NODE as u16;
            found.stx_rdev_major = 0;
            found.stx_rdev_minor = 0;
        }
        What::Anonymous(like) => {
            let _ = system_call(SYS_statx, with(like.as_raw_fd(), rest));
        }
        What::Other => {}
    }
    int(done)
});

/// Type and mode of a node.
const NODE: u32 = S_IFCHR | 0o666;

fn with(descriptor: c_int, rest: [usize; 5]) -> [usize; 6] {
    let [a, b, c, d, e] = rest;
    [descriptor as usize, a, b, c, d, e]
}

/// Whether a descriptor is meant, not a name in the folder that it is. For calls that the kernel has made: it has seen
/// that the name can be read.
fn names_nothing(path: *const c_char, flags: c_int) -> bool {
    // SAFETY: null, which newer kernels take for it, or a string.
    flags & AT_EMPTY_PATH != 0 && (path.is_null() || unsafe { path.read() } == 0)
}

/// A call that fills `result`, which is among its arguments too; `of_descriptor` says whether it is of the descriptor.
fn looked_at(
    call: libc::c_long,
    descriptor: c_int,
    rest: [usize; 5],
    result: *mut libc::stat,
    of_descriptor: impl FnOnce() -> bool,
) -> c_int {
    let done = system_call(call, with(descriptor, rest));
    if done.is_err() || !of_descriptor() {
        return int(done);
    }
    // SAFETY: the kernel has just filled it.
    let Some(found) = (unsafe { result.as_mut() }) else {
        return int(done);
    };
    if found.st_mode & S_IFMT != S_IFSOCK {
        return int(done);
    }
    match what(descriptor) {
        What::Node { device, inode } => {
            found.st_dev = device;
            found.st_ino = inode;
            found.st_mode = NODE;
            found.st_rdev = 0;
        }
        What::Anonymous(like) => {
            let _ = system_call(call, with(like.as_raw_fd(), rest));
        }
        What::Other => {}
    }
    int(done)
}

/// What a socket is.
enum What {
    /// A file that was opened by a node.
    Node { device: u64, inode: u64 },
    /// A device; and another file of which the kernel says what it says of that. All that have no place are one to it.
    Anonymous(OwnedFd),
    /// None of ours.
    Other,
}

fn what(descriptor: c_int) -> What {
    let call = Call {
        op: op::STAT,
        descriptor,
        ..Call::default()
    };
    match ask(&call) {
        Some((reply, _)) if reply.kind == kind::NODE => What::Node {
            device: reply.value,
            inode: reply.parts[0].offset,
        },
        Some((reply, _)) if reply.kind == kind::ANONYMOUS => {
            eventfd(0, EventfdFlags::CLOEXEC).map_or(What::Other, What::Anonymous)
        }
        _ => What::Other,
    }
}
