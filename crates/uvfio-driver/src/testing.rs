//! For tests of drivers: a device behind a socket, served by this process.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use uvfio_core::{Device, Policy, VirtualDevice};
use uvfio_proto::{Limits, Server};

use crate::{DriverError, Result, Socket};

/// A server on a thread of this process.
#[must_use = "wait for it, so that its failure shows"]
pub struct Serving {
    thread: JoinHandle<Result<()>>,
}

impl Serving {
    /// Waits until the user has left; call it once the function and all its parts are dropped.
    ///
    /// # Errors
    /// Where the connection ended by a fault, or the device did not come back from its user.
    pub fn wait(self) -> Result<()> {
        let lost = || DriverError::Device("the server's thread has panicked".into());
        self.thread.join().map_err(|_| lost())?
    }
}

/// Serves a device to one user over a socket that has no name, as `uvfio serve` does over one that has.
///
/// # Errors
/// Where the device can't be made virtual, or the server does not answer.
pub fn serve(device: Arc<dyn Device>) -> Result<(Socket, Serving)> {
    let device = VirtualDevice::new(device, &Policy::default()).map_err(|error| failed(&error))?;
    serve_virtual(device)
}

/// As [`serve`], for a device that is virtual already: a test may take it away, or ask for it back.
///
/// # Errors
/// Where the server does not answer.
pub fn serve_virtual(device: Arc<VirtualDevice>) -> Result<(Socket, Serving)> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| DriverError::System {
        what: "a pair of sockets",
        source,
    })?;
    let thread = std::thread::spawn(move || {
        let ended = Server::new(theirs, Arc::clone(&device), Limits::default()).serve();
        device.detach().map_err(|error| failed(&error))?;
        ended.map(|_| ()).map_err(|error| failed(&error))
    });
    Ok((Socket::over(ours)?, Serving { thread }))
}

fn failed(error: &dyn std::fmt::Display) -> DriverError {
    DriverError::Device(error.to_string())
}
