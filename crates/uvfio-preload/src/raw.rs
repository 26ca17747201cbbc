//! System calls as they are, and errno.
#![allow(unsafe_code)] // System calls with whatever arguments the program gave.

use core::arch::asm;
use core::ffi::{c_int, c_long};

/// Makes a system call that the program asked for; an error is its number. Unlike libc's functions it leaves errno alone, so
/// that what is not for us costs little more than the call itself. Arguments beyond those that a call has are not looked at.
pub(crate) fn system_call(number: c_long, arguments: [usize; 6]) -> Result<usize, c_int> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the arguments are the program's own, for a call that it makes: the kernel checks them, as it would had libc
    // passed them on. The registers are those that the kernel's convention names.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    // The kernel's errors are the last 4095 numbers.
    if (-4095..0).contains(&result) {
        Err(-result as c_int)
    } else {
        Ok(result as usize)
    }
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
