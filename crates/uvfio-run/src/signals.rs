//! Signals that are meant for the program.
#![allow(unsafe_code)] // What runs in a handler may do little: a load and one system call here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook_registry::{SigId, register_sigaction, unregister};

/// Passes signals on until it is dropped.
pub(crate) struct PassedOn {
    program: Arc<AtomicI32>,
    handlers: Vec<SigId>,
}

/// Passes on to process `program` what other processes send to this one. What comes from the kernel, as by ^C in a
/// terminal, the program gets by itself; here it is only kept from ending this process.
pub(crate) fn pass_on(program: i32) -> io::Result<PassedOn> {
    let mut passed = PassedOn {
        program: Arc::new(AtomicI32::new(program)),
        handlers: Vec::new(),
    };
    for signal in [
        SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH,
    ] {
        let program = passed.program.clone();
        let handler = move |info: &libc::siginfo_t| {
            let program = program.load(Ordering::Relaxed);
            // Codes above 0 are the kernel's.
            if info.si_code <= 0
                && let (Some(program), Some(signal)) =
                    (Pid::from_raw(program), Signal::from_named_raw(signal))
            {
                // It may have ended a moment ago.
                let _ = kill_process(program, signal);
            }
        };
        // SAFETY: the handler does nothing but an atomic load and kill(2), which a handler may call, and which leaves
        // errno alone (rustix makes the call itself).
        passed
            .handlers
            .push(unsafe { register_sigaction(signal, handler) }?);
    }
    Ok(passed)
}

impl Drop for PassedOn {
    fn drop(&mut self) {
        // Its number may become another's.
        self.program.store(0, Ordering::Relaxed);
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}
