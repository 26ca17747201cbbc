//! The hardware's interrupts: the kernel signals the user's eventfds, and this process is in no interrupt's way.
//!
//! That holds for a vector that is open (see [`Routes`]). What comes by any other is latched: the kernel signals an
//! eventfd of our own, a thread tells the model, and the model has it pending until the vector is open. Each vector has
//! such an eventfd from the start, so that nothing has to be made later, when the process may be confined.
//!
//! A vector is masked and unmasked by exchanging the one eventfd for the other. The kernel takes its handler away and
//! puts another one in its place; what may come in between:
//!
//! | comes | is |
//! |---|---|
//! | before | signalled where it went before; the kernel waits for handlers that run |
//! | while there is none, by MSI-X, or by MSI with mask bits | pending in the device: the kernel has masked the vector there, and the message is sent when it unmasks it |
//! | while there is none, by MSI without mask bits | lost in the kernel. So such a vector is taken for fired, once, when it is exchanged while the device may send |
//! | after | signalled where it goes from now on |
//! | in the latch when the vector opens | told to the model by the thread, as ever: the model delivers it, once |
//!
//! INTx is a level, which the kernel masks whenever it signals it. While it is closed the latch takes that one signal;
//! when it opens, it is unmasked in the kernel if it was latched: that signals it to its user if it is still asserted.

mod latches;

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use uvfio_core::{Host, IntxRoute, Routes, UserEventfd};
use uvfio_pci::InterruptMode;

use self::latches::Latches;
use super::error::HardwareError;
use crate::vfio::{DeviceFile, Irq, VfioError};

/// Most messages that MSI has (PCI Local Bus 3.0, 6.8.1.3).
pub(super) const MAX_MESSAGES: u8 = 32;

/// Most vectors that a user is shown, however many the hardware has: each takes a descriptor here and, if the user
/// likes, one of the user's, and a process has a thousand or a few.
pub(super) const MAX_VECTORS: u16 = 256;

/// How often fewer vectors are tried when the kernel has not as many as it said.
const TRIALS: usize = 4;

/// How many interrupts the kernel grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// INTx.
    pub(super) line: bool,
    /// Of MSI.
    pub(super) messages: u8,
    /// Of MSI-X.
    pub(super) vectors: u16,
}

/// Where the kernel takes a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// Nowhere: the kernel has no handler for it.
    Nowhere,
    Latch,
    User(UserEventfd),
}

/// What is enabled in the kernel.
#[derive(Debug, Default)]
struct Enabled {
    mode: InterruptMode,
    /// Of messages, all that the mode has.
    vectors: Vec<Target>,
    line: Option<IntxRoute>,
}

/// What the kernel's VFIO is asked about the interrupts of a function: as [`DeviceFile`] has it.
trait Requests: Debug + Send + Sync {
    fn name(&self) -> &str;
    fn set_eventfds(
        &self,
        irq: Irq,
        first: u32,
        eventfds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), VfioError>;
    fn disable(&self, irq: Irq) -> Result<(), VfioError>;
    fn mask_intx(&self) -> Result<(), VfioError>;
    fn unmask_intx(&self) -> Result<(), VfioError>;
    fn unmask_intx_by(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<(), VfioError>;
}

impl Requests for DeviceFile {
    fn name(&self) -> &str {
        self.name()
    }

    fn set_eventfds(
        &self,
        irq: Irq,
        first: u32,
        eventfds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), VfioError> {
        self.set_eventfds(irq, first, eventfds)
    }

    fn disable(&self, irq: Irq) -> Result<(), VfioError> {
        self.disable(irq)
    }

    fn mask_intx(&self) -> Result<(), VfioError> {
        self.mask_intx()
    }

    fn unmask_intx(&self) -> Result<(), VfioError> {
        self.unmask_intx()
    }

    fn unmask_intx_by(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<(), VfioError> {
        self.unmask_intx_by(eventfd)
    }
}

/// The interrupts of one device.
#[derive(Debug)]
pub(super) struct Interrupts {
    device: Box<dyn Requests>,
    latches: Arc<Latches>,
    /// MSI messages can be masked in the device.
    maskable: bool,
    /// Held over the kernel's requests, which wait for handlers that run, and no handler waits for a user: the kernel
    /// signals an eventfd that is full without a wait. The thread that answers the user takes it. So nothing is written
    /// to a user's eventfd under it.
    enabled: Mutex<Enabled>,
}

impl Interrupts {
    /// Makes the latches, and tries how many vectors are to be had. ERR and REQ are enabled, where the kernel has them,
    /// for as long as the device is open.
    pub(super) fn new(device: &DeviceFile) -> Result<(Self, Granted), HardwareError> {
        let vfio = |source| HardwareError::Vfio {
            device: device.name().to_owned(),
            source,
        };
        let count = |irq| device.irq_count(irq).map_err(vfio);
        // Whoever had the device open before may have left interrupts enabled.
        for irq in [Irq::Intx, Irq::Msi, Irq::Msix] {
            if_enabled(device.disable(irq)).map_err(vfio)?;
        }
        let messages = count(Irq::Msi)?.min(MAX_MESSAGES.into()) as u16;
        let vectors = count(Irq::Msix)?.min(u32::from(MAX_VECTORS)) as u16;
        let interrupts = Self {
            device: Box::new(device.clone()),
            latches: Latches::new(device.name(), messages.max(vectors))?,
            maskable: false,
            enabled: Mutex::default(),
        };
        let granted = Granted {
            line: count(Irq::Intx)? > 0 && interrupts.grants_line(),
            messages: interrupts.granted(Irq::Msi, messages) as u8,
            vectors: interrupts.granted(Irq::Msix, vectors),
        };
        for (irq, file) in [
            (Irq::Error, interrupts.latches.error()),
            (Irq::Request, interrupts.latches.request()),
        ] {
            if count(irq)? > 0 {
                device.set_eventfds(irq, 0, &[Some(file)]).map_err(vfio)?;
            }
        }
        Ok((interrupts, granted))
    }

    /// Says whether MSI messages can be masked in the device.
    pub(super) fn set_maskable(&mut self, maskable: bool) {
        self.maskable = maskable;
    }

    /// From now on interrupts are this user's.
    pub(super) fn attach(&self, host: Host) {
        *self.latches.host() = Some(host);
    }

    /// From now on they are nobody's.
    pub(super) fn detach(&self) {
        *self.latches.host() = None;
    }

    /// Has the kernel take interrupts where they are to go, and disables the rest. `live` says whether the device may
    /// send any meanwhile. Waits for nobody.
    pub(super) fn set(&self, routes: &Routes, live: bool) {
        let mut enabled = self.enabled();
        let before = enabled.mode;
        if before != routes.mode {
            self.disable(&mut enabled);
            if irq(before) != irq(routes.mode) {
                // What was signalled before is not of the vectors to come.
                self.latches.drain();
            }
        }
        match messages(routes.mode) {
            None => self.set_line(&mut enabled, routes.intx.as_ref()),
            Some((irq, _)) if enabled.mode == routes.mode => self.exchange(&mut enabled, irq, routes, live),
            Some((irq, count)) => {
                self.disable_line(&mut enabled);
                self.enable_all(&mut enabled, irq, count, routes);
                // The kernel adds messages to MSI by disabling it.
                if let (InterruptMode::Msi(before), true) = (before, irq == Irq::Msi && live) {
                    self.take_for_fired(0..usize::from(before.min(count)));
                }
            }
        }
    }

    /// Masks or unmasks INTx.
    pub(super) fn mask_line(&self, masked: bool) {
        let enabled = self.enabled();
        if enabled.line.is_none() {
            return;
        }
        // What was latched does not unmask the line when it opens: the user has said what the line is to be.
        let done = if masked {
            let done = self.device.mask_intx();
            self.latches.take_line();
            done
        } else {
            self.latches.take_line();
            self.device.unmask_intx()
        };
        if let Err(error) = done {
            tracing::error!(%error, masked, "INTx could not be masked or unmasked");
        }
    }

    /// Disables everything, and waits until no interrupt of before is on its way to the model. Waits for no user.
    pub(super) fn silence(&self) {
        self.set(&Routes::default(), false);
        let _nothing_on_its_way = self.latches.host();
        self.latches.drain();
    }

    fn enabled(&self) -> MutexGuard<'_, Enabled> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disable(&self, enabled: &mut Enabled) {
        if let Some((irq, _)) = messages(enabled.mode)
            && let Err(error) = self.device.disable(irq)
        {
            tracing::error!(%error, "interrupts could not be disabled");
        }
        enabled.mode = InterruptMode::Intx;
        enabled.vectors.clear();
        self.latches.arm(0);
    }

    /// Enables all messages of a mode.
    fn enable_all(&self, enabled: &mut Enabled, irq: Irq, count: u16, routes: &Routes) {
        let mut targets = targets(routes, count);
        match self.enable(irq, &self.files(&targets)) {
            Ok(0) => tracing::error!(
                device = self.device.name(),
                "no vectors are to be had now, and interrupts stay silent"
            ),
            Ok(got) => {
                if got < count {
                    tracing::warn!(
                        device = self.device.name(),
                        "{got} of {count} vectors are to be had now; more are tried when they are used"
                    );
                }
                let missing = targets.iter_mut().skip(got.into());
                missing.for_each(|target| *target = Target::Nowhere);
                enabled.mode = routes.mode;
                enabled.vectors = targets;
                self.latches.arm(count);
            }
            Err(error) => tracing::error!(%error, "interrupts could not be enabled, and stay silent"),
        }
    }

    /// Changes where messages go that are enabled, and nothing of those that stay.
    fn exchange(&self, enabled: &mut Enabled, irq: Irq, routes: &Routes, live: bool) {
        let wanted = targets(routes, enabled.vectors.len() as u16);
        for run in changes(&enabled.vectors, &wanted) {
            let (Some(now), Some(wanted)) = (enabled.vectors.get_mut(run.clone()), wanted.get(run.clone()))
            else {
                continue;
            };
            match self
                .device
                .set_eventfds(irq, run.start as u32, &self.files_from(run.start, wanted))
            {
                Ok(()) => now.clone_from_slice(wanted),
                Err(error) => {
                    // The kernel takes back all of a request that fails.
                    tracing::error!(%error, "these vectors are silent until they are changed again");
                    now.fill(Target::Nowhere);
                }
            }
            if irq == Irq::Msi && live && !self.maskable {
                self.take_for_fired(run);
            }
        }
    }

    /// Vectors of which a message may have been lost.
    fn take_for_fired(&self, vectors: Range<usize>) {
        for vector in vectors {
            self.latches.fire(vector);
        }
    }

    fn set_line(&self, enabled: &mut Enabled, wanted: Option<&IntxRoute>) {
        let same = |line: &IntxRoute| wanted.is_some_and(|wanted| wanted.eventfd == line.eventfd);
        if !enabled.line.as_ref().is_some_and(same) {
            // Another eventfd is unmasked, whatever the last one was.
            self.disable_line(enabled);
        }
        let Some(wanted) = wanted else { return };
        let (open, unmask) = match &enabled.line {
            Some(line) => (Some(line.open), line.unmask.as_ref()),
            None => (None, None),
        };
        let changed = self.change_line(open, unmask, wanted);
        enabled.line = Some(wanted.clone());
        if let Err(error) = changed {
            tracing::error!(%error, "INTx could not be taken where it is to go, and is silent until it is set again");
            // Whatever of it is enabled: the next one begins anew.
            self.disable_line(enabled);
        }
    }

    /// Changes INTx, which is enabled if `open` says whether it was open.
    fn change_line(
        &self,
        open: Option<bool>,
        unmask: Option<&UserEventfd>,
        wanted: &IntxRoute,
    ) -> Result<(), VfioError> {
        if open != Some(wanted.open) {
            let file = if wanted.open {
                wanted.eventfd.as_fd()
            } else {
                self.latches.line()
            };
            self.device.set_eventfds(Irq::Intx, 0, &[Some(file)])?;
            if wanted.open && self.latches.take_line() {
                self.device.unmask_intx()?;
            }
        }
        if unmask != wanted.unmask.as_ref() {
            // The kernel takes one only where there is none.
            if unmask.is_some() {
                self.device.unmask_intx_by(None)?;
            }
            if let Some(unmask) = &wanted.unmask {
                self.device.unmask_intx_by(Some(unmask.as_fd()))?;
            }
        }
        Ok(())
    }

    fn disable_line(&self, enabled: &mut Enabled) {
        if enabled.line.take().is_some()
            && let Err(error) = if_enabled(self.device.disable(Irq::Intx))
        {
            tracing::error!(%error, "INTx could not be disabled");
        }
        self.latches.take_line();
    }

    /// Enables vectors: as many as there are, which is how many is said.
    fn enable(&self, irq: Irq, files: &[Option<BorrowedFd<'_>>]) -> Result<u16, VfioError> {
        let mut count = files.len();
        for _ in 0..TRIALS {
            match self
                .device
                .set_eventfds(irq, 0, files.get(..count).unwrap_or(files))
            {
                Err(VfioError::FewerVectors { available, .. }) if (1..count as u32).contains(&available) => {
                    count = available as usize;
                }
                other => return other.map(|()| count as u16),
            }
        }
        Ok(0)
    }

    /// How many of `most` vectors the kernel can have.
    fn granted(&self, irq: Irq, most: u16) -> u16 {
        if most == 0 {
            return 0;
        }
        self.tried(
            irq,
            self.enable(irq, &self.files(&vec![Target::Latch; most.into()])),
        )
    }

    /// Whether the kernel can have INTx: of a function that can't mask it, not where others have the line, too.
    fn grants_line(&self) -> bool {
        let enabled = self
            .device
            .set_eventfds(Irq::Intx, 0, &[Some(self.latches.line())]);
        let granted = self.tried(Irq::Intx, enabled.map(|()| 1)) > 0;
        self.latches.take_line();
        granted
    }

    /// Ends a trial.
    fn tried(&self, irq: Irq, granted: Result<u16, VfioError>) -> u16 {
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

    fn files<'a>(&'a self, targets: &'a [Target]) -> Vec<Option<BorrowedFd<'a>>> {
        self.files_from(0, targets)
    }

    /// The eventfds of targets of the vectors from `first` on.
    fn files_from<'a>(&'a self, first: usize, targets: &'a [Target]) -> Vec<Option<BorrowedFd<'a>>> {
        let file = |(vector, target): (usize, &'a Target)| match target {
            Target::Nowhere => None,
            Target::Latch => self.latches.vector(vector),
            Target::User(eventfd) => Some(eventfd.as_fd()),
        };
        (first..).zip(targets).map(file).collect()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.set(&Routes::default(), false);
        self.latches.end();
    }
}

/// How disabling went of what may not be enabled, which the kernel refuses with EINVAL.
fn if_enabled(disabled: Result<(), VfioError>) -> Result<(), VfioError> {
    disabled.or_else(|error| match error.errno() {
        Some(Errno::INVAL) => Ok(()),
        _ => Err(error),
    })
}

/// Where each of `count` messages is to go.
fn targets(routes: &Routes, count: u16) -> Vec<Target> {
    let target = |vector: usize| match routes.vectors.get(vector) {
        Some(Some(eventfd)) => Target::User(eventfd.clone()),
        _ => Target::Latch,
    };
    (0..usize::from(count)).map(target).collect()
}

/// The vectors that must be changed, those that are next to one another together. One that the kernel does not have is
/// tried again when it is used.
fn changes(now: &[Target], wanted: &[Target]) -> Vec<Range<usize>> {
    let mut changes: Vec<Range<usize>> = Vec::new();
    for (vector, pair) in now.iter().zip(wanted).enumerate() {
        if pair.0 == pair.1 || matches!(pair, (Target::Nowhere, Target::Latch)) {
            continue;
        }
        match changes.last_mut() {
            Some(last) if last.end == vector => last.end += 1,
            _ => changes.push(vector..vector + 1),
        }
    }
    changes
}

fn irq(mode: InterruptMode) -> Option<Irq> {
    messages(mode).map(|(irq, _)| irq)
}

fn messages(mode: InterruptMode) -> Option<(Irq, u16)> {
    match mode {
        InterruptMode::Intx => None,
        InterruptMode::Msi(count) => Some((Irq::Msi, count)),
        InterruptMode::MsiX(count) => Some((Irq::Msix, count)),
    }
}

#[cfg(test)]
mod tests;
