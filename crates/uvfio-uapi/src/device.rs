//! A device, whoever has it open, and however.

mod dma;
mod feature;
mod hot_reset;
mod info;
mod irqs;
mod notify;
mod place;
mod regions;
mod removal;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{DmaMessages, ResetProgress};
use uvfio_pci::tables::express;

use self::dma::Way;
use self::irqs::Irqs;
use self::notify::Doorbells;
pub(crate) use self::place::{Placement, place};
pub use self::removal::Asked;
use self::removal::Removal;
use crate::backend::Backend;
use crate::descriptor::signal_eventfd;
use crate::follow::Follower;
use crate::iommufd::Bound;
use crate::refusal::{Outcome, Refusal};
use crate::requests::device as request;
use crate::space::Space;
use crate::uapi::Uapi;
use crate::{Answer, Caller};

/// How long a reset may take before the caller is told to try again.
const RESET_PATIENCE: Duration = Duration::from_secs(30);

/// A device.
pub(crate) struct Device {
    /// Its address, as `0000:01:00.0`.
    pub(crate) address: String,
    /// Its IOMMU group.
    pub(crate) group: u32,
    device: Arc<dyn Backend>,
    placement: Placement,
    way: Arc<Way>,
    /// Where it is to be told what its user maps.
    follower: Option<Arc<Follower>>,
    /// Whether it is open, and by how many files. Held for reading by every call on it, so that none outlives its user.
    users: RwLock<usize>,
    irqs: Mutex<Irqs>,
    doorbells: Mutex<Doorbells>,
    low_power: Mutex<feature::LowPower>,
    tie: Mutex<Option<Tie>>,
    removal: Removal,
}

/// What a device that is opened begins with.
#[derive(Debug)]
pub(crate) struct Start {
    /// What it reaches.
    pub(crate) space: Option<Arc<Space>>,
    pub(crate) tie: Option<Tie>,
}

/// A device's tie to a file of `/dev/iommu`.
#[derive(Debug)]
pub(crate) struct Tie {
    pub(crate) bound: Bound,
    /// It is bound by a file of its own, not by way of its group.
    pub(crate) by_file: bool,
}

impl Device {
    pub(crate) fn new(address: String, group: u32, device: Arc<dyn Backend>, placement: Placement) -> Self {
        Self {
            follower: Follower::of(&device),
            way: Arc::new(Way::new(address.clone())),
            address,
            group,
            device,
            placement,
            users: RwLock::new(0),
            irqs: Mutex::default(),
            doorbells: Mutex::default(),
            low_power: Mutex::default(),
            tie: Mutex::default(),
            removal: Removal::default(),
        }
    }

    fn users(&self) -> RwLockReadGuard<'_, usize> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn users_mut(&self) -> RwLockWriteGuard<'_, usize> {
        self.users.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of it is opened. The first one makes it ready: BARs placed and answering, bus master off; `start` says
    /// what it begins with.
    pub(crate) fn open(&self, start: impl FnOnce() -> Outcome<Start>) -> Outcome<()> {
        let mut users = self.users_mut();
        self.counted(|| {
            self.check_not_withdrawn()?;
            if *users == 0 {
                self.begin(start()?)?;
            }
            *users += 1;
            Ok(())
        })
    }

    /// As [`open`](Self::open), by the only file that may have it open.
    pub(crate) fn open_alone(&self, start: impl FnOnce() -> Outcome<Start>) -> Outcome<()> {
        let mut users = self.users_mut();
        if *users > 0 {
            return Err(Refusal::invalid(format!(
                "{} is bound by another file",
                self.address
            )));
        }
        self.counted(|| {
            self.check_not_withdrawn()?;
            self.begin(start()?)?;
            *users = 1;
            Ok(())
        })
    }

    /// Opens it by `open`, which looks whether it is withdrawn: who withdraws it meanwhile sees that it is open.
    fn counted(&self, open: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        self.come();
        let opened = open();
        if opened.is_err() {
            self.leave();
        }
        opened
    }

    fn begin(&self, start: Start) -> Outcome<()> {
        let gone = || Refusal::new(Errno::NODEV, format!("{} is gone; start it again", self.address));
        if self.device.is_gone() {
            return Err(gone());
        }
        self.way.set_space(start.space.clone());
        *self.tie() = start.tie;
        let begun = self
            .follow(start.space)
            .and_then(|()| self.device.attach(Arc::clone(&self.way) as Arc<dyn DmaMessages>))
            // Who withdrew it meanwhile may have taken it before it was attached.
            .and_then(|()| self.check_not_withdrawn());
        if let Err(refusal) = begun {
            self.end();
            return Err(refusal);
        }
        self.placement.apply(&*self.device);
        Ok(())
    }

    /// Has a device know what is mapped that wants to.
    fn follow(&self, space: Option<Arc<Space>>) -> Outcome<()> {
        match &self.follower {
            Some(follower) => follower.follow(space),
            None => Ok(()),
        }
    }

    /// It reaches nothing any more.
    fn lead_nowhere(&self) {
        self.way.set_space(None);
        // Nothing is mapped by that, so nothing is refused.
        let _ = self.follow(None);
    }

    /// A file of it is closed. With the last one its user is gone, and it is reset.
    pub(crate) fn close(&self) {
        let mut users = self.users_mut();
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.end();
        }
        self.leave();
    }

    fn end(&self) {
        self.doorbells().clear();
        *self.irqs() = Irqs::default();
        self.removal.hears.store(false, Ordering::SeqCst);
        *self.low_power() = feature::LowPower::default();
        if let Err(error) = self.device.detach() {
            tracing::error!(target: "uapi", device = self.address, %error, "the device did not come back from its user");
        }
        self.lead_nowhere();
        *self.tie() = None;
    }

    /// Attaches to an address space of the file that it is bound to: the number of what it is attached to then.
    pub(crate) fn attach_to(&self, id: u32) -> Outcome<u32> {
        let _used = self.enter()?;
        let mut tie = self.tie();
        let tie = tie
            .as_mut()
            .ok_or_else(|| Refusal::invalid(format!("{} is not bound", self.address)))?;
        let (attached, space, before) = tie.bound.attach_keeping(id)?;
        let space_before = self.way.space();
        self.way.set_space(Some(Arc::clone(&space)));
        if let Err(refusal) = self.follow(Some(space)) {
            tie.bound.go_back(before);
            self.way.set_space(space_before.clone());
            if self.follow(space_before).is_err() {
                self.lead_nowhere();
                tie.bound.detach();
            }
            return Err(refusal);
        }
        tie.bound.let_go(before);
        Ok(attached)
    }

    /// Detaches from the address space: it reaches nothing any more.
    pub(crate) fn detach_from(&self) -> Outcome<()> {
        let _used = self.enter()?;
        // One lock for both: who attaches meanwhile does so before or after.
        let mut tie = self.tie();
        self.lead_nowhere();
        if let Some(tie) = tie.as_mut() {
            tie.bound.detach();
        }
        Ok(())
    }

    /// Where its BARs lie while it is open.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    fn tie(&self) -> MutexGuard<'_, Option<Tie>> {
        self.tie.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn irqs(&self) -> MutexGuard<'_, Irqs> {
        self.irqs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doorbells(&self) -> MutexGuard<'_, Doorbells> {
        self.doorbells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn low_power(&self) -> MutexGuard<'_, feature::LowPower> {
        self.low_power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An ioctl.
    pub(crate) fn ioctl(
        &self,
        uapi: &Uapi,
        number: u32,
        argument: u64,
        caller: &dyn Caller,
    ) -> Outcome<Answer> {
        // Files that the request names. They may be closed with it, and that has to wait for who uses the device.
        let mut named = Vec::new();
        let _used = self.enter()?;
        match number {
            request::DEVICE_GET_INFO => self.info(argument, caller),
            request::DEVICE_GET_REGION_INFO => self.region_info(argument, caller),
            request::DEVICE_GET_IRQ_INFO => self.irq_info(argument, caller),
            request::DEVICE_SET_IRQS => self.set_irqs(argument, caller),
            request::DEVICE_RESET => self.reset(),
            request::DEVICE_GET_PCI_HOT_RESET_INFO => self.hot_reset_info(uapi, argument, caller),
            request::DEVICE_PCI_HOT_RESET => self.hot_reset(uapi, argument, caller, &mut named),
            request::DEVICE_IOEVENTFD => self.ioeventfd(argument, caller),
            request::DEVICE_FEATURE => self.feature(argument, caller),
            _ => Err(Refusal::unknown(number)),
        }?;
        Ok(Answer::Value(0))
    }

    /// A call on it begins: it wakes if its user put it to sleep, and stays its user's until the guard is dropped.
    fn enter(&self) -> Outcome<RwLockReadGuard<'_, usize>> {
        loop {
            let users = self.users();
            if *users == 0 {
                return Err(Refusal::new(Errno::BADF, format!("{} is not open", self.address)));
            }
            let Some(woken) = self.low_power().wake() else {
                return Ok(users);
            };
            drop(users);
            // Under no lock, nor has any caller one: its owner may fill it meanwhile, and have this call of its wait.
            signal_eventfd(&woken);
        }
    }

    fn reset(&self) -> Outcome<()> {
        if !self.device.resettable() {
            return Err(Refusal::invalid(format!(
                "there is no way to reset {}",
                self.address
            )));
        }
        match self.device.reset(RESET_PATIENCE) {
            Ok(ResetProgress::Done) => Ok(()),
            Ok(ResetProgress::UnderWay) => Err(Refusal::new(
                Errno::AGAIN,
                format!(
                    "the reset of {} is not done after {RESET_PATIENCE:?}",
                    self.address
                ),
            )),
            Err(error) => Err(Refusal::new(Errno::IO, error.to_string())),
        }
    }

    /// Whether it is PCI Express.
    fn is_express(&self) -> bool {
        let mut placed = self.device.layout().placed();
        placed.any(|placed| std::ptr::eq(placed.table, &raw const express::EXPRESS))
    }
}
