//! Which descriptors are memory, and how far they may be trusted.
//!
//! The first question is asked by `F_GET_SEALS`: the kernel answers it for shmem and hugetlbfs only, and without
//! calling the file's filesystem, which for a FUSE file would be a program of the user's that may never answer.
//!
//! | file | reached by |
//! |---|---|
//! | shmem with `F_SEAL_SHRINK` | plain copies: its pages can't go away |
//! | shmem without it | copies by the kernel, which end short where the file has been cut |
//! | hugetlbfs | copies by the kernel: even sealed, a punched hole may find no free huge page again |
//! | everything else | messages |

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, SealFlags};

use super::mapping::Trust;

/// What a descriptor turned out to be.
pub(super) enum Kind {
    /// Memory.
    Memory(Memory),
    /// Something else; here it is again.
    Other(OwnedFd),
}

/// A descriptor that is memory.
pub(super) struct Memory {
    /// The descriptor.
    pub(super) file: OwnedFd,
    /// Which file it is.
    pub(super) id: FileId,
    /// Size in bytes, a multiple of `page`.
    pub(super) size: u64,
    /// The file's page size in bytes, a power of two.
    pub(super) page: u64,
    /// Whether it can be cut short under us.
    pub(super) trust: Trust,
}

/// Tells files apart, and the descriptors of one file that allow writes from those that don't: each has a kernel
/// mapping of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileId {
    dev: u64,
    ino: u64,
    /// Whether the descriptor allows writes.
    pub(super) writable: bool,
}

/// Finds out what a user's descriptor is.
pub(super) fn classify(file: OwnedFd) -> Kind {
    match inspect(&file) {
        Some((id, size, page, trust)) => Kind::Memory(Memory {
            file,
            id,
            size,
            page,
            trust,
        }),
        None => Kind::Other(file),
    }
}

fn inspect(file: &OwnedFd) -> Option<(FileId, u64, u64, Trust)> {
    let fd = file.as_fd();
    // In this order: only shmem and hugetlbfs pass the first line, and only then is the filesystem asked.
    let seals = rustix::fs::fcntl_get_seals(fd).ok()?;
    let flags = rustix::fs::fcntl_getfl(fd).ok()?;
    let stat = rustix::fs::fstat(fd).ok()?;
    let fs = rustix::fs::fstatfs(fd).ok()?;
    let writable = flags.contains(OFlags::RDWR);
    if !writable && flags.contains(OFlags::WRONLY) {
        return None;
    }
    let page = u64::try_from(fs.f_bsize)
        .ok()
        .filter(|page| page.is_power_of_two() && *page >= 4096)?;
    let size = u64::try_from(stat.st_size).ok()?.checked_next_multiple_of(page)?;
    // Widths differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let magic = fs.f_type as i64;
    let trust = match magic {
        libc::TMPFS_MAGIC if seals.contains(SealFlags::SHRINK) => Trust::Sealed,
        libc::TMPFS_MAGIC | libc::HUGETLBFS_MAGIC => Trust::MayShrink,
        _ => return None,
    };
    Some((
        FileId {
            dev: stat.st_dev,
            ino: stat.st_ino,
            writable,
        },
        size,
        page,
        trust,
    ))
}
