//! How a running worker is told to end, or to take its device away.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uvfio_core::{GoneReason, VirtualDevice};
use uvfio_proto::ServerHandle;

use crate::signal::Signal;

/// A handle to a worker; any thread may use it, before [`crate::run()`] and during it.
#[derive(Debug)]
pub struct Control {
    /// Readable once the worker must end.
    wake: Signal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    taken_away: bool,
    device: Option<Arc<VirtualDevice>>,
    /// The connection of the user who is being served.
    user: Option<ServerHandle>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("stopping", &self.stopping)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Makes one.
    ///
    /// # Errors
    /// Where the system has no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wake: Signal::new()?,
            state: Mutex::default(),
        }))
    }

    /// Ends the worker in order: the user's connection is shut down, the device detached and reset.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(user) = &state.user {
            user.shutdown();
        }
        self.wake.raise();
    }

    /// Takes the device away from its user: from now on it reads all ones, and requests are acknowledged without
    /// effect. The worker ends when the user leaves.
    pub fn take_away(&self) {
        let mut state = self.lock();
        state.taken_away = true;
        if let Some(device) = &state.device {
            device.gone(GoneReason::Revoked, false);
        }
    }

    /// Asks the user to give the device back, by REQ.
    pub(crate) fn request_release(&self) {
        if let Some(device) = &self.lock().device {
            device.request_removal();
        }
    }

    /// Tells the user that the device has reported an error, by ERR.
    pub(crate) fn report_error(&self) {
        if let Some(device) = &self.lock().device {
            device.report_error();
        }
    }

    pub(crate) fn wake(&self) -> impl AsFd + '_ {
        self.wake.as_fd()
    }

    pub(crate) fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// The device is there; it is taken away at once if that was asked for before.
    pub(crate) fn set_device(&self, device: &Arc<VirtualDevice>) {
        let mut state = self.lock();
        state.device = Some(Arc::clone(device));
        if state.taken_away {
            device.gone(GoneReason::Revoked, false);
        }
    }

    /// A user has come (or, with none, gone). False if the worker is to end instead.
    pub(crate) fn set_user(&self, user: Option<ServerHandle>) -> bool {
        let mut state = self.lock();
        state.user = user;
        !state.stopping
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
