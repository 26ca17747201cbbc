//! Doorbells that the user's kernel can ring: registers where all that matters of a store is that it came about.
//!
//! A store to such a register need not come as a message. The user gets an eventfd and gives it to its KVM as an
//! ioeventfd; a store of its machine's then wakes the device, and neither the user's process nor a front end of ours
//! is in between.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::Width;
use crate::irq::EventFd;

/// A register of a BAR whose stores the user's kernel may turn into writes of an eventfd.
///
/// The value of a store is lost on that way, and so is what COMMAND and the power state say: the user takes its
/// ioeventfd away while the BAR is not to be seen, as it does with memory that it has mapped.
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// Byte offset in the BAR.
    pub offset: u64,
    /// How wide the stores are that ring it; `None`: of any width.
    pub width: Option<Width>,
    /// What they store; `None`: any value. Where there is one, so is a width.
    pub value: Option<u64>,
    /// What is written for each store, another one for each user ([`Bell::eventfd`]).
    pub eventfd: Arc<OwnedFd>,
}

/// The device's side of a doorbell: an eventfd that it shares with its user, made anew for each.
///
/// The user may fill, empty and switch it between blocking and not at any moment. Nothing here blocks for that, and
/// how often it was rung is the user's word.
#[derive(Debug)]
pub struct Bell {
    rung: EventFd,
    /// As devices hand it on.
    eventfd: Arc<OwnedFd>,
    /// Ours alone: the waiting is over.
    end: OwnedFd,
}

impl Bell {
    /// Makes one.
    ///
    /// # Errors
    /// Where the system gives no descriptors.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let eventfd = eventfd(0, flags)?;
        Ok(Self {
            rung: EventFd::new(eventfd.try_clone()?),
            eventfd: Arc::new(eventfd),
            end: rustix::event::eventfd(0, flags)?,
        })
    }

    /// What the user is to have, for [`Doorbell::eventfd`].
    #[must_use]
    pub fn eventfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.eventfd)
    }

    /// Waits until it is rung, or [`end`](Self::end): `false`. What rang it is still to be taken.
    #[must_use]
    pub fn wait(&self) -> bool {
        let mut ready = [
            PollFd::new(&self.end, PollFlags::IN),
            PollFd::new(&self.rung, PollFlags::IN),
        ];
        // A signal interrupts the waiting, no more.
        while poll(&mut ready, None).is_err() {}
        ready[0].revents().is_empty()
    }

    /// How often it was rung since this was last asked; 0 also where the user has emptied the eventfd.
    #[must_use]
    pub fn take(&self) -> u64 {
        self.rung.take().unwrap_or(0)
    }

    /// Ends the waiting, for ever.
    pub fn end(&self) {
        // Its only writer, once: there is room.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    fn ring(bell: &Bell, times: u64) {
        rustix::io::write(&*bell.eventfd(), &times.to_ne_bytes()).unwrap();
    }

    #[test]
    fn every_ring_is_counted_however_few_wakes_there_are() {
        let bell = Bell::new().unwrap();
        ring(&bell, 1);
        ring(&bell, 1);
        assert!(bell.wait());
        assert_eq!(bell.take(), 2);
        assert_eq!(bell.take(), 0);
    }

    #[test]
    fn a_user_who_makes_it_blocking_and_empties_it_blocks_nobody() {
        let bell = Bell::new().unwrap();
        ring(&bell, 1);
        assert!(bell.wait());
        fcntl_setfl(&*bell.eventfd(), OFlags::empty()).unwrap();
        rustix::io::read(&*bell.eventfd(), &mut [0; 8]).unwrap();
        assert_eq!(bell.take(), 0);
    }

    #[test]
    fn the_end_comes_even_where_it_is_rung_without_end() {
        let bell = Bell::new().unwrap();
        ring(&bell, u64::MAX - 1);
        bell.end();
        assert!(!bell.wait());
        assert!(!bell.wait());
    }
}
