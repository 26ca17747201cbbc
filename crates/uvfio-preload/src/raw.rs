//! System calls as they are, and errno.
#![allow(unsafe_code)] // System calls with whatever arguments the program gave.

use core::ffi::{c_int, c_long};

/// Makes a system call that the program asked for; an error is its number. Unlike libc's functions it leaves errno alone, so
/// that what is not for us costs little more than the call itself. Arguments beyond those that a call has are not looked at.
pub(crate) fn system_call(number: c_long, arguments: [usize; 6]) -> Result<usize, c_int> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are the program's own, for a call that it makes: the kernel checks them, as it would had libc
    // passed them on.
    let result = unsafe { syscalls::raw::syscall6(number as usize, a, b, c, d, e, f) };
    syscalls::Errno::from_ret(result).map_err(syscalls::Errno::into_raw)
}

/// What libc's functions return for a result: -1 for an error, which is in errno then.
pub(crate) fn returned(result: Result<usize, c_int>) -> c_long {
    match result {
        Ok(value) => value as c_long,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

/// The same of functions whose type is `int`.
pub(crate) fn int(result: Result<usize, c_int>) -> c_int {
    returned(result) as c_int
}

/// Where errno of this thread is.
fn errno_location() -> *mut c_int {
    // SAFETY: libc's function takes nothing, and gives a pointer that is always valid for this thread.
    unsafe { libc::__errno_location() }
}

/// errno of this thread: 0 where nothing has failed yet, which is why it is a plain number here.
pub(crate) fn errno() -> c_int {
    // SAFETY: the pointer is valid, and this thread's alone.
    unsafe { *errno_location() }
}

/// Sets errno, as it is to be found by the program.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *errno_location() = errno };
}
