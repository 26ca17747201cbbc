//! Which parts of the program's address space are registers: pages that can't be accessed, so that every load and store of
//! them ends in the handler of [`trap`](crate::trap).
//!
//! The table is read in that handler, so it is one of atomics, and of a fixed size. It is changed by one thread at a time,
//! in steps of which each leaves it right: a mapping of which a part is taken away is in it all the while with the rest.
//! What is unmapped goes from the table first: once it is unmapped, another thread may get the same addresses.

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::os::fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::getpid;
use rustix::thread::sched_yield;

use crate::mask::Blocked;

/// Most that there can be at a time.
const SLOTS: usize = 64;

/// A run of pages. It is there while `end` is not 0, and free while `start` is 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    /// What an address has beyond its place in the file; it stays when the run becomes shorter.
    ahead: AtomicU64,
    /// Of the file: a duplicate, since the program may close its own and keep what it mapped.
    descriptor: AtomicI32,
    /// How often it was given up, so that a reader notices that what it has read is of two mappings.
    generation: AtomicU64,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        ahead: AtomicU64::new(0),
        descriptor: AtomicI32::new(-1),
        generation: AtomicU64::new(0),
    }
}; SLOTS];

/// Slots that are taken; a program that has none pays a look at this.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The process of which a thread changes the table; 0 where none does.
static CHANGING: AtomicI32 = AtomicI32::new(0);

/// A place in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) descriptor: RawFd,
    pub(crate) offset: u64,
}

// All accesses are in one order: a load or store of a register takes a thousand times as long.
use Ordering::SeqCst;

impl Slot {
    /// Where it begins and ends; none while it is not there.
    fn range(&self) -> Option<(usize, usize)> {
        let end = self.end.load(SeqCst);
        (end != 0).then(|| (self.start.load(SeqCst), end))
    }

    /// The place of an address, where it is among these pages.
    fn place(&self, address: usize) -> Option<Place> {
        loop {
            let generation = self.generation.load(SeqCst);
            let (start, end) = self.range()?;
            let found = (start..end).contains(&address).then(|| Place {
                descriptor: self.descriptor.load(SeqCst),
                offset: (address as u64).wrapping_sub(self.ahead.load(SeqCst)),
            });
            if self.generation.load(SeqCst) == generation {
                return found;
            }
        }
    }

    /// Gives it up; the descriptor that it had.
    fn free(&self) -> OwnedFd {
        let descriptor = self.descriptor.load(SeqCst);
        self.end.store(0, SeqCst);
        // Before anybody else can take it.
        self.generation.fetch_add(1, SeqCst);
        self.start.store(0, SeqCst);
        TAKEN.fetch_sub(1, SeqCst);
        owned(descriptor)
    }
}

/// What is mapped at an address, where that is registers.
pub(crate) fn at(address: usize) -> Option<Place> {
    TABLE.iter().find_map(|slot| slot.place(address))
}

/// The right to change the table. Signals of this thread wait as long, since their handlers may want it, too.
struct Change(#[allow(dead_code)] Blocked);

impl Change {
    fn begin() -> Self {
        let blocked = Blocked::all();
        let own = getpid().as_raw_pid();
        while let Err(other) = CHANGING.compare_exchange(0, own, SeqCst, SeqCst) {
            // A thread of the parent that had it when this process was forked is not here.
            if other != own && CHANGING.compare_exchange(other, own, SeqCst, SeqCst).is_ok() {
                break;
            }
            sched_yield();
        }
        Self(blocked)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        CHANGING.store(0, SeqCst);
    }
}

/// Notes that there are registers at `start`, `bytes` long, which are a file's at `offset`. False where the table is full.
pub(crate) fn add(start: usize, bytes: usize, descriptor: OwnedFd, offset: u64) -> bool {
    let _change = Change::begin();
    let ahead = (start as u64).wrapping_sub(offset);
    put(start, start + bytes, descriptor, ahead)
}

/// Fills a free slot.
fn put(start: usize, end: usize, descriptor: OwnedFd, ahead: u64) -> bool {
    let Some(slot) = TABLE.iter().find(|slot| slot.start.load(SeqCst) == 0) else {
        return false;
    };
    TAKEN.fetch_add(1, SeqCst);
    slot.start.store(start, SeqCst);
    slot.descriptor.store(descriptor.into_raw_fd(), SeqCst);
    slot.ahead.store(ahead, SeqCst);
    slot.end.store(end, SeqCst);
    true
}

/// Notes that what is at `start`, `bytes` long, is there no more. False, and nothing is changed, where what is left of a
/// mapping would take a slot more than there are.
pub(crate) fn remove(start: usize, bytes: usize) -> bool {
    let end = start.saturating_add(bytes);
    let touched = |slot: &&Slot| {
        let range = slot.range();
        range.is_some_and(|(first, past)| first < end && past > start)
    };
    if TAKEN.load(SeqCst) == 0 || !TABLE.iter().any(|slot| touched(&slot)) {
        return true;
    }
    let _change = Change::begin();
    for slot in TABLE.iter().filter(touched) {
        let Some((first, past)) = slot.range() else {
            continue;
        };
        match (first < start, past > end) {
            // What is behind it first: for a moment it is there twice, as the same.
            (true, true) => {
                if !split(slot, end, past) {
                    return false;
                }
                slot.end.store(start, SeqCst);
            }
            (true, false) => slot.end.store(start, SeqCst),
            (false, true) => slot.start.store(end, SeqCst),
            (false, false) => drop(slot.free()),
        }
    }
    true
}

/// Fills another slot with what a mapping has from `start` to `end`.
fn split(slot: &Slot, start: usize, end: usize) -> bool {
    // SAFETY: the slot's own, for the next call only, which fails where the program has closed it behind our back.
    #[allow(unsafe_code)]
    let descriptor = unsafe { BorrowedFd::borrow_raw(slot.descriptor.load(SeqCst)) };
    fcntl_dupfd_cloexec(descriptor, LOWEST)
        .is_ok_and(|duplicate| put(start, end, duplicate, slot.ahead.load(SeqCst)))
}

/// Numbers that the library takes are not those that the program expects next.
pub(crate) const LOWEST: RawFd = 100;

#[allow(unsafe_code)]
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the number of a descriptor that a slot owned, and that slot is free now. Where the program has closed it behind
    // our back, it has closed what it did not open.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
