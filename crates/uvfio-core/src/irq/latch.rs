//! A set of interrupts that wait for a thread, and how that thread is woken: without a lock, since whoever adds to it
//! must never wait.
//!
//! Whoever adds sets a bit and then rings; the thread that is rung answers and then takes. Between two answers it is
//! rung once, however many add: that is one system call for a burst. What can go wrong is a ring that is spared
//! although the thread has looked already, and will sleep for ever on what it has not seen. So the module is compiled
//! a second time for a model checker, which tries every order (see `latch_tests`).

use super::atomics::{AtomicBool, AtomicU64, Ordering};

/// `WORDS` times 64 interrupts.
#[derive(Debug)]
pub(super) struct Latch<const WORDS: usize> {
    words: [AtomicU64; WORDS],
    /// The thread was rung and has not answered: no need to ring again.
    rung: AtomicBool,
}

impl<const WORDS: usize> Latch<WORDS> {
    pub(super) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            rung: AtomicBool::new(false),
        }
    }

    /// Adds an interrupt; [`ring`](Self::ring) must follow. One that is in the set already stays there once.
    pub(super) fn add(&self, bit: usize) {
        if let Some(word) = self.words.get(bit / 64) {
            word.fetch_or(1 << (bit % 64), Ordering::Release);
        }
    }

    /// Has the thread look: by `bell`, where it was not rung already.
    pub(super) fn ring(&self, bell: impl FnOnce()) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            bell();
        }
    }

    /// The thread was rung: it silences the bell, and will [`take`](Self::take) what there is.
    pub(super) fn answer(&self, silence: impl FnOnce()) {
        // In this order: whoever adds after the second line rings again, and what was added before it is seen by
        // `take`.
        silence();
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Takes out everything.
    pub(super) fn take(&self) -> [u64; WORDS] {
        std::array::from_fn(|at| {
            self.words
                .get(at)
                .map_or(0, |word| word.swap(0, Ordering::Acquire))
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Release);
        }
    }
}
