//! Commands of the NVM command set (section 6).
//!
//! Data goes through a buffer of the thread's, piece by piece: backend I/O without an access to the user in hand,
//! then a copy with one.

use std::io;
use std::sync::atomic::Ordering;

use zerocopy::FromBytes;

use crate::namespace::{Extent, Namespace};
use crate::prp::{Failure, Prps};
use crate::shared::Shared;
use crate::spec::command::{
    CDW11_DEALLOCATE, CDW12_DEALLOCATE, CDW12_FUA, DATASET_RANGE_BYTES, DATASET_RANGES, DatasetRange,
    NSID_ALL, Sqe, nvm,
};
use crate::spec::status::Status;
use crate::submission::Fetched;

/// MDTS in units of the smallest page, as a power of two: 1 MiB.
pub(crate) const MDTS: u8 = 8;
/// The most bytes that one command moves.
pub(crate) const MAX_TRANSFER: u64 = 4096 << MDTS;
/// Bytes moved at a time; a thread's buffer.
pub(crate) const PIECE: usize = 32 * 1024;

const _: () = assert!(DATASET_RANGES * DATASET_RANGE_BYTES <= PIECE);

/// A thread's buffer: made for its first command, so that a queue that nobody uses takes no memory.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// [`PIECE`] bytes.
    fn bytes(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; PIECE];
        }
        &mut self.0
    }
}

/// One command and what it needs.
struct Io<'a> {
    shared: &'a Shared,
    /// QID.
    queue: u16,
    fetched: &'a Fetched<'a>,
    buffer: &'a mut [u8],
}

/// Executes an I/O command and completes it.
pub(crate) fn serve(shared: &Shared, queue: u16, fetched: &Fetched<'_>, buffer: &mut Buffer) {
    let outcome = if fetched.duplicate {
        Err(Status::COMMAND_ID_CONFLICT.into())
    } else {
        Io {
            shared,
            queue,
            fetched,
            buffer: buffer.bytes(),
        }
        .execute()
    };
    match outcome {
        Ok(()) => shared.complete(queue, fetched, Status::SUCCESS, 0),
        Err(Failure::Status(status)) => shared.complete(queue, fetched, status, 0),
        // The queue is gone, and has forgotten the command.
        Err(Failure::Void) => {}
    }
}

impl Io<'_> {
    fn sqe(&self) -> &Sqe {
        &self.fetched.sqe
    }

    fn execute(&mut self) -> Result<(), Failure> {
        let nsid = self.sqe().nsid.get();
        if self.sqe().is_fused_or_sgl() {
            return Err(Status::INVALID_FIELD.into());
        }
        let (shared, ticket) = (self.shared, self.fetched.ticket);
        // Held until the command has done with the backend.
        let _change = match self.sqe().opcode {
            nvm::WRITE | nvm::WRITE_ZEROES | nvm::DATASET_MANAGEMENT => {
                Some(shared.changes.begin(self.queue, ticket)?)
            }
            _ => {
                shared.changes.settle(ticket)?;
                None
            }
        };
        match self.sqe().opcode {
            nvm::FLUSH if nsid == NSID_ALL => self
                .shared
                .namespaces
                .iter()
                .try_for_each(|namespace| self.flush(namespace)),
            nvm::FLUSH => self.flush(self.shared.namespace(nsid)?),
            nvm::READ => self.read(self.shared.namespace(nsid)?),
            nvm::WRITE => self.write(self.shared.namespace(nsid)?),
            nvm::COMPARE => self.compare(self.shared.namespace(nsid)?),
            nvm::WRITE_ZEROES => self.write_zeroes(self.shared.namespace(nsid)?),
            nvm::DATASET_MANAGEMENT => self.dataset_management(self.shared.namespace(nsid)?),
            _ => Err(Status::INVALID_OPCODE.into()),
        }
    }

    /// The status for an error of the backend's.
    fn media_error(&self, why: &io::Error, status: Status) -> Failure {
        tracing::warn!(%why, nsid = self.sqe().nsid.get(), "a namespace's backend failed");
        self.shared.counters.media_errors.add(1);
        let full = matches!(
            why.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        Failure::Status(if full { Status::CAPACITY_EXCEEDED } else { status })
    }

    fn written<T>(&self, outcome: io::Result<T>) -> Result<T, Failure> {
        outcome.map_err(|why| self.media_error(&why, Status::WRITE_FAULT))
    }

    fn flush(&self, namespace: &Namespace) -> Result<(), Failure> {
        // Nothing was ever written to one that is read-only.
        if namespace.read_only {
            Ok(())
        } else {
            self.written(namespace.backend.flush())
        }
    }

    /// Makes durable what was written, if the command or the host's settings ask for it before completion.
    fn settle(&self, namespace: &Namespace) -> Result<(), Failure> {
        let durable = self.sqe().cdw12() & CDW12_FUA != 0 || self.shared.write_through.load(Ordering::SeqCst);
        if durable { self.flush(namespace) } else { Ok(()) }
    }

    /// The bytes of a command that moves data, and where they lie in the user's memory.
    fn data(&self, namespace: &Namespace) -> Result<(Extent, Prps), Failure> {
        let sqe = self.sqe();
        if sqe.blocks() << namespace.block_shift > MAX_TRANSFER {
            return Err(Status::INVALID_FIELD.into());
        }
        let extent = namespace.extent(sqe.start_block(), sqe.blocks())?;
        Ok((extent, Prps::new(sqe.prp1.get(), sqe.prp2.get(), extent.bytes)))
    }

    fn read(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let (extent, mut prps) = self.data(namespace)?;
        for (offset, bytes) in pieces(extent, PIECE) {
            let data = self.buffer.get_mut(..bytes).unwrap_or_default();
            if let Err(why) = namespace.backend.read(offset, data) {
                return Err(self.media_error(&why, Status::UNRECOVERED_READ_ERROR));
            }
            let access = self.shared.session.enter(self.fetched.ticket)?;
            prps.scatter(&access, self.buffer.get(..bytes).unwrap_or_default())?;
        }
        self.shared.counters.reads.add(1);
        self.shared.counters.bytes_read.add(extent.bytes);
        Ok(())
    }

    fn write(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let (extent, mut prps) = self.data(namespace)?;
        namespace.writable()?;
        for (offset, bytes) in pieces(extent, PIECE) {
            let data = self.buffer.get_mut(..bytes).unwrap_or_default();
            prps.gather(&self.shared.session.enter(self.fetched.ticket)?, data)?;
            let data = self.buffer.get(..bytes).unwrap_or_default();
            self.written(namespace.backend.write(offset, data))?;
        }
        self.settle(namespace)?;
        self.shared.counters.writes.add(1);
        self.shared.counters.bytes_written.add(extent.bytes);
        Ok(())
    }

    fn compare(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let (extent, mut prps) = self.data(namespace)?;
        for (offset, bytes) in pieces(extent, PIECE / 2) {
            let (stored, given) = self.buffer.split_at_mut(PIECE / 2);
            let stored = stored.get_mut(..bytes).unwrap_or_default();
            let given = given.get_mut(..bytes).unwrap_or_default();
            if let Err(why) = namespace.backend.read(offset, stored) {
                return Err(self.media_error(&why, Status::UNRECOVERED_READ_ERROR));
            }
            prps.gather(&self.shared.session.enter(self.fetched.ticket)?, given)?;
            if stored != given {
                return Err(Status::COMPARE_FAILURE.into());
            }
        }
        self.shared.counters.reads.add(1);
        self.shared.counters.bytes_read.add(extent.bytes);
        Ok(())
    }

    fn write_zeroes(&self, namespace: &Namespace) -> Result<(), Failure> {
        let sqe = self.sqe();
        let extent = namespace.extent(sqe.start_block(), sqe.blocks())?;
        namespace.writable()?;
        let release = sqe.cdw12() & CDW12_DEALLOCATE != 0;
        self.written(
            namespace
                .backend
                .write_zeroes(extent.offset, extent.bytes, release),
        )?;
        self.settle(namespace)
    }

    fn dataset_management(&mut self, namespace: &Namespace) -> Result<(), Failure> {
        let sqe = self.sqe();
        let bytes = ((sqe.cdw10() & 0xff) as usize + 1) * DATASET_RANGE_BYTES;
        let deallocate = sqe.cdw11() & CDW11_DEALLOCATE != 0;
        let mut prps = Prps::new(sqe.prp1.get(), sqe.prp2.get(), bytes as u64);
        let data = self.buffer.get_mut(..bytes).unwrap_or_default();
        prps.gather(&self.shared.session.enter(self.fetched.ticket)?, data)?;
        if deallocate {
            namespace.writable()?;
        }
        let ranges = || {
            let ranges = self
                .buffer
                .get(..bytes)
                .unwrap_or_default()
                .chunks_exact(DATASET_RANGE_BYTES);
            ranges
                .filter_map(|range| DatasetRange::read_from_bytes(range).ok())
                .map(|range| {
                    // A range of no blocks is none.
                    namespace.extent(range.start.get(), u64::from(range.blocks.get()))
                })
        };
        // All or none: a range that can't be is found before anything is given back.
        for extent in ranges() {
            extent?;
        }
        if deallocate {
            for extent in ranges().flatten().filter(|extent| extent.bytes != 0) {
                self.written(namespace.backend.release(extent.offset, extent.bytes))?;
            }
        }
        Ok(())
    }
}

/// An extent in pieces: offset and length of each.
fn pieces(extent: Extent, most: usize) -> impl Iterator<Item = (u64, usize)> {
    (0..extent.bytes).step_by(most).map(move |done| {
        (
            extent.offset + done,
            (extent.bytes - done).min(most as u64) as usize,
        )
    })
}
