//! Closing descriptors of which nothing is known.
//!
//! Closing a file calls its filesystem (`flush`), and a filesystem may be a program of the user's (FUSE) that
//! never answers. So what came from a user, and is not known to be an eventfd or memory, is closed by a thread of
//! its own: if that hangs, the user has used up descriptors of its own device's process, and nothing else waits.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

static CLOSER: OnceLock<Option<Sender<OwnedFd>>> = OnceLock::new();

/// Closes a user's descriptor of unknown kind without ever waiting for it.
pub fn close_elsewhere(file: OwnedFd) {
    match closer() {
        // The channel is as short as the number of open descriptors, which the kernel limits.
        Some(sender) => drop(sender.send(file)),
        None => drop(file),
    }
}

/// Starts the thread: a process that is confined later may not be allowed to.
pub(crate) fn prepare() {
    closer();
}

fn closer() -> Option<&'static Sender<OwnedFd>> {
    let start = || {
        let (sender, receiver) = channel::<OwnedFd>();
        let thread = std::thread::Builder::new().name("closer".into()).spawn(move || {
            for file in receiver {
                drop(file);
            }
        });
        thread.is_ok().then_some(sender)
    };
    CLOSER.get_or_init(start).as_ref()
}
