//! Reads and writes. Of a file of ours the kernel refuses those at an offset (ESPIPE), and makes nothing of the others:
//! it reads 0 bytes, and writes none (EPIPE, without a signal).
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;

use libc::{EPIPE, ESPIPE, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64, SYS_pwritev, SYS_pwritev2};
use libc::{iovec, off_t, size_t, ssize_t};
use rustix::net::{AddressFamily, SocketType, sockopt};
use uvfio_calls::{AT_POSITION, Call, op};

use crate::ask::ask;
use crate::files::value;
use crate::next::Next;
use crate::raw::{errno, returned, set_errno, system_call};

// Those that may wait, and so be where a thread is cancelled: libc's own functions see to that.
static READ: Next = Next::new(c"read");
static WRITE: Next = Next::new(c"write");
static READV: Next = Next::new(c"readv");
static WRITEV: Next = Next::new(c"writev");

/// All of them.
pub(crate) static NEXT: [&Next; 4] = [&READ, &WRITE, &READV, &WRITEV];

exported!([read](descriptor: c_int, data: *mut c_void, bytes: size_t) -> ssize_t {
    without_offset(&READ, op::READ, descriptor, data.expose_provenance(), bytes)
});

exported!([__read_chk](descriptor: c_int, data: *mut c_void, bytes: size_t, room: size_t) -> ssize_t {
    if bytes > room {
        std::process::abort();
    }
    without_offset(&READ, op::READ, descriptor, data.expose_provenance(), bytes)
});

exported!([write](descriptor: c_int, data: *const c_void, bytes: size_t) -> ssize_t {
    without_offset(&WRITE, op::WRITE, descriptor, data.expose_provenance(), bytes)
});

exported!([readv](descriptor: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    without_offset(&READV, op::READ_VECTOR, descriptor, vector.expose_provenance(), count as size_t)
});

exported!([writev](descriptor: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    without_offset(&WRITEV, op::WRITE_VECTOR, descriptor, vector.expose_provenance(), count as size_t)
});

/// One of the four above.
fn without_offset(next: &Next, op: u32, descriptor: c_int, address: usize, count: size_t) -> ssize_t {
    type Function = unsafe extern "C" fn(c_int, usize, size_t) -> ssize_t;
    let next = next.address();
    if next.is_null() {
        set_errno(libc::ENOSYS);
        return -1;
    }
    // SAFETY: the address of libc's function, whose second argument is a pointer, and whose third a length or, as an int,
    // the number of what it points to: each is one word, passed as such on the architectures that this is built for.
    let next = unsafe { core::mem::transmute::<*mut c_void, Function>(next) };
    let before = errno();
    // SAFETY: the caller's arguments.
    let result = unsafe { next(descriptor, address, count) };
    if !(result == 0 || result < 0 && errno() == EPIPE) || !may_be_ours(descriptor) {
        return result;
    }
    let call = Call {
        op,
        descriptor,
        address: address as u64,
        bytes: count as u64,
        offset: AT_POSITION,
        ..Call::default()
    };
    match ask(&call) {
        Some((reply, descriptors)) => {
            set_errno(before);
            returned(value(reply, descriptors, false)) as ssize_t
        }
        None => result,
    }
}

/// Whether a descriptor is a socket of the kind that ours are.
fn may_be_ours(descriptor: c_int) -> bool {
    if descriptor < 0 {
        return false;
    }
    // SAFETY: a number that is not negative, for questions that the kernel answers whatever it is.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    sockopt::socket_type(descriptor) == Ok(SocketType::SEQPACKET)
        && sockopt::socket_domain(descriptor) == Ok(AddressFamily::UNIX)
}

exported!([pread, pread64](descriptor: c_int, data: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t {
    at_offset(SYS_pread64, op::READ, [descriptor as usize, data.expose_provenance(), bytes, offset as usize, 0, 0])
});

exported!([__pread_chk, __pread64_chk](
    descriptor: c_int, data: *mut c_void, bytes: size_t, offset: off_t, room: size_t
) -> ssize_t {
    if bytes > room {
        std::process::abort();
    }
    at_offset(SYS_pread64, op::READ, [descriptor as usize, data.expose_provenance(), bytes, offset as usize, 0, 0])
});

exported!([pwrite, pwrite64](
    descriptor: c_int, data: *const c_void, bytes: size_t, offset: off_t
) -> ssize_t {
    at_offset(SYS_pwrite64, op::WRITE, [descriptor as usize, data.expose_provenance(), bytes, offset as usize, 0, 0])
});

exported!([preadv, preadv64](descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    let vector = vector.expose_provenance();
    at_offset(SYS_preadv, op::READ_VECTOR, [descriptor as usize, vector, count as usize, offset as usize, 0, 0])
});

exported!([pwritev, pwritev64](descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    let vector = vector.expose_provenance();
    at_offset(SYS_pwritev, op::WRITE_VECTOR, [descriptor as usize, vector, count as usize, offset as usize, 0, 0])
});

exported!([preadv2, preadv64v2](
    descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t, flags: c_int
) -> ssize_t {
    let vector = vector.expose_provenance();
    let arguments = [descriptor as usize, vector, count as usize, offset as usize, 0, flags as usize];
    at_offset(SYS_preadv2, op::READ_VECTOR, arguments)
});

exported!([pwritev2, pwritev64v2](
    descriptor: c_int, vector: *const iovec, count: c_int, offset: off_t, flags: c_int
) -> ssize_t {
    let vector = vector.expose_provenance();
    let arguments = [descriptor as usize, vector, count as usize, offset as usize, 0, flags as usize];
    at_offset(SYS_pwritev2, op::WRITE_VECTOR, arguments)
});

/// A call whose fourth argument is an offset, and the sixth flags.
fn at_offset(number: libc::c_long, op: u32, arguments: [usize; 6]) -> ssize_t {
    let mut result = system_call(number, arguments);
    let [descriptor, address, count, offset, _, flags] = arguments;
    // The kernel's word for a file of ours; of -1, which is the file's position, those of calls that name none.
    let ours = match result {
        Err(ESPIPE) => true,
        Ok(0) | Err(EPIPE) => offset as u64 == AT_POSITION && may_be_ours(descriptor as c_int),
        _ => false,
    };
    if ours {
        let call = Call {
            op,
            descriptor: descriptor as c_int,
            request: u64::from(flags as u32),
            address: address as u64,
            bytes: count as u64,
            offset: offset as u64,
        };
        if let Some((reply, descriptors)) = ask(&call) {
            result = value(reply, descriptors, false);
        }
    }
    returned(result) as ssize_t
}
