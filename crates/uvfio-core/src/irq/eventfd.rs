//! A user's eventfd: how it is told from other descriptors, written, and taken back.
//!
//! The eventfd stays the user's too. It may fill it, empty it, and switch it between blocking and not, at any
//! moment. So a write is preceded by a look whether there is room (a saturated eventfd is ready to be read already,
//! and needs no more), and may block all the same when the user fills it in between. [`retire`] ends that: it empties
//! the eventfd through our own duplicate, which lets the blocked writer go on, until nobody holds it any more.
//! Emptying uses `RWF_NOWAIT`, which does not block whatever the user does, and changes no flag of the user's.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::ReadWriteFlags;

/// Tells eventfds from other descriptors, by the name that the kernel gives them.
#[derive(Debug)]
pub(crate) struct Inspector {
    /// /proc/self/fd, opened early: a process that is confined later may not find it any more.
    links: OwnedFd,
}

impl Inspector {
    /// Opens /proc/self/fd.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            links: rustix::fs::open("/proc/self/fd", flags, Mode::empty())?,
        })
    }

    /// Whether a descriptor is an eventfd. Asks the kernel only, never the file's filesystem.
    pub(super) fn is_eventfd(&self, file: &OwnedFd) -> bool {
        // A file can't be named so by its user: names of real files start with a slash.
        rustix::fs::readlinkat(&self.links, file.as_raw_fd().to_string(), Vec::new())
            .is_ok_and(|name| name.as_bytes() == b"anon_inode:[eventfd]")
    }
}

/// A descriptor known to be an eventfd. Whoever shares an `EventFd` may be writing it; whoever shares only the
/// descriptor in it gives it to the kernel.
#[derive(Debug)]
pub(crate) struct EventFd(Arc<OwnedFd>);

impl EventFd {
    /// Takes a descriptor that [`Inspector::is_eventfd`] has accepted, or that we made.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(Arc::new(file))
    }

    /// The descriptor alone.
    pub(super) fn file(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Adds 1. May block if its user works against us; no lock may be held, and the thread may not be a front
    /// end's.
    pub(super) fn signal(&self) {
        if self.has_room() {
            // The only other failure is EAGAIN: full after all.
            while rustix::io::write(&self.0, &1u64.to_ne_bytes()) == Err(rustix::io::Errno::INTR) {}
        }
    }

    /// Whether a write would go through at this moment.
    fn has_room(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ready = [PollFd::new(&self.0, PollFlags::OUT)];
        poll(&mut ready, Some(&now)).is_ok_and(|n| n > 0) && ready[0].revents().contains(PollFlags::OUT)
    }

    /// Empties it without waiting, and says what was in it, if anything was.
    pub(crate) fn take(&self) -> Option<u64> {
        let mut count = [0; 8];
        let mut into = [IoSliceMut::new(&mut count)];
        // Offset -1: an eventfd has none.
        rustix::io::preadv2(&self.0, &mut into, u64::MAX, ReadWriteFlags::NOWAIT).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until nobody else holds these any more, emptying them where a thread is blocked in writing. Gives up after
/// `patience`, and gives back those that are still held: only a user with many threads that all refill an eventfd
/// while it is being emptied can bring that about.
pub(super) fn retire(mut targets: Vec<Arc<EventFd>>, patience: Duration) -> Vec<Arc<EventFd>> {
    let start = Instant::now();
    loop {
        targets.retain(|target| Arc::strong_count(target) > 1);
        let waited = start.elapsed();
        if targets.is_empty() || waited > patience {
            return targets;
        }
        // A writer that isn't blocked is done in microseconds. One that is competes with the user for the room that
        // emptying makes, so that is made as often as possible.
        if waited < Duration::from_millis(1) {
            std::thread::sleep(Duration::from_micros(20));
        } else {
            // One with room blocks nobody, and may hold what its user has yet to read.
            for target in targets.iter().filter(|target| !target.has_room()) {
                target.take();
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn only_eventfds_pass_for_eventfds() {
        let inspector = Inspector::new().unwrap();
        assert!(inspector.is_eventfd(&eventfd(0, EventfdFlags::empty()).unwrap()));
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        assert!(!inspector.is_eventfd(&pipe));
        let named =
            rustix::fs::memfd_create("anon_inode:[eventfd]", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(!inspector.is_eventfd(&named));
        let timer = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert!(!inspector.is_eventfd(&timer));
    }

    #[test]
    fn a_saturated_blocking_eventfd_is_left_as_it_is() {
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let target = EventFd::new(fd);
        target.signal();
        assert_eq!(target.take(), Some(u64::MAX - 1));
        assert_eq!(
            target.take(),
            None,
            "emptying an empty blocking eventfd does not block"
        );
    }

    #[test]
    fn a_writer_blocked_in_a_full_eventfd_is_let_out() {
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let target = Arc::new(EventFd::new(fd));
        let writer = target.clone();
        let thread = std::thread::spawn(move || rustix::io::write(&writer.0, &1u64.to_ne_bytes()).is_ok());
        assert!(
            retire(vec![target], Duration::from_secs(10)).is_empty(),
            "the writer did not let go"
        );
        assert!(thread.join().unwrap());
    }

    #[test]
    fn a_holder_who_never_lets_go_is_given_up_and_what_was_signalled_stays() {
        let target = Arc::new(EventFd::new(eventfd(0, EventfdFlags::empty()).unwrap()));
        target.signal();
        let held = target.clone();
        assert_eq!(retire(vec![target], Duration::from_millis(10)).len(), 1);
        assert_eq!(held.take(), Some(1), "the user has not read it yet");
    }
}
