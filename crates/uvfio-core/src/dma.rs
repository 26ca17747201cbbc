//! The user's memory as the device sees it: IOVA ranges by the rules of Linux's type1v2.
//!
//! Mapping over an existing range is refused; an unmap removes every range wholly inside it, refuses to cut one,
//! and succeeds over nothing; iova + size may equal 2^64. One kernel mapping backs a file however many ranges
//! name it. Access is by copies that can't fault, or by message.
//!
//! ```text
//! DmaSpace (space)   locks, quotas, what blocks bus mastering
//!   (access)         reads and writes by the device: the loop over a spanning access
//!   Table (table)    ranges by IOVA, the rules of overlap and cut
//!   Backing (backing) which descriptors are memory, and how far they may be trusted
//!     Mapping (mapping)  one kernel mapping, and the only copies into and out of it
//! ```

mod access;
mod backing;
pub(crate) mod mapping;
mod space;
mod table;

use std::os::fd::OwnedFd;

pub use space::{DmaSpace, DmaUsage};

bitflags::bitflags! {
    /// What the device may do with a range.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DmaAccess: u32 {
        /// Read it.
        const READ = 1;
        /// Write it.
        const WRITE = 2;
    }
}

/// A range to map.
#[derive(Debug)]
pub struct DmaMap {
    /// First address, as the device says it.
    pub iova: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What the device may do.
    pub access: DmaAccess,
    /// The memory; none where it can only be reached by message.
    pub backing: Option<Backing>,
}

/// Memory behind a range.
#[derive(Debug)]
pub struct Backing {
    /// The file (shmem or hugetlbfs; another is closed and the range reached by message).
    pub file: OwnedFd,
    /// Byte offset of the range in the file.
    pub offset: u64,
}

/// Why a mapping was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Empty, or past the end of the address space, or without access.
    #[error("DMA map of {bytes:#x} bytes at {iova:#x}: {rule}")]
    Invalid {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// Which rule.
        rule: &'static str,
    },
    /// Overlaps a mapping.
    #[error("DMA map of {bytes:#x} bytes at {iova:#x}: overlaps the mapping at {other:#x}; unmap that first")]
    Exists {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// The mapping in the way.
        other: u64,
    },
    /// A quota is used up.
    #[error("DMA map at {iova:#x}: the quota of {limit} {what} is used up")]
    Quota {
        /// Where.
        iova: u64,
        /// Of what.
        what: &'static str,
        /// How much there is.
        limit: u64,
    },
    /// The kernel could not map the file.
    #[error("DMA map at {iova:#x}: the kernel could not map the file (errno {errno})")]
    Kernel {
        /// Where.
        iova: u64,
        /// The kernel's error number.
        errno: i32,
    },
    /// The IOMMU in front of the device did not take it; the log has the rule and what to do.
    #[error("DMA map of {bytes:#x} bytes at {iova:#x}: the device's IOMMU refused it (errno {errno})")]
    Iommu {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// The kernel's error number.
        errno: i32,
    },
}

/// Why an unmap was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnmapError {
    /// Would cut a mapping in two.
    #[error("DMA unmap of {bytes:#x} bytes at {iova:#x}: would cut the mapping at {other:#x}")]
    Cuts {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// The mapping that would be cut.
        other: u64,
    },
    /// Empty, or past the end of the address space.
    #[error("DMA unmap of {bytes:#x} bytes at {iova:#x}: {rule}")]
    Invalid {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// Which rule.
        rule: &'static str,
    },
}

/// Why the device could not access memory: the fault that an IOMMU would report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// Bus mastering is off.
    #[error("DMA at {iova:#x}: bus mastering is off")]
    BusMasterOff {
        /// Where.
        iova: u64,
    },
    /// Nothing is mapped there, or not for this access.
    #[error("DMA {kind} of {bytes:#x} bytes at {iova:#x}: not mapped for that", kind = if *write { "write" } else { "read" })]
    NotMapped {
        /// Where.
        iova: u64,
        /// How long.
        bytes: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// The file has shrunk under the mapping.
    #[error("DMA at {iova:#x}: the user's file ends before that")]
    Truncated {
        /// Where.
        iova: u64,
    },
    /// By message: the user refused, gave no answer in time, or the access was abandoned (reset, unmap, detach).
    #[error("DMA at {iova:#x} by message: {why}")]
    Message {
        /// Where.
        iova: u64,
        /// What happened.
        why: &'static str,
    },
}

/// Names an access by message, from its beginning to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaTicket(pub u64);

/// The way to memory that has no descriptor: messages to the user. Front ends implement it.
///
/// An access is under way from [`begin`](DmaMessages::begin) to [`end`](DmaMessages::end). It is begun while the
/// table of mappings is locked, so that an unmap either comes before it, and it finds nothing mapped, or finds it
/// under way and abandons it: once the unmap is answered, no message names memory that is no longer the device's.
///
/// Called by device threads only. Reads and writes may wait for the user, and come back with an error when the access
/// is abandoned meanwhile.
pub trait DmaMessages: Send + Sync + std::fmt::Debug {
    /// Begins an access that touches `first ..= last` at most. The table is locked: this must not wait.
    ///
    /// The default is for those who need not tell one access from another.
    fn begin(&self, first: u64, last: u64) -> DmaTicket {
        let _ = (first, last);
        DmaTicket::default()
    }

    /// The access is over, done or not.
    fn end(&self, ticket: DmaTicket) {
        let _ = ticket;
    }

    /// Reads `data.len()` bytes at `iova`, as part of an access that was begun.
    ///
    /// # Errors
    /// See [`DmaError::Message`].
    fn read(&self, ticket: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError>;

    /// Writes `data` at `iova`, as part of an access that was begun.
    ///
    /// # Errors
    /// See [`DmaError::Message`].
    fn write(&self, ticket: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Ends every access that was begun with an error; late answers are dropped.
    fn abandon(&self);

    /// As [`abandon`](DmaMessages::abandon), for accesses that touch `first ..= last` at least: that memory is being
    /// unmapped. Others should go on, or an unmap of one page fails transfers of all others.
    fn abandon_range(&self, first: u64, last: u64) {
        let _ = (first, last);
        self.abandon();
    }
}
