//! Doorbells as memory that the host may map, and the threads that watch it.
//!
//! A store into memory wakes nobody, so one thread looks at every doorbell, over and over, and does what a message
//! would have done: [`Shared::ring`], which checks the value. One thread for the controller, not one for each queue:
//! a look at all doorbells is a few cache lines, and however many queues a host makes, one processor is what
//! it costs. Commands of a queue whose commands are quick it executes itself, since to wake another would take
//! longer; others are for the queues' own threads. Should one take long all the same, a second thread, which
//! otherwise sleeps, takes the watch over within [`GUARD`].
//!
//! Doorbells that come by message are written to the memory too, so that one place tells what the host wants.
//! The lock is held for writing wherever queues or users change, so no value of before is rung after.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use uvfio_core::{BarMemory, Mappable};

use crate::executor::carry_out;
use crate::io::Buffer;
use crate::shared::Shared;
use crate::spec::registers::{DOORBELL_STRIDE, DOORBELLS, PAGE};
use crate::sync::{Condvar, Instant, Mutex, lock, wait, wait_for, yield_now};

/// How long the admin queue alone is watched without a pause after it was last used.
const LINGER: Duration = Duration::from_millis(1);
/// The pause between two looks from then on, until there is an I/O queue.
const PAUSE: Duration = Duration::from_micros(100);
/// Threads that watch in turns.
pub(crate) const WATCHERS: usize = 2;
/// How long a command may keep the one who watches from it.
const GUARD: Duration = Duration::from_millis(1);
/// Looks between two offers of the processor to others.
const LOOKS: u32 = 16;

/// The doorbells' page.
#[derive(Debug)]
pub(crate) struct DoorbellPage {
    page: RwLock<Option<BarMemory>>,
    /// What each doorbell held when it was last looked at: as many as there are.
    seen: Vec<AtomicU32>,
    bus_master: AtomicBool,
    rest: Mutex<Rest>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Rest {
    /// There is something new to watch.
    called: bool,
    stop: bool,
    /// A thread watches.
    watched: bool,
    /// It sleeps, so there is nothing to guard.
    asleep: bool,
    /// The other sleeps for [`GUARD`] only.
    guarded: bool,
}

/// Which queues there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queues {
    /// None.
    None,
    /// Those of admin commands.
    Admin,
    /// I/O queues, too.
    Io,
}

impl DoorbellPage {
    /// Of a controller with so many pairs of I/O queues. No memory is there before a user.
    pub(crate) fn new(queues: u16) -> Self {
        Self {
            page: RwLock::new(None),
            seen: (0..2 * (u32::from(queues) + 1))
                .map(|_| AtomicU32::new(0))
                .collect(),
            bus_master: AtomicBool::new(false),
            rest: Mutex::default(),
            woken: Condvar::default(),
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Option<BarMemory>> {
        self.page.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Option<BarMemory>> {
        self.page.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user has come: memory of its own, which no user of before knows.
    pub(crate) fn renew(&self) {
        let new = BarMemory::new(DOORBELLS, PAGE);
        if let Err(why) = &new {
            tracing::error!(%why, "doorbells can't be mapped; they come by message");
        }
        let mut page = self.exclusive();
        *page = new.ok();
        self.forget();
    }

    /// The user has gone.
    pub(crate) fn remove(&self) {
        *self.exclusive() = None;
    }

    /// Makes every doorbell 0: the queues have gone.
    pub(crate) fn clear(&self) {
        let page = self.exclusive();
        if let Some(page) = page.as_ref() {
            page.clear();
        }
        self.forget();
    }

    fn forget(&self) {
        for seen in &self.seen {
            seen.store(0, Ordering::Relaxed);
        }
    }

    /// A queue is about to come into being: its doorbell, number `doorbell`, is 0.
    pub(crate) fn begin(&self, doorbell: usize) {
        let page = self.exclusive();
        if let (Some(page), Some(seen)) = (page.as_ref(), self.seen.get(doorbell)) {
            page.write_u32(offset(doorbell as u64), 0);
            seen.store(0, Ordering::Relaxed);
        }
    }

    /// What the host may map.
    pub(crate) fn mappable(&self) -> Option<Mappable> {
        self.shared().as_ref().map(BarMemory::mappable)
    }

    /// Whether there is memory to map.
    pub(crate) fn exists(&self) -> bool {
        self.shared().is_some()
    }

    /// Reads a doorbell.
    pub(crate) fn read(&self, doorbell: u64) -> u32 {
        let page = self.shared();
        page.as_ref().map_or(0, |page| page.read_u32(offset(doorbell)))
    }

    /// A doorbell came by message. False where nobody watches that one: it must be rung.
    pub(crate) fn write(&self, doorbell: u64, value: u32) -> bool {
        let watched = usize::try_from(doorbell).is_ok_and(|number| number < self.seen.len());
        {
            let page = self.shared();
            let Some(page) = page.as_ref().filter(|_| watched) else {
                return false;
            };
            page.write_u32(offset(doorbell), value);
        }
        self.call();
        true
    }

    /// Bus mastering was switched. While it is off nothing can be fetched, and nobody watches.
    pub(crate) fn set_bus_master(&self, on: bool) {
        self.bus_master.store(on, Ordering::Relaxed);
        if on {
            self.call();
        }
    }

    /// Ends the threads that watch.
    pub(crate) fn stop(&self) {
        lock(&self.rest).stop = true;
        self.woken.notify_all();
    }

    /// Ends the sleep of the thread that watches: there are queues.
    pub(crate) fn call(&self) {
        let mut rest = lock(&self.rest);
        if !rest.called {
            rest.called = true;
            self.woken.notify_all();
        }
    }

    /// Waits until nobody watches. False where the thread is to end.
    fn take_watch(&self) -> bool {
        let mut rest = lock(&self.rest);
        while rest.watched && !rest.stop {
            if rest.asleep {
                rest = wait(&self.woken, rest);
            } else {
                rest.guarded = true;
                rest = wait_for(&self.woken, rest, GUARD);
                rest.guarded = false;
            }
        }
        rest.watched = true;
        !rest.stop
    }

    /// The watch is free for as long as a command may take.
    fn leave_watch(&self) {
        let mut rest = lock(&self.rest);
        rest.watched = false;
        if !rest.guarded {
            self.woken.notify_all();
        }
    }

    /// Takes the watch back; false where another has it now.
    fn return_to_watch(&self) -> bool {
        let mut rest = lock(&self.rest);
        !std::mem::replace(&mut rest.watched, true)
    }

    /// Sleeps until called, for `most` at most.
    fn sleep(&self, most: Option<Duration>) {
        let mut rest = lock(&self.rest);
        rest.asleep = true;
        match most {
            _ if rest.called || rest.stop => {}
            Some(most) => rest = wait_for(&self.woken, rest, most),
            None => {
                while !rest.called && !rest.stop {
                    rest = wait(&self.woken, rest);
                }
            }
        }
        rest.asleep = false;
        rest.called = false;
    }

    /// Watches the doorbells, in turns with the other watcher, until told to stop.
    pub(crate) fn watch(&self, shared: &Shared) {
        let mut buffer = Buffer::default();
        while self.take_watch() {
            let mut used = Instant::now();
            while !lock(&self.rest).stop {
                let mine = self.look_on(shared, &mut used);
                if mine != 0 {
                    if !self.execute(shared, mine, &mut buffer) {
                        break;
                    }
                    continue;
                }
                match shared.queues_there() {
                    Queues::None => self.sleep(None),
                    _ if !self.bus_master.load(Ordering::Relaxed) => self.sleep(None),
                    Queues::Admin if used.elapsed() > LINGER => self.sleep(Some(PAUSE)),
                    Queues::Admin | Queues::Io => yield_now(),
                }
            }
        }
    }

    /// Executes commands of the queues `mine`, a bit each, one of each in turn, and watches in between. False where
    /// another has taken the watch over meanwhile.
    fn execute(&self, shared: &Shared, mut mine: u128, buffer: &mut Buffer) -> bool {
        while mine != 0 {
            let turn = mine;
            for id in (0..u128::BITS as u16).filter(|id| turn & 1 << id != 0) {
                let Some(queue) = shared.submission.get(usize::from(id)) else {
                    continue;
                };
                let Some(work) = queue.try_next(&shared.session, &shared.poller, &shared.counters) else {
                    mine &= !(1 << id);
                    continue;
                };
                self.leave_watch();
                let goes_on = carry_out(shared, id, work, buffer);
                if !self.return_to_watch() {
                    // What is left is for the queues' own threads.
                    for (id, queue) in (0..).zip(&shared.submission) {
                        if mine & 1 << id != 0 {
                            queue.wake();
                        }
                    }
                    return false;
                }
                if !goes_on {
                    return true;
                }
            }
            mine |= self.look(shared).unwrap_or_default();
        }
        true
    }

    /// Looks until there is something for the caller to execute, [`LOOKS`] times at most, and gives the queues as
    /// [`look`](Self::look) does. `used`: when a doorbell had changed last.
    fn look_on(&self, shared: &Shared, used: &mut Instant) -> u128 {
        for _ in 0..LOOKS {
            let Some(mine) = self.look(shared) else { continue };
            *used = Instant::now();
            if mine != 0 {
                return mine;
            }
        }
        0
    }

    /// Looks at each doorbell once, and rings those that have changed. Gives the submission queues, a bit each, whose
    /// commands the caller is to execute; none where no doorbell had changed.
    fn look(&self, shared: &Shared) -> Option<u128> {
        let mut all = None;
        {
            let page = self.shared();
            let page = page.as_ref()?;
            for (number, seen) in (0..).zip(&self.seen) {
                let value = page.read_u32(offset(number));
                if value != seen.load(Ordering::Relaxed) {
                    seen.store(value, Ordering::Relaxed);
                    let rung = shared.ring(number, value, true);
                    all = Some(rung.and(all.unwrap_or_default()));
                }
            }
        }
        // Without the lock: an interrupt may be held up by its user, and others wait for the lock with locks in hand.
        all.map(|rung| {
            shared.rung(rung);
            rung.yours
        })
    }
}

/// Where doorbell `number` is in the BAR.
fn offset(number: u64) -> u64 {
    DOORBELLS + number * DOORBELL_STRIDE
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::DoorbellPage;

    #[test]
    fn no_call_is_lost_on_whoever_goes_to_sleep() {
        loom::model(|| {
            let page = Arc::new(DoorbellPage::new(1));
            let changed = Arc::new(AtomicBool::new(false));
            let (other_page, other_changed) = (Arc::clone(&page), Arc::clone(&changed));
            // A sleep that nobody ends is a deadlock, which the checker reports.
            let watcher = thread::spawn(move || {
                while !other_changed.load(Ordering::Relaxed) {
                    other_page.sleep(None);
                }
            });
            page.call();
            changed.store(true, Ordering::Relaxed);
            page.call();
            watcher.join().unwrap();
        });
    }
}
