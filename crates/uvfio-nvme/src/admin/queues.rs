//! Create and Delete I/O queues, and Doorbell Buffer Config (sections 5.3 to 5.6, 5.4).

use std::sync::atomic::Ordering;

use crate::completion::{Completion, CompletionQueue, Creation, Posted};
use crate::doorbell::ShadowPages;
use crate::prp::Failure;
use crate::session::Fault;
use crate::spec::registers::{CQ_ENTRY_SIZE, MAX_QUEUE_ENTRIES, MIN_QUEUE_ENTRIES, PAGE, SQ_ENTRY_SIZE};
use crate::spec::status::Status;
use crate::submission::SubmissionQueue;
use crate::sync::lock;

use super::Admin;

/// PC: physically contiguous, in CDW11.
const CDW11_CONTIGUOUS: u32 = 1;
/// IEN: interrupts enabled, in CDW11 of Create I/O Completion Queue.
const CDW11_INTERRUPTS: u32 = 1 << 1;

impl Admin<'_> {
    /// QID of an I/O queue.
    fn queue_id(&self) -> Result<u16, Status> {
        let id = self.sqe().cdw10() as u16;
        if id == 0 || id > self.shared.queues() {
            Err(Status::INVALID_QUEUE_ID)
        } else {
            Ok(id)
        }
    }

    fn submission(&self, id: u16) -> Result<&SubmissionQueue, Status> {
        self.shared
            .submission
            .get(usize::from(id))
            .ok_or(Status::INVALID_QUEUE_ID)
    }

    fn completion(&self, id: u16) -> Result<&CompletionQueue, Status> {
        self.shared
            .completion
            .get(usize::from(id))
            .ok_or(Status::INVALID_QUEUE_ID)
    }

    /// Entries and address of a queue to be created, whose entries' size CC tells as `set` and must be `size`.
    fn placement(&self, set: u32, size: u32) -> Result<(u32, u64), Status> {
        let entries = (self.sqe().cdw10() >> 16) + 1;
        if !(MIN_QUEUE_ENTRIES..=MAX_QUEUE_ENTRIES).contains(&entries) {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // CAP.CQR is 1; and CC.IOSQES and IOCQES have to be right by now (3.1.5).
        if self.sqe().cdw11() & CDW11_CONTIGUOUS == 0 || set != size {
            return Err(Status::INVALID_FIELD);
        }
        let base = self.sqe().prp1.get();
        if !base.is_multiple_of(PAGE) {
            Err(Status::INVALID_PRP_OFFSET)
        } else {
            Ok((entries, base))
        }
    }

    /// Create I/O Completion Queue (5.3).
    pub(super) fn create_completion_queue(&self) -> Result<(), Failure> {
        let id = self.queue_id()?;
        let queue = self.completion(id)?;
        if queue.exists() {
            return Err(Status::INVALID_QUEUE_ID.into());
        }
        let set = lock(&self.shared.registers).cc().cq_entry_size();
        let (entries, base) = self.placement(set, CQ_ENTRY_SIZE)?;
        let vector = (self.sqe().cdw11() >> 16) as u16;
        if vector >= self.shared.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR.into());
        }
        let interrupts = self.sqe().cdw11() & CDW11_INTERRUPTS != 0;
        let shadow = lock(&self.shared.shadow).map(|pages| pages.head(id));
        // Keeps a reset off, which would not know of the queue.
        let access = self.shared.session.enter(self.fetched.ticket)?;
        if let Some(shadow) = shadow {
            shadow.publish(&access, 0, entries - 1)?;
        }
        self.shared.begin_doorbells(&[2 * usize::from(id) + 1]);
        queue.create(Creation {
            base,
            entries,
            vector: interrupts.then_some(vector),
            shadow,
        });
        Ok(())
    }

    /// Create I/O Submission Queue (5.4).
    pub(super) fn create_submission_queue(&self) -> Result<(), Failure> {
        let id = self.queue_id()?;
        let queue = self.submission(id)?;
        if queue.completion_queue().is_some() {
            return Err(Status::INVALID_QUEUE_ID.into());
        }
        let set = lock(&self.shared.registers).cc().sq_entry_size();
        let (entries, base) = self.placement(set, SQ_ENTRY_SIZE)?;
        let cq = (self.sqe().cdw11() >> 16) as u16;
        if cq == 0 || cq > self.shared.queues() {
            return Err(Status::INVALID_QUEUE_ID.into());
        }
        if !self.completion(cq)?.exists() {
            return Err(Status::INVALID_COMPLETION_QUEUE.into());
        }
        let shadow = lock(&self.shared.shadow).map(|pages| pages.tail(id));
        let access = self.shared.session.enter(self.fetched.ticket)?;
        if let Some(shadow) = shadow {
            shadow.publish(&access, 0, 0)?;
        }
        self.shared.begin_doorbells(&[2 * usize::from(id)]);
        queue.create(&self.shared.session, base, entries, cq, shadow);
        Ok(())
    }

    /// Delete I/O Submission Queue (5.6): commands in hand complete as aborted, whatever becomes of them.
    pub(super) fn delete_submission_queue(&self) -> Result<(), Failure> {
        let id = self.queue_id()?;
        let queue = self.submission(id)?;
        let cq = queue.completion_queue().ok_or(Status::INVALID_QUEUE_ID)?;
        let completion = self.completion(cq)?;
        queue.invalidate();
        completion.wake();
        self.shared.changes.wake();
        drop(self.shared.session.barrier());
        for cid in self.shared.remove_submission_queue(queue) {
            let aborted = Completion {
                sq_id: id,
                cid,
                status: Status::ABORTED_SQ_DELETION,
                result: 0,
            };
            self.tell_aborted(completion, aborted)?;
        }
        Ok(())
    }

    /// Posts a completion if there is room. Without, nothing is told: the host need not take out of a queue whose
    /// commands it gave up, and the admin queue must not wait for that.
    fn tell_aborted(&self, queue: &CompletionQueue, aborted: Completion) -> Result<(), Failure> {
        let access = self.shared.session.enter(self.fetched.ticket)?;
        let posted = queue.try_post(&access, aborted, self.shared.interrupts.is_line(), || 0);
        match posted {
            Ok(Posted::Yes(Some(vector))) => {
                self.shared
                    .interrupts
                    .posted(access.host()?, vector, &self.shared.completion);
            }
            Ok(_) => {}
            Err(fault) => {
                // Breaking down takes an access of its own.
                drop(access);
                self.shared.break_down(self.fetched.ticket, &fault);
            }
        }
        Ok(())
    }

    /// Delete I/O Completion Queue (5.5).
    pub(super) fn delete_completion_queue(&self) -> Result<(), Failure> {
        let id = self.queue_id()?;
        let queue = self.completion(id)?;
        if !queue.exists() {
            return Err(Status::INVALID_QUEUE_ID.into());
        }
        if self
            .shared
            .submission
            .iter()
            .any(|submission| submission.completion_queue() == Some(id))
        {
            return Err(Status::INVALID_QUEUE_DELETION.into());
        }
        queue.remove();
        // The line may have been asserted for what was left in it.
        self.shared.interrupts.update(&self.shared.completion, 0);
        Ok(())
    }

    /// Doorbell Buffer Config (5.3 of the list of commands for virtualized environments). I/O queues that exist go
    /// on where they are; the admin queue keeps its doorbells.
    pub(super) fn doorbell_buffer(&self) -> Result<(), Failure> {
        if !self.shared.shadow_offered.load(Ordering::SeqCst) {
            return Err(Status::INVALID_OPCODE.into());
        }
        let pages = ShadowPages {
            doorbells: self.sqe().prp1.get(),
            events: self.sqe().prp2.get(),
        };
        if !pages.doorbells.is_multiple_of(PAGE) || !pages.events.is_multiple_of(PAGE) {
            return Err(Status::INVALID_PRP_OFFSET.into());
        }
        if pages.doorbells == pages.events {
            return Err(Status::INVALID_FIELD.into());
        }
        let access = self.shared.session.enter(self.fetched.ticket)?;
        let configure = || -> Result<(), Fault> {
            for (id, queue) in (0..).zip(&self.shared.completion).skip(1) {
                queue.set_shadow(&access, pages.head(id))?;
            }
            for queue in self.shared.submission.iter().skip(1) {
                queue.set_shadow(&access, pages.tail(queue.id))?;
            }
            Ok(())
        };
        configure()?;
        *lock(&self.shared.shadow) = Some(pages);
        Ok(())
    }
}
