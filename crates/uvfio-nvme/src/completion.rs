//! Completion queues: entries out, head doorbells in (section 4.1, 4.6).
//!
//! Entries are counted from the queue's creation on: `acked` consumed by the host, `reserved` given out to be
//! written, `posted` written. Index and phase tag follow from the count.

use std::sync::atomic::{Ordering, fence};

use uvfio_core::{DmaError, Host};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use crate::doorbell::Shadow;
use crate::session::{Access, Fault, Memory, Session, Ticket};
use crate::spec::command::{CQE_BYTES, Cqe};
use crate::spec::status::Status;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// One completion queue's place; the queue itself comes and goes.
#[derive(Debug, Default)]
pub(crate) struct CompletionQueue {
    ring: Mutex<Option<Live>>,
    room: Condvar,
    /// One thread at a time looks at the shadow, else an older EventIdx might be written after a newer one.
    looking: Mutex<()>,
}

/// How a completion queue is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creation {
    pub(crate) base: u64,
    pub(crate) entries: u32,
    /// The vector, if the queue interrupts.
    pub(crate) vector: Option<u16>,
    pub(crate) shadow: Option<Shadow>,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    queue: Creation,
    acked: u64,
    reserved: u64,
    posted: u64,
    /// Doorbells so far, and shadow heads that were found to have moved.
    rings: u64,
}

impl Live {
    fn is_full(&self) -> bool {
        // One entry stays free, so that a full queue does not look empty (4.1.2).
        self.reserved - self.acked >= u64::from(self.queue.entries) - 1
    }

    /// The host's head as far as it is known.
    fn head(&self) -> u32 {
        (self.acked % u64::from(self.queue.entries)) as u32
    }

    /// The index before `index`. An EventIdx there is the last that the host can come to: with the head at `index` it
    /// takes a whole queue of entries, and no more than that are given out before the head is looked at.
    fn before(&self, index: u32) -> u32 {
        (index + self.queue.entries - 1) % self.queue.entries
    }

    /// How many entries the host has consumed if its head is `head`; none where that lies past what was given out.
    fn step(&self, head: u32) -> Option<u64> {
        let entries = u64::from(self.queue.entries);
        let step = (u64::from(head) + entries - self.acked % entries) % entries;
        (u64::from(head) < entries && step <= self.reserved - self.acked).then_some(step)
    }

    /// Takes the host's head. False where it lies past what was given out.
    fn ack(&mut self, head: u32) -> bool {
        let step = self.step(head);
        self.acked += step.unwrap_or_default();
        step.is_some()
    }
}

/// What a completion tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) sq_id: u16,
    pub(crate) cid: u16,
    pub(crate) status: Status,
    /// DW0.
    pub(crate) result: u32,
}

/// What came of posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// The entry is there; interrupt by this vector.
    Yes(Option<u16>),
    /// There was no room when there had been this many doorbells.
    Full(u64),
}

impl CompletionQueue {
    /// The queue comes into being.
    pub(crate) fn create(&self, queue: Creation) {
        *lock(&self.ring) = Some(Live {
            queue,
            acked: 0,
            reserved: 0,
            posted: 0,
            rings: 0,
        });
    }

    /// The queue goes.
    pub(crate) fn remove(&self) {
        *lock(&self.ring) = None;
        self.room.notify_all();
    }

    /// Whether the queue exists.
    pub(crate) fn exists(&self) -> bool {
        lock(&self.ring).is_some()
    }

    /// Wakes those who wait for room, to see that their command is void.
    pub(crate) fn wake(&self) {
        // Taken so that nobody is between looking and sleeping.
        drop(lock(&self.ring));
        self.room.notify_all();
    }

    /// The host wrote the head doorbell. False where the value can't be; none where there is no queue.
    pub(crate) fn ring(&self, head: u32) -> Option<bool> {
        let mut ring = lock(&self.ring);
        let live = ring.as_mut()?;
        live.rings += 1;
        self.room.notify_all();
        if live.queue.shadow.is_none() {
            return Some(live.ack(head));
        }
        // The shadow may be ahead of this message already. A head of before looks like one far ahead, which can
        // be told from a true one only while there is room; else whoever waits for room looks at the shadow.
        let good = head < live.queue.entries;
        if good && !live.is_full() {
            live.ack(head);
        }
        Some(good)
    }

    /// The vector of a queue that has entries which the host has not consumed.
    pub(crate) fn interrupt_pending(&self) -> Option<u16> {
        let ring = lock(&self.ring);
        let live = ring.as_ref()?;
        if live.posted > live.acked {
            live.queue.vector
        } else {
            None
        }
    }

    /// Uses shadow doorbells from now on.
    pub(crate) fn set_shadow(&self, memory: &impl Memory, shadow: Shadow) -> Result<(), Fault> {
        let (head, before) = match lock(&self.ring).as_ref() {
            Some(live) => (live.head(), live.before(live.head())),
            None => return Ok(()),
        };
        shadow.publish(memory, head, before)?;
        if let Some(live) = lock(&self.ring).as_mut() {
            live.queue.shadow = Some(shadow);
        }
        Ok(())
    }

    /// Posts an entry if there is room. `head` gives SQHD once there is.
    pub(crate) fn try_post(
        &self,
        access: &Access<'_>,
        completion: Completion,
        line: bool,
        head: impl FnOnce() -> u16,
    ) -> Result<Posted, Fault> {
        let (count, queue) = loop {
            let rings = {
                let mut ring = lock(&self.ring);
                let live = ring.as_mut().ok_or(Fault::Void)?;
                if !live.is_full() {
                    live.reserved += 1;
                    break (live.reserved - 1, live.queue);
                }
                live.rings
            };
            if !self.make_room(access)? {
                return Ok(Posted::Full(rings));
            }
        };
        let entries = u64::from(queue.entries);
        let phase = u16::from((count / entries) % 2 == 0);
        let cqe = Cqe {
            result: U32::new(completion.result),
            reserved: U32::ZERO,
            sq_head: U16::new(head()),
            sq_id: U16::new(completion.sq_id),
            cid: U16::new(completion.cid),
            status: U16::new(completion.status.field() << 1 | phase),
        };
        write_entry(
            access,
            queue.base.wrapping_add(count % entries * CQE_BYTES as u64),
            &cqe,
        )?;
        if let Some(live) = lock(&self.ring).as_mut() {
            live.posted += 1;
        }
        if line {
            self.look_until_still(access)?;
        }
        Ok(Posted::Yes(queue.vector))
    }

    /// Waits until there may be room (a doorbell came after the first `rings`), the command is void, or the wait is
    /// `interrupted`, which whoever makes it so tells by [`wake`](Self::wake).
    fn wait_for_room(&self, ticket: Ticket<'_>, rings: u64, interrupted: impl Fn() -> bool) {
        let mut ring = lock(&self.ring);
        while ticket.is_valid()
            && !interrupted()
            && ring
                .as_ref()
                .is_some_and(|live| live.is_full() && live.rings == rings)
        {
            ring = wait(&self.room, ring);
        }
    }

    /// Looks at the shadow head of a queue that was full. True where there may be room now.
    fn make_room(&self, access: &Access<'_>) -> Result<bool, Fault> {
        let one = lock(&self.looking);
        // Another may have made room meanwhile; to look again would only ask the host to ring.
        if lock(&self.ring).as_ref().is_some_and(|live| !live.is_full()) {
            return Ok(true);
        }
        self.look_alone(access, &one)
    }

    /// Looks at the shadow head until it has not moved, since the line falls when the host rings for the last entry. It
    /// can't move more often than there are entries.
    fn look_until_still(&self, access: &Access<'_>) -> Result<(), Fault> {
        loop {
            match self.look(access) {
                Ok(true) => {}
                // The entry that this is for is with the host, which may switch bus mastering off by now.
                Ok(false) | Err(Fault::Dma(DmaError::BusMasterOff { .. })) => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// As [`look_alone`](Self::look_alone), when nobody else does.
    fn look(&self, access: &Access<'_>) -> Result<bool, Fault> {
        self.look_alone(access, &lock(&self.looking))
    }

    /// Looks at the shadow head; asks the host to ring when it goes on from there, if it has not moved, and else not
    /// to ring. True where it had moved.
    fn look_alone(&self, access: &Access<'_>, _one: &MutexGuard<'_, ()>) -> Result<bool, Fault> {
        let Some(known) = *lock(&self.ring) else {
            return Ok(false);
        };
        let Some(shadow) = known.queue.shadow else {
            return Ok(false);
        };
        let head = known.head();
        let mut now = shadow.read(access)?;
        if now == head {
            now = shadow.arm(access, head)?;
        }
        if now != head && known.step(now).is_some() {
            // Before there is room for entries that would take the host past the EventIdx of before.
            shadow.disarm(access, known.before(now))?;
        }
        let mut ring = lock(&self.ring);
        let Some(live) = ring.as_mut() else {
            return Ok(false);
        };
        if now == head || !live.ack(now) {
            return Ok(false);
        }
        // Everyone who waits looks for himself: whoever is first may take all the room there is, and what the
        // host was asked to ring for is past.
        live.rings += 1;
        self.room.notify_all();
        Ok(true)
    }
}

/// Writes an entry so that the host can't see its phase tag before the rest (4.6): the half with the tag goes
/// last where memory is shared, and by message the whole goes at once.
fn write_entry(access: &Access<'_>, iova: u64, cqe: &Cqe) -> Result<(), Fault> {
    let (first, last) = cqe.as_bytes().split_at(CQE_BYTES / 2);
    let host: &Host = access.host()?;
    if !host.dma().is_direct(iova, CQE_BYTES as u64) {
        return access.write(iova, cqe.as_bytes());
    }
    access.write(iova, first)?;
    fence(Ordering::Release);
    access.write(iova.wrapping_add(first.len() as u64), last)
}

/// Posts a completion of a command, waiting for room; nothing happens where the command is void. `head` gives
/// SQHD and takes the command off its queue's list; `told` is called with the vector while resets are held off.
/// False, and nothing posted, where the wait was `interrupted`.
#[allow(clippy::too_many_arguments)] // One call, from `Shared::post`; a structure would only name them twice.
pub(crate) fn post(
    session: &Session,
    queue: &CompletionQueue,
    ticket: Ticket<'_>,
    completion: Completion,
    line: bool,
    head: impl Fn() -> u16,
    told: impl FnOnce(&Host, u16),
    interrupted: impl Fn() -> bool,
) -> Result<bool, Fault> {
    loop {
        let access = session.enter(ticket)?;
        match queue.try_post(&access, completion, line, &head)? {
            Posted::Yes(vector) => {
                if let Some(vector) = vector {
                    told(access.host()?, vector);
                }
                return Ok(true);
            }
            Posted::Full(rings) => {
                drop(access);
                if interrupted() {
                    return Ok(false);
                }
                queue.wait_for_room(ticket, rings, &interrupted);
            }
        }
    }
}
