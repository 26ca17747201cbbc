//! What the kernel and the hardware say of a function that is served: it has reported an error, the kernel wants it
//! back, it answers no more.
//!
//! The supervisor listens itself, and does not rely on a worker that has a user. (Who has taken a worker over has the
//! function's descriptor, and can have the kernel signal somebody else; the watch does not depend on that.)

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uvfio_linux::sysfs::ConfigFile;
use uvfio_linux::vfio::Irq;
use uvfio_pci::tables::header;

use crate::owned::{OwnError, Owned};
use crate::signal::Signal;

/// How often is looked whether the function answers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a function that nobody says is gone may be silent: twice as long as after a reset (PCI Express Base 5.0,
/// 6.6.1). Its own resets don't count: the kernel keeps readers waiting meanwhile.
const SILENCE: Duration = Duration::from_secs(2);

/// What is heard of one function, until it is dropped.
#[derive(Debug)]
pub(crate) struct Events {
    /// The kernel's ERR.
    error: Signal,
    /// The kernel's REQ.
    request: Signal,
    watch: Arc<Watch>,
}

/// Shared with the thread that reads configuration space: in the kernel it may have to wait for a reset of minutes.
#[derive(Debug)]
struct Watch {
    /// Has the thread look, or end.
    kick: Signal,
    /// Signalled when the function is found silent.
    found: Signal,
    /// The kernel wants the function back: no answer means that it is gone.
    doubted: AtomicBool,
    silent: AtomicBool,
    ended: AtomicBool,
}

impl Events {
    /// Listens from now on, in the place of whoever did before.
    pub(crate) fn of(function: &Owned) -> Result<Self, OwnError> {
        let system = |error: io::Error| OwnError::NotHeard {
            address: function.address(),
            why: error.to_string(),
        };
        let config = function.config().map_err(system)?;
        let events = Self {
            error: Signal::new().map_err(system)?,
            request: Signal::new().map_err(system)?,
            watch: Watch::start(config).map_err(system)?,
        };
        function.listen(Irq::Error, events.error.as_fd())?;
        function.listen(Irq::Request, events.request.as_fd())?;
        Ok(events)
    }

    /// Readable when there is something to hear.
    pub(crate) fn files(&self) -> [BorrowedFd<'_>; 3] {
        [self.error.as_fd(), self.request.as_fd(), self.watch.found.as_fd()]
    }

    /// Whether the function has reported an error since the last call.
    pub(crate) fn error(&self) -> bool {
        self.error.take()
    }

    /// Whether the kernel has asked for the function since the last call. It does so every ten seconds.
    pub(crate) fn request(&self) -> bool {
        let asked = self.request.take();
        if asked {
            self.watch.doubt();
        }
        asked
    }

    /// Whether the function answers no more: it is unplugged, or might as well be.
    pub(crate) fn silent(&self) -> bool {
        self.watch.found.take();
        self.watch.silent.load(Ordering::Acquire)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.watch.ended.store(true, Ordering::Release);
        self.watch.kick.raise();
    }
}

impl Watch {
    /// Reads `config` from now on, where there is one.
    fn start(config: Option<ConfigFile>) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self {
            kick: Signal::new()?,
            found: Signal::new()?,
            doubted: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        if let Some(config) = config {
            let shared = Arc::clone(&watch);
            std::thread::Builder::new()
                .name("watch".into())
                .stack_size(128 << 10)
                .spawn(move || shared.run(&config))?;
        }
        Ok(watch)
    }

    /// From now on the first reading that is no answer will do. It is looked at once.
    fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
        self.kick.raise();
    }

    fn run(&self, config: &ConfigFile) {
        let mut silent_since = None;
        loop {
            self.wait();
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            if answers(config) {
                silent_since = None;
                continue;
            }
            let since = *silent_since.get_or_insert_with(Instant::now);
            if self.doubted.load(Ordering::Acquire) || since.elapsed() >= SILENCE {
                self.silent.store(true, Ordering::Release);
                self.found.raise();
                return;
            }
        }
    }

    fn wait(&self) {
        let mut ready = [PollFd::new(&self.kick, PollFlags::IN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut ready, Timespec::try_from(LOOK_EVERY).ok().as_ref());
        self.kick.take();
    }
}

/// Whether configuration space reads anything but ones. Vendor and device ID would not do: those of a virtual function
/// always read ones in hardware.
fn answers(config: &ConfigFile) -> bool {
    let mut bytes = [0xff; 4];
    let at = header::MEMORY.register.into();
    config.read(at, &mut bytes).is_ok() && bytes != [0xff; 4]
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// A function's configuration space, and its watch.
    fn watched(bytes: &[u8; 64]) -> (File, Arc<Watch>) {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(bytes, 0).expect("written");
        let config = file.try_clone().expect("a duplicate").into();
        let config = ConfigFile::from_descriptor(config).expect("configuration space");
        (file, Watch::start(Some(config)).expect("a thread"))
    }

    /// Whether the watch finds it silent before long.
    fn is_found(watch: &Watch) -> bool {
        let patience = Timespec::try_from(SILENCE * 10).expect("a time");
        let mut ready = [PollFd::new(&watch.found, PollFlags::IN)];
        poll(&mut ready, Some(&patience)).expect("polled") == 1 && watch.silent.load(Ordering::Acquire)
    }

    #[test]
    fn a_function_whose_configuration_space_reads_ones_is_found_silent() {
        let (_file, watch) = watched(&[0xff; 64]);
        assert!(is_found(&watch));
    }

    #[test]
    fn so_is_one_whose_configuration_space_is_there_no_more() {
        let (file, watch) = watched(&[0; 64]);
        file.set_len(0).expect("cut");
        watch.doubt();
        assert!(is_found(&watch));
    }

    #[test]
    fn a_virtual_function_without_an_identity_of_its_own_answers() {
        let mut bytes = [0; 64];
        bytes[..4].fill(0xff);
        let (file, watch) = watched(&bytes);
        watch.doubt();
        std::thread::sleep(LOOK_EVERY * 2);
        assert!(!watch.silent.load(Ordering::Acquire));
        file.write_all_at(&[0xff; 64], 0).expect("written");
        assert!(is_found(&watch));
    }
}
