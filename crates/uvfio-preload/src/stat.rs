//! What `fstat` says of files of VFIO's: what `stat` says of the nodes that they were opened by. There are programs that
//! compare the two before they use a file, QEMU among them.
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::c_int;

use libc::{S_IFCHR, S_IFMT, S_IFSOCK, SYS_fstat};
use uvfio_calls::{Call, kind, op};

use crate::ask::ask;
use crate::raw::{int, system_call};

exported!([fstat, fstat64](descriptor: c_int, result: *mut libc::stat) -> c_int {
    looked_at(descriptor, result)
});

// What `fstat` is in programs that were linked with a libc before 2.33.
exported!([__fxstat, __fxstat64](_version: c_int, descriptor: c_int, result: *mut libc::stat) -> c_int {
    looked_at(descriptor, result)
});

fn looked_at(descriptor: c_int, result: *mut libc::stat) -> c_int {
    let arguments = [descriptor as usize, result.expose_provenance(), 0, 0, 0, 0];
    let done = system_call(SYS_fstat, arguments);
    if done.is_err() {
        return int(done);
    }
    // SAFETY: the kernel has just filled it.
    let found = unsafe { result.as_mut() };
    if let Some(found) = found
        && found.st_mode & S_IFMT == S_IFSOCK
        && let Some((reply, _)) = ask(&Call {
            op: op::STAT,
            descriptor,
            ..Call::default()
        })
        && reply.kind == kind::NODE
    {
        found.st_dev = reply.value;
        found.st_ino = reply.parts[0].offset;
        found.st_mode = S_IFCHR | 0o666;
        found.st_rdev = 0;
    }
    int(done)
}
