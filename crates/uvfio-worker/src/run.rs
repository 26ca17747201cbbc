//! Serving: one user after another, until told to end or until the device is no longer fit for another user.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use uvfio_core::{CreateError, Device, DeviceError, GoneReason, Policy, VirtualDevice};
use uvfio_proto::{End, Limits, Server};

use crate::Control;

/// Where users come from.
#[derive(Debug)]
pub enum Source<'a> {
    /// One after another, until told to end.
    Listener(&'a UnixListener),
    /// This one only.
    Connected(UnixStream),
}

/// Why a worker ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The only user has left.
    UserLeft,
    /// Its user has left, and there is no way to reset the function for another.
    NoReset,
    /// Its only user has left, and policy lets it have no other.
    OneUser,
    /// The device was taken away, and its user has left.
    Gone,
    /// The kernel wanted the function back, and has it.
    Wanted,
    /// The function answers no more, and all of it is closed.
    Unplugged,
}

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The virtual device could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The device did not come back from its reset, so it must get no other user.
    #[error("{0}; the device gets no other user: start it again")]
    Device(#[from] DeviceError),
    /// The device failed while it had a user.
    #[error("the device has failed ({0}); start it again")]
    Failed(String),
    /// No user could be accepted.
    #[error("no user can be accepted any more: {0}")]
    Accept(#[from] io::Error),
}

/// Serves `device` to the users that come from `source`, under `policy`, until `control` ends it.
///
/// # Errors
/// Where the device can't be made virtual or does not come back after a user, or no user can be accepted.
pub fn run(
    source: Source<'_>,
    device: Arc<dyn Device>,
    policy: &Policy,
    control: &Control,
) -> Result<Ended, WorkerError> {
    let device = VirtualDevice::new(device, policy)?;
    control.set_device(&device);
    match source {
        Source::Connected(stream) => {
            serve_stream(stream, &device, control)?;
            Ok(how_ended(&device, control)?.unwrap_or(Ended::UserLeft))
        }
        Source::Listener(listener) => loop {
            let Some(stream) = next_user(listener, control)? else {
                return Ok(Ended::Stopped);
            };
            serve_stream(stream, &device, control)?;
            if let Some(end) = how_ended(&device, control)? {
                return Ok(end);
            }
        },
    }
}

/// How it has ended, if it has.
pub(crate) fn how_ended(device: &VirtualDevice, control: &Control) -> Result<Option<Ended>, WorkerError> {
    if control.stopping() {
        return Ok(Some(Ended::Stopped));
    }
    match device.gone_reason() {
        None => Ok(None),
        Some(GoneReason::Failed(why)) => Err(WorkerError::Failed(why)),
        Some(GoneReason::Revoked | GoneReason::Unplugged) => Ok(Some(Ended::Gone)),
    }
}

/// Waits for a user; none where the worker is to end.
fn next_user(listener: &UnixListener, control: &Control) -> Result<Option<UnixStream>, WorkerError> {
    listener.set_nonblocking(true)?;
    loop {
        if control.stopping() {
            return Ok(None);
        }
        let wake = control.wake();
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&wake, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(WorkerError::Accept(errno.into())),
        }
        if let Some(stream) = accept(listener)? {
            return Ok(Some(stream));
        }
    }
}

/// Accepts a user from a listener that does not block; none where there is none any more.
pub(crate) fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                // The last: the user left before it was accepted.
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn serve_stream(
    stream: UnixStream,
    device: &Arc<VirtualDevice>,
    control: &Control,
) -> Result<(), WorkerError> {
    let peer = peer(&stream);
    let server = Server::new(stream, Arc::clone(device), Limits::default());
    serve_one(server, &peer, device, control)
}

/// Serves one user, and makes the device fit for the next.
pub(crate) fn serve_one(
    mut server: Server,
    peer: &str,
    device: &VirtualDevice,
    control: &Control,
) -> Result<(), WorkerError> {
    if control.set_user(Some(server.handle())) {
        tracing::info!(target: "audit", "{}: attached to {peer}", device.name());
        let name = device.name();
        match server.serve() {
            Ok(End::Disconnected) => tracing::info!(target: "audit", "{name}: {peer} has left"),
            Ok(End::Shutdown) => tracing::info!(target: "audit", "{name}: {peer} is let go"),
            Err(error) => tracing::warn!(target: "audit", "{name}: {peer} is disconnected: {error}"),
        }
    }
    control.set_user(None);
    // Its descriptors go before the device says that it is free.
    drop(server);
    device.detach()?;
    Ok(())
}

/// The user at the other end: its number when it connected.
pub(crate) fn uid(stream: &UnixStream) -> Option<u32> {
    let cred = rustix::net::sockopt::socket_peercred(stream).ok()?;
    Some(cred.uid.as_raw())
}

/// Who is at the other end, for the log.
pub(crate) fn peer(stream: &UnixStream) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(cred) => format!(
            "process {} of uid {}",
            cred.pid.as_raw_nonzero(),
            cred.uid.as_raw()
        ),
        Err(_) => "an unknown process".into(),
    }
}
