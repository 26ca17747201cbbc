//! The model behind a lock, and the eventfds beside it: decisions and their targets change together.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uvfio_pci::{
    ByteEnables, Effect, Effects, Input, Interrupt, InterruptMode, Layout, RestoreError, State, Window,
};

use uvfio_pci::access::each;

use super::delivery::{self, Queue, Waiting};
use super::eventfd::{EventFd, Inspector, retire};
use super::request::{self, Inspected};
use super::routes::Routes;
use super::{IrqError, IrqIndex, IrqInfo, SetIrqs};
use crate::front_end::FrontEnd;

/// How many eventfds a thread takes along under one hold of the lock.
const BATCH: usize = 8;

/// How long a request waits for a writer of an eventfd that it takes away.
const REQUEST_PATIENCE: Duration = Duration::from_millis(100);

/// How long the end of a user's time waits for it.
const DETACH_PATIENCE: Duration = Duration::from_secs(1);

/// The interrupt lines of one virtual device: the model behind a lock, and the eventfds.
#[derive(Debug)]
pub struct Lines {
    layout: Layout,
    /// The device takes its interrupts to the user itself.
    direct: bool,
    model: Mutex<Model>,
    pub(super) queue: Queue,
    inspector: Inspector,
    decodes: AtomicU8,
    memory: AtomicBool,
    bus_master: AtomicBool,
    mode: AtomicU32,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Model {
    /// The registers.
    pub(super) state: State,
    pub(super) targets: Targets,
    /// Taken away, but a thread is still blocked in writing them.
    held: Vec<Arc<EventFd>>,
    /// The device is gone: no eventfd is held any more.
    closed: bool,
    /// How many users have left: whose the registers and the eventfds are.
    user: u64,
}

/// Where interrupts go.
#[derive(Debug)]
pub(super) struct Targets {
    /// Eventfds by index and vector; as many as the function has vectors.
    pub(super) vectors: [Vec<Option<Arc<EventFd>>>; IrqIndex::COUNT as usize],
    /// By which the user unmasks INTx.
    pub(super) unmask: Option<Arc<EventFd>>,
    /// How many vectors a request has enabled, by index.
    pub(super) enabled: [u16; IrqIndex::COUNT as usize],
}

impl Targets {
    fn new(layout: &Layout) -> Self {
        let mut vectors = [const { Vec::new() }; IrqIndex::COUNT as usize];
        let mut have = |index: IrqIndex, count: usize| vectors[index as usize] = vec![None; count];
        for kind in [Interrupt::Intx, Interrupt::Msi, Interrupt::MsiX] {
            have(kind.into(), layout.vectors(kind).into());
        }
        have(IrqIndex::Err, 1);
        have(IrqIndex::Req, 1);
        Self {
            vectors,
            unmask: None,
            enabled: [0; IrqIndex::COUNT as usize],
        }
    }

    /// The eventfd of a vector.
    pub(super) fn get(&self, index: IrqIndex, vector: u16) -> Option<&Arc<EventFd>> {
        self.vectors[index as usize].get(usize::from(vector))?.as_ref()
    }

    /// Takes every eventfd away.
    fn take_all(&mut self) -> Vec<Arc<EventFd>> {
        self.enabled = [0; IrqIndex::COUNT as usize];
        self.vectors
            .iter_mut()
            .flatten()
            .filter_map(Option::take)
            .chain(self.unmask.take())
            .collect()
    }
}

impl Lines {
    /// A function at power-on, without a user; see [`crate::Device::direct_interrupts`].
    pub(crate) fn new(layout: Layout, direct: bool) -> std::io::Result<Arc<Self>> {
        let state = State::new(&layout);
        let lines = Arc::new(Self {
            model: Mutex::new(Model {
                state,
                targets: Targets::new(&layout),
                held: Vec::new(),
                closed: false,
                user: 0,
            }),
            layout,
            direct,
            queue: Queue::new()?,
            inspector: Inspector::new()?,
            decodes: AtomicU8::new(0),
            memory: AtomicBool::new(false),
            bus_master: AtomicBool::new(false),
            mode: AtomicU32::new(0),
        });
        lines.publish(&lines.lock().state);
        delivery::start(&lines)?;
        Ok(lines)
    }

    /// See [`crate::Host::signal`].
    pub fn signal(&self, vector: u16) {
        self.happen(Input::VectorFired { vector });
    }

    /// See [`crate::Host::set_intx`].
    pub fn set_intx(&self, asserted: bool) {
        self.happen(Input::IntxLevel { asserted });
    }

    /// See [`crate::Host::interrupt_mode`].
    #[must_use]
    pub fn mode(&self) -> InterruptMode {
        let mode = self.mode.load(Ordering::Acquire);
        match mode >> 16 {
            1 => InterruptMode::Msi(mode as u16),
            2 => InterruptMode::MsiX(mode as u16),
            _ => InterruptMode::Intx,
        }
    }

    /// The layout of configuration space.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the function answers accesses to BAR `bar` (6: the ROM).
    pub(crate) fn decodes(&self, bar: u8) -> bool {
        self.decodes
            .load(Ordering::Acquire)
            .checked_shr(bar.into())
            .unwrap_or(0)
            & 1
            != 0
    }

    /// Whether memory is on in COMMAND, also while the function sleeps or is being reset.
    pub(crate) fn memory(&self) -> bool {
        self.memory.load(Ordering::Acquire)
    }

    /// Whether the function may access memory, as the model says.
    pub(crate) fn bus_master(&self) -> bool {
        self.bus_master.load(Ordering::Acquire)
    }

    /// Whether the device takes its interrupts to the user itself.
    pub(crate) fn direct(&self) -> bool {
        self.direct
    }

    /// Where a device takes its interrupts that does so itself; nowhere for any other.
    pub(crate) fn routes(&self) -> Routes {
        if !self.direct {
            return Routes::default();
        }
        let model = self.lock();
        Routes::new(&self.layout, &model.state, &model.targets)
    }

    /// See [`State::settling`].
    pub(crate) fn settling(&self) -> bool {
        self.lock().state.settling()
    }

    /// A copy of the registers.
    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Puts saved registers in the place of the present ones.
    pub(crate) fn restore(&self, state: State) -> Result<(), RestoreError> {
        let mut model = self.lock();
        let in_a_reset = |state: &State| state.resetting() || state.settling();
        if in_a_reset(&state) || in_a_reset(&model.state) {
            return Err(RestoreError {
                offset: self.layout.config_bytes(),
            });
        }
        let state = state.restore(&self.layout)?;
        model.state = state.with_eventfds_of(&model.state);
        self.publish(&model.state);
        self.deliver(model);
        Ok(())
    }

    /// Reads bytes of a window, which the caller has found to lie within it.
    #[inline]
    pub(crate) fn read(&self, window: Window, offset: u32, data: &mut [u8]) {
        let model = self.lock();
        each(offset, data.len(), |piece| {
            piece.scatter(
                uvfio_pci::read(&self.layout, &model.state, window, piece.register),
                data,
            );
        });
    }

    /// See [`Layout::plan`].
    pub(crate) fn plan(&self, register: u16, enables: ByteEnables) -> ByteEnables {
        self.layout.plan(&self.lock().state, register, enables)
    }

    /// See [`Layout::finish`].
    pub(crate) fn finish(&self, register: u16, planned: ByteEnables, fetched: u32) -> u32 {
        self.layout.finish(&self.lock().state, register, planned, fetched)
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one thing, publishes what came of it, and delivers interrupts. What else must happen outside is in
    /// `effects`.
    #[inline]
    pub(crate) fn step(&self, input: Input, effects: &mut Effects) {
        self.step_in(self.lock(), input, effects);
    }

    /// As [`step`](Self::step), under a lock that is held already.
    #[inline]
    fn step_in<'a>(&'a self, mut model: MutexGuard<'a, Model>, input: Input, effects: &mut Effects) {
        uvfio_pci::step(&self.layout, &mut model.state, input, effects);
        // Interrupts alone show nowhere.
        let ended = input.may_end_reset();
        if effects.is_empty() && !ended {
            return;
        }
        let mut deliver = false;
        let mut publish = false;
        for effect in effects.iter() {
            match effect {
                Effect::Deliver => deliver = true,
                _ => publish = true,
            }
        }
        if publish || ended {
            self.publish(&model.state);
        }
        if deliver {
            self.deliver(model);
        }
    }

    fn happen(&self, input: Input) {
        self.step(input, &mut Effects::new());
    }

    /// What GET_IRQ_INFO tells.
    pub(crate) fn info(&self, index: u32) -> Result<IrqInfo, IrqError> {
        let known = IrqIndex::from_number(index).ok_or(IrqError::NoSuchIndex(index))?;
        let count = self.lock().targets.vectors[known as usize].len() as u32;
        let intx = known == IrqIndex::Intx;
        Ok(IrqInfo {
            count,
            eventfd: true,
            maskable: intx,
            automasked: intx,
            noresize: known == IrqIndex::Msi,
        })
    }

    /// SET_IRQS. Says where INTx was masked (true) or unmasked.
    pub(crate) fn set_irqs(&self, request: SetIrqs) -> Result<Option<bool>, IrqError> {
        // Asked before the lock is taken: that may be two thousand questions to the kernel.
        let request = Inspected::new(request, &self.inspector);
        let mut model = self.lock();
        if model.closed {
            return Ok(None);
        }
        let change = request.check(&model.targets, self.mode())?;
        let masked = change.masks_intx();
        let mut removed = Vec::new();
        let wake = change.apply(&self.layout, &mut model, &self.queue, &mut removed);
        self.publish(&model.state);
        self.deliver(model);
        if wake {
            self.queue.wake();
        }
        // The delivery thread lets go of an unmask eventfd when it is woken.
        let held = retire(removed, REQUEST_PATIENCE);
        if !held.is_empty() {
            let mut model = self.lock();
            // No more than there are threads that write.
            model.held.retain(|target| Arc::strong_count(target) > 1);
            model.held.extend(held);
        }
        Ok(masked)
    }

    /// Signals ERR or REQ, by the delivery thread: whoever takes a device away must not wait for its user.
    pub(crate) fn notify(&self, index: IrqIndex) {
        if let Some(target) = self.lock().targets.get(index, 0).cloned() {
            self.queue.notice(index, target);
            self.queue.wake();
        }
    }

    /// The user's time is over: every eventfd is closed, and the registers are as at power-on. If `for_good`,
    /// eventfds that still come are closed at once.
    ///
    /// # Errors
    /// Where a thread must be started and can't be.
    pub(crate) fn end(self: &Arc<Self>, for_good: bool) -> std::io::Result<()> {
        let removed = {
            let mut model = self.lock();
            model.state = State::new(&self.layout);
            model.closed |= for_good;
            model.user += 1;
            self.publish(&model.state);
            self.queue.clear();
            let mut removed = model.targets.take_all();
            removed.append(&mut model.held);
            removed
        };
        self.queue.wake();
        if retire(removed, DETACH_PATIENCE).is_empty() {
            return Ok(());
        }
        tracing::warn!(target: "audit", "a user blocks its interrupts' delivery beyond its time; that thread is left behind");
        self.queue.dismiss();
        delivery::start(self)
    }

    /// Ends the delivery thread.
    pub(crate) fn stop(&self) {
        let removed = self.lock().targets.take_all();
        self.queue.dismiss();
        retire(removed, REQUEST_PATIENCE);
    }

    /// Makes the registers' consequences visible to those who don't take the lock.
    fn publish(&self, state: &State) {
        let decodes = (0..7)
            .filter(|&bar| state.decodes(&self.layout, bar))
            .fold(0, |bits, bar| bits | 1 << bar);
        self.decodes.store(decodes, Ordering::Release);
        self.memory.store(state.memory_enabled(), Ordering::Release);
        self.bus_master
            .store(state.bus_master(&self.layout), Ordering::Release);
        let mode = match state.interrupt_mode(&self.layout) {
            InterruptMode::Intx => 0,
            InterruptMode::Msi(n) => 1 << 16 | u32::from(n),
            InterruptMode::MsiX(n) => 2 << 16 | u32::from(n),
        };
        self.mode.store(mode, Ordering::Release);
    }

    /// Delivers what the model says can be delivered: from here, or by the delivery thread where this one may not
    /// wait.
    fn deliver<'a>(&'a self, mut model: MutexGuard<'a, Model>) {
        if FrontEnd::inside() {
            let mut any = false;
            while let Some(delivery) = uvfio_pci::next_delivery(&self.layout, &mut model.state) {
                self.queue.push(delivery.kind.into(), delivery.vector);
                any = true;
            }
            drop(model);
            if any {
                self.queue.wake();
            }
            return;
        }
        loop {
            let mut batch = [const { None }; BATCH];
            let mut taken = 0;
            for place in &mut batch {
                let Some(delivery) = uvfio_pci::next_delivery(&self.layout, &mut model.state) else {
                    break;
                };
                *place = model.targets.get(delivery.kind.into(), delivery.vector).cloned();
                taken += 1;
            }
            drop(model);
            for target in batch.iter().flatten() {
                target.signal();
            }
            if taken < BATCH {
                return;
            }
            model = self.lock();
        }
    }

    /// On the delivery thread: takes out what waits, and whose it is.
    pub(super) fn take_waiting(&self) -> (Waiting, u64) {
        // Interrupts are added under the lock, and forgotten under it when a user leaves: all of these are one's.
        let model = self.lock();
        (self.queue.take(), model.user)
    }

    /// On the delivery thread: writes the eventfd of an interrupt that waited for a user, who may have left since.
    pub(super) fn deliver_queued(&self, user: u64, index: IrqIndex, vector: u16) {
        let model = self.lock();
        if model.user != user {
            return;
        }
        match model.targets.get(index, vector).cloned() {
            Some(target) => {
                drop(model);
                target.signal();
            }
            // Taken away since. It is pending again, until another eventfd is attached.
            None if request::by_register(self.mode()) == Some(index) => {
                self.step_in(model, Input::VectorFired { vector }, &mut Effects::new());
            }
            None => {}
        }
    }

    /// The eventfd by which the user unmasks INTx, where it is listened to here.
    pub(super) fn unmask_eventfd(&self) -> Option<Arc<EventFd>> {
        let unmask = || self.lock().targets.unmask.clone();
        (!self.direct).then(unmask).flatten()
    }

    /// On the delivery thread: the user has unmasked INTx by eventfd `by`, if that is still the one.
    pub(super) fn unmask_intx(&self, by: &Arc<EventFd>) {
        let model = self.lock();
        if model
            .targets
            .unmask
            .as_ref()
            .is_some_and(|unmask| Arc::ptr_eq(unmask, by))
        {
            self.step_in(model, Input::UnmaskIntx, &mut Effects::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, View};

    use super::*;
    use crate::{IrqAction, IrqData};

    const CAPABILITIES: &[Capability<'static>] = &[Capability::MsiX {
        vectors: 64,
        table: BarSpan { bar: 0, offset: 0 },
        pba: BarSpan {
            bar: 0,
            offset: 0x800,
        },
    }];

    fn lines() -> Arc<Lines> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory32 {
            bytes: 0x1000,
            prefetchable: false,
        };
        let blueprint = Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0x5678,
                revision: 0,
                class: [0xff, 0, 0],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 0,
            },
            bars,
            rom_bytes: 0,
            capabilities: CAPABILITIES,
            extended: &[],
        };
        Lines::new(Layout::compile(&blueprint, View::Virtual).unwrap(), false).unwrap()
    }

    #[test]
    fn what_the_delivery_thread_took_for_a_user_is_not_delivered_to_the_next() {
        let lines = lines();
        let enable = || {
            let file = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
            lines
                .set_irqs(SetIrqs {
                    index: IrqIndex::MsiX as u32,
                    start: 3,
                    count: 1,
                    action: IrqAction::Trigger,
                    data: IrqData::EventFd(vec![Some(file.try_clone().unwrap())]),
                })
                .unwrap();
            lines.happen(Input::BusMaster { on: true });
            file
        };
        let count = |file| rustix::io::read(file, &mut [0; 8]).is_ok();
        let first = enable();
        // Nobody wakes the delivery thread: this one is in its place.
        lines.queue.push(IrqIndex::MsiX, 3);
        lines.queue.push(IrqIndex::MsiX, 4);
        let (waiting, user) = lines.take_waiting();
        lines.end(false).unwrap();
        let next = enable();
        waiting.each(|index, vector| lines.deliver_queued(user, index, vector));
        assert!(!count(&first), "vector 3 came to a user who had left");
        assert!(
            !count(&next),
            "vector 3 of the former user's came to the next user"
        );
        let mut pending = [0; 8];
        lines.read(Window::MsixPba, 0, &mut pending);
        assert_eq!(pending, [0; 8], "pending bits of the former user's");

        lines.queue.push(IrqIndex::MsiX, 3);
        let (waiting, user) = lines.take_waiting();
        waiting.each(|index, vector| lines.deliver_queued(user, index, vector));
        assert!(count(&next), "the next user's own interrupt is delivered");
    }
}
