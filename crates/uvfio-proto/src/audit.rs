//! The audit log, in rations: what a user can cause at will must not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// So many are logged, each; of the later ones, those whose number is a power of two.
const ALL_UP_TO: u64 = 64;

/// Counts one kind of event of one connection.
#[derive(Debug, Default)]
pub(crate) struct Ration(AtomicU64);

impl Ration {
    /// Counts an event; gives its number, from 1, if it is to be logged.
    pub(crate) fn next(&self) -> Option<u64> {
        let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        (number <= ALL_UP_TO || number.is_power_of_two()).then_some(number)
    }
}
