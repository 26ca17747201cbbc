//! An address space of an IOMMU: which memory of which process devices reach at which IOVA.
//!
//! The rules of overlap are those that type 1 and iommufd share; where they differ, each has its own module. Devices
//! access it by copies, each under the table's read side and of [`COPY_BYTES`] at most: an unmap that has come back has
//! waited for every copy into what it took away. It waits for one piece of each device at most; how long a piece takes is
//! up to whose memory it is: a page that its process has to bring in itself (userfaultfd, a file of FUSE's) keeps it waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use rustix::io::Errno;
use uvfio_core::DmaAccess;

use crate::ProcessMemory;
use crate::follow::Follower;
use crate::locked::Locked;
use crate::refusal::Outcome;

/// The unit of mappings, in bytes.
pub(crate) const PAGE: u64 = 4096;

/// The longest copy under one hold of the lock, in bytes.
const COPY_BYTES: usize = 64 << 10;

/// Where memory may be mapped, (first address, last address): what an x86 machine's IOMMU of 48 bits leaves around the
/// window that interrupts are written to.
pub(crate) const USABLE: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 48) - 1)];

/// Sizes of pages that the IOMMU knows, a bit each: 4 KiB, 2 MiB, 1 GiB.
pub(crate) const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

/// Whether all of `iova ..= last` may be mapped.
pub(crate) fn is_usable(iova: u64, last: u64) -> bool {
    USABLE.iter().any(|&(first, end)| iova >= first && last <= end)
}

/// A mapped range; its first address is its key.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    /// Last address, inclusive.
    pub(crate) last: u64,
    /// What devices may do.
    pub(crate) access: DmaAccess,
    /// Where it is in the process; none while that is being changed.
    pub(crate) address: Option<u64>,
    /// The process.
    pub(crate) memory: Arc<dyn ProcessMemory>,
    /// It was mapped to be written, wherever that was: what is copied from it may be, too.
    pub(crate) writable: bool,
    /// What it counts as locked, with what was copied or cut from the same mapping.
    pub(crate) locked: Option<Arc<Locked>>,
}

/// The ranges, by their first addresses, none over another.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    by_first: BTreeMap<u64, Mapped>,
    /// How many bytes they have.
    bytes: u64,
}

impl Ranges {
    /// How many bytes are mapped; at most 2^64 - 1.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds one where there is room.
    pub(crate) fn insert(&mut self, first: u64, range: Mapped) {
        self.bytes = self.bytes.saturating_add(bytes_of(first, range.last));
        self.by_first.insert(first, range);
    }

    /// Takes one away, and says how many bytes it had.
    pub(crate) fn remove(&mut self, first: u64) -> u64 {
        let range = self.by_first.remove(&first);
        let bytes = range.map_or(0, |range| bytes_of(first, range.last));
        self.bytes = self.bytes.saturating_sub(bytes);
        bytes
    }

    /// One of them, to be given another address.
    pub(crate) fn get_mut(&mut self, first: u64) -> Option<&mut Mapped> {
        self.by_first.get_mut(&first)
    }

    /// Takes all away.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl std::ops::Deref for Ranges {
    type Target = BTreeMap<u64, Mapped>;

    fn deref(&self) -> &Self::Target {
        &self.by_first
    }
}

/// Why a copy was not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is mapped there for that.
    NotMapped,
    /// Its address in the process is being changed (VFIO_DMA_UNMAP_FLAG_VADDR).
    Moving,
    /// The process has nothing there (any more).
    Process {
        /// Where in the process.
        address: u64,
        /// What it answered.
        errno: Errno,
    },
    /// The access was begun before what is mapped was taken away.
    Abandoned,
}

/// An address space.
#[derive(Debug, Default)]
pub(crate) struct Space {
    ranges: RwLock<Ranges>,
    /// The devices that are told of changes.
    followers: Mutex<Vec<Weak<Follower>>>,
}

/// What is copied.
pub(crate) enum Copy<'a> {
    /// Out of memory.
    Read(&'a mut [u8]),
    /// Into memory.
    Write(&'a [u8]),
}

impl Space {
    /// The table, to be looked at.
    pub(crate) fn ranges(&self) -> RwLockReadGuard<'_, Ranges> {
        self.ranges.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, to be changed: no copy is under way.
    pub(crate) fn change(&self) -> RwLockWriteGuard<'_, Ranges> {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices that are told of changes; not to be held while any is told.
    pub(crate) fn followers(&self) -> MutexGuard<'_, Vec<Weak<Follower>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was mapped at `first ..= last`, by one range or several: those who must know are told, without the
    /// table's lock. Nothing of it is mapped any more where one of them refuses.
    pub(crate) fn mapped(&self, first: u64, last: u64) -> Outcome<()> {
        self.told_or(first, last, |ranges| {
            let mapped: Vec<u64> = ranges.range(first..=last).map(|(first, _)| *first).collect();
            for first in mapped {
                ranges.remove(first);
            }
        })
    }

    /// What is mapped at `first ..= last` has a new address, as [`mapped`](Self::mapped). It stays mapped, without an
    /// address, where one of those who must know refuses.
    pub(crate) fn moved(&self, first: u64, last: u64) -> Outcome<()> {
        self.told_or(first, last, |ranges| {
            if let Some(range) = ranges.get_mut(first) {
                range.address = None;
            }
        })
    }

    fn told_or(&self, first: u64, last: u64, undo: impl FnOnce(&mut Ranges)) -> Outcome<()> {
        let told = self.tell(first, last);
        if told.is_err() {
            undo(&mut self.change());
            self.unmapped(first, last);
        }
        told
    }

    /// Something within `first ..= last` is not mapped any more: on return nobody touches it who was told of it.
    pub(crate) fn unmapped(&self, first: u64, last: u64) {
        // What remains was taken before.
        if let Err(refusal) = self.tell(first, last) {
            tracing::warn!(target: "uapi", %refusal, "a device does not take a part of what it had whole");
        }
    }

    fn tell(&self, first: u64, last: u64) -> Outcome<()> {
        let followers: Vec<_> = self.followers().iter().filter_map(Weak::upgrade).collect();
        followers
            .iter()
            .try_for_each(|follower| follower.changed(self, first, last))
    }

    /// Copies, across ranges, as long as `goes_on` says so (asked under the lock).
    ///
    /// The fault comes with the address where it was met; what lies before has been copied.
    pub(crate) fn copy(
        &self,
        iova: u64,
        mut data: Copy<'_>,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), (u64, Fault)> {
        let mut at = iova;
        loop {
            let left = match &data {
                Copy::Read(into) => into.len(),
                Copy::Write(from) => from.len(),
            };
            if left == 0 {
                return Ok(());
            }
            let ranges = self.ranges();
            if !goes_on() {
                return Err((at, Fault::Abandoned));
            }
            let n = piece(&ranges, at, left, &mut data).map_err(|fault| (at, fault))?;
            drop(ranges);
            data = match data {
                Copy::Read(into) => Copy::Read(into.get_mut(n..).unwrap_or_default()),
                Copy::Write(from) => Copy::Write(from.get(n..).unwrap_or_default()),
            };
            // Past the last address nothing is mapped, at 0 something may be.
            at = match at.checked_add(n as u64) {
                Some(next) => next,
                None if n == left => return Ok(()),
                None => return Err((u64::MAX, Fault::NotMapped)),
            };
        }
    }
}

/// Copies as much of `data` at `at` as one range has, and one hold of the lock allows; says how much.
fn piece(ranges: &Ranges, at: u64, left: usize, data: &mut Copy<'_>) -> Result<usize, Fault> {
    let needs = match data {
        Copy::Read(_) => DmaAccess::READ,
        Copy::Write(_) => DmaAccess::WRITE,
    };
    let (first, range) = find(ranges, at).ok_or(Fault::NotMapped)?;
    if !range.access.contains(needs) {
        return Err(Fault::NotMapped);
    }
    let address = range.address.ok_or(Fault::Moving)?.wrapping_add(at - first);
    let room = usize::try_from(range.last - at).map_or(usize::MAX, |more| more.saturating_add(1));
    let n = left.min(room).min(COPY_BYTES);
    match data {
        Copy::Read(into) => range.memory.read(address, into.get_mut(..n).unwrap_or_default()),
        Copy::Write(from) => range.memory.write(address, from.get(..n).unwrap_or_default()),
    }
    .map_err(|errno| Fault::Process { address, errno })?;
    Ok(n)
}

/// The range that holds an address.
pub(crate) fn find(ranges: &Ranges, address: u64) -> Option<(u64, &Mapped)> {
    let (&first, range) = ranges.range(..=address).next_back()?;
    (range.last >= address).then_some((first, range))
}

/// The first range that has an address of `iova ..= last`.
pub(crate) fn first_within(ranges: &Ranges, iova: u64, last: u64) -> Option<(u64, &Mapped)> {
    find(ranges, iova).or_else(|| {
        ranges
            .range(iova..=last)
            .next()
            .map(|(&first, range)| (first, range))
    })
}

/// Whether `iova ..= last` takes a part of some range only: which one.
pub(crate) fn cut(ranges: &Ranges, iova: u64, last: u64) -> Option<u64> {
    let before = find(ranges, iova).filter(|(first, _)| *first < iova);
    let after = find(ranges, last).filter(|(_, range)| range.last > last);
    before.or(after).map(|(first, _)| first)
}

/// How many bytes `first ..= last` has; 2^64 as 2^64 - 1.
pub(crate) fn bytes_of(first: u64, last: u64) -> u64 {
    (last - first).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Memory whose reads tell that they have begun, and wait until they may end.
    #[derive(Debug)]
    struct Slow {
        begun: Mutex<Sender<usize>>,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Slow {
        fn new() -> (Arc<Self>, Receiver<usize>) {
            let (begun, told) = channel();
            let slow = Self {
                begun: Mutex::new(begun),
                open: Mutex::new(false),
                opened: Condvar::new(),
            };
            (Arc::new(slow), told)
        }

        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    impl ProcessMemory for Slow {
        fn read(&self, _: u64, data: &mut [u8]) -> Result<(), Errno> {
            self.begun.lock().unwrap().send(data.len()).unwrap();
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
            Err(Errno::FAULT)
        }
    }

    fn space(memory: &Arc<Slow>, bytes: u64) -> Space {
        let space = Space::default();
        let range = Mapped {
            last: bytes - 1,
            access: DmaAccess::all(),
            address: Some(0),
            memory: Arc::clone(memory) as _,
            writable: true,
            locked: None,
        };
        space.change().insert(0, range);
        space
    }

    #[test]
    fn a_change_waits_for_the_copy_under_way() {
        let (memory, begun) = Slow::new();
        let space = space(&memory, 4096);
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| space.copy(0, Copy::Read(&mut [0; 8]), || true));
            begun.recv().unwrap();
            assert!(
                space.ranges.try_write().is_err(),
                "it can be changed under a copy"
            );
            let change = scope.spawn(|| space.change().clear());
            memory.open();
            copy.join().unwrap().unwrap();
            change.join().unwrap();
        });
        assert!(space.ranges().is_empty());
    }

    #[test]
    fn an_access_that_is_abandoned_ends_with_the_piece_under_way() {
        let (memory, begun) = Slow::new();
        let space = space(&memory, 1 << 20);
        let goes_on = Mutex::new(true);
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| {
                let mut data = vec![0; 3 * COPY_BYTES];
                space.copy(0, Copy::Read(&mut data), || *goes_on.lock().unwrap())
            });
            assert_eq!(begun.recv().unwrap(), COPY_BYTES);
            *goes_on.lock().unwrap() = false;
            memory.open();
            assert_eq!(copy.join().unwrap(), Err((COPY_BYTES as u64, Fault::Abandoned)));
        });
        assert!(begun.try_recv().is_err(), "nothing more is read");
    }

    #[test]
    fn a_fault_names_the_first_address_that_is_not_there() {
        let (memory, _begun) = Slow::new();
        memory.open();
        let space = space(&memory, 4096);
        let copied = space.copy(4000, Copy::Read(&mut [0; 200]), || true);
        assert_eq!(copied, Err((4096, Fault::NotMapped)));
        let copied = space.copy(u64::MAX, Copy::Read(&mut [0; 2]), || true);
        assert_eq!(copied, Err((u64::MAX, Fault::NotMapped)));
        let written = space.copy(8, Copy::Write(&[0; 2]), || true);
        assert_eq!(
            written,
            Err((
                8,
                Fault::Process {
                    address: 8,
                    errno: Errno::FAULT
                }
            ))
        );
    }
}
