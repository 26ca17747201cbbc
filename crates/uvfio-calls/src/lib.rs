//! What a program under `uvfio run` and its supervisor say to each other: [`Call`] and [`Reply`], each of a fixed size,
//! one after the other, over a connection to [`SOCKET`].
//!
//! Which process calls, the supervisor hears from the kernel (`SO_PEERCRED`: who made the connection), and it reads and
//! writes that process's memory by itself, so what a program can say here it could also have said by a system call.
//!
//! Files of VFIO's are, in the program, descriptors of UNIX sockets that the supervisor holds the other ends of. The
//! kernel then does three things that would otherwise have to be done here: it keeps one identity for what `dup`, `fork`
//! and `SCM_RIGHTS` multiply; it tells the other end when the last of them is closed; and it refuses `pread`, `pwrite`
//! (ESPIPE), `write` (EPIPE) and `mmap` (ENODEV), and reads nothing by `read`, so that only calls that have come to nothing
//! need be looked at.
#![no_std]
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the supervisor listens, as the program sees it.
pub const SOCKET: &str = "/sys/module/vfio/supervisor";

/// Whether an ioctl's request is one that VFIO or iommufd numbers (`_IO(';', n)`).
#[must_use]
pub const fn is_vfio_request(request: u64) -> bool {
    // The kernel takes 32 bits of it.
    (request as u32) >> 8 == 0x3b
}

/// What a [`Call`] asks for.
pub mod op {
    /// Open the node with device number `request` and inode number `offset`.
    pub const OPEN: u32 = 1;
    /// ioctl `request` of descriptor `descriptor` with argument `address`.
    pub const IOCTL: u32 = 2;
    /// pread of `bytes` bytes at `offset` of `descriptor` to `address`; with [`AT_POSITION`](super::AT_POSITION), read.
    pub const READ: u32 = 3;
    /// pwrite, likewise.
    pub const WRITE: u32 = 4;
    /// What an mmap of `bytes` bytes at `offset` of `descriptor` shows: as many parts as a reply has room for.
    pub const MAP: u32 = 5;
    /// A load of `bytes` bytes (1, 2, 4 or 8) at `offset` of `descriptor` that was mapped.
    pub const LOAD: u32 = 6;
    /// A store of the low `bytes` bytes of `request`, likewise.
    pub const STORE: u32 = 7;
    /// By which node `descriptor` was opened.
    pub const STAT: u32 = 8;
    /// preadv2 at `offset` of `descriptor`, by the array of `bytes` times `struct iovec` at `address`, with the flags
    /// `request` (RWF_...); with [`AT_POSITION`](super::AT_POSITION), as readv.
    pub const READ_VECTOR: u32 = 9;
    /// pwritev2, likewise.
    pub const WRITE_VECTOR: u32 = 10;
}

/// The offset of who gives none: where the file's last read or write without one has ended. It is what preadv2 takes
/// for that, too; no file has as many bytes.
pub const AT_POSITION: u64 = u64::MAX;

/// What a call asks for; which fields count stands at its [`op`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// One of [`op`].
    pub op: u32,
    /// The caller's descriptor.
    pub descriptor: i32,
    /// See [`op`].
    pub request: u64,
    /// An address in the caller's memory.
    pub address: u64,
    /// A length.
    pub bytes: u64,
    /// An offset in the file.
    pub offset: u64,
}

/// What a [`Reply`] is.
pub mod kind {
    /// The call's result is `value`.
    pub const VALUE: u32 = 0;
    /// It is refused with error number `value`.
    pub const ERROR: u32 = 1;
    /// The descriptor is none of VFIO's: the kernel should be asked.
    pub const NOT_OURS: u32 = 2;
    /// The result is the descriptor that comes with the reply; closed on exec where `value` is not 0.
    pub const DESCRIPTOR: u32 = 3;
    /// The first `value` of `parts`; with each that is memory comes a descriptor, in order.
    pub const PARTS: u32 = 4;
    /// The node with device number `value`, and the inode number that is the first part's `offset`.
    pub const NODE: u32 = 5;
    /// It was opened by no node: a device, of which the kernel makes a file without a place.
    pub const ANONYMOUS: u32 = 6;
}

/// Most parts in one reply.
pub const PARTS: usize = 8;

/// The answer to a [`Call`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// One of [`kind`].
    pub kind: u32,
    /// 1 where the descriptor is a device's.
    pub device: u32,
    /// See [`kind`].
    pub value: u64,
    /// See [`kind::PARTS`].
    pub parts: [MapPart; PARTS],
}

/// What an mmap shows for a run of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapPart {
    /// Length, a multiple of the page.
    pub bytes: u64,
    /// Offset in the file that comes with it.
    pub offset: u64,
    /// 1 where it is memory, 0 where each load and store is a call.
    pub memory: u64,
}

impl Reply {
    /// A reply of one of the kinds that are a number.
    #[must_use]
    pub fn of(kind: u32, value: u64) -> Self {
        Self {
            kind,
            value,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_vfio_are_told_from_others_by_32_bits() {
        for (request, vfio) in [
            (0x3b64, true),
            (0x3bff, true),
            (0xffff_ffff_0000_3b64, true),
            (0x3c00, false),
            (0x3aff, false),
            (0x4008_3b64, false),
            (0x5401, false),
        ] {
            assert_eq!(is_vfio_request(request), vfio, "{request:#x}");
        }
    }
}
