//! The controller as all its threads share it, and the changes of its state that take time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use uvfio_core::Host;

use crate::changes::Changes;
use crate::completion::{self, Completion, CompletionQueue, Creation};
use crate::config::MAX_QUEUES;
use crate::controller::{AdminQueues, Demand, Registers, Step};
use crate::doorbell::ShadowPages;
use crate::doorbell_page::{DoorbellPage, Queues};
use crate::errors::ErrorLog;
use crate::events::{Event, Events};
use crate::features::Features;
use crate::namespace::Namespace;
use crate::polling::Poller;
use crate::session::{Fault, Session, Ticket};
use crate::spec::command::Sqe;
use crate::spec::log::{self, EventType};
use crate::spec::registers::CSTS;
use crate::spec::status::Status;
use crate::statistics::Counters;
use crate::submission::{Fetched, Rang, SubmissionQueue};
use crate::sync::{Mutex, lock};

/// The controller.
///
/// Locks are taken in the order session, registers, features, queue rings, and each but the session's is held for
/// a few instructions only.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) session: Session,
    pub(crate) registers: Mutex<Registers>,
    /// By QID; 0 is the admin queue.
    pub(crate) submission: Vec<SubmissionQueue>,
    /// By QID; 0 is the admin queue.
    pub(crate) completion: Vec<CompletionQueue>,
    pub(crate) interrupts: crate::interrupts::Interrupts,
    pub(crate) events: Mutex<Events>,
    pub(crate) features: Mutex<Features>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) errors: Mutex<ErrorLog>,
    pub(crate) counters: Counters,
    pub(crate) changes: Changes,
    pub(crate) poller: Poller,
    /// The doorbells as memory, where the host may map them.
    pub(crate) page: Option<DoorbellPage>,
    /// The pages of Doorbell Buffer Config.
    pub(crate) shadow: Mutex<Option<ShadowPages>>,
    /// Identify has told the host of Doorbell Buffer Config.
    pub(crate) shadow_offered: AtomicBool,
    /// Features' volatile write cache, for every write to look at.
    pub(crate) write_through: AtomicBool,
    /// CC.SHN has asked for a shutdown, which the admin thread has yet to see.
    pub(crate) shutdown_wanted: AtomicBool,
    pub(crate) serial: String,
    /// Vectors that completion queues may name.
    pub(crate) vectors: u16,
    pub(crate) made: Instant,
}

/// What came of doorbells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rung {
    /// A completion queue's head was among them.
    head: bool,
    /// A value can't be.
    bad_value: bool,
    /// There was no such queue.
    no_queue: bool,
    /// Submission queues that the caller is to see to, a bit each.
    pub(crate) yours: u128,
}

const _: () = assert!(MAX_QUEUES < 128);

impl Rung {
    /// What came of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            head: self.head | other.head,
            bad_value: self.bad_value | other.bad_value,
            no_queue: self.no_queue | other.no_queue,
            yours: self.yours | other.yours,
        }
    }
}

impl Shared {
    /// Pairs of I/O queues.
    pub(crate) fn queues(&self) -> u16 {
        (self.submission.len() - 1) as u16
    }

    /// Namespace `nsid`.
    pub(crate) fn namespace(&self, nsid: u32) -> Result<&Namespace, Status> {
        let index = (nsid as usize).checked_sub(1).ok_or(Status::INVALID_NAMESPACE)?;
        self.namespaces.get(index).ok_or(Status::INVALID_NAMESPACE)
    }

    /// The host sent a doorbell by message. As [`ring`](Self::ring), or whoever watches the memory does that.
    pub(crate) fn ring_by_message(&self, doorbell: u64, value: u32) {
        self.counters.doorbell_messages.add(1);
        let watched = self.page.as_ref().is_some_and(|page| page.write(doorbell, value));
        if !watched {
            let rung = self.ring(doorbell, value, false);
            self.rung(rung);
        }
    }

    /// Which queues have doorbells.
    pub(crate) fn queues_there(&self) -> Queues {
        let mut queues = self.submission.iter().zip(&self.completion);
        let admin = queues
            .next()
            .is_some_and(|(submission, _)| submission.completion_queue().is_some());
        if queues.any(|(sq, cq)| sq.completion_queue().is_some() || cq.exists()) {
            Queues::Io
        } else if admin {
            Queues::Admin
        } else {
            Queues::None
        }
    }

    /// The host rang a doorbell, one way or the other: number 2n is the tail of submission queue n, 2n + 1 the head
    /// of completion queue n. Takes the queue's lock alone; what is left to do, [`rung`](Self::rung) does.
    /// `offer`: the caller would execute quick I/O commands itself.
    pub(crate) fn ring(&self, doorbell: u64, value: u32, offer: bool) -> Rung {
        let queue = (doorbell / 2) as usize;
        // Bits 31:16 are reserved.
        let index = value & 0xffff;
        let rang = if doorbell.is_multiple_of(2) {
            self.counters.submission_doorbells.add(1);
            // Admin commands may wait for anything.
            let offer = offer && queue != 0;
            let queue = self.submission.get(queue);
            queue.map_or(Rang::NoQueue, |queue| queue.ring(index, offer))
        } else {
            self.counters.completion_doorbells.add(1);
            match self.completion.get(queue).and_then(|queue| queue.ring(index)) {
                Some(true) => Rang::Good,
                Some(false) => Rang::Bad,
                None => Rang::NoQueue,
            }
        };
        Rung {
            head: !doorbell.is_multiple_of(2),
            bad_value: rang == Rang::Bad,
            no_queue: rang == Rang::NoQueue,
            yours: if rang == Rang::Yours { 1 << queue } else { 0 },
        }
    }

    /// Doorbells were rung.
    pub(crate) fn rung(&self, rung: Rung) {
        if rung.head && self.interrupts.is_line() {
            // The line may have to fall.
            self.interrupts.update(&self.completion, 0);
        }
        if rung.bad_value {
            self.raise_doorbell_error(log::EVENT_INVALID_DOORBELL_VALUE);
        }
        if rung.no_queue && lock(&self.registers).ready() {
            self.raise_doorbell_error(log::EVENT_INVALID_DOORBELL_REGISTER);
        }
    }

    /// The host wrote a doorbell that it must not have written.
    pub(crate) fn raise_doorbell_error(&self, info: u8) {
        self.raise(Event {
            kind: EventType::Error,
            info,
            log: log::LID_ERROR,
        });
    }

    /// Something happened that an Asynchronous Event Request may wait for.
    pub(crate) fn raise(&self, event: Event) {
        lock(&self.events).raise(event);
        self.attention();
    }

    /// Has the admin thread look at what there is to do.
    pub(crate) fn attention(&self) {
        if let Some(admin) = self.submission.first() {
            admin.attention();
        }
    }

    /// The host wrote a dword of the registers.
    pub(crate) fn write_register(&self, offset: u64, value: u32) {
        let mut registers = lock(&self.registers);
        match registers.write(offset, value) {
            Demand::None => {}
            Demand::Work => {
                let shutting_down = registers.shutting_down();
                drop(registers);
                if shutting_down {
                    self.shutdown_wanted.store(true, Ordering::SeqCst);
                    // The admin thread may wait for room there, which a host that goes need not make.
                    if let Some(admin) = self.completion.first() {
                        admin.wake();
                    }
                }
                self.attention();
            }
            Demand::Void => {
                drop(registers);
                self.void_commands();
                self.abandon_messages();
                self.attention();
            }
            Demand::Unmasked(vectors) => {
                self.interrupts.set_mask(registers.interrupt_mask());
                drop(registers);
                self.interrupts.update(&self.completion, vectors);
            }
        }
    }

    /// Reads the dword of the registers at `offset`.
    pub(crate) fn read_register(&self, offset: u64) -> u32 {
        let registers = lock(&self.registers);
        let value = registers.read(offset);
        let disabling = offset == CSTS && registers.disabling();
        drop(registers);
        if disabling {
            // A thread that had yet to ask when that was abandoned asks in vain, and the host that polls CSTS waits.
            self.abandon_messages();
        }
        value
    }

    /// Ends accesses by message, whose commands are void.
    fn abandon_messages(&self) {
        if let Some(host) = self.interrupts.host() {
            host.dma().abandon();
        }
    }

    /// Makes every command void. Stores and wakes only.
    fn void_commands(&self) {
        for queue in &self.submission {
            queue.invalidate();
        }
        for queue in &self.completion {
            queue.wake();
        }
        self.changes.wake();
    }

    /// Forgets a submission queue whose commands are void and have no access in hand; gives the identifiers of
    /// those that were being executed.
    pub(crate) fn remove_submission_queue(&self, queue: &SubmissionQueue) -> Vec<u16> {
        self.changes.retire(queue.id, self.session.last_number());
        queue.remove()
    }

    /// Forgets everything that a controller reset forgets. Returns when no access to the user's memory of before
    /// is under way and no interrupt of before will come; commands that wait for their backend are not waited
    /// for, they end without a trace. `then` runs before anything new can begin.
    fn reset_queues(&self, then: impl FnOnce(&mut Option<Host>, &mut Registers)) {
        self.void_commands();
        let mut session = self.session.barrier();
        // Queues that were created while the first pass was on its way.
        self.void_commands();
        for queue in &self.submission {
            self.remove_submission_queue(queue);
        }
        for queue in &self.completion {
            queue.remove();
        }
        if let Some(page) = &self.page {
            page.clear();
        }
        *lock(&self.shadow) = None;
        lock(&self.events).clear();
        lock(&self.features).reset();
        self.write_through.store(false, Ordering::SeqCst);
        self.interrupts.clear();
        then(&mut session, &mut lock(&self.registers));
    }

    /// A user has come.
    pub(crate) fn attach(&self, host: Host) {
        self.reset_queues(|session, registers| {
            registers.reset();
            if let Some(page) = &self.page {
                page.renew();
            }
            self.interrupts.set_host(Some(host.clone()));
            *session = Some(host);
        });
    }

    /// The user has gone.
    pub(crate) fn detach(&self) {
        self.reset_queues(|session, registers| {
            registers.reset();
            self.interrupts.set_host(None);
            if let Some(page) = &self.page {
                page.remove();
            }
            *session = None;
        });
    }

    /// The function is reset.
    pub(crate) fn reset(&self) {
        self.reset_queues(|_, registers| registers.reset());
    }

    /// What registers and events ask for; on the admin thread.
    pub(crate) fn attend(&self) {
        loop {
            let session = self.session.hold();
            let mut registers = lock(&self.registers);
            match registers.next() {
                Some(Step::Enable(queues)) if session.is_some() => {
                    self.create_admin_queues(queues);
                    registers.enabled();
                }
                Some(Step::Disable) => {
                    drop(registers);
                    drop(session);
                    self.reset_queues(|_, registers| registers.disabled());
                }
                Some(Step::ShutDown) => {
                    drop(registers);
                    drop(session);
                    self.shut_down();
                }
                Some(Step::Enable(_)) | None => break,
            }
        }
        self.report_events();
    }

    /// Doorbells of queues that are about to be created.
    pub(crate) fn begin_doorbells(&self, numbers: &[usize]) {
        if let Some(page) = &self.page {
            for number in numbers {
                page.begin(*number);
            }
        }
    }

    fn create_admin_queues(&self, queues: AdminQueues) {
        let (Some(sq), Some(cq)) = (self.submission.first(), self.completion.first()) else {
            return;
        };
        self.begin_doorbells(&[0, 1]);
        cq.create(Creation {
            base: queues.cq_base,
            entries: queues.cq_entries,
            vector: Some(0),
            shadow: None,
        });
        sq.create(&self.session, queues.sq_base, queues.sq_entries, 0, None);
        // Only now: whoever watches sleeps again where there is no queue.
        if let Some(page) = &self.page {
            page.call();
        }
    }

    /// Makes everything durable, as CC.SHN asks.
    fn shut_down(&self) {
        self.shutdown_wanted.store(false, Ordering::SeqCst);
        self.flush_all();
        lock(&self.registers).shut_down();
    }

    fn flush_all(&self) {
        for (index, namespace) in self.namespaces.iter().enumerate() {
            if let Err(why) = namespace.backend.flush() {
                tracing::error!(%why, namespace = index + 1, "not flushed at shutdown");
            }
        }
    }

    /// Completes Asynchronous Event Requests for what has happened; on the admin thread.
    pub(crate) fn report_events(&self) {
        let Some(admin) = self.submission.first() else {
            return;
        };
        let ticket = admin.ticket();
        while ticket.is_valid() {
            let Some((cid, event)) = lock(&self.events).next() else {
                return;
            };
            let completion = Completion {
                sq_id: 0,
                cid,
                status: Status::SUCCESS,
                result: event.result(),
            };
            self.post(0, 0, ticket, completion);
        }
    }

    /// A command is done.
    pub(crate) fn complete(&self, queue: u16, fetched: &Fetched<'_>, status: Status, result: u32) {
        let completion = Completion {
            sq_id: queue,
            cid: fetched.sqe.cid.get(),
            status,
            result,
        };
        if queue == 0 {
            self.counters.admin_commands.add(1);
        } else {
            self.counters.io_commands.add(1);
        }
        if !status.is_success() {
            self.counters.errors.add(1);
            self.log_error(&fetched.sqe, completion);
        }
        self.post(queue, fetched.cq, fetched.ticket, completion);
    }

    fn log_error(&self, sqe: &Sqe, completion: Completion) {
        let lba = if completion.sq_id == 0 {
            0
        } else {
            sqe.start_block()
        };
        lock(&self.errors).add(completion, sqe.nsid.get(), lba);
    }

    /// Posts a completion on queue `cq` and interrupts.
    pub(crate) fn post(&self, sq: u16, cq: u16, ticket: Ticket<'_>, completion: Completion) {
        let (Some(sq), Some(cq)) = (
            self.submission.get(usize::from(sq)),
            self.completion.get(usize::from(cq)),
        ) else {
            return;
        };
        let head = || sq.finish(ticket, completion.cid);
        let told = |host: &Host, vector| self.interrupts.posted(host, vector, &self.completion);
        let line = self.interrupts.is_line();
        let posted = loop {
            let is_admin = sq.id == 0;
            let interrupted = || is_admin && self.shutdown_wanted.load(Ordering::SeqCst);
            match completion::post(
                &self.session,
                cq,
                ticket,
                completion,
                line,
                head,
                told,
                interrupted,
            ) {
                Ok(true) => break Ok(()),
                // The admin thread alone comes here: a shutdown is due, and must not wait for room.
                Ok(false) => {
                    // In this order: one that is asked for after the look is wanted again.
                    self.shutdown_wanted.store(false, Ordering::SeqCst);
                    let due = lock(&self.registers).shutting_down();
                    if due {
                        self.shut_down();
                    }
                }
                Err(fault) => break Err(fault),
            }
        };
        match posted {
            Ok(()) => {}
            Err(Fault::Void) => {
                sq.finish(ticket, completion.cid);
            }
            Err(fault) => self.break_down(ticket, &fault),
        }
    }

    /// A queue can't be reached: nothing can be told to the host any more but by CSTS.CFS.
    pub(crate) fn break_down(&self, ticket: Ticket<'_>, fault: &Fault) {
        // With access in hand, so that it is not told of a controller that was reset meanwhile.
        if let (Fault::Dma(_), Ok(_access)) = (fault, self.session.enter(ticket)) {
            tracing::warn!(%fault, "a queue can't be reached, so the controller stops until it is reset");
            lock(&self.registers).fatal();
        }
    }
}
