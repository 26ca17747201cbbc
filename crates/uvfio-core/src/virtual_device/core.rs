//! What the virtual device is made of, and how the model's effects are carried out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use uvfio_pci::access::split;
use uvfio_pci::{
    ByteEnables, Effect, Effects, Input, InterruptMode, Layout, Outcome, ResetKind, View, Window,
};

use super::route::BarRoute;
use super::work::{Task, Ticket, Work};
use super::{CreateError, GoneReason};
use crate::front_end::FrontEnd;
use crate::{Device, DeviceError, DmaSpace, IrqIndex, Lines, Mapped, Policy, Routes};

/// The parts, shared by the front end's thread and the thread of effects.
pub(super) struct Core {
    pub(super) device: Arc<dyn Device>,
    pub(super) lines: Arc<Lines>,
    pub(super) dma: Arc<DmaSpace>,
    pub(super) work: Work,
    pub(super) bars: [BarRoute; 6],
    pub(super) rom_bytes: u64,
    pub(super) memory_bars: u8,
    gone: AtomicBool,
    reason: Mutex<Option<GoneReason>>,
    told: Mutex<Told>,
}

/// What the device was last told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Memory, in COMMAND.
    memory: bool,
    bus_master: bool,
    /// Bus mastering, where no missing range holds it back.
    reach: bool,
    mode: InterruptMode,
    routes: Routes,
}

impl Core {
    pub(super) fn new(device: Arc<dyn Device>, policy: &Policy) -> Result<Arc<Self>, CreateError> {
        crate::dispose::prepare();
        let name = device.name();
        let blueprint = device.blueprint();
        let impossible = |why: String| CreateError::Blueprint { device: name, why };
        let layout = match (policy.view, device.config_page()) {
            (View::Filtered | View::Raw, Some(page)) => {
                Layout::over(&blueprint, page, policy.view).map_err(|why| impossible(why.to_string()))?
            }
            (view, _) => Layout::compile(&blueprint, view).map_err(|why| impossible(why.to_string()))?,
        };
        let memory = |bar: &uvfio_pci::Bar| {
            matches!(
                bar,
                uvfio_pci::Bar::Memory32 { .. } | uvfio_pci::Bar::Memory64 { .. }
            )
        };
        let memory_bars = (0..)
            .zip(&blueprint.bars)
            .filter(|(_, bar)| memory(bar))
            .fold(0, |bits, (n, _)| bits | 1 << n);
        let bars = BarRoute::all(&blueprint, &layout);
        let rom_bytes = blueprint.rom_bytes.into();
        let thread = |why: std::io::Error| CreateError::Thread {
            device: name,
            why: why.to_string(),
        };
        let system = |why: std::io::Error| CreateError::System {
            device: name,
            why: why.to_string(),
        };
        let lines = Lines::new(layout, device.direct_interrupts()).map_err(system)?;
        let core = Arc::new(Self {
            dma: Arc::new(DmaSpace::with_iommu(policy, device.iommu())),
            lines,
            work: Work::default(),
            bars,
            rom_bytes,
            memory_bars,
            gone: AtomicBool::new(false),
            reason: Mutex::new(None),
            told: Mutex::default(),
            device,
        });
        let worker = core.clone();
        let started = std::thread::Builder::new()
            .name("effects".into())
            .spawn(move || worker.work());
        if let Err(why) = started {
            core.lines.stop();
            return Err(thread(why));
        }
        Ok(core)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn gone_reason(&self) -> Option<GoneReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does one thing to the model and carries out what comes of it.
    #[inline]
    pub(super) fn step(&self, input: Input) {
        // The thread of effects comes here, too. A reset and the end of a user's time wait for it, so it waits for no
        // user.
        let _inside = FrontEnd::enter();
        let mut effects = Effects::new();
        self.lines.step(input, &mut effects);
        // A mask is no effect to anybody but a device that takes its interrupts to the user itself.
        if input.may_end_reset() || !effects.is_empty() || self.lines.direct() {
            self.carry_out(&effects);
        }
    }

    /// Reads configuration space. The hardware is asked without the model's lock.
    #[inline]
    pub(super) fn read_config(&self, offset: u32, data: &mut [u8]) {
        if self.lines.layout().is_backed() {
            self.read_backed_config(offset, data);
        } else {
            self.lines.read(Window::Config, offset, data);
        }
    }

    fn read_backed_config(&self, offset: u32, data: &mut [u8]) {
        for piece in split(offset, data.len()) {
            let planned = self.lines.plan(piece.register, piece.enables);
            let fetched = match planned.0 {
                0 => 0,
                _ => self.device.config_read(piece.register, planned),
            };
            piece.scatter(self.lines.finish(piece.register, planned, fetched), data);
        }
    }

    fn carry_out(&self, effects: &Effects) {
        // DMA and decoding stop before a reset begins.
        self.tell();
        for effect in effects.iter() {
            match effect {
                Effect::Decode | Effect::BusMaster { .. } | Effect::Interrupts | Effect::Deliver => {}
                Effect::Reset { kind, id } => {
                    self.dma.forgive();
                    self.work.add(Task::Reset { kind, id });
                }
                Effect::Power { from, to, id } => {
                    if let (_, Some(replaced)) = self.work.add(Task::Power { from, to, id }) {
                        self.step(Input::EffectDone {
                            id: replaced,
                            outcome: Outcome::Done,
                        });
                    }
                }
                Effect::Vpd { address, write, id } => {
                    let outcome = self.vpd(address, write);
                    self.step(Input::EffectDone { id, outcome });
                }
                Effect::BarMoved { bar } => tracing::trace!(bar, "BAR moved"),
                Effect::HardwareWrite {
                    register,
                    enables,
                    value,
                    keep,
                } => self.device.config_write(register, enables, value, keep),
                Effect::Refused { offset, rule } => {
                    let device = self.device.name();
                    tracing::warn!(target: "audit", device, offset = format_args!("{offset:#x}"), rule, "write refused");
                }
            }
        }
    }

    fn vpd(&self, address: u16, write: Option<u32>) -> Outcome {
        match write {
            Some(value) if self.device.write_vpd(address, value) => Outcome::Done,
            Some(_) => {
                let device = self.device.name();
                tracing::warn!(target: "audit", device, address, "VPD write refused: the device does not take it");
                Outcome::Failed
            }
            None => {
                let mut bytes = [0; 4];
                let from = self.device.vpd().get(address.into()..).unwrap_or_default();
                bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                Outcome::Data(u32::from_le_bytes(bytes))
            }
        }
    }

    /// Tells the device and the address space what has changed for them. Whatever threads come here in whatever
    /// order, the last thing told is what holds.
    pub(super) fn tell(&self) {
        // With the lock in hand no eventfd may be written, whatever thread this is: the socket's waits for the lock.
        let _inside = FrontEnd::enter();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let bus_master = self.lines.bus_master();
            let now = Told {
                memory: self.lines.memory(),
                bus_master,
                reach: bus_master && !self.dma.held_back(),
                mode: self.lines.mode(),
                routes: self.lines.routes(),
            };
            if *told == now {
                return;
            }
            if told.memory != now.memory {
                self.device.memory_changed(now.memory);
            }
            if told.bus_master != now.bus_master {
                self.dma.set_bus_master(now.bus_master);
            }
            // Off first and on last: a device that exists sends nothing while its vectors are changed.
            if told.reach && !now.reach {
                self.device.bus_master_changed(false);
            }
            if told.mode != now.mode {
                self.device.interrupts_changed(now.mode);
            }
            if told.routes != now.routes {
                self.device.routes_changed(&now.routes);
            }
            if now.reach && !told.reach {
                self.device.bus_master_changed(true);
            }
            *told = now;
        }
    }

    /// Takes the device away.
    pub(super) fn leave(&self, reason: GoneReason, signal_error: bool) {
        if self.mark_gone(reason) {
            self.let_go(signal_error);
        }
    }

    /// From now on everything is answered as a gone device answers. False where it was gone already.
    fn mark_gone(&self, reason: GoneReason) -> bool {
        // Held for both, so that there is a reason as soon as the device is gone.
        let mut why = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.swap(true, Ordering::AcqRel) {
            return false;
        }
        tracing::warn!(target: "audit", device = self.device.name(), ?reason, "the device is gone");
        *why = Some(reason);
        true
    }

    /// Lets go of everything of the user's.
    fn let_go(&self, signal_error: bool) {
        if signal_error {
            self.lines.notify(IrqIndex::Err);
        }
        self.dma.close();
        self.work.look();
        if let Err(error) = self.lines.end(true) {
            tracing::error!(%error, "the delivery thread could not be replaced");
        }
        self.tell();
        self.fill_mappable();
    }

    /// Mapped BAR memory of a device that is gone reads all ones.
    fn fill_mappable(&self) {
        let ones = [0xff; 4096];
        for bar in 0..6 {
            for part in self.device.mappable(bar) {
                // A write to a device is no filling of memory.
                if part.kind != Mapped::Memory {
                    continue;
                }
                for at in (0..part.bytes).step_by(ones.len()) {
                    let bytes = (part.bytes - at).min(ones.len() as u64) as usize;
                    if let Err(error) =
                        rustix::io::pwrite(&part.file, &ones[..bytes], part.bar_at + part.offset + at)
                    {
                        tracing::error!(%error, bar, "mapped BAR memory could not be filled with ones");
                        break;
                    }
                }
            }
        }
    }

    /// The thread of effects.
    fn work(&self) {
        while let Some((ticket, task)) = self.work.next() {
            self.do_task(ticket, task);
        }
    }

    fn do_task(&self, ticket: Ticket, task: Task) {
        let outcome = |done: &Result<(), DeviceError>| match done {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Failed,
        };
        match task {
            Task::Reset { kind, id } => {
                let done = self.guarded("reset", || self.device.reset(kind));
                let outcome = outcome(&done);
                self.check(done);
                self.step(Input::EffectDone { id, outcome });
                // Only now is the device what the registers say. No other reset can settle: this thread does them all.
                while self.lines.settling() {
                    self.step(Input::Settled { id });
                }
            }
            Task::Power { from, to, id } => {
                let done = self.guarded("power state", || self.device.power(from, to));
                if let Err(error) = &done {
                    tracing::warn!(%error, ?from, ?to, "the device refused a power state");
                }
                self.step(Input::EffectDone {
                    id,
                    outcome: outcome(&done),
                });
            }
            Task::Detach => {
                let done = self.guarded("reset", || {
                    self.device.reset(ResetKind::Conventional)?;
                    self.put_back();
                    Ok(())
                });
                let left = self.guarded("detach", || {
                    self.device.detach();
                    Ok(())
                });
                self.check(done.and(left));
            }
        }
        self.work.finish(ticket);
    }

    /// What a reset leaves of the user's in registers that it could write: a function's own need not know resets.
    fn put_back(&self) {
        let layout = self.lines.layout();
        if !layout.is_backed() {
            return;
        }
        let page = self.device.config_page().unwrap_or_default();
        for (register, was) in (0_u16..).zip(page.chunks_exact(4)) {
            let was = was.try_into().map_or(0, u32::from_le_bytes);
            let is = self.device.config_read(register, ByteEnables::ALL);
            if let Some(Effect::HardwareWrite {
                register,
                enables,
                value,
                keep,
            }) = layout.put_back(register, was, is)
            {
                self.device.config_write(register, enables, value, keep);
            }
        }
    }

    /// A device that did not come back is gone.
    fn check(&self, done: Result<(), DeviceError>) {
        if let Err(error) = done {
            // Gone before anybody learns of the failure: the next access must not reach the device.
            let first = self.mark_gone(GoneReason::Failed(error.what.clone()));
            self.work.fail(error);
            if first {
                self.let_go(false);
            }
        }
    }

    /// A fault in a device must not take the thread with it: others wait for its answer.
    fn guarded(&self, what: &str, call: impl FnOnce() -> Result<(), DeviceError>) -> Result<(), DeviceError> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
            Err(DeviceError {
                device: self.device.name(),
                what: format!("its code failed in {what}; see the log"),
            })
        })
    }
}
