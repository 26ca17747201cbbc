//! When to look at a drained queue for a while before asking the host to ring.
//!
//! A host whose next command comes soon is not asked to ring, and saves a message. Each queue keeps a *window*, how
//! long it looks; as halt polling in a hypervisor does, it follows what the host does: it grows to twice the gap
//! in which a command came, shrinks slowly when gaps get shorter, and goes to zero when commands have come too late
//! several times on end. So a busy queue polls, and an idle one costs nothing: each command is followed by at
//! most one window, and only while others come within [`Poller::most`].

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::PollConfig;
use crate::statistics::Counters;
use crate::sync::{Instant, yield_now};

/// The shortest window that is not zero.
const SHORTEST: Duration = Duration::from_micros(10);
/// Commands on end that come too late before polling is given up.
const PATIENCE: u8 = 4;
/// Pauses of the processor between two looks.
const SPINS: u32 = 16;

/// What one queue knows of its host's habits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polling {
    window: Duration,
    /// Commands on end that came too late.
    late: u8,
    /// When the queue was found drained.
    drained: Option<Instant>,
}

impl Polling {
    /// Whether polling has paid of late.
    pub(crate) fn is_worth_it(&self) -> bool {
        !self.window.is_zero()
    }

    /// The queue is drained: the next command's gap begins.
    pub(crate) fn drained(&mut self, poller: &Poller) {
        if self.drained.is_none() && poller.is_adaptive() {
            self.drained = Some(Instant::now());
        }
    }

    /// A command has come.
    pub(crate) fn arrived(&mut self, poller: &Poller) {
        if let Some(since) = self.drained.take() {
            self.arrived_after(since.elapsed(), poller.most);
        }
    }

    fn arrived_after(&mut self, gap: Duration, most: Duration) {
        if gap <= most {
            self.late = 0;
            let shrunk = self.window - self.window / 8;
            self.window = (2 * gap).max(shrunk).max(SHORTEST).min(most);
        } else {
            self.late = self.late.saturating_add(1);
            if self.late >= PATIENCE {
                self.window = Duration::ZERO;
            }
        }
    }
}

/// What all queues of a controller share.
#[derive(Debug)]
pub(crate) struct Poller {
    /// The longest window; zero where shadows are not polled.
    most: Duration,
    /// Threads that may still begin to poll. Together they leave a processor to the threads that answer messages.
    free: AtomicUsize,
    /// Doorbells are polled in mapped memory.
    always: bool,
}

/// The right to poll, for as long as it lives.
struct Slot<'a>(&'a AtomicUsize);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Poller {
    /// For this machine's processors.
    pub(crate) fn new(config: PollConfig) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            most: match config {
                PollConfig::Adaptive { most } => most,
                // With mapped doorbells there are no shadows.
                PollConfig::Never | PollConfig::Always => Duration::ZERO,
            },
            free: AtomicUsize::new(processors.saturating_sub(1).max(1)),
            always: config == PollConfig::Always,
        }
    }

    /// Whether shadows are polled at all.
    pub(crate) fn is_adaptive(&self) -> bool {
        !self.most.is_zero()
    }

    /// Whether it matters how long the commands of a queue take, one that has a shadow doorbell or not.
    pub(crate) fn times(&self, shadow: bool) -> bool {
        self.always || shadow && self.is_adaptive()
    }

    fn slot(&self) -> Option<Slot<'_>> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1))
            .ok()?;
        Some(Slot(&self.free))
    }

    /// Looks until `done`, or until the queue's window is over. Does not look at all where polling does not pay, or
    /// as many threads as may are at it.
    pub(crate) fn poll<E>(
        &self,
        polling: Polling,
        counters: &Counters,
        mut done: impl FnMut() -> Result<bool, E>,
    ) -> Result<(), E> {
        if !polling.is_worth_it() {
            return Ok(());
        }
        let Some(_slot) = self.slot() else {
            return Ok(());
        };
        counters.polls.add(1);
        let begin = Instant::now();
        loop {
            if done()? {
                return Ok(());
            }
            if begin.elapsed() >= polling.window {
                counters.polls_in_vain.add(1);
                return Ok(());
            }
            for _ in 0..SPINS {
                std::hint::spin_loop();
            }
            // The host may be waiting for this very processor.
            yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(200);

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn poller(free: usize) -> Poller {
        Poller {
            most: MOST,
            free: AtomicUsize::new(free),
            always: false,
        }
    }

    #[test]
    fn the_window_follows_the_gaps_and_never_passes_the_most() {
        let mut polling = Polling::default();
        for (gap, window) in [
            (30, micros(60)),
            (0, micros(60) - micros(60) / 8),
            (150, MOST),
            (200, MOST),
            (1, MOST - MOST / 8),
        ] {
            polling.arrived_after(micros(gap), MOST);
            assert_eq!(polling.window, window, "after a gap of {gap} µs");
        }
        for _ in 0..100 {
            polling.arrived_after(micros(1), MOST);
        }
        assert_eq!(polling.window, SHORTEST, "after many short gaps");
    }

    #[test]
    fn a_queue_whose_commands_come_too_late_stops_polling_and_one_early_command_begins_it_again() {
        let mut polling = Polling::default();
        polling.arrived_after(micros(100), MOST);
        for late in 1..=PATIENCE {
            assert!(polling.is_worth_it(), "before late command {late}");
            polling.arrived_after(micros(201), MOST);
        }
        assert!(!polling.is_worth_it(), "after {PATIENCE} late commands");
        polling.arrived_after(micros(201), MOST);
        assert!(!polling.is_worth_it());
        polling.arrived_after(micros(50), MOST);
        assert_eq!(polling.window, micros(100));
    }

    #[test]
    fn a_window_that_is_over_ends_a_poll_and_a_queue_without_one_is_not_looked_at() {
        let counters = Counters::default();
        let mut polling = Polling::default();
        let untouched: Result<(), ()> = poller(1).poll(polling, &counters, || Err(()));
        assert_eq!(untouched, Ok(()));
        polling.arrived_after(micros(1), MOST);
        // A thread that polls gives way, which it can only do in a model.
        let counters = std::sync::Arc::new(counters);
        let given = std::sync::Arc::clone(&counters);
        loom::model(move || {
            let begin = Instant::now();
            let vain: Result<(), ()> = poller(1).poll(polling, &given, || Ok(false));
            assert_eq!(vain, Ok(()));
            assert!(begin.elapsed() >= SHORTEST);
        });
        let snapshot = counters.snapshot();
        assert_eq!((snapshot.polls, snapshot.polls_in_vain), (1, 1));
    }

    #[test]
    fn no_more_threads_poll_at_once_than_there_are_slots() {
        let poller = poller(1);
        let mut polling = Polling::default();
        polling.arrived_after(micros(100), MOST);
        let counters = Counters::default();
        let mut looks = (0, 0);
        let outer: Result<(), ()> = poller.poll(polling, &counters, || {
            looks.0 += 1;
            poller.poll(polling, &counters, || {
                looks.1 += 1;
                Ok(true)
            })?;
            Ok(true)
        });
        assert_eq!((outer, looks), (Ok(()), (1, 0)), "looks outside, looks inside");
        let again: Result<(), ()> = poller.poll(polling, &counters, || {
            looks.1 += 1;
            Ok(true)
        });
        assert_eq!((again, looks), (Ok(()), (1, 1)), "after the slot was given back");
    }
}
