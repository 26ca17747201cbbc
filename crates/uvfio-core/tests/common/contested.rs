//! An eventfd whose user works against whoever writes it. Tests of several packages include this file.
#![allow(dead_code, clippy::expect_used, clippy::panic)] // Each includer uses its part; a test whose ground gives way has failed.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ReadWriteFlags;

/// The name of the user's thread.
const FILLER: &str = "filler";

/// A blocking eventfd, and a thread of its user's that fills it to the brim whenever it is empty.
pub(crate) struct Contested {
    pub(crate) file: OwnedFd,
    stop: Arc<AtomicBool>,
    filler: Option<JoinHandle<()>>,
}

impl Contested {
    pub(crate) fn new() -> Self {
        let file = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let theirs = file.try_clone().expect("a duplicate");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let fill = move || {
            while !stopped.load(Ordering::SeqCst) {
                let _ = rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes());
            }
        };
        let filler = std::thread::Builder::new().name(FILLER.into()).spawn(fill);
        Self {
            file,
            stop,
            filler: Some(filler.expect("a thread")),
        }
    }

    /// Makes room for moments, after `interrupt` each time, until somebody has seen the room, found it gone, and sleeps in
    /// its write.
    pub(crate) fn until_blocked(&self, mut interrupt: impl FnMut()) {
        for _ in 0..100_000 {
            interrupt();
            for _ in 0..50 {
                empty(&self.file);
            }
            if self.blocks() {
                return;
            }
        }
        panic!("no thread was blocked");
    }

    /// Whether a thread that is not the user's sleeps in writing the eventfd.
    pub(crate) fn blocks(&self) -> bool {
        let own = eventfd_id(self.file.as_raw_fd());
        assert!(own.is_some(), "the kernel tells eventfds apart in fdinfo");
        let mut tasks = fs::read_dir("/proc/self/task").expect("the threads of this process");
        tasks.any(|task| {
            let task = task.expect("a thread").path();
            // Nothing of a thread that has just ended.
            let text = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
            if text("comm").trim() == FILLER {
                return false;
            }
            // The number of the system call and its arguments of a thread that sleeps in one.
            let syscall = text("syscall");
            let mut words = syscall.split_whitespace();
            let writes = words.next() == Some(&libc::SYS_write.to_string());
            let file = words.next().and_then(|word| word.strip_prefix("0x"));
            let file = file.and_then(|digits| i32::from_str_radix(digits, 16).ok());
            writes && file.and_then(eventfd_id) == own
        })
    }
}

impl Drop for Contested {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(filler) = self.filler.take() {
            while !filler.is_finished() {
                empty(&self.file);
                std::thread::yield_now();
            }
            filler.join().expect("the filler ends");
        }
    }
}

/// Empties an eventfd without waiting, and says how much was in it.
pub(crate) fn empty(file: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    let mut into = [IoSliceMut::new(&mut count)];
    match rustix::io::preadv2(file, &mut into, u64::MAX, ReadWriteFlags::NOWAIT) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

/// What the kernel calls an eventfd, whichever descriptor of it is asked.
fn eventfd_id(file: i32) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{file}")).ok()?;
    let id = about.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
    Some(id.trim().to_owned())
}
