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
