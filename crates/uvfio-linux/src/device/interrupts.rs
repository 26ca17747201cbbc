//! The hardware's interrupts: the kernel signals eventfds of ours, and one thread tells the model.
//!
//! Each vector has an eventfd, made when the device is, so that nothing has to be made later, when the process may be
//! confined. The model decides what becomes of a vector that has fired: hardware's own mask bits are never set, and a
//! vector that the user has masked is pending in the model.
//!
//! The kernel could as well signal the user's eventfd, and this process be in no interrupt's way: that is a matter of
//! [`Interrupts::set`] alone, which then takes the user's eventfds for the vectors that are not masked.

use std::fmt::Display;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use uvfio_core::Host;
use uvfio_pci::InterruptMode;

use super::error::HardwareError;
use crate::vfio::{DeviceFile, Irq, VfioError};

/// Most vectors that a user is shown, however many the hardware has: each takes a descriptor here and, if the user likes,
/// one of the user's, and a process has a thousand or a few.
pub(super) const MAX_VECTORS: u16 = 256;

/// How often fewer vectors are tried when the kernel has not as many as it said.
const TRIALS: usize = 4;

/// How many vectors the kernel grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Of MSI.
    pub(super) messages: u8,
    /// Of MSI-X.
    pub(super) vectors: u16,
}

/// The interrupts of one device.
#[derive(Debug)]
pub(super) struct Interrupts {
    device: DeviceFile,
    shared: Arc<Shared>,
    /// What is enabled in the kernel.
    enabled: Mutex<InterruptMode>,
}

/// What the thread has.
#[derive(Debug)]
struct Shared {
    device: String,
    vectors: Vec<OwnedFd>,
    error: OwnedFd,
    request: OwnedFd,
    /// Wakes the thread.
    kick: OwnedFd,
    /// How many vectors may fire.
    armed: AtomicU16,
    ended: AtomicBool,
    /// Held while an interrupt is on its way to the user.
    host: Mutex<Option<Host>>,
}

impl Interrupts {
    /// Makes the eventfds and the thread, and tries how many vectors are to be had. ERR and REQ are enabled, where the
    /// kernel has them, for as long as the device is open.
    pub(super) fn new(device: &DeviceFile) -> Result<(Self, Granted), HardwareError> {
        let vfio = |source| HardwareError::Vfio {
            device: device.name().to_owned(),
            source,
        };
        let count = |irq| match device.irq(irq) {
            Ok(info) => Ok(info.count),
            // EINVAL: there is no such interrupt.
            Err(error) if error.errno() == Some(Errno::INVAL) => Ok(0),
            Err(error) => Err(vfio(error)),
        };
        // Whoever had the device open before may have left interrupts enabled; EINVAL where none are.
        for irq in [Irq::Intx, Irq::Msi, Irq::Msix] {
            if let Err(error) = device.disable(irq)
                && error.errno() != Some(Errno::INVAL)
            {
                return Err(vfio(error));
            }
        }
        let messages = count(Irq::Msi)?.min(32) as u16;
        let vectors = count(Irq::Msix)?.min(u32::from(MAX_VECTORS)) as u16;
        let new = || {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            eventfd(0, flags).map_err(|why| system(device, "an eventfd", &why))
        };
        let shared = Arc::new(Shared {
            device: device.name().to_owned(),
            vectors: (0..messages.max(vectors))
                .map(|_| new())
                .collect::<Result<_, _>>()?,
            error: new()?,
            request: new()?,
            kick: new()?,
            armed: AtomicU16::new(0),
            ended: AtomicBool::new(false),
            host: Mutex::new(None),
        });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("interrupts".into())
            .spawn(move || thread.run())
            .map_err(|why| system(device, "the thread of interrupts", &why))?;
        let interrupts = Self {
            device: device.clone(),
            shared,
            enabled: Mutex::default(),
        };
        let granted = Granted {
            messages: interrupts.granted(Irq::Msi, messages) as u8,
            vectors: interrupts.granted(Irq::Msix, vectors),
        };
        for (irq, file) in [
            (Irq::Error, &interrupts.shared.error),
            (Irq::Request, &interrupts.shared.request),
        ] {
            if count(irq)? > 0 {
                device.set_eventfds(irq, 0, &[Some(file.as_fd())]).map_err(vfio)?;
            }
        }
        Ok((interrupts, granted))
    }

    /// From now on interrupts are this user's.
    pub(super) fn attach(&self, host: Host) {
        *self.shared.host() = Some(host);
    }

    /// From now on they are nobody's.
    pub(super) fn detach(&self) {
        *self.shared.host() = None;
    }

    /// Enables in the kernel what the user has enabled, and disables the rest. Waits for nobody.
    pub(super) fn set(&self, mode: InterruptMode) {
        let mut enabled = self.enabled.lock().unwrap_or_else(PoisonError::into_inner);
        if *enabled == mode {
            return;
        }
        if let Some((irq, _)) = vectors(*enabled)
            && let Err(error) = self.device.disable(irq)
        {
            tracing::error!(%error, "interrupts could not be disabled");
        }
        *enabled = InterruptMode::Intx;
        self.shared.arm(0);
        // What was signalled before is not of the vectors to come.
        self.shared.drain();
        let Some((irq, count)) = vectors(mode) else { return };
        match self.enable(irq, count) {
            Ok(got) => {
                if got < count {
                    tracing::error!(
                        device = self.device.name(),
                        "{got} of {count} vectors are to be had now; the others stay silent"
                    );
                }
                if got > 0 {
                    *enabled = mode;
                    self.shared.arm(got);
                }
            }
            Err(error) => tracing::error!(%error, "interrupts could not be enabled, and stay silent"),
        }
    }

    /// Disables everything, and waits until no interrupt of before is on its way to the user.
    pub(super) fn silence(&self) {
        self.set(InterruptMode::Intx);
        let _nothing_on_its_way = self.shared.host();
        self.shared.drain();
    }

    /// Enables vectors: as many as there are, which is how many is said.
    fn enable(&self, irq: Irq, count: u16) -> Result<u16, VfioError> {
        let files: Vec<Option<BorrowedFd<'_>>> = self
            .shared
            .vectors
            .iter()
            .map(|file| Some(file.as_fd()))
            .collect();
        let mut count = count;
        for _ in 0..TRIALS {
            let wanted = files.get(..usize::from(count)).unwrap_or(&files);
            match self.device.set_eventfds(irq, 0, wanted) {
                Err(VfioError::FewerVectors { available, .. })
                    if (1..u32::from(count)).contains(&available) =>
                {
                    count = available as u16;
                }
                other => return other.map(|()| count),
            }
        }
        Ok(0)
    }

    /// How many of `most` vectors the kernel can have.
    fn granted(&self, irq: Irq, most: u16) -> u16 {
        if most == 0 {
            return 0;
        }
        let granted = self.enable(irq, most);
        if let Ok(1..) = granted
            && let Err(error) = self.device.disable(irq)
        {
            tracing::error!(%error, "interrupts could not be disabled after their trial");
        }
        granted.unwrap_or_else(|error| {
            tracing::warn!(%error, "these interrupts are not to be had, and are hidden from the user");
            0
        })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.set(InterruptMode::Intx);
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Shared {
    fn host(&self) -> MutexGuard<'_, Option<Host>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look at the first `count` vectors.
    fn arm(&self, count: u16) {
        self.armed.store(count, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.kick, &1_u64.to_ne_bytes())
            && error != Errno::AGAIN
        {
            tracing::error!(%error, "the thread of interrupts could not be woken");
        }
    }

    /// Forgets what was signalled.
    fn drain(&self) {
        for file in &self.vectors {
            taken(file);
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
                        host.signal(vector);
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

fn vectors(mode: InterruptMode) -> Option<(Irq, u16)> {
    match mode {
        InterruptMode::Intx => None,
        InterruptMode::Msi(count) => Some((Irq::Msi, count)),
        InterruptMode::MsiX(count) => Some((Irq::Msix, count)),
    }
}

fn system(device: &DeviceFile, what: &'static str, why: &dyn Display) -> HardwareError {
    HardwareError::System {
        device: device.name().to_owned(),
        what,
        why: why.to_string(),
    }
}
