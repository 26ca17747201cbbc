//! Interrupts of completion queues, by whichever mechanism the user has enabled (section 7.5).

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use uvfio_core::Host;
use uvfio_pci::InterruptMode;

use crate::completion::CompletionQueue;
use crate::sync::{Mutex, lock};

const INTX: u8 = 0;
const MSI: u8 = 1;
const MSIX: u8 = 2;

/// Which interrupts are enabled, and which are masked.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    mode: AtomicU8,
    mask: AtomicU32,
    /// For the socket's thread, which must not wait at the gate of [`crate::session`].
    host: Mutex<Option<Host>>,
}

impl Interrupts {
    /// The user came or went.
    pub(crate) fn set_host(&self, host: Option<Host>) {
        self.set_mode(host.as_ref().map_or(InterruptMode::Intx, Host::interrupt_mode));
        *lock(&self.host) = host;
    }

    /// The user, for those who must not wait at the gate of [`crate::session`]. The lock is not held while it is told
    /// of something, which may block.
    pub(crate) fn host(&self) -> Option<Host> {
        lock(&self.host).clone()
    }

    /// Another mechanism is enabled: the line falls when it is not the line, and tells of what is there when it is.
    pub(crate) fn change_mode(&self, mode: InterruptMode, queues: &[CompletionQueue]) {
        self.set_mode(mode);
        if let Some(host) = self.host() {
            self.drive_line(&host, queues);
        }
    }

    fn set_mode(&self, mode: InterruptMode) {
        let code = match mode {
            InterruptMode::Intx => INTX,
            InterruptMode::Msi(_) => MSI,
            InterruptMode::MsiX(_) => MSIX,
        };
        self.mode.store(code, Ordering::SeqCst);
    }

    /// INTMS.
    pub(crate) fn set_mask(&self, mask: u32) {
        self.mask.store(mask, Ordering::SeqCst);
    }

    /// Whether the line is in use, so that the controller has to know at once what the host has consumed.
    pub(crate) fn is_line(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == INTX
    }

    fn is_masked(&self, vector: u16) -> bool {
        vector < 32 && self.mask.load(Ordering::SeqCst) & 1 << vector != 0
    }

    /// An entry was posted to a queue that interrupts by `vector`.
    pub(crate) fn posted(&self, host: &Host, vector: u16, queues: &[CompletionQueue]) {
        match self.mode.load(Ordering::SeqCst) {
            MSIX => host.signal(vector),
            MSI if self.is_masked(vector) => {}
            MSI => host.signal(vector),
            _ => self.drive_line(host, queues),
        }
    }

    /// The host consumed entries, or changed the mask. `unmasked`: vectors whose entries of
    /// before have to be told of now.
    pub(crate) fn update(&self, queues: &[CompletionQueue], unmasked: u32) {
        let Some(host) = self.host() else { return };
        match self.mode.load(Ordering::SeqCst) {
            MSIX => {}
            MSI => {
                let waiting = |vector: u16| {
                    unmasked & 1 << vector != 0
                        && queues
                            .iter()
                            .any(|queue| queue.interrupt_pending() == Some(vector))
                };
                for vector in (0..32).filter(|vector| waiting(*vector)) {
                    host.signal(vector);
                }
            }
            _ => self.drive_line(&host, queues),
        }
    }

    /// INTx is asserted while a queue that interrupts has entries that the host has not consumed, and vector 0,
    /// the only one that the line has, is not masked.
    fn drive_line(&self, host: &Host, queues: &[CompletionQueue]) {
        host.follow_intx(|| {
            self.is_line()
                && !self.is_masked(0)
                && queues.iter().any(|queue| queue.interrupt_pending().is_some())
        });
    }

    /// Nothing of the controller's is asserted any more.
    pub(crate) fn clear(&self) {
        self.set_mask(0);
        if let Some(host) = self.host() {
            host.set_intx(false);
        }
    }
}
