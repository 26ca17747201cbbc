//! Submission queues: doorbells in, commands out (section 4.1).
//!
//! Several threads serve one queue, so that its commands overlap; one at a time fetches. The ring's lock is held
//! for a few instructions, never while memory of the user's is touched, because the socket's thread takes it for
//! every doorbell.
//!
//! With a shadow doorbell, somebody has to look at it once more before all sleep. While polling pays, the thread
//! that took the last command is the one: quick commands are then fetched, executed and polled for by one thread,
//! and nobody is woken. Another sleeps for [`GUARD`] only, and looks in its place should its command take longer.

use std::time::Duration;

use uvfio_core::DmaError;
use zerocopy::{FromZeros, IntoBytes};

use crate::doorbell::Shadow;
use crate::polling::{Poller, Polling};
use crate::session::{Fault, Gate, Memory, Session, Ticket, Validity};
use crate::spec::command::{SQE_BYTES, Sqe};
use crate::statistics::Counters;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, lock, wait, wait_for};

/// How long a queue's last command may hold up the look at its shadow doorbell.
const GUARD: Duration = Duration::from_millis(1);
/// A command that takes no longer than this is quick: its thread is back as soon as another could be woken.
const QUICK: Duration = Duration::from_micros(50);
/// Commands after one that was not quick, before the next are taken to be.
const WARY: u8 = 64;

/// One submission queue's place; the queue itself comes and goes.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    /// QID.
    pub(crate) id: u16,
    validity: Validity,
    ring: Mutex<Ring>,
    waiting: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    live: Option<Live>,
    /// Threads that sleep.
    idle: u32,
    /// One of them sleeps for [`GUARD`] only.
    guarded: bool,
    /// A thread is fetching.
    fetching: bool,
    /// Doorbells so far; tells a fetcher that one came meanwhile.
    rings: u64,
    /// Commands that threads have in hand. Never more than the queue has threads.
    running: Vec<Running>,
    /// Something other than a command is to be done (queue 0 only).
    attention: bool,
    stop: bool,
    /// Commands that may yet be slow.
    wary: u8,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    cid: u16,
    number: u64,
    /// When it was fetched, where polling wants to know.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    cq: u16,
    shadow: Option<Shadow>,
    /// The shadow has to be looked at before everyone sleeps.
    unread_shadow: bool,
    /// It can't be: bus mastering was switched off. To be tried again when it is on, or the host rings.
    parked: bool,
    /// Whether polling the shadow has paid of late.
    polling: Polling,
    /// What was last written to EventIdx.
    event: u32,
}

impl Live {
    fn is_drained(&self) -> bool {
        self.head == self.tail
    }

    fn has_work(&self) -> bool {
        !self.is_drained() || self.unread_shadow && !self.parked
    }
}

/// What a queue's thread is to do.
#[derive(Debug)]
pub(crate) enum Work<'a> {
    /// Execute a command.
    Command(Fetched<'a>),
    /// Look at what else there is.
    Attention,
    /// A doorbell's value, in the shadow page, can't be.
    BadShadow,
    /// The queue's memory can't be reached: the controller can't go on.
    Broken(Ticket<'a>, Fault),
    /// The controller is being dropped.
    Stop,
}

/// A command in hand.
#[derive(Debug)]
pub(crate) struct Fetched<'a> {
    /// The command.
    pub(crate) sqe: Sqe,
    /// The right to execute it.
    pub(crate) ticket: Ticket<'a>,
    /// Its queue's completion queue.
    pub(crate) cq: u16,
    /// Another command with the same identifier is being executed.
    pub(crate) duplicate: bool,
}

/// What came of a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rang {
    /// There is no queue.
    NoQueue,
    /// The value can't be.
    Bad,
    /// A thread of the queue's sees to it.
    Good,
    /// The caller, who offered it, is to see to it: commands of this queue are quick.
    Yours,
}

/// How one fetch went.
enum Fetch {
    Got(Sqe),
    Nothing,
    Bad,
}

impl SubmissionQueue {
    /// A place for queue `id`, served by `threads` threads.
    pub(crate) fn new(id: u16, threads: usize) -> Self {
        let ring = Ring {
            running: Vec::with_capacity(threads),
            ..Ring::default()
        };
        Self {
            id,
            validity: Validity::default(),
            ring: Mutex::new(ring),
            waiting: Condvar::new(),
        }
    }

    /// The queue comes into being, of `entries` entries at `base`.
    pub(crate) fn create(&self, session: &Session, base: u64, entries: u32, cq: u16, shadow: Option<Shadow>) {
        let mut ring = lock(&self.ring);
        ring.live = Some(Live {
            base,
            entries,
            head: 0,
            tail: 0,
            cq,
            shadow,
            unread_shadow: false,
            parked: false,
            polling: Polling::default(),
            event: 0,
        });
        self.validity.renew(session.next_number());
    }

    /// Makes every command of the queue void; see [`crate::session`].
    pub(crate) fn invalidate(&self) {
        self.validity.end();
    }

    /// The queue goes. Gives the identifiers of commands that were being executed. Commands in hand must have been
    /// made void, and their accesses have ended.
    pub(crate) fn remove(&self) -> Vec<u16> {
        let mut ring = lock(&self.ring);
        ring.live = None;
        let running = ring.running.iter().map(|running| running.cid).collect();
        ring.running.clear();
        running
    }

    /// The completion queue of the queue, if it exists.
    pub(crate) fn completion_queue(&self) -> Option<u16> {
        lock(&self.ring).live.map(|live| live.cq)
    }

    /// The host wrote the tail doorbell. `offer`: the caller would execute a quick command itself, by
    /// [`try_next`](Self::try_next).
    pub(crate) fn ring(&self, tail: u32, offer: bool) -> Rang {
        let mut ring = lock(&self.ring);
        let Some(live) = ring.live.as_mut() else {
            return Rang::NoQueue;
        };
        if tail >= live.entries {
            return Rang::Bad;
        }
        if live.shadow.is_some() {
            // The shadow may be ahead of this message already, so it is only a reason to look there.
            live.unread_shadow = true;
            live.parked = false;
        } else {
            live.tail = tail;
        }
        ring.rings += 1;
        if offer && ring.wary == 0 {
            return Rang::Yours;
        }
        if ring.idle > 0 && !ring.fetching {
            self.waiting.notify_one();
        }
        Rang::Good
    }

    /// Bus mastering was switched on: the shadow can be read again.
    pub(crate) fn unpark(&self) {
        let mut ring = lock(&self.ring);
        // As a doorbell: whoever is just finding that it can't be read tries again.
        ring.rings += 1;
        if let Some(live) = ring.live.as_mut().filter(|live| live.parked) {
            live.parked = false;
            self.waiting.notify_one();
        }
    }

    /// Has a thread of the queue's see to it after all.
    pub(crate) fn wake(&self) {
        // Taken so that nobody is between looking and sleeping.
        drop(lock(&self.ring));
        self.waiting.notify_one();
    }

    /// Wakes queue 0's thread to look at what there is.
    pub(crate) fn attention(&self) {
        let mut ring = lock(&self.ring);
        ring.attention = true;
        self.waiting.notify_one();
    }

    /// Ends the queue's threads.
    pub(crate) fn stop(&self) {
        lock(&self.ring).stop = true;
        self.waiting.notify_all();
    }

    /// Uses shadow doorbells from now on.
    pub(crate) fn set_shadow(&self, memory: &impl Memory, shadow: Shadow) -> Result<(), Fault> {
        let Some(tail) = lock(&self.ring).live.map(|live| live.tail) else {
            return Ok(());
        };
        shadow.publish(memory, tail, tail)?;
        let mut ring = lock(&self.ring);
        if let Some(live) = ring.live.as_mut() {
            live.shadow = Some(shadow);
            live.event = tail;
            live.unread_shadow = true;
        }
        // As a doorbell: whoever is fetching looks again.
        ring.rings += 1;
        drop(ring);
        self.waiting.notify_one();
        Ok(())
    }

    /// Waits for something to do.
    pub(crate) fn next<'a, G: Gate>(
        &'a self,
        gate: &'a G,
        poller: &'a Poller,
        counters: &'a Counters,
    ) -> Work<'a> {
        loop {
            if let Some(work) = self.work(gate, poller, counters, true) {
                return work;
            }
        }
    }

    /// Something to do, if there is something now.
    pub(crate) fn try_next<'a, G: Gate>(
        &'a self,
        gate: &'a G,
        poller: &'a Poller,
        counters: &'a Counters,
    ) -> Option<Work<'a>> {
        self.work(gate, poller, counters, false)
    }

    fn work<'a, G: Gate>(
        &'a self,
        gate: &'a G,
        poller: &'a Poller,
        counters: &'a Counters,
        may_wait: bool,
    ) -> Option<Work<'a>> {
        let mut ring = lock(&self.ring);
        loop {
            if ring.stop {
                return Some(Work::Stop);
            }
            if core::mem::take(&mut ring.attention) {
                return Some(Work::Attention);
            }
            let mut live = match ring.live {
                // Commands of a queue that was made void are not looked at while it waits for its removal.
                Some(live) if !ring.fetching && live.has_work() && self.validity.ticket().is_valid() => live,
                _ if !may_wait => return None,
                _ => {
                    ring = self.sleep(ring, poller);
                    continue;
                }
            };
            ring.fetching = true;
            let rings = ring.rings;
            let fetcher = Fetcher {
                gate,
                poller,
                counters,
                ticket: self.validity.ticket(),
                others_idle: ring.idle > 0,
            };
            drop(ring);
            let fetch = fetcher.fetch(&mut live);
            let ticket = fetcher.ticket;
            ring = lock(&self.ring);
            ring.fetching = false;
            if !ticket.is_valid() {
                continue;
            }
            let fetch = match fetch {
                Ok(fetch) => fetch,
                // The host has not asked for anything: it may switch bus mastering off.
                Err(Fault::Dma(DmaError::BusMasterOff { .. }))
                    if live.is_drained() && live.shadow.is_some() =>
                {
                    live.unread_shadow = true;
                    live.parked = true;
                    Fetch::Nothing
                }
                Err(fault) => {
                    ring.live = None;
                    return Some(Work::Broken(ticket, fault));
                }
            };
            let doorbell_came = ring.rings != rings;
            self.take_over(&mut ring, live, doorbell_came);
            let sqe = match fetch {
                Fetch::Got(sqe) => sqe,
                Fetch::Nothing => continue,
                Fetch::Bad => return Some(Work::BadShadow),
            };
            let running = Running {
                cid: sqe.cid.get(),
                number: ticket.number(),
                since: poller.times(live.shadow.is_some()).then(Instant::now),
            };
            let duplicate = ring.running.iter().any(|other| other.cid == running.cid);
            ring.running.push(running);
            return Some(Work::Command(Fetched {
                sqe,
                ticket,
                cq: live.cq,
                duplicate,
            }));
        }
    }

    /// Sleeps until woken; one of those who sleep also wakes by itself while the shadow is somebody else's to read.
    fn sleep<'a>(&'a self, mut ring: MutexGuard<'a, Ring>, poller: &Poller) -> MutexGuard<'a, Ring> {
        let left = |live: Live| live.shadow.is_some() && live.has_work();
        let guards = poller.is_adaptive() && !ring.guarded && ring.live.is_some_and(left);
        ring.idle += 1;
        if guards {
            ring.guarded = true;
            ring = wait_for(&self.waiting, ring, GUARD);
            ring.guarded = false;
        } else {
            ring = wait(&self.waiting, ring);
        }
        ring.idle -= 1;
        ring
    }

    /// Puts a fetcher's view of the queue back, and wakes another thread if there is more to do.
    fn take_over(&self, ring: &mut Ring, after: Live, doorbell_came: bool) {
        let Some(live) = ring.live.as_mut() else { return };
        live.head = after.head;
        if live.shadow.is_some() {
            live.tail = after.tail;
            live.polling = after.polling;
            live.event = after.event;
            live.unread_shadow = after.unread_shadow || doorbell_came;
            live.parked = after.parked && !doorbell_came;
        }
        let live = *live;
        // Only the shadow is left, and the one who took the command will be back in time to read it.
        let mine = live.is_drained() && live.polling.is_worth_it() && ring.wary == 0 && ring.guarded;
        if live.has_work() && ring.idle > 0 && !mine {
            self.waiting.notify_one();
        }
    }

    /// A command is done; gives SQHD for its completion.
    pub(crate) fn finish(&self, ticket: Ticket<'_>, cid: u16) -> u16 {
        let mut ring = lock(&self.ring);
        let place = ring
            .running
            .iter()
            .position(|r| r.cid == cid && r.number == ticket.number());
        if let Some(place) = place {
            let ended = ring.running.swap_remove(place);
            if let Some(since) = ended.since {
                ring.wary = if since.elapsed() > QUICK {
                    WARY
                } else {
                    ring.wary.saturating_sub(1)
                };
            }
        }
        ring.live.map_or(0, |live| live.head as u16)
    }

    /// A ticket for what the queue is now.
    pub(crate) fn ticket(&self) -> Ticket<'_> {
        self.validity.ticket()
    }
}

/// One thread's look at a queue, without the ring's lock.
struct Fetcher<'a, G> {
    gate: &'a G,
    poller: &'a Poller,
    counters: &'a Counters,
    ticket: Ticket<'a>,
    /// Another thread sleeps that could execute the next command meanwhile, so the host must be asked to ring.
    others_idle: bool,
}

impl<'a, G: Gate> Fetcher<'a, G> {
    /// Fetches one command.
    fn fetch(&self, live: &mut Live) -> Result<Fetch, Fault> {
        if live.is_drained() {
            self.poll(live)?;
        }
        let access = self.gate.enter(self.ticket)?;
        if live.is_drained() {
            if !self.look(&access, live)? {
                return Ok(Fetch::Bad);
            }
            if live.is_drained() {
                return Ok(Fetch::Nothing);
            }
        }
        let mut sqe = Sqe::new_zeroed();
        let at = live.base.wrapping_add(u64::from(live.head) * SQE_BYTES as u64);
        access.read(at, sqe.as_mut_bytes())?;
        live.head = (live.head + 1) % live.entries;
        live.unread_shadow = live.shadow.is_some();
        // Where polling pays, the shadow is polled before the host is asked to ring; else that is done here.
        if live.is_drained() && self.others_idle && !live.polling.is_worth_it() {
            // What is wrong with it is for whoever looks next: this command is to be executed.
            live.unread_shadow |= !matches!(self.look(&access, live), Ok(true));
        }
        Ok(Fetch::Got(sqe))
    }

    /// Looks at a drained queue's shadow for a while if that has paid of late: a host that is not asked to ring saves
    /// a message. Each look is an access of its own, so that a reset has not to wait for the while.
    fn poll(&self, live: &mut Live) -> Result<(), Fault> {
        let Some(shadow) = live.shadow else { return Ok(()) };
        live.polling.drained(self.poller);
        self.poller.poll(live.polling, self.counters, || {
            let access = self.gate.enter(self.ticket)?;
            Ok(shadow.read(&access)? != live.tail)
        })
    }

    /// Looks at the shadow doorbell of a drained queue and asks the host to ring if there is nothing new. False
    /// where its value can't be.
    fn look(&self, access: &G::Access<'a>, live: &mut Live) -> Result<bool, Fault> {
        let Some(shadow) = live.shadow else {
            live.unread_shadow = false;
            return Ok(true);
        };
        live.polling.drained(self.poller);
        let mut tail = shadow.read(access)?;
        if tail == live.tail {
            tail = shadow.arm(access, live.tail)?;
            live.event = live.tail;
            live.unread_shadow = tail != live.tail;
        }
        if tail >= live.entries {
            live.unread_shadow = false;
            return Ok(false);
        }
        if tail != live.tail {
            live.polling.arrived(self.poller);
            live.tail = tail;
            self.stay_behind(access, shadow, live)?;
        }
        Ok(true)
    }

    /// Moves EventIdx on before the host comes round to it: nobody sleeps, so it has no reason to ring.
    fn stay_behind(&self, access: &G::Access<'a>, shadow: Shadow, live: &mut Live) -> Result<(), Fault> {
        let passed = (live.tail + live.entries - live.event) % live.entries;
        if passed >= live.entries / 2 {
            live.event = (live.tail + live.entries - 1) % live.entries;
            shadow.disarm(access, live.event)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "submission_tests.rs"]
mod tests;
