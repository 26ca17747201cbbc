//! Opening nodes, and calls on files of VFIO's.
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::{CStr, c_char, c_int, c_uint, c_ulong};
use std::os::fd::{BorrowedFd, IntoRawFd as _, OwnedFd};

use libc::{EACCES, SYS_ioctl, SYS_openat};
use rustix::fs::{AtFlags, CWD, FileType, OFlags, statat};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use uvfio_calls::{Call, Reply, is_vfio_request, kind, op};

use crate::ask::{Descriptors, ask};
use crate::raw::{int, system_call};

exported!([open, open64](path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(libc::AT_FDCWD, path, flags, mode)
});

exported!([openat, openat64](folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(folder, path, flags, mode)
});

// Names ending in `_2` and `_chk` are what `_FORTIFY_SOURCE` makes of the others.
exported!([__open_2, __open64_2](path: *const c_char, flags: c_int) -> c_int {
    opened(libc::AT_FDCWD, path, flags, 0)
});

exported!([__openat_2, __openat64_2](folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    opened(folder, path, flags, 0)
});

fn opened(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let arguments = [
        folder as usize,
        path.expose_provenance(),
        flags as usize,
        mode as usize,
        0,
        0,
    ];
    let mut result = system_call(SYS_openat, arguments);
    // A node is refused like this, by whatever name it was opened.
    if result == Err(EACCES)
        && let Some(call) = node(folder, path, flags)
        && let Some((reply, descriptors)) = ask(&call)
    {
        let close_on_exec = OFlags::from_bits_retain(flags as c_uint).contains(OFlags::CLOEXEC);
        result = value(reply, descriptors, close_on_exec);
    }
    int(result)
}

/// The call that opens a node, if this is one: a character device of the number that none has.
fn node(folder: c_int, path: *const c_char, flags: c_int) -> Option<Call> {
    // SAFETY: the kernel has just found a file by this path, so it is a string.
    let path = unsafe { CStr::from_ptr(path) };
    // With a whole name the kernel does not look at the folder, so that may be anything: also -1, which no descriptor is.
    let folder = match path.to_bytes() {
        [b'/', ..] => CWD,
        _ if folder == -1 => return None,
        // SAFETY: a number only for the next call, which fails where it is not open.
        _ => unsafe { BorrowedFd::borrow_raw(folder) },
    };
    let mut how = AtFlags::empty();
    how.set(AtFlags::SYMLINK_NOFOLLOW, flags & libc::O_NOFOLLOW != 0);
    let found = statat(folder, path, how).ok()?;
    let is_node = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0;
    is_node.then(|| Call {
        op: op::OPEN,
        request: found.st_dev,
        offset: found.st_ino,
        ..Call::default()
    })
}

exported!([ioctl](descriptor: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    controlled(descriptor, request, argument)
});

fn controlled(descriptor: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    if is_vfio_request(request) {
        let call = Call {
            op: op::IOCTL,
            descriptor,
            request,
            address: argument,
            ..Call::default()
        };
        if let Some((reply, descriptors)) = ask(&call) {
            return int(value(reply, descriptors, reply.value != 0));
        }
    }
    let arguments = [descriptor as usize, request as usize, argument as usize, 0, 0, 0];
    int(system_call(SYS_ioctl, arguments))
}

/// The result that a reply gives the program.
pub(crate) fn value(reply: Reply, descriptors: Descriptors, close_on_exec: bool) -> Result<usize, c_int> {
    match (reply.kind, descriptors) {
        (kind::VALUE, _) => Ok(reply.value as usize),
        (kind::DESCRIPTOR, [Some(descriptor), ..]) => {
            lowest(descriptor, close_on_exec).map(|descriptor| descriptor.into_raw_fd() as usize)
        }
        (kind::ERROR, _) => Err(reply.value as c_int),
        _ => Err(libc::EIO),
    }
}

/// The same file by the lowest number that is free, as opening one gives.
fn lowest(descriptor: OwnedFd, close_on_exec: bool) -> Result<OwnedFd, c_int> {
    use std::os::fd::AsRawFd as _;
    let descriptor = match fcntl_dupfd_cloexec(&descriptor, 0) {
        Ok(lower) if lower.as_raw_fd() < descriptor.as_raw_fd() => lower,
        _ => descriptor,
    };
    if !close_on_exec {
        fcntl_setfd(&descriptor, FdFlags::empty()).map_err(Errno::raw_os_error)?;
    }
    Ok(descriptor)
}
