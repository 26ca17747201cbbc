//! Whether a device's own memory answers.
//!
//! A BAR of a real device can be mapped, and an access by that mapping ends the program (SIGBUS) while the function's
//! memory is off or it sleeps. Both are registers of configuration space, so every write there is watched: while one is
//! under way, and from then on until the registers say otherwise, BARs are reached by calls of the kernel, which answers
//! with an error where the device does not.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// Whether BARs may be reached by mappings of the device itself.
#[derive(Debug, Default)]
pub(crate) struct Answering {
    answers: AtomicBool,
    /// Whether there are such mappings. Held while configuration space is written, so that the last write decides.
    watched: Mutex<bool>,
}

impl Answering {
    /// Whether an access by a mapping gets an answer.
    pub(crate) fn answers(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// Begins to watch; `look` says how it is now.
    pub(crate) fn watch(&self, look: impl FnOnce() -> Result<bool>) -> Result<()> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.answers.store(look()?, Ordering::Release);
        *watched = true;
        Ok(())
    }

    /// Carries out a write of configuration space, after which `look` says how it is.
    pub(crate) fn changed_by(
        &self,
        write: impl FnOnce() -> Result<()>,
        look: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !*watched {
            // As ever; others need not wait for it.
            drop(watched);
            return write();
        }
        self.answers.store(false, Ordering::Release);
        write()?;
        self.answers.store(look()?, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::DriverError;

    fn failure() -> DriverError {
        DriverError::Device("it is gone".into())
    }

    #[test]
    fn nothing_is_looked_at_before_there_are_mappings() {
        let answering = Answering::default();
        assert!(!answering.answers());
        let written = Cell::new(false);
        let write = || {
            written.set(true);
            Ok(())
        };
        answering.changed_by(write, || Err(failure())).unwrap();
        assert!(written.get());
        assert!(!answering.answers());
    }

    #[test]
    fn mappings_are_left_alone_while_a_write_is_under_way_and_until_the_registers_say_on() {
        let answering = Answering::default();
        answering.watch(|| Ok(true)).unwrap();
        assert!(answering.answers());
        for on in [false, true, false] {
            let write = || {
                assert!(!answering.answers(), "while the write is under way");
                Ok(())
            };
            answering.changed_by(write, || Ok(on)).unwrap();
            assert_eq!(answering.answers(), on);
        }
    }

    #[test]
    fn mappings_are_left_alone_where_a_write_or_the_look_after_it_failed() {
        let answering = Answering::default();
        answering.watch(|| Ok(true)).unwrap();
        answering.changed_by(|| Err(failure()), || Ok(true)).unwrap_err();
        assert!(!answering.answers());
        answering.changed_by(|| Ok(()), || Ok(true)).unwrap();
        answering.changed_by(|| Ok(()), || Err(failure())).unwrap_err();
        assert!(!answering.answers());
    }
}
