//! What a device sees of its user: memory and interrupts.

use std::sync::Arc;

use uvfio_pci::InterruptMode;

use crate::front_end::FrontEnd;
use crate::{DmaSpace, Lines};

/// A device's handle to its user; cheap to clone, may be used from any thread of the device's.
#[derive(Clone, Debug)]
pub struct Host {
    dma: Arc<DmaSpace>,
    lines: Arc<Lines>,
}

impl Host {
    /// Puts a handle together.
    #[must_use]
    pub fn new(dma: Arc<DmaSpace>, lines: Arc<Lines>) -> Self {
        Self { dma, lines }
    }

    /// The user's memory, by IOVA.
    #[must_use]
    pub fn dma(&self) -> &DmaSpace {
        &self.dma
    }

    /// Sends message `vector` (MSI or MSI-X, whichever is enabled; with neither, nothing happens). The model
    /// decides: masked, it stays pending and is delivered once on unmask.
    ///
    /// From a device's own thread the eventfd is written at once; from the socket's thread (inside
    /// [`crate::Device::write`]) use it just the same: delivery then happens on the delivery thread.
    pub fn signal(&self, vector: u16) {
        self.lines.signal(vector);
    }

    /// As [`signal`](Self::signal), for a thread that must never wait for the user, whichever it is: delivery happens
    /// on the delivery thread, which is replaced where its user blocks it for good. An interrupt that still waits for
    /// that thread when the user leaves is dropped.
    pub fn signal_nowait(&self, vector: u16) {
        let _inside = FrontEnd::enter();
        self.lines.signal(vector);
    }

    /// Asserts or deasserts INTx, a level: it stays until it is changed.
    pub fn set_intx(&self, asserted: bool) {
        self.lines.set_intx(asserted);
    }

    /// Sets INTx to what `level` says, and looks again until they agree. Whoever changes what `level` looks at calls
    /// this afterwards, whichever thread it is; then the line is as the last change left it once all of them have come
    /// back, and no lock of the device's is held while the user is told, which may block. `level` may be asked several
    /// times.
    ///
    /// For a moment the line may be asserted for a level that has fallen since, as with any interrupt that is
    /// withdrawn.
    pub fn follow_intx(&self, level: impl Fn() -> bool) {
        follow(level, |asserted| self.set_intx(asserted));
    }

    /// Tells the user of an error that the device can't be trusted after (the ERR interrupt), if it listens.
    pub fn report_error(&self) {
        self.lines.notify(crate::IrqIndex::Err);
    }

    /// Asks the user to give the device back (the REQ interrupt), if it listens.
    pub fn request_release(&self) {
        self.lines.notify(crate::IrqIndex::Req);
    }

    /// Which interrupts the user has enabled.
    #[must_use]
    pub fn interrupt_mode(&self) -> InterruptMode {
        self.lines.mode()
    }
}

/// Sets a line to a level that other threads change, each of which comes here after its change.
///
/// The line's own lock puts all settings in an order. Each change is followed in it by a setting of the thread that
/// made it; so all changes come before the last setting. Whoever made that looks once more, and sees them all: what it
/// then sees is the level for good, and equals what it set, or else it would set it again.
fn follow(level: impl Fn() -> bool, set: impl Fn(bool)) {
    let mut asserted = level();
    loop {
        set(asserted);
        let now = level();
        if now == asserted {
            return;
        }
        asserted = now;
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::follow;

    /// Two causes of one line, each with a thread that changes it; and the line itself.
    #[derive(Default)]
    struct Device {
        causes: [AtomicBool; 2],
        line: Mutex<bool>,
    }

    impl Device {
        fn change(&self, cause: usize, to: bool) {
            // Nothing but the line's lock orders what the threads do.
            self.causes[cause].store(to, Relaxed);
            follow(|| self.level(), |asserted| *self.line.lock().unwrap() = asserted);
        }

        fn level(&self) -> bool {
            self.causes.iter().any(|cause| cause.load(Relaxed))
        }
    }

    /// Has two threads change the causes as told, in every order.
    fn every_order(changes: [&'static [bool]; 2]) {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(4);
        checker.check(move || {
            let device = Arc::new(Device::default());
            let theirs = device.clone();
            let other = thread::spawn(move || changes[1].iter().for_each(|&to| theirs.change(1, to)));
            changes[0].iter().for_each(|&to| device.change(0, to));
            other.join().unwrap();
            let line = *device.line.lock().unwrap();
            assert_eq!(line, device.level(), "the line, and the level that it follows");
        });
    }

    #[test]
    fn the_last_to_set_a_line_has_set_it_right() {
        every_order([&[true], &[true, false]]);
        every_order([&[true, false], &[true, false]]);
        every_order([&[true, false, true], &[true, false]]);
    }
}
