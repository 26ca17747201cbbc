//! Descriptors that came with a message, until somebody takes them.

use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;

use uvfio_core::close_elsewhere;

/// Descriptors from the other end. Those that nobody has taken out when this is dropped are closed by a thread of their
/// own: nothing is known of them, and the close of a stranger's file may never come back
/// ([`uvfio_core::close_elsewhere`]).
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Deref for Descriptors {
    type Target = Vec<OwnedFd>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Descriptors {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Descriptors {
    #[cold]
    fn close(&mut self) {
        self.0.drain(..).for_each(close_elsewhere);
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.close();
        }
    }
}
