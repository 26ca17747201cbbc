//! Changes of namespaces that outlive the command that asked for them.
//!
//! A reset does not wait for the backend, so a write of before may still be on its way there afterwards. It must
//! not land on top of what the next driver, or the next user, writes to the same blocks, nor change what that one
//! has read. So I/O commands of after wait until the last change of before has ended; everything else goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::prp::Failure;
use crate::session::Ticket;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Which changes are under way.
#[derive(Debug)]
pub(crate) struct Changes {
    /// By QID of the submission queue.
    queues: Mutex<Vec<OfQueue>>,
    /// Changes under way whose command is void. Changed with `queues` locked.
    stale: AtomicU64,
    settled: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfQueue {
    /// Changes under way whose command is not void.
    running: u64,
    /// Lives of the queue up to this number are over.
    retired: u64,
}

/// A change under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    changes: &'a Changes,
    queue: u16,
    number: u64,
}

impl Changes {
    /// Of so many submission queues.
    pub(crate) fn new(queues: usize) -> Self {
        Self {
            queues: Mutex::new(vec![OfQueue::default(); queues]),
            stale: AtomicU64::new(0),
            settled: Condvar::new(),
        }
    }

    /// Waits until no change of a void command is under way.
    pub(crate) fn settle(&self, ticket: Ticket<'_>) -> Result<(), Failure> {
        if self.stale.load(Ordering::SeqCst) != 0 {
            let mut queues = lock(&self.queues);
            while self.stale.load(Ordering::SeqCst) != 0 && ticket.is_valid() {
                queues = wait(&self.settled, queues);
            }
        }
        if ticket.is_valid() {
            Ok(())
        } else {
            Err(Failure::Void)
        }
    }

    /// As [`settle`](Self::settle), and begins a change for a command of queue `queue`.
    pub(crate) fn begin(&self, queue: u16, ticket: Ticket<'_>) -> Result<Change<'_>, Failure> {
        self.settle(ticket)?;
        let mut queues = lock(&self.queues);
        match queues.get_mut(usize::from(queue)) {
            Some(of_queue) if ticket.number() > of_queue.retired => {
                of_queue.running += 1;
                Ok(Change {
                    changes: self,
                    queue,
                    number: ticket.number(),
                })
            }
            _ => Err(Failure::Void),
        }
    }

    /// Commands of queue `queue` are void, those of its lives up to number `last`.
    pub(crate) fn retire(&self, queue: u16, last: u64) {
        let mut queues = lock(&self.queues);
        if let Some(of_queue) = queues.get_mut(usize::from(queue)) {
            self.stale
                .fetch_add(core::mem::take(&mut of_queue.running), Ordering::SeqCst);
            of_queue.retired = last;
        }
    }

    /// Has commands that wait see whether they are void.
    pub(crate) fn wake(&self) {
        drop(lock(&self.queues));
        self.settled.notify_all();
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut queues = lock(&self.changes.queues);
        let Some(of_queue) = queues.get_mut(usize::from(self.queue)) else {
            return;
        };
        if self.number > of_queue.retired {
            of_queue.running -= 1;
        } else if self.changes.stale.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.changes.settled.notify_all();
        }
    }
}
