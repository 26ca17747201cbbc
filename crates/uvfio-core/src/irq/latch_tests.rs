//! The latch in every order in which threads can run, with memory as weakly ordered as the language allows.

/// What the latch is made of here: the model checker's.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

#[path = "latch.rs"]
#[allow(clippy::duplicate_mod)] // that it is compiled twice, with other atomics, is the point
#[allow(dead_code)] // `clear` is tested with what clears
mod latch;

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicU64 as StdCounter, Ordering as StdOrdering};

use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use latch::Latch;

/// An eventfd: rung until it is silenced.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
    }

    fn silence(&self) {
        *self.rung.lock().unwrap() = false;
    }
}

/// Threads that add interrupts, a few each in order, and one that takes them out until it has had each of them. If one
/// is lost it waits for ever, which the checker reports.
fn every_order(threads: &'static [&'static [usize]], preemptions: usize) {
    let orders = StdArc::new(StdCounter::new(0));
    let counted = orders.clone();
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(preemptions);
    checker.check(move || {
        counted.fetch_add(1, StdOrdering::Relaxed);
        let latch = Arc::new(Latch::<1>::new());
        let bell = Arc::new(Bell::default());
        // What an interrupt is about must be seen by whoever takes it.
        let data: Arc<Vec<_>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
        for bits in threads {
            let (latch, bell, data) = (latch.clone(), bell.clone(), data.clone());
            thread::spawn(move || {
                for &bit in *bits {
                    data[bit].store(bit + 1, Relaxed);
                    latch.add(bit);
                    latch.ring(|| bell.ring());
                }
            });
        }
        let wanted = threads
            .iter()
            .flat_map(|bits| bits.iter())
            .fold(0, |all, bit| all | 1 << bit);
        let mut had = 0;
        while had != wanted {
            bell.wait();
            latch.answer(|| bell.silence());
            let [taken] = latch.take();
            assert_eq!(had & taken, 0, "an interrupt came twice");
            for bit in (0..4).filter(|bit| taken >> bit & 1 != 0) {
                assert_eq!(data[bit].load(Relaxed), bit + 1);
            }
            had |= taken;
        }
    });
    assert!(
        orders.load(StdOrdering::Relaxed) > 10,
        "hardly any order was tried"
    );
}

#[test]
fn no_interrupt_is_lost_between_one_that_adds_and_the_thread() {
    every_order(&[&[0, 1, 2]], 4);
}

#[test]
fn no_interrupt_is_lost_between_two_that_add_and_the_thread() {
    every_order(&[&[0, 1], &[2]], 3);
}
