//! Which signals a thread blocks: never SIGSEGV. The kernel ends a program that faults where it is blocked, and with
//! registers mapped a fault is a load or store. Threads that leave all signals to another one block it without wanting to.
#![allow(unsafe_code)] // These are libc's functions, called with pointers by C.

use core::ffi::c_int;

use libc::{SIG_BLOCK, SIG_SETMASK, SIGSEGV, SYS_rt_sigprocmask, sigset_t};

use crate::raw::{int, system_call};

/// The kernel's set of signals, bytes; libc's begins with it.
const BYTES: usize = size_of::<u64>();
/// Signals that libc keeps for itself: the first two of real time.
const OF_LIBC: u64 = 1 << 31 | 1 << 32;

exported!([sigprocmask](how: c_int, set: *const sigset_t, before: *mut sigset_t) -> c_int {
    int(changed(how, set, before))
});

// This one returns its error.
exported!([pthread_sigmask](how: c_int, set: *const sigset_t, before: *mut sigset_t) -> c_int {
    changed(how, set, before).err().unwrap_or(0)
});

/// All signals of this thread wait as long as this lives.
pub(crate) struct Blocked(u64);

impl Blocked {
    pub(crate) fn all() -> Self {
        let (all, mut before) = (!0_u64, 0_u64);
        let set = [
            SIG_SETMASK as usize,
            (&raw const all).expose_provenance(),
            (&raw mut before).expose_provenance(),
        ];
        let [how, set, old] = set;
        // Can't fail: the arguments are right.
        let _ = system_call(SYS_rt_sigprocmask, [how, set, old, BYTES, 0, 0]);
        Self(before)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let set = (&raw const self.0).expose_provenance();
        let _ = system_call(SYS_rt_sigprocmask, [SIG_SETMASK as usize, set, 0, BYTES, 0, 0]);
    }
}

fn changed(how: c_int, set: *const sigset_t, before: *mut sigset_t) -> Result<usize, c_int> {
    let change = |set: *const u64| {
        let arguments = [
            how as usize,
            set.expose_provenance(),
            before.expose_provenance(),
            BYTES,
            0,
            0,
        ];
        system_call(SYS_rt_sigprocmask, arguments)
    };
    if set.is_null() {
        return change(core::ptr::null());
    }
    // SAFETY: the caller's set.
    let mut signals = unsafe { set.cast::<u64>().read_unaligned() };
    if how == SIG_BLOCK || how == SIG_SETMASK {
        signals &= !(OF_LIBC | 1 << (SIGSEGV - 1));
    }
    change(&raw const signals)
}
