//! What the operator of a server orders: to end, or to take the device away from its user.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::signal::Signal;

/// Orders to a [`crate::Supervisor`]; any thread may give them.
#[derive(Debug)]
pub struct Orders {
    /// Readable after an order.
    wake: Signal,
    stop: AtomicBool,
    take_away: AtomicBool,
}

impl Orders {
    /// None so far.
    ///
    /// # Errors
    /// Where the system has no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wake: Signal::new()?,
            stop: AtomicBool::new(false),
            take_away: AtomicBool::new(false),
        }))
    }

    /// Ends the server in order: the user's connection is shut down, the device detached and reset.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.raise();
    }

    /// Takes the device away from its user: from now on it reads all ones, and requests are acknowledged without
    /// effect. The server ends when the user leaves.
    pub fn take_away(&self) {
        self.take_away.store(true, Ordering::Release);
        self.wake.raise();
    }

    /// Acts on signals from now on: SIGTERM, SIGINT and SIGHUP end the server, SIGUSR1 takes the device away.
    ///
    /// # Errors
    /// Where the handlers or the thread that waits for them can't be made.
    pub fn follow_signals(self: &Arc<Self>) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let orders = Arc::clone(self);
        std::thread::Builder::new()
            .name("signals".into())
            .stack_size(128 << 10)
            .spawn(move || {
                for signal in &mut signals {
                    if signal == SIGUSR1 {
                        tracing::warn!(target: "audit", "SIGUSR1: the device is taken away from its user");
                        orders.take_away();
                    } else {
                        tracing::info!("signal {signal}: ending");
                        orders.stop();
                    }
                }
            })?;
        Ok(())
    }

    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes [`wake`](Self::wake) unreadable until the next order.
    pub(crate) fn heard(&self) {
        self.wake.take();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn taking_away(&self) -> bool {
        self.take_away.load(Ordering::Acquire)
    }
}
