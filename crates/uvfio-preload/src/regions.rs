//! Which parts of the program's address space are registers: pages that can't be accessed, so that every load and store of
//! them ends in the handler of [`trap`](crate::trap).
//!
//! The table is read in that handler, so it is one of atomics, and of a fixed size.

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;

/// Most that there can be at a time.
const SLOTS: usize = 64;

/// A run of pages. It is there while `end` is not 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Where `start` is in the file.
    offset: AtomicU64,
    /// Of the file: a duplicate, since the program may close its own and keep what it mapped.
    descriptor: AtomicI32,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        offset: AtomicU64::new(0),
        descriptor: AtomicI32::new(-1),
    }
}; SLOTS];

/// Slots that are taken or about to be; a program that has none pays a look at this.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A place in a file.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) descriptor: RawFd,
    pub(crate) offset: u64,
}

/// What is mapped at an address, where that is registers.
pub(crate) fn at(address: usize) -> Option<Place> {
    TABLE.iter().find_map(|slot| {
        let end = slot.end.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        (start..end).contains(&address).then(|| Place {
            descriptor: slot.descriptor.load(Ordering::Relaxed),
            offset: slot.offset.load(Ordering::Relaxed) + (address - start) as u64,
        })
    })
}

/// Notes that there are registers at `start`, `bytes` long, which are a file's at `offset`. False where the table is full.
pub(crate) fn add(start: usize, bytes: usize, descriptor: OwnedFd, offset: u64) -> bool {
    if TAKEN.fetch_add(1, Ordering::Relaxed) >= SLOTS {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    for slot in &TABLE {
        // A start without an end: taken, and not there yet.
        let free = slot
            .start
            .compare_exchange(0, start, Ordering::Acquire, Ordering::Relaxed);
        if free.is_ok() {
            slot.descriptor.store(descriptor.into_raw_fd(), Ordering::Relaxed);
            slot.offset.store(offset, Ordering::Relaxed);
            slot.end.store(start + bytes, Ordering::Release);
            return true;
        }
    }
    TAKEN.fetch_sub(1, Ordering::Relaxed);
    false
}

/// Notes that what was at `start`, `bytes` long, is there no more.
pub(crate) fn remove(start: usize, bytes: usize) {
    if TAKEN.load(Ordering::Relaxed) == 0 {
        return;
    }
    let end = start.saturating_add(bytes);
    for slot in &TABLE {
        let there = (
            slot.start.load(Ordering::Relaxed),
            slot.end.load(Ordering::Acquire),
        );
        if there.0 >= end || there.1 <= start {
            continue;
        }
        let place = Place {
            descriptor: slot.descriptor.load(Ordering::Relaxed),
            offset: slot.offset.load(Ordering::Relaxed),
        };
        // What is left before and after it becomes slots of their own.
        slot.end.store(0, Ordering::Release);
        slot.start.store(0, Ordering::Release);
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        let descriptor = owned(place.descriptor);
        for (from, to) in [(there.0, start), (end, there.1)] {
            if from < to
                && let Ok(duplicate) = fcntl_dupfd_cloexec(&descriptor, LOWEST)
            {
                add(from, to - from, duplicate, place.offset + (from - there.0) as u64);
            }
        }
    }
}

/// Numbers that the library takes are not those that the program expects next.
pub(crate) const LOWEST: RawFd = 100;

#[allow(unsafe_code)]
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the number of a descriptor that a slot owned, and that slot is free now. Where the program has closed it behind
    // our back, it has closed what it did not open.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
