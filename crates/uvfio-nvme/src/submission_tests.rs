//! The shadow doorbell's sleep under a model checker: every interleaving of a host that submits and of the queue's
//! threads, with memory as weakly ordered as the language allows. A wake-up that is lost is a deadlock, which the
//! checker reports.
//!
//! What runs is the queue itself; only locks, the clock and the user's memory are the checker's. A sleep that would
//! end by itself ([`GUARD`]) does not: no wake-up may depend on it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;

use super::*;
use crate::config::PollConfig;
use crate::doorbell::ShadowPages;

const ENTRIES: u32 = 4;
/// IOVAs, as the controller is told them.
const SQ: u64 = 0x1000;
const PAGES: ShadowPages = ShadowPages {
    doorbells: 0x2000,
    events: 0x3000,
};
/// The tail's offset in both pages.
const TAIL: u64 = 2 * 4;

/// The user's memory: the queue, of each entry its identifier alone, and the two dwords of its tail.
struct Memory {
    slots: [AtomicU32; ENTRIES as usize],
    tail: AtomicU32,
    event: AtomicU32,
}

impl Memory {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU32::new(0)),
            tail: AtomicU32::new(0),
            event: AtomicU32::new(0),
        }
    }
}

/// Ordered as `DmaSpace` orders accesses: a read before what comes after it, a write after what came before it.
impl crate::session::Memory for &Memory {
    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault> {
        if let Some(offset) = iova.checked_sub(SQ).filter(|_| data.len() == SQE_BYTES) {
            let slot = &self.slots[offset as usize / SQE_BYTES];
            let cid = slot.load(Ordering::Relaxed) as u16;
            data[2..4].copy_from_slice(&cid.to_le_bytes());
        } else {
            assert_eq!(iova, PAGES.doorbells + TAIL, "an address that is read");
            data.copy_from_slice(&self.tail.load(Ordering::Relaxed).to_le_bytes());
        }
        fence(Ordering::Acquire);
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        assert_eq!(iova, PAGES.events + TAIL, "an address that is written");
        fence(Ordering::Release);
        let value = u32::from_le_bytes(data.try_into().unwrap());
        self.event.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Gate for Memory {
    type Access<'a> = &'a Memory;

    fn enter<'a>(&'a self, _: Ticket<'a>) -> Result<&'a Memory, Fault> {
        Ok(self)
    }
}

/// What the threads of a model share.
struct Model {
    memory: Memory,
    queue: SubmissionQueue,
    poller: Poller,
    counters: Counters,
    executed: AtomicU32,
}

impl Model {
    fn new(poll: PollConfig, threads: usize) -> Arc<Self> {
        let queue = SubmissionQueue::new(1, threads);
        queue.create(&Session::default(), SQ, ENTRIES, 1, Some(PAGES.tail(1)));
        Arc::new(Self {
            memory: Memory::new(),
            queue,
            poller: Poller::new(poll),
            counters: Counters::default(),
            executed: AtomicU32::new(0),
        })
    }

    /// A thread of the queue's, until all `commands` are executed.
    fn serve(&self, commands: u32) {
        loop {
            match self.queue.next(&self.memory, &self.poller, &self.counters) {
                Work::Command(fetched) => {
                    let cid = fetched.sqe.cid.get();
                    assert!(
                        (1..=commands).contains(&u32::from(cid)),
                        "a command that was never submitted: {cid}"
                    );
                    assert!(!fetched.duplicate, "command {cid} twice");
                    self.queue.finish(fetched.ticket, cid);
                    if self.executed.fetch_add(1, Ordering::Relaxed) + 1 == commands {
                        self.queue.stop();
                    }
                }
                Work::Stop => return,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The host: as the specification says (and Linux does), it stores the command, then the tail, and looks at
    /// EventIdx only then.
    fn submit(&self, commands: u32) {
        for number in 1..=commands {
            let (before, now) = ((number - 1) % ENTRIES, number % ENTRIES);
            self.memory.slots[before as usize].store(number, Ordering::Relaxed);
            fence(Ordering::Release);
            self.memory.tail.store(now, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let event = self.memory.event.load(Ordering::Relaxed);
            let [event, now16, before] = [event, now, before].map(|index| index as u16);
            if now16.wrapping_sub(event).wrapping_sub(1) < now16.wrapping_sub(before) {
                assert_eq!(self.queue.ring(now, false), Rang::Good, "the doorbell");
            }
        }
    }
}

/// Checks that all `commands` are executed, with at most `preemptions` switches between threads that could go on.
fn check(poll: PollConfig, threads: usize, commands: u32, preemptions: usize) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(preemptions);
    checker.check(move || {
        let model = Model::new(poll, threads);
        let serving: Vec<_> = (0..threads)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.serve(commands))
            })
            .collect();
        model.submit(commands);
        for thread in serving {
            thread.join().unwrap();
        }
        assert_eq!(
            model.executed.load(Ordering::Relaxed),
            commands,
            "commands executed"
        );
    });
}

#[test]
fn no_doorbell_is_lost_when_the_only_thread_goes_to_sleep() {
    check(PollConfig::Never, 1, 3, 3);
}

#[test]
fn no_doorbell_is_lost_when_one_of_two_threads_goes_to_sleep() {
    check(PollConfig::Never, 2, 2, 2);
}

#[test]
fn no_doorbell_is_lost_when_a_poll_ends() {
    let most = Duration::from_micros(20);
    check(PollConfig::Adaptive { most }, 1, 3, 3);
    check(PollConfig::Adaptive { most }, 2, 2, 2);
}
