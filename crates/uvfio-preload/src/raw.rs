//! System calls as they are, and errno.
#![allow(unsafe_code)] // System calls with whatever arguments the program gave.

use core::ffi::{c_int, c_long};

/// Makes a system call that the program asked for, and sets errno where it fails.
macro_rules! system_call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the arguments are the program's own, for a call that it makes: the kernel checks them, as it would
        // had libc passed them on.
        unsafe { libc::syscall($number $(, $argument)*) }
    };
}
pub(crate) use system_call;

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

/// The result of a system call that failed with `errno`.
pub(crate) fn fail(errno: c_int) -> c_long {
    set_errno(errno);
    -1
}

/// A system call's result as libc's functions of type `int` return it.
pub(crate) fn int(result: c_long) -> c_int {
    result as c_int
}
