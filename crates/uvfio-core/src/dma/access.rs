//! What a device reads and writes: accesses that may span ranges, each piece by copy or by message.
//!
//! Copies hold the table's read side for at most [`COPY_BYTES`] at a time. Accesses by message are begun under it, and
//! then hold nothing. So whoever has taken the write side has waited for every copy, never long, and finds what is
//! under way by message.

use std::ops::Range as Span;
use std::sync::Arc;

use super::mapping::{Mapping, Trust};
use super::table::Target;
use super::{DmaAccess, DmaError, DmaMessages, DmaSpace, DmaTicket};
use crate::front_end::FrontEnd;

/// The longest copy under one hold of the lock, in bytes.
const COPY_BYTES: u64 = 64 << 10;

/// How one piece of an access is done.
enum Reach<'a> {
    Memory {
        mapping: &'a Mapping,
        offset: u64,
        trust: Trust,
    },
    Message(&'a Begun),
}

/// An access by message under way; it ends when this is dropped.
struct Begun {
    way: Arc<dyn DmaMessages>,
    ticket: DmaTicket,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.way.end(self.ticket);
    }
}

impl DmaSpace {
    /// Reads `data.len()` bytes at `iova`; the range may span mappings. A naturally aligned run of 2, 4 or 8 bytes
    /// is read at once (see [`read_u32`](Self::read_u32)).
    ///
    /// # Errors
    /// The fault; what was read before it is in `data`.
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.walk(iova, data.len(), DmaAccess::READ, |reach, at, span| {
            let data = data.get_mut(span).unwrap_or_default();
            match reach {
                Reach::Memory {
                    mapping,
                    offset,
                    trust,
                } => mapping
                    .read(offset, data, trust)
                    .map_err(|_| DmaError::Truncated { iova: at }),
                Reach::Message(begun) => begun.way.read(begun.ticket, at, data),
            }
        })
    }

    /// Writes `data` at `iova`; the range may span mappings. Naturally aligned runs of 8 bytes are written at once
    /// and in ascending order; so are runs of 2 or 4 bytes at either end.
    ///
    /// # Errors
    /// The fault; what lies before it has been written.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        self.walk(iova, data.len(), DmaAccess::WRITE, |reach, at, span| {
            let data = data.get(span).unwrap_or_default();
            match reach {
                Reach::Memory {
                    mapping,
                    offset,
                    trust,
                } => mapping
                    .write(offset, data, trust)
                    .map_err(|_| DmaError::Truncated { iova: at }),
                Reach::Message(begun) => begun.way.write(begun.ticket, at, data),
            }
        })
    }

    /// Reads a little-endian dword. Where `iova` is a multiple of 4 and the memory is sealed (see
    /// `F_SEAL_SHRINK`), it is read at once: never half of it from before a write of the user's.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u32(&self, iova: u64) -> Result<u32, DmaError> {
        let mut bytes = [0; 4];
        self.read(iova, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes a little-endian dword; at once, as [`read_u32`](Self::read_u32).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_u32(&self, iova: u64, value: u32) -> Result<(), DmaError> {
        self.write(iova, &value.to_le_bytes())
    }

    /// Reads a little-endian quadword; at once where `iova` is a multiple of 8.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u64(&self, iova: u64) -> Result<u64, DmaError> {
        let mut bytes = [0; 8];
        self.read(iova, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian quadword; at once where `iova` is a multiple of 8.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_u64(&self, iova: u64, value: u64) -> Result<(), DmaError> {
        self.write(iova, &value.to_le_bytes())
    }

    /// Does an access piece by piece: `copy` is given the way, the IOVA, and the piece's place in the data.
    fn walk(
        &self,
        iova: u64,
        len: usize,
        need: DmaAccess,
        mut copy: impl FnMut(Reach<'_>, u64, Span<usize>) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mut done = 0;
        while done < len {
            let left = (len - done) as u64;
            let unmapped = |iova| DmaError::NotMapped {
                iova,
                bytes: left,
                write: need.contains(DmaAccess::WRITE),
            };
            let at = iova.checked_add(done as u64).ok_or(unmapped(iova))?;
            let inner = self.open().ok_or(DmaError::BusMasterOff { iova: at })?;
            let (first, range) = inner.table.find(at).ok_or(unmapped(at))?;
            if !range.access.contains(need) {
                return Err(unmapped(at));
            }
            let here = (range.last - at).saturating_add(1).min(left);
            match range.target {
                Target::Memory { slot, offset, trust } => {
                    let mapping = inner.table.files.get(slot).ok_or(unmapped(at))?;
                    // No longer than one hold, and from then on in step with the address, so that no aligned word
                    // is copied in two.
                    let n = here.min(COPY_BYTES - at % COPY_BYTES);
                    let span = done..done + n as usize;
                    copy(
                        Reach::Memory {
                            mapping,
                            offset: offset + (at - first),
                            trust,
                        },
                        at,
                        span,
                    )?;
                    done += n as usize;
                }
                Target::Message => {
                    if FrontEnd::inside() {
                        let why = "a device may not ask the user from the thread that reads its answers";
                        return Err(DmaError::Message { iova: at, why });
                    }
                    let way = self.way().ok_or(DmaError::Message {
                        iova: at,
                        why: "the user can't be asked",
                    })?;
                    // Before the lock is let go: whoever unmaps or switches bus mastering off from then on finds it
                    // under way, and abandons it.
                    let ticket = way.begin(at, at + (here - 1));
                    drop(inner);
                    copy(
                        Reach::Message(&Begun { way, ticket }),
                        at,
                        done..done + here as usize,
                    )?;
                    done += here as usize;
                }
            }
        }
        Ok(())
    }
}
