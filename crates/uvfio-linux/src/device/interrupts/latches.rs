//! The eventfds of our own that the kernel signals where it may not signal the user's, and the thread that hands what
//! comes there to the model. The thread sleeps while every vector goes to the user.
//!
//! It writes no eventfd of a user's: a user can block such a write for good, and then neither a reset nor the end of
//! the lease could wait for this thread. What the model delivers of what it is told goes by the delivery thread of
//! [`uvfio_core`], which is replaced when its user blocks it, and drops what is of a user who has left.

use std::fmt::Display;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use uvfio_core::Host;

use super::super::error::HardwareError;

/// What the thread has.
#[derive(Debug)]
pub(super) struct Latches {
    device: String,
    vectors: Vec<OwnedFd>,
    /// INTx's, which the thread does not look at: the line stays masked in the kernel, and that is all there is to
    /// know.
    line: OwnedFd,
    error: OwnedFd,
    request: OwnedFd,
    /// Wakes the thread.
    kick: OwnedFd,
    /// How many vectors may fire.
    armed: AtomicU16,
    ended: AtomicBool,
    /// Whose interrupts these are. Held from before one is taken out of its latch until the model knows of it, which
    /// waits for nobody: whoever has silenced the device and takes it after that knows that no interrupt of before is
    /// told to the model any more, be it the next user's by then.
    host: Mutex<Option<Host>>,
}

impl Latches {
    /// Makes as many as there are vectors, and starts the thread.
    pub(super) fn new(device: &str, vectors: u16) -> Result<Arc<Self>, HardwareError> {
        let system = |what, why: &dyn Display| HardwareError::System {
            device: device.to_owned(),
            what,
            why: why.to_string(),
        };
        let new = || {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            eventfd(0, flags).map_err(|why| system("an eventfd", &why))
        };
        let latches = Arc::new(Self {
            device: device.to_owned(),
            vectors: (0..vectors).map(|_| new()).collect::<Result<_, _>>()?,
            line: new()?,
            error: new()?,
            request: new()?,
            kick: new()?,
            armed: AtomicU16::new(0),
            ended: AtomicBool::new(false),
            host: Mutex::new(None),
        });
        let thread = Arc::clone(&latches);
        std::thread::Builder::new()
            .name("interrupts".into())
            .spawn(move || thread.run())
            .map_err(|why| system("the thread of interrupts", &why))?;
        Ok(latches)
    }

    /// A vector's.
    pub(super) fn vector(&self, vector: usize) -> Option<BorrowedFd<'_>> {
        Some(self.vectors.get(vector)?.as_fd())
    }

    /// INTx's.
    pub(super) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// ERR's.
    pub(super) fn error(&self) -> BorrowedFd<'_> {
        self.error.as_fd()
    }

    /// REQ's.
    pub(super) fn request(&self) -> BorrowedFd<'_> {
        self.request.as_fd()
    }

    /// Takes whether INTx was signalled here.
    pub(super) fn take_line(&self) -> bool {
        taken(&self.line)
    }

    /// Whose interrupts these are; held while the model is told of one.
    pub(super) fn host(&self) -> MutexGuard<'_, Option<Host>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look at the first `count` vectors.
    pub(super) fn arm(&self, count: u16) {
        self.armed.store(count, Ordering::Release);
        self.wake();
    }

    /// As if the kernel had signalled a vector here.
    pub(super) fn fire(&self, vector: usize) {
        if let Some(file) = self.vectors.get(vector) {
            self.write(file);
        }
    }

    /// Forgets what was signalled.
    pub(super) fn drain(&self) {
        for file in &self.vectors {
            taken(file);
        }
        taken(&self.line);
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.write(&self.kick);
    }

    /// Signals an eventfd of ours; one that is full is signalled already.
    fn write(&self, file: &OwnedFd) {
        if let Err(error) = rustix::io::write(file, &1_u64.to_ne_bytes())
            && error != Errno::AGAIN
        {
            tracing::error!(device = self.device, %error, "the thread of interrupts could not be told");
        }
    }

    /// The thread.
    fn run(&self) {
        while !self.ended.load(Ordering::Acquire) {
            if let Err(error) = self.round() {
                tracing::error!(device = self.device, %error, "interrupts can't be waited for any more");
                return;
            }
        }
    }

    /// Waits for the vectors that are armed, until others are.
    fn round(&self) -> rustix::io::Result<()> {
        const OTHERS: usize = 3;
        let armed = self.armed.load(Ordering::Acquire);
        let others = [&self.kick, &self.error, &self.request];
        let vectors = self.vectors.iter().take(armed.into());
        let mut ready: Vec<PollFd<'_>> = others
            .into_iter()
            .chain(vectors)
            .map(|file| PollFd::new(file, PollFlags::IN))
            .collect();
        loop {
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let signalled = |n: usize| {
                ready
                    .get(n)
                    .is_some_and(|file| file.revents().contains(PollFlags::IN))
            };
            if signalled(0) {
                taken(&self.kick);
                return Ok(());
            }
            if signalled(1) && taken(&self.error) {
                tracing::warn!(device = self.device, "the device has reported an error");
                self.tell(Host::report_error);
            }
            if signalled(2) && taken(&self.request) {
                tracing::warn!(device = self.device, "the kernel wants the device back");
                self.tell(Host::request_release);
            }
            for (vector, file) in (0_u16..).zip(&self.vectors).take(armed.into()) {
                if signalled(OTHERS + usize::from(vector)) {
                    // Under the lock from before it is taken: whoever silences the device waits for it.
                    let host = self.host();
                    if taken(file)
                        && let Some(host) = &*host
                    {
                        host.signal_nowait(vector);
                    }
                }
            }
        }
    }

    fn tell(&self, what: impl FnOnce(&Host)) {
        if let Some(host) = &*self.host() {
            what(host);
        }
    }
}

/// Takes what an eventfd was signalled with; false where it was not.
fn taken(file: &OwnedFd) -> bool {
    rustix::io::read(file, &mut [0; 8]).is_ok()
}
