//! One virtual device, as front ends know it.
//!
//! ```text
//! VirtualDevice    what a front end may ask, and what a gone device answers
//!   access         reads and writes of regions: bounds, then the model or a BAR
//!   route          an offset of a BAR: the device, or a window of the model
//!   core           effects of the model, carried out
//!   work           effects that take time, on a thread of their own
//! ```

mod access;
mod core;
mod route;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uvfio_pci::{Input, Layout, ResetKind, RestoreError, State};

use self::core::Core;
use self::work::Task;
use crate::front_end::FrontEnd;
use crate::{
    Device, DeviceError, DmaMap, DmaMessages, DmaSpace, Host, IrqError, IrqIndex, IrqInfo, MapError, Policy,
    SetIrqs, UnmapError, close_elsewhere,
};

/// How long [`VirtualDevice::detach`] waits for the device.
const DETACH_PATIENCE: Duration = Duration::from_secs(30);

/// How often DMA by message is abandoned while a reset is waited for.
const ABANDON_AGAIN: Duration = Duration::from_millis(10);

/// How a reset by request went, as far as it is known when the caller must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetProgress {
    /// The device is reset.
    Done,
    /// It goes on behind the caller's back; accesses are answered from the model until it is done.
    UnderWay,
}

/// Why a device is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// Taken away by whoever governs it.
    Revoked,
    /// It is no longer there.
    Unplugged,
    /// It failed.
    Failed(String),
}

/// Why a virtual device could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// The device declares something impossible.
    #[error("{device} declares an impossible function: {why}")]
    Blueprint {
        /// Device's name.
        device: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The system refused something else.
    #[error("{device}: the system refused an eventfd, a look at /proc/self/fd, or a thread: {why}")]
    System {
        /// Device's name.
        device: &'static str,
        /// The system's reason.
        why: String,
    },
    /// A thread could not be started.
    #[error("{device}: a thread could not be started: {why}")]
    Thread {
        /// Device's name.
        device: &'static str,
        /// The system's reason.
        why: String,
    },
}

/// A PCI device as its user sees it: the only object that front ends know.
///
/// Accesses within a region never fail, whatever the device's state: what does not decode reads all ones and drops
/// writes. Once the device is gone everything does, and requests are acknowledged without effect.
pub struct VirtualDevice {
    core: Arc<Core>,
    attached: AtomicBool,
}

impl VirtualDevice {
    /// Makes a virtual device over `device`, with no user yet.
    ///
    /// # Errors
    /// Where the device's blueprint breaks a rule, or threads can't be started.
    pub fn new(device: Arc<dyn Device>, policy: &Policy) -> Result<Arc<Self>, CreateError> {
        let core = Core::new(device, policy)?;
        Ok(Arc::new(Self {
            core,
            attached: AtomicBool::new(false),
        }))
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.core.device.name()
    }

    /// A user has come. `messages` is its way for DMA by message, where the front end has one. A user who is still
    /// there is detached first.
    pub fn attach(&self, messages: Option<Arc<dyn DmaMessages>>) {
        let _inside = FrontEnd::enter();
        if self.attached.load(Ordering::Acquire)
            && let Err(error) = self.detach()
        {
            tracing::error!(%error, "the device did not come back from its last user");
        }
        if self.is_gone() {
            return;
        }
        self.attached.store(true, Ordering::Release);
        if let Some(messages) = messages {
            self.core.dma.set_messages(messages);
        }
        self.core
            .device
            .attach(Host::new(self.core.dma.clone(), self.core.lines.clone()));
    }

    /// The user has gone, by whatever way: interrupts off, memory unmapped, bus master off, the device reset
    /// (conventional) and back at its power-on configuration. Waits until that is done, for half a minute.
    ///
    /// # Errors
    /// Where the device does not come back; it is gone then and must get no second user.
    pub fn detach(&self) -> Result<(), DeviceError> {
        self.detach_within(DETACH_PATIENCE)
    }

    /// As [`detach`](Self::detach), waiting at most `patience`.
    ///
    /// # Errors
    /// As [`detach`](Self::detach).
    pub fn detach_within(&self, patience: Duration) -> Result<(), DeviceError> {
        let _inside = FrontEnd::enter();
        if !self.attached.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let core = &self.core;
        let mut blocked = core.lines.end(false);
        core.tell();
        core.dma.clear();
        let (ticket, _) = core.work.add(Task::Detach);
        let done = core.work.wait(ticket, patience, || false);
        // Once more: what the device did on its way out belongs to the former user too.
        blocked = blocked.and_then(|()| core.lines.end(false));
        core.tell();
        let failure = |what: String| DeviceError {
            device: self.name(),
            what,
        };
        let result = match done {
            Some(Ok(())) => {
                blocked.map_err(|error| failure(format!("the delivery thread can't be replaced: {error}")))
            }
            Some(Err(error)) => Err(error),
            None => Err(failure(format!(
                "it did not come back from its user within {patience:?}; take it out of use"
            ))),
        };
        if let Err(error) = &result {
            core.leave(GoneReason::Failed(error.what.clone()), false);
        }
        result
    }

    /// Whether the user may ask for a reset.
    #[must_use]
    pub fn resettable(&self) -> bool {
        self.core.device.resettable()
    }

    /// What interrupt index `index` is.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo, IrqError> {
        self.core.lines.info(index)
    }

    /// Waits until effects that take time (a reset, a power state) are done, for half a minute at most: for front ends
    /// whose users expect them done when the write of the register is.
    pub fn settle(&self) {
        let under_way = self.core.work.last();
        let _ = self.core.work.wait(under_way, DETACH_PATIENCE, || self.is_gone());
    }

    /// SET_IRQS.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn set_irqs(&self, request: SetIrqs) -> Result<(), IrqError> {
        let _inside = FrontEnd::enter();
        let masked = self.core.lines.set_irqs(request)?;
        self.core.tell();
        if let (Some(masked), true) = (masked, self.core.lines.direct()) {
            self.core.device.intx_masked(masked);
        }
        Ok(())
    }

    /// Resets the function (as by FLR), waiting at most `patience` for it to be done.
    ///
    /// # Errors
    /// Where the device did not come back, or can't be reset at all.
    pub fn reset(&self, patience: Duration) -> Result<ResetProgress, DeviceError> {
        let _inside = FrontEnd::enter();
        if self.is_gone() {
            return Ok(ResetProgress::Done);
        }
        if !self.resettable() {
            return Err(DeviceError {
                device: self.name(),
                what: "there is no way to reset it; it goes on as it is".to_owned(),
            });
        }
        self.core.step(Input::Reset {
            kind: ResetKind::FunctionLevel,
        });
        // The model joins a reset to one that is under way; either way the last task is the one to wait for.
        let ticket = self.core.work.last();
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            match self
                .core
                .work
                .wait(ticket, left.min(ABANDON_AGAIN), || self.is_gone())
            {
                Some(Ok(())) => return Ok(ResetProgress::Done),
                Some(Err(error)) => return Err(error),
                None if self.is_gone() => {
                    return match self.gone_reason() {
                        Some(GoneReason::Failed(what)) => Err(DeviceError {
                            device: self.name(),
                            what,
                        }),
                        _ => Ok(ResetProgress::Done),
                    };
                }
                None if start.elapsed() >= patience => return Ok(ResetProgress::UnderWay),
                // A device's thread that was just about to ask by message when that was abandoned waits for an
                // answer that this thread does not read, and the reset for that thread.
                None => self.core.dma.abandon(),
            }
        }
    }

    /// Maps memory of the user's for the device.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn dma_map(&self, map: DmaMap) -> Result<(), MapError> {
        if self.is_gone() {
            if let Some(backing) = map.backing {
                close_elsewhere(backing.file);
            }
            return Ok(());
        }
        let result = self.core.dma.map(map);
        self.core.tell();
        result
    }

    /// Unmaps; see [`crate::DmaSpace::unmap`]. From a device that is gone everything is unmapped already, whatever the
    /// range.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn dma_unmap(&self, iova: u64, bytes: u64) -> Result<u64, UnmapError> {
        if self.is_gone() {
            return Ok(0);
        }
        let result = self.core.dma.unmap(iova, bytes);
        self.core.tell();
        result
    }

    /// Bus mastering by request (DEVICE_FEATURE); the same bit as COMMAND's.
    pub fn set_bus_master(&self, on: bool) {
        let _inside = FrontEnd::enter();
        if !self.is_gone() {
            self.core.step(Input::BusMaster { on });
        }
    }

    /// Asks the user to give the device back, by the REQ interrupt.
    pub fn request_removal(&self) {
        self.core.lines.notify(IrqIndex::Req);
    }

    /// Tells the user that the device has reported an error, by the ERR interrupt (which stops a whole QEMU machine).
    pub fn report_error(&self) {
        self.core.lines.notify(IrqIndex::Err);
    }

    /// Takes the device away; there is no way back for this user. ERR is signalled only if `signal_error` (it stops a
    /// whole QEMU machine). Comes back once nothing of the user's is held any more. That takes up to a second where the
    /// user blocks its own interrupts, and as long as a mapping takes that is under way: of a function that exists, a
    /// third of a second for each GiB that is pinned, and two seconds where it waits for another function's.
    pub fn gone(&self, reason: GoneReason, signal_error: bool) {
        self.core.leave(reason, signal_error);
    }

    /// Whether the device is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.core.is_gone()
    }

    /// Why the device is gone, where it is.
    #[must_use]
    pub fn gone_reason(&self) -> Option<GoneReason> {
        self.core.gone_reason()
    }

    /// The layout of configuration space.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.core.lines.layout()
    }

    /// A copy of the registers, whatever they are at this moment.
    #[must_use]
    pub fn snapshot(&self) -> State {
        self.core.lines.state()
    }

    /// The user's address space; for showing how much of it is used.
    #[must_use]
    pub fn dma(&self) -> &DmaSpace {
        &self.core.dma
    }

    /// The registers, to be restored later or elsewhere, once effects that are under way are done (for half a
    /// minute at most).
    #[must_use]
    pub fn save(&self) -> State {
        // Saved all the same if that takes longer; a state in the midst of a reset is refused when it is restored.
        self.settle();
        self.snapshot()
    }

    /// Puts saved registers in the place of the present ones. The device is told of bus mastering and interrupts.
    /// Eventfds are no part of them: the user attaches its own, before or after.
    ///
    /// # Errors
    /// Where the state could not have come about with this layout, or it or the present one is in the midst of a reset;
    /// nothing is changed then.
    pub fn restore(&self, state: State) -> Result<(), RestoreError> {
        let _inside = FrontEnd::enter();
        if !self.is_gone() {
            self.core.lines.restore(state)?;
            self.core.tell();
        }
        Ok(())
    }
}

impl Drop for VirtualDevice {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::error!(%error, "the device did not come back from its last user");
        }
        self.core.work.stop();
        self.core.lines.stop();
    }
}
