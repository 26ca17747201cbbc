//! Submission queues: doorbells in, commands out (section 4.1).
//!
//! Several threads serve one queue, so that its commands overlap; one at a time fetches. The ring's lock is held
//! for a few instructions, never while memory of the user's is touched, because the socket's thread takes it for
//! every doorbell.

use std::sync::{Condvar, Mutex};

use zerocopy::{FromZeros, IntoBytes};

use crate::doorbell::{Polling, Shadow};
use crate::session::{Access, Fault, Memory, Session, Ticket, Validity};
use crate::spec::command::{SQE_BYTES, Sqe};
use crate::sync::{lock, wait};

/// One submission queue's place; the queue itself comes and goes.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    /// QID.
    pub(crate) id: u16,
    validity: Validity,
    ring: Mutex<Ring>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    live: Option<Live>,
    /// Threads that sleep.
    idle: u32,
    /// A thread is fetching.
    fetching: bool,
    /// Doorbells so far; tells a fetcher that one came meanwhile.
    rings: u64,
    /// Commands that threads have in hand. Never more than the queue has threads.
    running: Vec<Running>,
    /// Something other than a command is to be done (queue 0 only).
    attention: bool,
    stop: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    cid: u16,
    number: u64,
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
    /// Whether polling the shadow has paid of late.
    polling: Polling,
}

impl Live {
    fn has_work(&self) -> bool {
        self.head != self.tail || self.unread_shadow
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

/// How one fetch went.
enum Fetch {
    Got(Sqe, Live),
    Nothing(Live),
    Bad(Live),
    Failed(Fault),
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
            work: Condvar::new(),
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
            polling: Polling::default(),
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

    /// The host wrote the tail doorbell. False where the value can't be; none where there is no queue.
    pub(crate) fn ring(&self, tail: u32) -> Option<bool> {
        let mut ring = lock(&self.ring);
        let live = ring.live.as_mut()?;
        if tail >= live.entries {
            return Some(false);
        }
        if live.shadow.is_some() {
            // The shadow may be ahead of this message already, so it is only a reason to look there.
            live.unread_shadow = true;
        } else {
            live.tail = tail;
        }
        ring.rings += 1;
        if ring.idle > 0 && !ring.fetching {
            self.work.notify_one();
        }
        Some(true)
    }

    /// Wakes queue 0's thread to look at what there is.
    pub(crate) fn attention(&self) {
        let mut ring = lock(&self.ring);
        ring.attention = true;
        self.work.notify_one();
    }

    /// Ends the queue's threads.
    pub(crate) fn stop(&self) {
        lock(&self.ring).stop = true;
        self.work.notify_all();
    }

    /// Uses shadow doorbells from now on.
    pub(crate) fn set_shadow(&self, memory: &impl Memory, shadow: Shadow) -> Result<(), Fault> {
        let Some(tail) = lock(&self.ring).live.map(|live| live.tail) else {
            return Ok(());
        };
        shadow.publish(memory, tail)?;
        if let Some(live) = lock(&self.ring).live.as_mut() {
            live.shadow = Some(shadow);
            live.unread_shadow = true;
        }
        self.work.notify_one();
        Ok(())
    }

    /// Waits for something to do.
    pub(crate) fn next<'a>(&'a self, session: &'a Session) -> Work<'a> {
        let mut ring = lock(&self.ring);
        loop {
            if ring.stop {
                return Work::Stop;
            }
            if core::mem::take(&mut ring.attention) {
                return Work::Attention;
            }
            let live = match ring.live {
                // Commands of a queue that was made void are not looked at while it waits for its removal.
                Some(live) if !ring.fetching && live.has_work() && self.validity.ticket().is_valid() => live,
                _ => {
                    ring.idle += 1;
                    ring = wait(&self.work, ring);
                    ring.idle -= 1;
                    continue;
                }
            };
            ring.fetching = true;
            let rings = ring.rings;
            let others_idle = ring.idle > 0;
            let ticket = self.validity.ticket();
            drop(ring);
            let fetch = match session.enter(ticket) {
                Ok(access) => Self::fetch(&access, live, others_idle),
                Err(fault) => Fetch::Failed(fault),
            };
            ring = lock(&self.ring);
            ring.fetching = false;
            if !ticket.is_valid() {
                continue;
            }
            let doorbell_came = ring.rings != rings;
            let (result, after) = match fetch {
                Fetch::Got(sqe, after) => (Some(sqe), after),
                Fetch::Nothing(after) => (None, after),
                Fetch::Bad(after) => {
                    self.take_over(&mut ring, after, doorbell_came);
                    return Work::BadShadow;
                }
                Fetch::Failed(fault) => {
                    ring.live = None;
                    return Work::Broken(ticket, fault);
                }
            };
            self.take_over(&mut ring, after, doorbell_came);
            let Some(sqe) = result else { continue };
            let running = Running {
                cid: sqe.cid.get(),
                number: ticket.number(),
            };
            let duplicate = ring.running.iter().any(|other| other.cid == running.cid);
            ring.running.push(running);
            return Work::Command(Fetched {
                sqe,
                ticket,
                cq: after.cq,
                duplicate,
            });
        }
    }

    /// Puts a fetcher's view of the queue back, and wakes another thread if there is more to do.
    fn take_over(&self, ring: &mut Ring, after: Live, doorbell_came: bool) {
        let Some(live) = ring.live.as_mut() else { return };
        live.head = after.head;
        if live.shadow.is_some() {
            live.tail = after.tail;
            live.polling = after.polling;
            live.unread_shadow = after.unread_shadow || doorbell_came;
        }
        if live.has_work() && ring.idle > 0 {
            self.work.notify_one();
        }
    }

    /// Fetches one command. `others_idle`: another thread sleeps that could execute the next one meanwhile, so
    /// the host must be asked to ring.
    fn fetch(access: &Access<'_>, mut live: Live, others_idle: bool) -> Fetch {
        if live.head == live.tail {
            match Self::poll(access, &mut live) {
                Ok(true) => {}
                Ok(false) => return Fetch::Bad(live),
                Err(fault) => return Fetch::Failed(fault),
            }
            if live.head == live.tail {
                return Fetch::Nothing(live);
            }
        }
        let mut sqe = Sqe::new_zeroed();
        let at = live.base.wrapping_add(u64::from(live.head) * SQE_BYTES as u64);
        if let Err(fault) = access.read(at, sqe.as_mut_bytes()) {
            return Fetch::Failed(fault);
        }
        live.head = (live.head + 1) % live.entries;
        live.unread_shadow = live.shadow.is_some();
        // Where polling pays, one of those who sleep polls and then asks the host to ring; else that is done here.
        if live.head == live.tail && others_idle && !live.polling.is_worth_it() {
            match Self::look(access, &mut live) {
                Ok(true) => {}
                // To be told of by whoever looks next.
                Ok(false) => live.unread_shadow = true,
                Err(fault) => return Fetch::Failed(fault),
            }
        }
        Fetch::Got(sqe, live)
    }

    /// As [`look`](Self::look), after having polled for a short while if that has paid of late: a host that is not
    /// asked to ring saves a message.
    fn poll(access: &Access<'_>, live: &mut Live) -> Result<bool, Fault> {
        if let Some(shadow) = live.shadow {
            let (tail, polling) = (live.tail, &mut live.polling);
            polling.poll(|| Ok(shadow.read(access)? != tail))?;
        }
        Self::look(access, live)
    }

    /// Looks at the shadow doorbell of a drained queue and asks the host to ring if there is nothing new. False
    /// where its value can't be.
    fn look(access: &Access<'_>, live: &mut Live) -> Result<bool, Fault> {
        let Some(shadow) = live.shadow else {
            live.unread_shadow = false;
            return Ok(true);
        };
        let mut tail = shadow.read(access)?;
        if tail == live.tail {
            tail = shadow.arm(access, live.tail)?;
            live.unread_shadow = tail != live.tail;
        }
        if tail >= live.entries {
            live.unread_shadow = false;
            return Ok(false);
        }
        live.tail = tail;
        Ok(true)
    }

    /// A command is done; gives SQHD for its completion.
    pub(crate) fn finish(&self, ticket: Ticket<'_>, cid: u16) -> u16 {
        let mut ring = lock(&self.ring);
        let place = ring
            .running
            .iter()
            .position(|r| r.cid == cid && r.number == ticket.number());
        if let Some(place) = place {
            ring.running.swap_remove(place);
        }
        ring.live.map_or(0, |live| live.head as u16)
    }

    /// A ticket for what the queue is now.
    pub(crate) fn ticket(&self) -> Ticket<'_> {
        self.validity.ticket()
    }
}
