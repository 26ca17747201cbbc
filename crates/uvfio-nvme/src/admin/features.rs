//! Get and Set Features (sections 5.13 and 5.21).

use std::sync::atomic::Ordering;

use crate::features::TIMESTAMP_BYTES;
use crate::prp::Failure;
use crate::spec::feature as f;
use crate::spec::log::{self, EventType};
use crate::spec::status::Status;
use crate::sync::lock;

use super::Admin;

impl Admin<'_> {
    /// Get Features: DW0.
    pub(super) fn get_features(&self) -> Result<u32, Failure> {
        let sqe = self.sqe();
        let feature = sqe.cdw10() as u8;
        let select = sqe.cdw10() >> 8 & 0x7;
        let result = lock(&self.shared.features).get(feature, select, sqe.cdw11())?;
        if feature == f::TIMESTAMP && select != f::SELECT_CAPABILITIES {
            let current = lock(&self.shared.features).timestamp();
            self.send(if select == f::SELECT_CURRENT {
                &current
            } else {
                &[0; TIMESTAMP_BYTES]
            })?;
        }
        Ok(result)
    }

    /// Set Features: DW0.
    pub(super) fn set_features(&self) -> Result<u32, Failure> {
        let sqe = self.sqe();
        let feature = sqe.cdw10() as u8;
        if sqe.cdw10() & f::CDW10_SAVE != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.into());
        }
        if feature == f::TIMESTAMP {
            let mut data = [0; TIMESTAMP_BYTES];
            self.receive(&mut data)?;
            lock(&self.shared.features).set_timestamp(data);
            return Ok(0);
        }
        let queues_exist = self
            .shared
            .completion
            .iter()
            .skip(1)
            .any(super::super::completion::CompletionQueue::exists);
        let mut features = lock(&self.shared.features);
        let result = features.set(feature, sqe.cdw11(), queues_exist)?;
        self.shared
            .write_through
            .store(!features.write_cache(), Ordering::SeqCst);
        if matches!(feature, f::TEMPERATURE_THRESHOLD | f::ASYNC_EVENT)
            && features.temperature_warning()
            && features.wants_event(log::WARNING_TEMPERATURE)
        {
            let event = crate::events::Event {
                kind: EventType::Health,
                info: log::EVENT_TEMPERATURE,
                log: log::LID_HEALTH,
            };
            lock(&self.shared.events).raise(event);
        }
        Ok(result)
    }
}
