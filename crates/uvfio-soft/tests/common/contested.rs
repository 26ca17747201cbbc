//! An eventfd whose user works against whoever writes it.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ReadWriteFlags;

/// A blocking eventfd that its user's thread keeps full; it empties it before, while it makes room.
pub(crate) struct Contested {
    pub(crate) file: OwnedFd,
    room: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    filler: Option<JoinHandle<()>>,
}

impl Contested {
    pub(crate) fn new() -> Self {
        let file = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let theirs = file.try_clone().expect("a duplicate");
        let [room, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (makes_room, stopped) = (room.clone(), stop.clone());
        let filler = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if makes_room.load(Ordering::SeqCst) {
                    empty(&theirs);
                }
                let _ = rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes());
            }
        });
        Self {
            file,
            room,
            stop,
            filler: Some(filler),
        }
    }

    /// Makes room again and again, until somebody who saw it has found it gone and hangs in writing: a thread whose work
    /// counts up `progress` without end otherwise.
    pub(crate) fn until_blocked(&self, progress: &AtomicU64) {
        let start = Instant::now();
        loop {
            self.room.store(true, Ordering::SeqCst);
            for _ in 0..10 {
                empty(&self.file);
                std::thread::sleep(Duration::from_micros(100));
            }
            self.room.store(false, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            let before = progress.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            if progress.load(Ordering::SeqCst) == before {
                return;
            }
            let patience = Duration::from_secs(60);
            assert!(
                start.elapsed() < patience,
                "nobody was caught within {patience:?}"
            );
        }
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

/// Empties an eventfd without waiting.
fn empty(file: &OwnedFd) {
    let mut bytes = [0; 8];
    let mut into = [IoSliceMut::new(&mut bytes)];
    let _ = rustix::io::preadv2(file, &mut into, u64::MAX, ReadWriteFlags::NOWAIT);
}
