//! What takes its time: resets, power states, the change from one user to the next. A device's thread of effects does
//! them one after another, while accesses are answered without the device.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uvfio_pci::{EffectId, PowerState, ResetKind};

use crate::DeviceError;

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The device resets itself.
    Reset { kind: ResetKind, id: EffectId },
    /// The device changes its power state.
    Power {
        from: PowerState,
        to: PowerState,
        id: EffectId,
    },
    /// The user has gone.
    Detach,
}

/// The number of a task, in the order of their coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Ticket(u64);

/// The tasks, and the waiting for them.
#[derive(Debug, Default)]
pub(super) struct Work {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct List {
    waiting: VecDeque<(Ticket, Task)>,
    given: Ticket,
    done: Ticket,
    failure: Option<DeviceError>,
    stopped: bool,
}

impl Work {
    /// Adds a task. A power state that has not been begun is replaced by the next one; its number is returned, for
    /// the answer to the model.
    pub(super) fn add(&self, task: Task) -> (Ticket, Option<EffectId>) {
        let mut list = self.lock();
        if let Task::Power { to, id, .. } = task
            && let Some((
                ticket,
                Task::Power {
                    to: last,
                    id: replaced,
                    ..
                },
            )) = list.waiting.back_mut()
        {
            *last = to;
            let old = std::mem::replace(replaced, id);
            return (*ticket, Some(old));
        }
        list.given.0 += 1;
        let ticket = list.given;
        list.waiting.push_back((ticket, task));
        self.changed.notify_all();
        (ticket, None)
    }

    /// The last task given.
    pub(super) fn last(&self) -> Ticket {
        self.lock().given
    }

    /// The thread's next task; none when it is to end.
    pub(super) fn next(&self) -> Option<(Ticket, Task)> {
        let mut list = self.lock();
        loop {
            if list.stopped {
                return None;
            }
            if let Some(next) = list.waiting.pop_front() {
                return Some(next);
            }
            list = self.changed.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A task is done.
    pub(super) fn finish(&self, ticket: Ticket) {
        self.lock().done = ticket;
        self.changed.notify_all();
    }

    /// The device did not come back: whoever waits for it learns of that, now and later.
    pub(super) fn fail(&self, failure: DeviceError) {
        self.lock().failure = Some(failure);
        self.changed.notify_all();
    }

    /// Waits until a task is done; `None` where it isn't in time, or `give_up` says so (see [`look`](Self::look)).
    pub(super) fn wait(
        &self,
        ticket: Ticket,
        patience: Duration,
        give_up: impl Fn() -> bool,
    ) -> Option<Result<(), DeviceError>> {
        // Patience beyond all clocks is patience for ever.
        let deadline = Instant::now().checked_add(patience);
        let mut list = self.lock();
        loop {
            // A failure is told once its task is done: by then the device is gone for everybody.
            let failed = list.failure.clone();
            if list.done >= ticket {
                return Some(failed.map_or(Ok(()), Err));
            }
            if failed.is_none() && give_up() {
                return None;
            }
            let left = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return failed.map(Err),
                Some(left) => left,
                None => Duration::from_secs(3600),
            };
            list = self
                .changed
                .wait_timeout(list, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Has those who wait look again whether they give up.
    pub(super) fn look(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Ends the thread after the task that it is at.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_states_that_wait_are_one_task() {
        let work = Work::default();
        let power = |from, to, id| Task::Power {
            from,
            to,
            id: EffectId(id),
        };
        work.add(Task::Reset {
            kind: ResetKind::FunctionLevel,
            id: EffectId(1),
        });
        work.add(power(PowerState::D0, PowerState::D3hot, 2));
        for id in 3..1000 {
            let (_, replaced) = work.add(power(PowerState::D3hot, PowerState::D0, id));
            assert_eq!(replaced, Some(EffectId(id - 1)));
        }
        work.next();
        assert_eq!(
            work.next().map(|t| t.1),
            Some(power(PowerState::D0, PowerState::D0, 999))
        );
        work.stop();
        assert_eq!(work.next(), None);
    }
}
