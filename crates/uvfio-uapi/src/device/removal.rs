//! A device's way out: its operator wants it back, as the kernel does when vfio-pci is unbound from a function.
//!
//! ```text
//! withdrawn    no file of it is opened any more; files that are open go on
//!   asked      by REQ, as often as its operator likes
//! given back   with the last file, or:
//! taken        gone for whoever has it open
//! ```

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::Device;
use crate::refusal::{Outcome, Refusal};

/// How far it has come. None of it is under the lock of the device's users: a call of theirs holds that as long as it
/// likes, and whoever waits to open or close the device keeps all others from it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Removal {
    withdrawn: AtomicBool,
    /// How many files of it are open, or are being opened.
    open: AtomicUsize,
    /// REQ has an eventfd.
    pub(super) hears: AtomicBool,
    given_back: Mutex<bool>,
    changed: Condvar,
}

/// Whoever has a device open, that is wanted back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody has it open.
    Nobody,
    /// The REQ interrupt is signalled.
    ByReq,
    /// There is no eventfd for REQ: nothing is heard of the wish.
    Deaf,
}

impl Device {
    /// ENODEV once it is withdrawn.
    pub(crate) fn check_not_withdrawn(&self) -> Outcome<()> {
        if self.removal.withdrawn.load(Ordering::SeqCst) {
            return Err(Refusal::new(
                Errno::NODEV,
                format!("{} is taken back by its operator", self.address),
            ));
        }
        Ok(())
    }

    /// No file of it is opened any more.
    pub(crate) fn withdraw(&self) {
        self.removal.withdrawn.store(true, Ordering::SeqCst);
        // Who is about to open it is counted, and gives it back then.
        if self.removal.open.load(Ordering::SeqCst) == 0 {
            self.given_back();
        }
    }

    /// A file of it is about to be opened: it counts as open until [`leave`](Self::leave).
    pub(super) fn come(&self) {
        self.removal.open.fetch_add(1, Ordering::SeqCst);
    }

    /// A file of it is closed, and what that ends has ended; or it was not opened.
    pub(super) fn leave(&self) {
        if self.removal.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.given_back();
        }
    }

    /// Asks whoever has it open to give it back.
    pub(crate) fn ask_for(&self) -> Asked {
        if self.removal.open.load(Ordering::SeqCst) == 0 {
            return Asked::Nobody;
        }
        self.device.request_removal();
        if self.removal.hears.load(Ordering::SeqCst) {
            Asked::ByReq
        } else {
            Asked::Deaf
        }
    }

    /// Its last file is closed, or there was none.
    fn given_back(&self) {
        if self.removal.withdrawn.load(Ordering::SeqCst) {
            *self
                .removal
                .given_back
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = true;
            self.removal.changed.notify_all();
        }
    }

    /// Waits until it is given back: whether it is.
    pub(crate) fn wait_given_back(&self, patience: Duration) -> bool {
        let Removal {
            given_back, changed, ..
        } = &self.removal;
        let given_back = given_back.lock().unwrap_or_else(PoisonError::into_inner);
        let (given_back, _) = changed
            .wait_timeout_while(given_back, patience, |given_back| !*given_back)
            .unwrap_or_else(PoisonError::into_inner);
        *given_back
    }

    /// Takes it from whoever has it open; false where nobody has.
    pub(crate) fn take(&self) -> bool {
        if self.wait_given_back(Duration::ZERO) {
            return false;
        }
        // Not under the lock of its users: a call of theirs may take as long as it likes.
        self.device.revoke();
        true
    }
}
