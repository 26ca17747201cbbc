//! The delivery thread: writes the eventfds of interrupts that came about on a front end's thread, and listens to
//! the eventfd by which the user unmasks INTx.
//!
//! What waits for it is a set, not a list ([`Latch`]): one bit a vector, so its size does not depend on what a user
//! does, and an interrupt that is already waiting is not sent twice. What the thread has taken out belongs to the user
//! whom it was taken for: if that one leaves meanwhile, the rest is dropped. A thread that a user has blocked for good
//! (see [`super::eventfd`]) is left to itself and another one started; the old one ends when it comes back.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};

use super::IrqIndex;
use super::eventfd::EventFd;
use super::latch::Latch;
use super::lines::Lines;

/// Words of 64 MSI-X vectors; one word more is for everything else.
const MSIX_WORDS: usize = 2048 / 64;

/// Interrupts that wait for the delivery thread.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Latch<{ MSIX_WORDS + 1 }>,
    /// ERR and REQ: the eventfd itself, since these are signalled when everything else is taken away.
    notices: Mutex<[Option<Arc<EventFd>>; 2]>,
    wake: OwnedFd,
    /// Which thread is the one; others end.
    generation: AtomicU64,
}

impl Queue {
    pub(super) fn new() -> rustix::io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            notices: Mutex::default(),
            waiting: Latch::new(),
            wake,
            generation: AtomicU64::new(0),
        })
    }

    /// Adds one; [`wake`](Self::wake) must follow.
    pub(super) fn push(&self, index: IrqIndex, vector: u16) {
        let bit = match index {
            IrqIndex::MsiX => usize::from(vector),
            IrqIndex::Msi => MSIX_WORDS * 64 + usize::from(vector % 32),
            IrqIndex::Intx => MSIX_WORDS * 64 + 32,
            IrqIndex::Err | IrqIndex::Req => return,
        };
        self.waiting.add(bit);
    }

    /// Adds ERR or REQ; [`wake`](Self::wake) must follow.
    pub(super) fn notice(&self, index: IrqIndex, target: Arc<EventFd>) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices[usize::from(index == IrqIndex::Req)] = Some(target);
    }

    fn take_notices(&self) -> [Option<Arc<EventFd>>; 2] {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the delivery thread look.
    pub(super) fn wake(&self) {
        self.waiting.ring(|| {
            // The only failure is a full counter, and then the thread is awake already.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        });
    }

    /// Forgets everything but ERR and REQ.
    pub(super) fn clear(&self) {
        self.waiting.clear();
    }

    /// Takes out everything.
    pub(super) fn take(&self) -> Waiting {
        Waiting(self.waiting.take())
    }

    /// Ends the delivery thread, as soon as it isn't blocked.
    pub(super) fn dismiss(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }
}

/// Interrupts taken out of the queue.
#[derive(Debug)]
pub(super) struct Waiting([u64; MSIX_WORDS + 1]);

impl Waiting {
    /// Gives them one by one.
    pub(super) fn each(&self, mut each: impl FnMut(IrqIndex, u16)) {
        for (at, &word) in self.0.iter().enumerate() {
            let mut bits = word;
            while bits != 0 {
                let bit = bits.trailing_zeros() as u16;
                bits &= bits - 1;
                match (at < MSIX_WORDS, bit) {
                    (true, _) => each(IrqIndex::MsiX, at as u16 * 64 + bit),
                    (false, 0..32) => each(IrqIndex::Msi, bit),
                    (false, _) => each(IrqIndex::Intx, 0),
                }
            }
        }
    }
}

/// Starts the delivery thread.
pub(super) fn start(lines: &Arc<Lines>) -> std::io::Result<()> {
    let lines = lines.clone();
    let generation = lines.queue.generation.load(Ordering::SeqCst);
    std::thread::Builder::new()
        .name("delivery".into())
        .spawn(move || run(&lines, generation))
        .map(drop)
}

fn run(lines: &Lines, generation: u64) {
    while lines.queue.generation.load(Ordering::SeqCst) == generation {
        let unmask = lines.unmask_eventfd();
        let mut ready = [(); 2].map(|()| PollFd::new(&lines.queue.wake, PollFlags::IN));
        if let Some(unmask) = &unmask {
            ready[1] = PollFd::new(unmask, PollFlags::IN);
        }
        let used = 1 + usize::from(unmask.is_some());
        if poll(&mut ready[..used], None).is_err() {
            continue;
        }
        if lines.queue.generation.load(Ordering::SeqCst) != generation {
            // The wake-up is for the thread that has taken over.
            return;
        }
        let unmasked = unmask.is_some() && ready[1].revents().contains(PollFlags::IN);
        lines.queue.waiting.answer(|| {
            let _ = rustix::io::read(&lines.queue.wake, &mut [0; 8]);
        });
        let notices = lines.queue.take_notices();
        notices.iter().flatten().for_each(|target| target.signal());
        drop(notices);
        let (waiting, user) = lines.take_waiting();
        waiting.each(|index, vector| lines.deliver_queued(user, index, vector));
        if unmasked
            && let Some(unmask) = &unmask
            && unmask.take().is_some()
        {
            lines.unmask_intx(unmask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interrupt_goes_through_the_set_once() {
        let queue = Queue::new().unwrap();
        let mut all: Vec<_> = (0..2048).map(|v| (IrqIndex::MsiX, v)).collect();
        all.extend((0..32).map(|v| (IrqIndex::Msi, v)));
        all.push((IrqIndex::Intx, 0));
        for &(index, vector) in all.iter().chain(&all) {
            queue.push(index, vector);
        }
        let mut taken = Vec::new();
        queue.take().each(|index, vector| taken.push((index, vector)));
        assert_eq!(taken, all);
        queue
            .take()
            .each(|index, vector| panic!("{index:?} {vector} came twice"));
    }
}
