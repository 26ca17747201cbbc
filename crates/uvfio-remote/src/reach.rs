//! The user's memory, for a server that reads and writes it by message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use uvfio_core::{DmaError, DmaMessages, DmaTicket};
use uvfio_proto::{ClientMemory, Errno};

/// What the server reaches at this moment.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Bus mastering, in COMMAND.
    bus_master: AtomicBool,
    way: RwLock<Option<Arc<dyn DmaMessages>>>,
}

impl Reach {
    /// A user has come, or has gone.
    pub(crate) fn lead(&self, way: Option<Arc<dyn DmaMessages>>) {
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = way;
    }

    pub(crate) fn set_bus_master(&self, on: bool) {
        self.bus_master.store(on, Ordering::Release);
    }

    fn access(
        &self,
        iova: u64,
        bytes: usize,
        copy: impl FnOnce(&dyn DmaMessages, DmaTicket) -> Result<(), DmaError>,
    ) -> Result<(), Errno> {
        if !self.bus_master.load(Ordering::Acquire) {
            return Err(Errno::NODEV);
        }
        let way = self.way.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(way) = way else {
            return Err(Errno::NODEV);
        };
        let more = (bytes as u64).saturating_sub(1);
        let last = iova.checked_add(more).ok_or(Errno::FAULT)?;
        let ticket = way.begin(iova, last);
        let copied = copy(&*way, ticket);
        way.end(ticket);
        copied.map_err(|_| Errno::FAULT)
    }
}

/// The same as the client knows it.
pub(crate) struct Memory(pub(crate) Arc<Reach>);

impl ClientMemory for Memory {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0
            .access(iova, data.len(), |way, ticket| way.read(ticket, iova, data))
    }

    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        self.0
            .access(iova, data.len(), |way, ticket| way.write(ticket, iova, data))
    }
}
