//! Shadow doorbells: queue indices in the user's memory instead of messages (Doorbell Buffer Config, section 5.3
//! and 7.13).
//!
//! The host stores a new tail (or head) in the shadow page, and rings the real doorbell only if the value passes
//! the one that the controller left in the EventIdx page. So the controller, before it sleeps, writes EventIdx,
//! and *then* looks at the shadow once more: the host does the two in the opposite order, each with a full fence
//! between, so one of them always sees the other's store. A controller that is busy leaves EventIdx where it is,
//! and the host stays silent.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

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

    /// Stores what the controller knows, once, when the shadow comes into use.
    pub(crate) fn publish(self, memory: &impl Memory, index: u32) -> Result<(), Fault> {
        memory.write(self.value, &index.to_le_bytes())?;
        memory.write(self.event, &index.to_le_bytes())
    }

    /// Asks the host to ring when it goes past `index`, and gives what it has stored by then.
    pub(crate) fn arm(self, memory: &impl Memory, index: u32) -> Result<u32, Fault> {
        memory.write(self.event, &index.to_le_bytes())?;
        fence(Ordering::SeqCst);
        self.read(memory)
    }
}

/// How long a drained queue's shadow is polled before the host is asked to ring: about what a doorbell costs, all
/// in all.
const POLL: Duration = Duration::from_micros(20);
/// Pauses of the processor between two looks.
const SPINS: u32 = 16;
/// Polls in vain, after one that was not, until they are given up.
const PATIENCE: u8 = 4;
/// How often polling is tried again once given up: every so many times.
const RETRY: u8 = 64;

/// Whether to poll a shadow. With a host that submits while commands are on their way polling saves doorbells; with
/// one that waits for each completion it would only burn time, so it is given up until it pays again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polling {
    /// Polls in vain that are left.
    credit: u8,
    /// Times that it was not worth it.
    refrained: u8,
}

impl Polling {
    /// Whether to poll now, rather than to ask for a doorbell at once.
    pub(crate) fn is_worth_it(&mut self) -> bool {
        if self.credit == 0 {
            self.refrained = (self.refrained + 1) % RETRY;
            self.credit = u8::from(self.refrained == 0);
        }
        self.credit > 0
    }

    /// Polls until `found`, for a short while.
    pub(crate) fn poll(&mut self, mut found: impl FnMut() -> Result<bool, Fault>) -> Result<(), Fault> {
        if self.credit == 0 || found()? {
            return Ok(());
        }
        let end = Instant::now() + POLL;
        while Instant::now() < end {
            for _ in 0..SPINS {
                std::hint::spin_loop();
            }
            if found()? {
                self.credit = PATIENCE;
                return Ok(());
            }
        }
        self.credit -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_in_vain_is_given_up_and_tried_again_now_and_then() {
        let mut polling = Polling {
            credit: PATIENCE,
            refrained: 0,
        };
        for left in (0..PATIENCE).rev() {
            assert!(polling.is_worth_it(), "{polling:?}");
            polling.poll(|| Ok(false)).unwrap();
            assert_eq!(polling.credit, left);
        }
        let tried = (0..2 * u32::from(RETRY)).filter(|_| {
            let worth = polling.is_worth_it();
            polling.poll(|| Ok(false)).unwrap();
            worth
        });
        assert_eq!(tried.count(), 2, "tries among {} occasions", 2 * u32::from(RETRY));
    }

    #[test]
    fn a_poll_that_finds_something_gives_patience() {
        let mut polling = Polling {
            credit: 1,
            refrained: 0,
        };
        let mut looks = 0;
        let found = || {
            looks += 1;
            Ok(looks > 1)
        };
        polling.poll(found).unwrap();
        assert_eq!(polling.credit, PATIENCE);
    }

    #[test]
    fn without_credit_the_shadow_is_not_even_looked_at() {
        let mut polling = Polling::default();
        polling.poll(|| Err(Fault::Void)).unwrap();
        assert_eq!(polling.credit, 0);
    }
}
