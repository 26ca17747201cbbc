//! Physical region pages: where a command's data lies in the user's memory (section 4.3).
//!
//! The list is walked while the data is copied, so what it costs is bounded by the length of the data, whatever
//! the list says: a list that leads to itself only names the same pages again.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::session::{Fault, Memory};
use crate::spec::registers::PAGE;
use crate::spec::status::Status;

/// List entries read at a time.
const BATCH: usize = 32;
/// Bytes of a list entry.
const ENTRY: u64 = 8;

/// Why data could not be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The command completes with this status.
    Status(Status),
    /// The command's queue is gone: there is nothing to complete.
    Void,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Void => Self::Void,
            Fault::Dma(why) => {
                tracing::debug!(%why, "a command's memory can't be reached");
                Self::Status(Status::DATA_TRANSFER_ERROR)
            }
        }
    }
}

/// A contiguous piece of the user's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    iova: u64,
    bytes: u64,
}

/// Where the next page comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// PRP1.
    First(u64),
    /// PRP2, which names a page.
    Second(u64),
    /// The list, whose next unread entry lies here.
    List(u64),
}

/// A command's data, moved from front to back in pieces of any size.
#[derive(Debug)]
pub(crate) struct Prps {
    source: Source,
    second: u64,
    /// Bytes that no segment has been made for.
    unplaced: u64,
    /// What is left of the segment being moved.
    segment: Segment,
    /// A segment already found that did not join the one before it.
    ahead: Option<Segment>,
    list: [U64; BATCH],
    /// The entries of `list` that are still to come.
    pending: core::ops::Range<usize>,
}

impl Prps {
    /// The data of `bytes` bytes that PRP1 and PRP2 of a command describe.
    pub(crate) fn new(prp1: u64, prp2: u64, bytes: u64) -> Self {
        Self {
            source: Source::First(prp1),
            second: prp2,
            unplaced: bytes,
            segment: Segment { iova: 0, bytes: 0 },
            ahead: None,
            list: [U64::ZERO; BATCH],
            pending: 0..0,
        }
    }

    /// Copies the next `data.len()` bytes from the user.
    pub(crate) fn gather(&mut self, memory: &impl Memory, data: &mut [u8]) -> Result<(), Failure> {
        let mut rest = data;
        while !rest.is_empty() {
            let (iova, bytes) = self.piece(memory, rest.len())?;
            let (now, later) = rest.split_at_mut(bytes);
            memory.read(iova, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies `data`, the next bytes, to the user.
    pub(crate) fn scatter(&mut self, memory: &impl Memory, data: &[u8]) -> Result<(), Failure> {
        let mut rest = data;
        while !rest.is_empty() {
            let (iova, bytes) = self.piece(memory, rest.len())?;
            let (now, later) = rest.split_at(bytes);
            memory.write(iova, now)?;
            rest = later;
        }
        Ok(())
    }

    /// The next contiguous piece, at most `most` bytes (which are not 0).
    fn piece(&mut self, memory: &impl Memory, most: usize) -> Result<(u64, usize), Failure> {
        if self.segment.bytes == 0 {
            self.segment = match self.ahead.take() {
                Some(segment) => segment,
                None => self.page(memory)?,
            };
        }
        // Neighbouring pages are moved in one go.
        while self.segment.bytes < most as u64 && self.ahead.is_none() && self.unplaced != 0 {
            let next = self.page(memory)?;
            if self.segment.iova.checked_add(self.segment.bytes) == Some(next.iova) {
                self.segment.bytes += next.bytes;
            } else {
                self.ahead = Some(next);
            }
        }
        let bytes = self.segment.bytes.min(most as u64);
        let iova = self.segment.iova;
        self.segment.iova = iova.wrapping_add(bytes);
        self.segment.bytes -= bytes;
        Ok((iova, bytes as usize))
    }

    /// The next page, or the part of it that the data has.
    fn page(&mut self, memory: &impl Memory) -> Result<Segment, Failure> {
        if self.unplaced == 0 {
            // More was asked for than the command's length; only a mistake of ours gets here.
            return Err(Status::INTERNAL_ERROR.into());
        }
        let (iova, bytes) = match self.source {
            Source::First(prp1) => {
                // Dword aligned; only this entry may have an offset (4.3).
                if prp1 % 4 != 0 {
                    return Err(Status::INVALID_PRP_OFFSET.into());
                }
                let bytes = (PAGE - prp1 % PAGE).min(self.unplaced);
                let left = self.unplaced - bytes;
                self.source = if left <= PAGE {
                    Source::Second(self.second)
                } else {
                    Source::List(self.second)
                };
                (prp1, bytes)
            }
            Source::Second(prp2) => (Self::aligned(prp2)?, self.unplaced.min(PAGE)),
            Source::List(_) => (Self::aligned(self.entry(memory)?)?, self.unplaced.min(PAGE)),
        };
        self.unplaced -= bytes;
        Ok(Segment { iova, bytes })
    }

    fn aligned(entry: u64) -> Result<u64, Failure> {
        if entry.is_multiple_of(PAGE) {
            Ok(entry)
        } else {
            Err(Status::INVALID_PRP_OFFSET.into())
        }
    }

    /// The next entry of the list that names a page of data.
    fn entry(&mut self, memory: &impl Memory) -> Result<u64, Failure> {
        let entry = self.raw_entry(memory)?;
        // The last entry of a page of the list names the next page of the list, if there is more to come (4.3).
        let Source::List(next) = self.source else {
            return Err(Status::INTERNAL_ERROR.into());
        };
        if next % PAGE == 0 && self.unplaced > PAGE {
            self.source = Source::List(Self::aligned(entry)?);
            return self.raw_entry(memory);
        }
        Ok(entry)
    }

    fn raw_entry(&mut self, memory: &impl Memory) -> Result<u64, Failure> {
        let Source::List(at) = self.source else {
            return Err(Status::INTERNAL_ERROR.into());
        };
        if self.pending.is_empty() {
            if at % ENTRY != 0 {
                return Err(Status::INVALID_PRP_OFFSET.into());
            }
            let in_page = (PAGE - at % PAGE) / ENTRY;
            let wanted = self.unplaced.div_ceil(PAGE).min(in_page).min(BATCH as u64) as usize;
            let list = self.list.get_mut(..wanted).unwrap_or_default();
            memory.read(at, list.as_mut_bytes())?;
            self.pending = 0..wanted;
        }
        let entry = self
            .pending
            .next()
            .and_then(|index| self.list.get(index))
            .map_or(0, |entry| entry.get());
        self.source = Source::List(at.wrapping_add(ENTRY));
        Ok(entry)
    }
}

#[cfg(test)]
#[path = "prp_tests.rs"]
mod tests;
