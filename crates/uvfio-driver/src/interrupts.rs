//! Interrupts and events, each an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::function::Shared;
use crate::{DriverError, IrqKind, Result};

/// Enabled interrupts of one kind; disabled when dropped.
///
/// A vector counts the interrupts that have come since it was last read.
pub struct Interrupts {
    shared: Arc<Shared>,
    kind: IrqKind,
    eventfds: Vec<OwnedFd>,
}

impl Interrupts {
    pub(crate) fn enable(shared: &Arc<Shared>, kind: IrqKind, count: u32) -> Result<Self> {
        let mut transport = shared.transport();
        let have = transport.vectors(kind)?;
        if count == 0 || count > have || matches!(kind, IrqKind::Error | IrqKind::Request) {
            return Err(DriverError::Vectors {
                kind,
                wanted: count,
                have,
            });
        }
        let eventfds = counters(count)?;
        if shared.interrupts_in_use.swap(true, Ordering::AcqRel) {
            return Err(DriverError::InterruptsInUse);
        }
        let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
        if let Err(error) = transport.enable_vectors(kind, &borrowed) {
            // With many vectors, some may have been enabled before.
            let _ = transport.disable_vectors(kind);
            shared.interrupts_in_use.store(false, Ordering::Release);
            return Err(error);
        }
        drop(transport);
        Ok(Self {
            shared: Arc::clone(shared),
            kind,
            eventfds,
        })
    }

    /// Which kind.
    #[must_use]
    pub fn kind(&self) -> IrqKind {
        self.kind
    }

    /// How many vectors are enabled.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.eventfds.len() as u32
    }

    /// The eventfd of a vector, for a loop of the caller's: readable once an interrupt has come. It does not block;
    /// read it with [`poll`](Self::poll).
    ///
    /// # Errors
    /// Where the vector is not enabled.
    pub fn fd(&self, vector: u32) -> Result<BorrowedFd<'_>> {
        self.eventfd(vector).map(AsFd::as_fd)
    }

    /// How many interrupts of a vector have come since it was last read. Does not wait.
    ///
    /// # Errors
    /// Where the vector is not enabled.
    pub fn poll(&self, vector: u32) -> Result<u64> {
        take(self.eventfd(vector)?)
    }

    /// Waits for an interrupt of a vector, for ever where `patience` is none, and says how many have come; 0 where
    /// none came in time.
    ///
    /// # Errors
    /// Where the vector is not enabled.
    pub fn wait(&self, vector: u32, patience: Option<Duration>) -> Result<u64> {
        let eventfd = self.eventfd(vector)?;
        if wait_for(&[eventfd.as_fd()], patience)?.is_some() {
            take(eventfd)
        } else {
            Ok(0)
        }
    }

    /// Waits for an interrupt of any vector: gives the vector and how many of it have come, or none where none came in
    /// time. Of several the lowest comes first.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_any(&self, patience: Option<Duration>) -> Result<Option<(u32, u64)>> {
        let all: Vec<_> = self.eventfds.iter().map(AsFd::as_fd).collect();
        match wait_for(&all, patience)? {
            Some(vector) => Ok(Some((vector as u32, self.poll(vector as u32)?))),
            None => Ok(None),
        }
    }

    /// Lets INTx come again: it is masked by itself when it is delivered. Call it once the device's cause has been
    /// acknowledged. Does nothing for messages.
    ///
    /// # Errors
    /// Where the other side did not answer.
    pub fn rearm(&self) -> Result<()> {
        if self.kind == IrqKind::Intx {
            self.shared.transport().mask_intx(false)?;
        }
        Ok(())
    }

    fn eventfd(&self, vector: u32) -> Result<&OwnedFd> {
        let enabled = self.count();
        usize::try_from(vector)
            .ok()
            .and_then(|vector| self.eventfds.get(vector))
            .ok_or(DriverError::NoVector { vector, enabled })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if let Err(error) = self.shared.transport().disable_vectors(self.kind) {
            tracing::debug!(kind = %self.kind, %error, "interrupts could not be disabled");
        }
        self.shared.interrupts_in_use.store(false, Ordering::Release);
    }
}

/// What a device has to say outside its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has reported an error (AER): reset it, or give it up.
    Error,
    /// It is wanted back: finish and close it. Whoever asked may take it away if that takes too long.
    RemovalRequested,
}

/// The device's events; not delivered any more once this is dropped.
pub struct Events {
    shared: Arc<Shared>,
    sources: Vec<(IrqKind, Event, OwnedFd)>,
}

impl Events {
    pub(crate) fn enable(shared: &Arc<Shared>) -> Result<Self> {
        let mut events = Self {
            shared: Arc::clone(shared),
            sources: Vec::new(),
        };
        for (kind, event) in [
            (IrqKind::Error, Event::Error),
            (IrqKind::Request, Event::RemovalRequested),
        ] {
            let mut transport = shared.transport();
            // A server that knows fewer kinds of interrupts than VFIO has refuses to tell of the others.
            if !transport.vectors(kind).is_ok_and(|count| count > 0) {
                continue;
            }
            let Some(eventfd) = counters(1)?.pop() else {
                continue;
            };
            transport.enable_vectors(kind, &[eventfd.as_fd()])?;
            drop(transport);
            events.sources.push((kind, event, eventfd));
        }
        Ok(events)
    }

    /// Whether the device can tell this at all.
    #[must_use]
    pub fn tells(&self, event: Event) -> bool {
        self.sources.iter().any(|(_, known, _)| *known == event)
    }

    /// The eventfds, for a loop of the caller's: readable when [`poll`](Self::poll) has an event to give.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources.iter().map(|(_, _, eventfd)| eventfd.as_fd())
    }

    /// An event that has come, if any. Does not wait.
    ///
    /// # Errors
    /// The system's.
    pub fn poll(&self) -> Result<Option<Event>> {
        self.wait(Some(Duration::ZERO))
    }

    /// Waits for an event, for ever where `patience` is none.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Option<Event>> {
        let all: Vec<_> = self.fds().collect();
        let Some(first) = wait_for(&all, patience)? else {
            return Ok(None);
        };
        let Some((_, event, eventfd)) = self.sources.get(first) else {
            return Ok(None);
        };
        take(eventfd)?;
        Ok(Some(*event))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for (kind, _, _) in &self.sources {
            if let Err(error) = self.shared.transport().disable_vectors(*kind) {
                tracing::debug!(%kind, %error, "an event could not be disabled");
            }
        }
    }
}

fn counters(count: u32) -> Result<Vec<OwnedFd>> {
    (0..count)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
        .collect::<rustix::io::Result<_>>()
        .map_err(|errno| DriverError::system("an eventfd", errno))
}

/// What an eventfd has counted; 0 where nothing came.
fn take(eventfd: &OwnedFd) -> Result<u64> {
    let mut count = [0; 8];
    loop {
        match rustix::io::read(eventfd, &mut count) {
            Ok(8) => return Ok(u64::from_ne_bytes(count)),
            Ok(_) | Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DriverError::system("reading an eventfd", errno)),
        }
    }
}

/// The first of these that is readable; none where none becomes so in time.
fn wait_for(fds: &[BorrowedFd<'_>], patience: Option<Duration>) -> Result<Option<usize>> {
    let until = patience.and_then(|patience| Instant::now().checked_add(patience));
    let mut waited: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut waited, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                return Ok(waited.iter().position(|fd| fd.revents().contains(PollFlags::IN)));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(DriverError::system("waiting for an interrupt", errno)),
        }
    }
}
