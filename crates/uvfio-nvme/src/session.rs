//! The way to the user's memory and interrupts, and the gate that a reset closes.
//!
//! Everything a device thread does to the user, it does through an [`Access`], which it gets with the [`Ticket`]
//! of the command it works for. Making a ticket void is one atomic store, so the socket's thread can do it; after
//! that, [`Session::barrier`] waits until every access of before has ended. These are copies, bounded in size;
//! disk I/O is never done with an access in hand. A command whose ticket became void ends without a trace.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uvfio_core::{DmaError, Host};

/// How often an access by message is tried that was abandoned: an unmap of other memory abandons it, too.
const MESSAGE_ATTEMPTS: u32 = 4;

/// Why memory was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The command's queue is no longer there.
    #[error("the command's queue is gone")]
    Void,
    /// The memory refused.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

/// Whether a queue is still the one that a command came from.
#[derive(Debug, Default)]
pub(crate) struct Validity(AtomicU64);

impl Validity {
    /// A new life, by the number that [`Session::next_number`] gave.
    pub(crate) fn renew(&self, number: u64) {
        self.0.store(number, Ordering::SeqCst);
    }

    /// Makes every ticket void.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// A ticket for the life that is on, valid or not.
    pub(crate) fn ticket(&self) -> Ticket<'_> {
        Ticket {
            validity: self,
            number: self.0.load(Ordering::SeqCst),
        }
    }
}

/// A command's right to touch the user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket<'a> {
    validity: &'a Validity,
    number: u64,
}

impl Ticket<'_> {
    /// Whether the command still counts.
    pub(crate) fn is_valid(&self) -> bool {
        self.number != 0 && self.validity.0.load(Ordering::SeqCst) == self.number
    }

    /// The number of the life it is for.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// The user, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Session {
    host: RwLock<Option<Host>>,
    lives: AtomicU64,
}

impl Session {
    /// A number for a queue's life, never 0 and never the same.
    pub(crate) fn next_number(&self) -> u64 {
        self.lives.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number given.
    pub(crate) fn last_number(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Begins an access. Must not be held while waiting for anything, nor begun twice by one thread.
    pub(crate) fn enter<'a>(&'a self, ticket: Ticket<'a>) -> Result<Access<'a>, Fault> {
        if !ticket.is_valid() {
            return Err(Fault::Void);
        }
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner);
        if ticket.is_valid() && host.is_some() {
            Ok(Access { host, ticket })
        } else {
            Err(Fault::Void)
        }
    }

    /// Holds resets off for as long as the guard lives.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, Option<Host>> {
        self.host.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every access of before has ended, and keeps new ones out for as long as the guard lives.
    pub(crate) fn barrier(&self) -> RwLockWriteGuard<'_, Option<Host>> {
        self.host.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user's memory and interrupts, in hand.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    host: RwLockReadGuard<'a, Option<Host>>,
    ticket: Ticket<'a>,
}

impl Access<'_> {
    /// The host.
    pub(crate) fn host(&self) -> Result<&Host, Fault> {
        self.host.as_ref().ok_or(Fault::Void)
    }

    fn attempt(&self, mut access: impl FnMut(&Host) -> Result<(), DmaError>) -> Result<(), Fault> {
        let host = self.host()?;
        for _ in 1..MESSAGE_ATTEMPTS {
            match access(host) {
                Err(DmaError::Message { .. }) if self.ticket.is_valid() => {}
                Err(_) if !self.ticket.is_valid() => return Err(Fault::Void),
                other => return Ok(other?),
            }
        }
        Ok(access(host)?)
    }
}

/// Memory by IOVA: the user's, or a stand-in of a test's.
pub(crate) trait Memory {
    /// Reads `data.len()` bytes at `iova`.
    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault>;
    /// Writes `data` at `iova`.
    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault>;
    /// Comes between writes of before and reads of after, as the host sees them.
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// The way to memory, which a reset closes: the [`Session`], or a stand-in of a test's.
pub(crate) trait Gate {
    /// Memory in hand.
    type Access<'a>: Memory
    where
        Self: 'a;
    /// Begins an access; see [`Session::enter`].
    fn enter<'a>(&'a self, ticket: Ticket<'a>) -> Result<Self::Access<'a>, Fault>;
}

impl Gate for Session {
    type Access<'a> = Access<'a>;

    fn enter<'a>(&'a self, ticket: Ticket<'a>) -> Result<Access<'a>, Fault> {
        self.enter(ticket)
    }
}

impl Memory for Access<'_> {
    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.attempt(|host| host.dma().read(iova, data))
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        self.attempt(|host| host.dma().write(iova, data))
    }
}
