//! Devices that are told what their users map: those that somebody else has, who keeps a table of his own.
//!
//! An address space is changed first, and then its followers look what has become of the range that was changed. They
//! tell the device without the address space's lock, since it may have to be answered an access to memory before it
//! answers; and as they compare instead of passing on what was done, it does not matter in which order the changes of
//! several threads come to them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uvfio_core::DmaAccess;

use crate::ProcessMemory;
use crate::backend::{Backend, DmaRange};
use crate::refusal::Outcome;
use crate::space::{Mapped, Space, bytes_of, find};

/// One device, kept in step with the address space that it is attached to.
pub(crate) struct Follower {
    device: Arc<dyn Backend>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    space: Option<Arc<Space>>,
    /// What the device knows of, by first address.
    told: BTreeMap<u64, Told>,
}

/// A range that a device knows of.
struct Told {
    last: u64,
    access: DmaAccess,
    /// Whose file it was given, and for which address there.
    file: Option<(Arc<dyn ProcessMemory>, u64)>,
}

impl Told {
    /// Whether that is what is mapped now.
    fn is(&self, range: &Mapped) -> bool {
        let same = |(memory, address): &(Arc<dyn ProcessMemory>, u64)| {
            Arc::ptr_eq(memory, &range.memory) && range.address.is_none_or(|now| now == *address)
        };
        // What goes by message is looked up at each access.
        self.last == range.last && self.access == range.access && self.file.as_ref().is_none_or(same)
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl Follower {
    /// For a device that wants to be told.
    pub(crate) fn of(device: &Arc<dyn Backend>) -> Option<Arc<Self>> {
        device.follows_mappings().then(|| {
            Arc::new(Self {
                device: Arc::clone(device),
                inner: Mutex::default(),
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows another address space from now on, or none: the device is told of everything in it, and of nothing else.
    pub(crate) fn follow(self: &Arc<Self>, space: Option<Arc<Space>>) -> Outcome<()> {
        if let Some(space) = &space {
            space.followers().push(Arc::downgrade(self));
        }
        let mut inner = self.lock();
        if let Some(before) = std::mem::replace(&mut inner.space, space) {
            // Once where the same one is followed again.
            let mut followers = before.followers();
            if let Some(place) = followers
                .iter()
                .position(|other| other.as_ptr() == Arc::as_ptr(self))
            {
                followers.swap_remove(place);
            }
        }
        self.compare(&mut inner, 0, u64::MAX)
    }

    /// Something has changed within `first ..= last` of `space`.
    pub(crate) fn changed(&self, space: &Space, first: u64, last: u64) -> Outcome<()> {
        let mut inner = self.lock();
        match &inner.space {
            Some(followed) if std::ptr::eq(Arc::as_ptr(followed), space) => {}
            // It was left meanwhile.
            _ => return Ok(()),
        }
        self.compare(&mut inner, first, last)
    }

    fn compare(&self, inner: &mut Inner, first: u64, last: u64) -> Outcome<()> {
        let Inner { space, told } = inner;
        // Of ranges that were cut, the parts outside are others now, too.
        let before = told.range(..=first).next_back();
        let (mut start, mut end) = (first, last);
        if let Some((&at, range)) = before.filter(|(_, range)| range.last >= first) {
            (start, end) = (at, end.max(range.last));
        }
        if let Some((_, range)) = told.range(start..=last).next_back() {
            end = end.max(range.last);
        }
        let now = space
            .as_ref()
            .map_or_else(Vec::new, |space| within(space, start, end));
        let stays = |first: &u64, told: &Told| {
            let found = now.binary_search_by_key(first, |(at, _)| *at);
            found.is_ok_and(|n| now.get(n).is_some_and(|(_, range)| told.is(range)))
        };
        let ended: Vec<(u64, u64)> = told
            .range(start..=end)
            .filter(|(first, range)| !stays(first, range))
            .map(|(first, range)| (*first, range.last))
            .collect();
        for (first, last) in ended {
            told.remove(&first);
            self.device.unmap(first, bytes_of(first, last));
        }
        for (first, range) in now {
            if let Entry::Vacant(place) = told.entry(first) {
                place.insert(self.tell(first, &range)?);
            }
        }
        Ok(())
    }

    fn tell(&self, first: u64, range: &Mapped) -> Outcome<Told> {
        let file = handed_on(first, range);
        self.device.map(&DmaRange {
            iova: first,
            bytes: bytes_of(first, range.last),
            access: range.access,
            file,
        })?;
        Ok(Told {
            last: range.last,
            access: range.access,
            file: file
                .and(range.address)
                .map(|address| (Arc::clone(&range.memory), address)),
        })
    }
}

/// The file of a range that a device may have: whoever has the descriptor can write, whatever was mapped.
fn handed_on(first: u64, range: &Mapped) -> Option<(BorrowedFd<'_>, u64)> {
    if !range.access.contains(DmaAccess::WRITE) {
        return None;
    }
    range.memory.file(range.address?, bytes_of(first, range.last))
}

/// The ranges that have an address of `first ..= last`.
fn within(space: &Space, first: u64, last: u64) -> Vec<(u64, Mapped)> {
    let ranges = space.ranges();
    let before = find(&ranges, first).filter(|(at, _)| *at < first);
    let rest = ranges.range(first..=last).map(|(at, range)| (*at, range));
    before
        .into_iter()
        .chain(rest)
        .map(|(at, range)| (at, range.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::time::Duration;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::Errno;
    use uvfio_core::{AccessError, DeviceError, DmaMessages, RegionInfo, ResetProgress, SetIrqs};
    use uvfio_pci::Layout;

    use super::*;
    use crate::Refusal;

    /// A device that notes what it is told, and takes nothing at address `refused`.
    #[derive(Default)]
    struct Recorder {
        said: Mutex<Vec<String>>,
        refused: Option<u64>,
    }

    impl Backend for Recorder {
        fn attach(&self, _: Arc<dyn DmaMessages>) -> Result<(), Refusal> {
            Ok(())
        }

        fn detach(&self) -> Result<(), DeviceError> {
            Ok(())
        }

        fn layout(&self) -> &Layout {
            unreachable!("a follower does not look at registers")
        }

        fn resettable(&self) -> bool {
            false
        }

        fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError> {
            Err(AccessError::NoSuchRegion(region))
        }

        fn vectors(&self, _: u32) -> u32 {
            0
        }

        fn read(&self, region: u32, _: u64, _: &mut [u8]) -> Result<(), AccessError> {
            Err(AccessError::NoSuchRegion(region))
        }

        fn write(&self, region: u32, _: u64, _: &[u8]) -> Result<(), AccessError> {
            Err(AccessError::NoSuchRegion(region))
        }

        fn answers(&self, _: u32) -> bool {
            false
        }

        fn set_irqs(&self, _: SetIrqs) -> Result<(), Refusal> {
            Ok(())
        }

        fn reset(&self, _: Duration) -> Result<ResetProgress, DeviceError> {
            Ok(ResetProgress::Done)
        }

        fn request_removal(&self) {}

        fn revoke(&self) {}

        fn is_gone(&self) -> bool {
            false
        }

        fn follows_mappings(&self) -> bool {
            true
        }

        fn map(&self, range: &DmaRange<'_>) -> Result<(), Refusal> {
            if self.refused == Some(range.iova) {
                return Err(Refusal::new(Errno::NOSPC, "no"));
            }
            let from = range
                .file
                .map_or("messages".to_owned(), |(_, at)| format!("{at:#x}"));
            let (iova, bytes) = (range.iova, range.bytes);
            self.said
                .lock()
                .unwrap()
                .push(format!("map {iova:#x} {bytes:#x} by {from}"));
            Ok(())
        }

        fn unmap(&self, iova: u64, bytes: u64) {
            self.said
                .lock()
                .unwrap()
                .push(format!("unmap {iova:#x} {bytes:#x}"));
        }
    }

    impl Recorder {
        fn said(&self) -> Vec<String> {
            std::mem::take(&mut self.said.lock().unwrap())
        }
    }

    /// Memory that is a file from address 0 on, if it is one.
    #[derive(Debug)]
    struct Memory(Option<OwnedFd>);

    impl ProcessMemory for Memory {
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
            Ok(())
        }

        fn file(&self, address: u64, _: u64) -> Option<(BorrowedFd<'_>, u64)> {
            Some((self.0.as_ref()?.as_fd(), address))
        }
    }

    fn insert(space: &Space, first: u64, bytes: u64, memory: &Arc<Memory>, access: DmaAccess) -> Outcome<()> {
        let range = Mapped {
            last: first + bytes - 1,
            access,
            address: Some(0x10_0000 + first),
            memory: Arc::clone(memory) as _,
            writable: true,
            locked: None,
        };
        space.change().insert(first, range);
        space.mapped(first, first + bytes - 1)
    }

    fn follower(refused: Option<u64>) -> (Arc<Recorder>, Arc<Follower>) {
        let said = Mutex::default();
        let recorder = Arc::new(Recorder { said, refused });
        let follower = Follower::of(&(Arc::clone(&recorder) as Arc<dyn Backend>)).unwrap();
        (recorder, follower)
    }

    fn private() -> Arc<Memory> {
        Arc::new(Memory(None))
    }

    #[test]
    fn a_device_is_told_of_what_is_there_what_comes_and_what_goes() {
        let (recorder, follower) = follower(None);
        let space = Arc::new(Space::default());
        insert(&space, 0x1000, 0x1000, &private(), DmaAccess::all()).unwrap();
        follower.follow(Some(Arc::clone(&space))).unwrap();
        insert(&space, 0x8000, 0x2000, &private(), DmaAccess::all()).unwrap();
        assert_eq!(
            recorder.said(),
            ["map 0x1000 0x1000 by messages", "map 0x8000 0x2000 by messages"]
        );
        space.change().remove(0x1000);
        // Whoever unmaps says where, which may be more than there was.
        space.unmapped(0, 0x3fff);
        assert_eq!(recorder.said(), ["unmap 0x1000 0x1000"]);
        follower.follow(None).unwrap();
        assert_eq!(recorder.said(), ["unmap 0x8000 0x2000"]);
        insert(&space, 0x1000, 0x1000, &private(), DmaAccess::all()).unwrap();
        assert_eq!(recorder.said(), [""; 0], "it was left");
    }

    #[test]
    fn of_a_range_that_is_cut_the_parts_are_told_anew() {
        let (recorder, follower) = follower(None);
        let space = Arc::new(Space::default());
        follower.follow(Some(Arc::clone(&space))).unwrap();
        let memory = private();
        insert(&space, 0x1000, 0x8000, &memory, DmaAccess::all()).unwrap();
        recorder.said();
        let mut ranges = space.change();
        let whole = ranges.get_mut(0x1000).unwrap().clone();
        ranges.remove(0x1000);
        ranges.insert(
            0x1000,
            Mapped {
                last: 0x2fff,
                ..whole.clone()
            },
        );
        ranges.insert(0x5000, whole);
        drop(ranges);
        space.unmapped(0x3000, 0x4fff);
        let expected = [
            "unmap 0x1000 0x8000",
            "map 0x1000 0x2000 by messages",
            "map 0x5000 0x4000 by messages",
        ];
        assert_eq!(recorder.said(), expected);
    }

    #[test]
    fn a_file_goes_with_what_the_device_may_write_and_other_memory_there_is_told() {
        let (recorder, follower) = follower(None);
        let space = Arc::new(Space::default());
        follower.follow(Some(Arc::clone(&space))).unwrap();
        let file = || Arc::new(Memory(Some(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap())));
        insert(&space, 0x1000, 0x1000, &file(), DmaAccess::all()).unwrap();
        insert(&space, 0x2000, 0x1000, &file(), DmaAccess::READ).unwrap();
        assert_eq!(
            recorder.said(),
            ["map 0x1000 0x1000 by 0x101000", "map 0x2000 0x1000 by messages"]
        );
        // The address is taken away, and comes back with other memory.
        space.change().get_mut(0x1000).unwrap().address = None;
        space.unmapped(0x1000, 0x1fff);
        assert_eq!(recorder.said(), [""; 0]);
        insert(&space, 0x1000, 0x1000, &file(), DmaAccess::all()).unwrap();
        assert_eq!(
            recorder.said(),
            ["unmap 0x1000 0x1000", "map 0x1000 0x1000 by 0x101000"]
        );
    }

    #[test]
    fn what_a_device_refuses_is_not_mapped() {
        let (recorder, follower) = follower(Some(0x2000));
        let (other, second) = self::follower(None);
        let space = Arc::new(Space::default());
        second.follow(Some(Arc::clone(&space))).unwrap();
        follower.follow(Some(Arc::clone(&space))).unwrap();
        let refused = insert(&space, 0x2000, 0x1000, &private(), DmaAccess::all());
        assert_eq!(refused.unwrap_err().errno, Errno::NOSPC);
        assert!(space.ranges().is_empty());
        assert_eq!(recorder.said(), [""; 0]);
        let expected = ["map 0x2000 0x1000 by messages", "unmap 0x2000 0x1000"];
        assert_eq!(other.said(), expected, "the other device of the address space");
    }

    #[test]
    fn of_several_ranges_of_which_one_is_refused_none_is_mapped() {
        let (recorder, follower) = follower(Some(0x3000));
        let space = Arc::new(Space::default());
        follower.follow(Some(Arc::clone(&space))).unwrap();
        insert(&space, 0x8000, 0x1000, &private(), DmaAccess::all()).unwrap();
        let whole = space.ranges().get(&0x8000).unwrap().clone();
        recorder.said();
        for first in [0x2000, 0x3000, 0x4000] {
            let last = first + 0xfff;
            space.change().insert(
                first,
                Mapped {
                    last,
                    ..whole.clone()
                },
            );
        }
        assert_eq!(space.mapped(0x2000, 0x4fff).unwrap_err().errno, Errno::NOSPC);
        assert_eq!(space.ranges().keys().collect::<Vec<_>>(), [&0x8000]);
        assert_eq!(
            recorder.said(),
            ["map 0x2000 0x1000 by messages", "unmap 0x2000 0x1000"]
        );
    }

    #[test]
    fn a_range_whose_new_address_is_refused_stays_mapped_without_one() {
        let (_recorder, follower) = follower(Some(0x2000));
        let space = Arc::new(Space::default());
        insert(&space, 0x2000, 0x1000, &private(), DmaAccess::all()).unwrap();
        follower.follow(Some(Arc::clone(&space))).unwrap_err();
        assert_eq!(space.moved(0x2000, 0x2fff).unwrap_err().errno, Errno::NOSPC);
        assert_eq!(space.ranges().get(&0x2000).unwrap().address, None);
    }
}
