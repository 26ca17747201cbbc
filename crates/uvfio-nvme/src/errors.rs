//! The error information log: the last commands that failed (section 5.14.1.1).

use std::collections::VecDeque;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::completion::Completion;
use crate::spec::log::ErrorEntry;

/// Entries of the log (ELPE + 1).
pub(crate) const ENTRIES: usize = 16;

/// The log, newest first.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorEntry>,
}

impl ErrorLog {
    /// A command failed.
    pub(crate) fn add(&mut self, completion: Completion, nsid: u32, lba: u64) {
        self.count += 1;
        self.entries.truncate(ENTRIES - 1);
        let mut entry = ErrorEntry::new_zeroed();
        entry.count = U64::new(self.count);
        entry.sq_id = U16::new(completion.sq_id);
        entry.cid = U16::new(completion.cid);
        entry.status = U16::new(completion.status.field() << 1);
        entry.location = U16::new(u16::MAX);
        entry.lba = U64::new(lba);
        entry.nsid = U32::new(nsid);
        self.entries.push_front(entry);
    }

    /// Errors ever.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The log page.
    pub(crate) fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|entry| entry.as_bytes().iter().copied())
            .collect();
        page.resize(ENTRIES * size_of::<ErrorEntry>(), 0);
        page
    }
}
