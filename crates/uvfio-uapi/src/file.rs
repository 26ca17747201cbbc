//! Files of the interface, and what calls on them give.

use std::os::fd::OwnedFd;

/// A path that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group(u32),
    /// `/dev/iommu`.
    Iommu,
    /// `/dev/vfio/devices/vfioN`: N is a function's place in the list given to [`Uapi::new`](crate::Uapi::new), from 0.
    Device(u32),
}

/// Names an open file: all descriptors made from one open by dup, fork and the like are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub(crate) u64);

/// What an ioctl that was not refused gives the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A value to return.
    Value(i32),
    /// A new open file: the caller is to be given a descriptor for it, and its number returned.
    Descriptor {
        /// The file; whoever catches calls closes it as any other.
        file: FileId,
        /// Whether the descriptor is closed on exec.
        close_on_exec: bool,
    },
}

/// What an mmap of a device's file shows, for a run of pages.
#[derive(Debug)]
pub enum Part {
    /// Plain memory, to be mapped.
    Memory {
        /// Length in bytes, a multiple of 4096.
        bytes: u64,
        /// The file, to be mapped shared.
        file: OwnedFd,
        /// Byte offset in `file`.
        offset: u64,
    },
    /// Registers: every load is a [`Uapi::load`](crate::Uapi::load), every store a [`Uapi::store`](crate::Uapi::store).
    Trapped {
        /// Length in bytes, a multiple of 4096.
        bytes: u64,
    },
}
