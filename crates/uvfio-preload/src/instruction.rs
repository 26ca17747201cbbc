//! The instruction that a register's page stopped: its load or store is made by the supervisor, everything else of it here.
#![allow(unsafe_code)] // It reads code, and the memory that an instruction copies from or to.

#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{prepare, run};

/// What came of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done; the program goes on behind it.
    Done,
    /// It reaches registers that are not there now.
    Refused,
    /// It reaches no registers, or is none of those that can be done.
    NotOurs,
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prepare() {}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(_address: usize, _state: &mut libc::ucontext_t) -> Outcome {
    Outcome::NotOurs
}
