//! Signals that are meant for the program: all that other processes may want to send it but SIGUSR1, which is an order to us.
#![allow(unsafe_code)] // What runs in a handler may do little: atomics and one system call here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2, SIGWINCH};
use signal_hook_registry::{SigId, register_sigaction, unregister};

/// Takes signals for the program until it is dropped.
pub(crate) struct PassedOn {
    to: Arc<To>,
    handlers: Vec<SigId>,
}

/// To whom, once there is somebody.
#[derive(Default)]
struct To {
    program: AtomicI32,
    /// Those that came before, a bit each
    kept: AtomicU64,
}

impl To {
    fn send(&self) {
        let Some(program) = Pid::from_raw(self.program.load(Ordering::SeqCst)) else {
            return;
        };
        let kept = self.kept.swap(0, Ordering::SeqCst);
        for number in (1..64).filter(|number| kept >> number & 1 != 0) {
            if let Some(signal) = Signal::from_named_raw(number) {
                // It may have ended a moment ago.
                let _ = kill_process(program, signal);
            }
        }
    }
}

/// Takes what other processes send to this one. What comes from the kernel, as by ^C in a terminal, the program gets by
/// itself; here it is only kept from ending this process.
pub(crate) fn take() -> io::Result<PassedOn> {
    let mut passed = PassedOn {
        to: Arc::default(),
        handlers: Vec::new(),
    };
    for signal in [
        SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH,
    ] {
        let to = passed.to.clone();
        let handler = move |info: &libc::siginfo_t| {
            // Codes above 0 are the kernel's.
            if info.si_code <= 0 {
                to.kept.fetch_or(1 << signal, Ordering::SeqCst);
                to.send();
            }
        };
        // SAFETY: the handler does nothing but atomic operations and kill(2), which a handler may call, and which leaves
        // errno alone (rustix makes the call itself).
        passed
            .handlers
            .push(unsafe { register_sigaction(signal, handler) }?);
    }
    Ok(passed)
}

impl PassedOn {
    /// The program runs: it gets what has come, and what will.
    pub(crate) fn to(&self, program: i32) {
        self.to.program.store(program, Ordering::SeqCst);
        self.to.send();
    }
}

impl Drop for PassedOn {
    fn drop(&mut self) {
        // Its number may become another's.
        self.to.program.store(0, Ordering::SeqCst);
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}
