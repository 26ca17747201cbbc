//! Which signals a thread blocks: never SIGSEGV. The kernel ends a program that faults where it is blocked, and with
//! registers mapped a fault is a load or store. Threads that leave all signals to another one block it without wanting to.
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::c_int;

use libc::{SIG_BLOCK, SIG_SETMASK, SIGSEGV, SYS_rt_sigprocmask, sigset_t};

use crate::raw::{errno, int, set_errno, system_call};

/// The kernel's set of signals, bytes; libc's begins with it.
const BYTES: usize = size_of::<u64>();
/// Signals that libc keeps for itself: the first two of real time.
const OF_LIBC: u64 = 1 << 31 | 1 << 32;

exported!([sigprocmask](how: c_int, set: *const sigset_t, before: *mut sigset_t) -> c_int {
    changed(how, set, before)
});

exported!([pthread_sigmask](how: c_int, set: *const sigset_t, before: *mut sigset_t) -> c_int {
    let kept = errno();
    if changed(how, set, before) == 0 {
        return 0;
    }
    // This one returns it.
    let why = errno();
    set_errno(kept);
    why
});

fn changed(how: c_int, set: *const sigset_t, before: *mut sigset_t) -> c_int {
    if set.is_null() {
        return int(system_call!(SYS_rt_sigprocmask, how, set, before, BYTES));
    }
    // SAFETY: the caller's set.
    let mut signals = unsafe { set.cast::<u64>().read_unaligned() };
    if how == SIG_BLOCK || how == SIG_SETMASK {
        signals &= !(OF_LIBC | 1 << (SIGSEGV - 1));
    }
    int(system_call!(
        SYS_rt_sigprocmask,
        how,
        &raw const signals,
        before,
        BYTES
    ))
}
