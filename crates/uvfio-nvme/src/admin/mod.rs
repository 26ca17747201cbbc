//! Admin commands (section 5), one after the other on the admin queue's thread.

mod features;
mod identify;
mod log_page;
mod queues;

use crate::io::MAX_TRANSFER;
use crate::prp::{Failure, Prps};
use crate::shared::Shared;
use crate::spec::command::{Sqe, admin};
use crate::spec::status::Status;
use crate::submission::Fetched;

/// One admin command and what it needs.
pub(crate) struct Admin<'a> {
    shared: &'a Shared,
    fetched: &'a Fetched<'a>,
}

/// What became of a command that did not fail.
enum Done {
    /// It completes with this DW0.
    Now(u32),
    /// It completes some time later.
    Later,
}

/// Executes an admin command and completes it, unless it is one that waits.
pub(crate) fn serve(shared: &Shared, fetched: &Fetched<'_>) {
    let outcome = Admin { shared, fetched }.execute();
    match outcome {
        Ok(Done::Now(result)) => shared.complete(0, fetched, Status::SUCCESS, result),
        Ok(Done::Later) => {
            // It is no longer in hand: whoever completes it knows its identifier.
            if let Some(queue) = shared.submission.first() {
                queue.finish(fetched.ticket, fetched.sqe.cid.get());
            }
        }
        Err(Failure::Status(status)) => shared.complete(0, fetched, status, 0),
        Err(Failure::Void) => {}
    }
    shared.report_events();
}

impl Admin<'_> {
    fn sqe(&self) -> &Sqe {
        &self.fetched.sqe
    }

    fn execute(&self) -> Result<Done, Failure> {
        if self.sqe().is_fused_or_sgl() {
            return Err(Status::INVALID_FIELD.into());
        }
        let nothing = |()| 0;
        let result = match self.sqe().opcode {
            admin::DELETE_SQ => self.delete_submission_queue().map(nothing)?,
            admin::CREATE_SQ => self.create_submission_queue().map(nothing)?,
            admin::GET_LOG_PAGE => self.get_log_page().map(nothing)?,
            admin::DELETE_CQ => self.delete_completion_queue().map(nothing)?,
            admin::CREATE_CQ => self.create_completion_queue().map(nothing)?,
            admin::IDENTIFY => self.identify().map(nothing)?,
            admin::ABORT => self.abort(),
            admin::SET_FEATURES => self.set_features()?,
            admin::GET_FEATURES => self.get_features()?,
            admin::ASYNC_EVENT => return self.async_event(),
            admin::DOORBELL_BUFFER => self.doorbell_buffer().map(nothing)?,
            _ => return Err(Status::INVALID_OPCODE.into()),
        };
        Ok(Done::Now(result))
    }

    /// Gives `data` to the host.
    fn send(&self, data: &[u8]) -> Result<(), Failure> {
        let mut prps = self.prps(data.len() as u64)?;
        prps.scatter(&self.shared.session.enter(self.fetched.ticket)?, data)
    }

    /// Takes data from the host.
    fn receive(&self, data: &mut [u8]) -> Result<(), Failure> {
        let mut prps = self.prps(data.len() as u64)?;
        prps.gather(&self.shared.session.enter(self.fetched.ticket)?, data)
    }

    fn prps(&self, bytes: u64) -> Result<Prps, Failure> {
        if bytes > MAX_TRANSFER {
            return Err(Status::INVALID_FIELD.into());
        }
        Ok(Prps::new(self.sqe().prp1.get(), self.sqe().prp2.get(), bytes))
    }

    /// Asynchronous Event Request (5.2).
    fn async_event(&self) -> Result<Done, Failure> {
        if crate::sync::lock(&self.shared.events).request(self.sqe().cid.get()) {
            Ok(Done::Later)
        } else {
            Err(Status::ASYNC_EVENT_LIMIT.into())
        }
    }

    /// Abort (5.1). Only a command that waits for an event can be aborted; others end soon, or wait for their
    /// backend, which can't be called back. DW0 bit 0 tells that a command was not aborted.
    fn abort(&self) -> u32 {
        let cid = (self.sqe().cdw10() >> 16) as u16;
        let queue = self.sqe().cdw10() as u16;
        if queue != 0 || !crate::sync::lock(&self.shared.events).abort(cid) {
            return 1;
        }
        let aborted = crate::completion::Completion {
            sq_id: 0,
            cid,
            status: Status::ABORT_REQUESTED,
            result: 0,
        };
        self.shared.post(0, 0, self.fetched.ticket, aborted);
        0
    }
}
