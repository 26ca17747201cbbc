//! Counters, for reports and the health log.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a controller has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Doorbells that came by message.
    pub doorbell_messages: u64,
    /// Writes of submission queues' tail doorbells, by message or found in mapped memory.
    pub submission_doorbells: u64,
    /// Writes of completion queues' head doorbells; as for tails.
    pub completion_doorbells: u64,
    /// Times that a queue's shadow doorbell was polled before the host was asked to ring.
    pub polls: u64,
    /// Of those, times that nothing came.
    pub polls_in_vain: u64,
    /// Admin commands completed.
    pub admin_commands: u64,
    /// I/O commands completed.
    pub io_commands: u64,
    /// Read and Compare commands completed without error.
    pub reads: u64,
    /// Write commands completed without error.
    pub writes: u64,
    /// Bytes that those read.
    pub bytes_read: u64,
    /// Bytes that those wrote.
    pub bytes_written: u64,
    /// Commands completed with an error.
    pub errors: u64,
    /// Of those, with an error of the backend's.
    pub media_errors: u64,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts.
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters while they count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) doorbell_messages: Counter,
    pub(crate) submission_doorbells: Counter,
    pub(crate) completion_doorbells: Counter,
    pub(crate) polls: Counter,
    pub(crate) polls_in_vain: Counter,
    pub(crate) admin_commands: Counter,
    pub(crate) io_commands: Counter,
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) bytes_written: Counter,
    pub(crate) errors: Counter,
    pub(crate) media_errors: Counter,
}

impl Counters {
    /// Their values.
    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            doorbell_messages: self.doorbell_messages.get(),
            submission_doorbells: self.submission_doorbells.get(),
            completion_doorbells: self.completion_doorbells.get(),
            polls: self.polls.get(),
            polls_in_vain: self.polls_in_vain.get(),
            admin_commands: self.admin_commands.get(),
            io_commands: self.io_commands.get(),
            reads: self.reads.get(),
            writes: self.writes.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
            errors: self.errors.get(),
            media_errors: self.media_errors.get(),
        }
    }
}
