//! Shadow doorbells: queue indices in the user's memory instead of messages (Doorbell Buffer Config, section 5.3
//! and 7.13).
//!
//! The host stores a new tail (or head) in the shadow page, and rings the real doorbell only if the value passes
//! the one that the controller left in the EventIdx page. So the controller, before it sleeps, writes EventIdx,
//! and *then* looks at the shadow once more: the host does the two in the opposite order, each with a full fence
//! between, so one of them always sees the other's store. A controller that is busy leaves EventIdx where it is,
//! and the host stays silent.

use crate::session::{Fault, Memory};
use crate::spec::registers::DOORBELL_STRIDE;

/// The two pages of Doorbell Buffer Config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShadowPages {
    /// Written by the host (PRP1).
    pub(crate) doorbells: u64,
    /// Written by the controller (PRP2).
    pub(crate) events: u64,
}

/// The shadow of one doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    value: u64,
    event: u64,
}

impl ShadowPages {
    /// The shadow of the tail doorbell of submission queue `queue`.
    pub(crate) fn tail(self, queue: u16) -> Shadow {
        self.of(2 * u64::from(queue))
    }

    /// The shadow of the head doorbell of completion queue `queue`.
    pub(crate) fn head(self, queue: u16) -> Shadow {
        self.of(2 * u64::from(queue) + 1)
    }

    fn of(self, doorbell: u64) -> Shadow {
        // Both are page aligned and the doorbells of all queues take less than a page.
        let offset = doorbell * DOORBELL_STRIDE;
        Shadow {
            value: self.doorbells | offset,
            event: self.events | offset,
        }
    }
}

impl Shadow {
    /// What the host stored.
    pub(crate) fn read(self, memory: &impl Memory) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        memory.read(self.value, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores what the controller knows, once, when the shadow comes into use: the index, and EventIdx.
    pub(crate) fn publish(self, memory: &impl Memory, index: u32, event: u32) -> Result<(), Fault> {
        memory.write(self.value, &index.to_le_bytes())?;
        memory.write(self.event, &event.to_le_bytes())
    }

    /// Asks the host not to ring before it goes past `index`, which lies behind it: the whole queue away.
    pub(crate) fn disarm(self, memory: &impl Memory, index: u32) -> Result<(), Fault> {
        memory.write(self.event, &index.to_le_bytes())
    }

    /// Asks the host to ring when it goes past `index`, and gives what it has stored by then.
    pub(crate) fn arm(self, memory: &impl Memory, index: u32) -> Result<u32, Fault> {
        memory.write(self.event, &index.to_le_bytes())?;
        memory.fence();
        self.read(memory)
    }
}
