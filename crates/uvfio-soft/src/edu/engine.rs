//! edu's thread, and what it shares with those who access registers.
//!
//! Three rules keep this simple. The registers' lock is never held over a call to the user's side ([`Host`]). A job
//! copies what it needs, works without the lock, and puts its result back only if no reset came in between
//! (`generation`). A reset waits for the job under way (`busy`), which covers its interrupt, so none comes late.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use uvfio_core::{Host, Width};

use super::registers::{BUFFER_BYTES, COMMAND_RUN, Consequence, Registers, Transfer, factorial};

#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dma_mask: u64,
    inner: Mutex<Inner>,
    /// There is work, or the end has come.
    work: Condvar,
    /// The job under way has ended.
    idle: Condvar,
}

#[derive(Debug)]
struct Inner {
    registers: Registers,
    host: Option<Host>,
    generation: u64,
    busy: bool,
    stop: bool,
}

/// A piece of work, with all that it needs.
enum Job {
    Factorial(u32),
    /// To memory: the bytes (of which the transfer's count matter).
    Write(Transfer, Box<[u8; BUFFER_BYTES]>),
    /// From memory.
    Read(Transfer),
    /// A transfer that was refused, and why.
    Refused(String),
}

impl Engine {
    pub(super) fn start(dma_mask: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            dma_mask,
            inner: Mutex::new(Inner {
                registers: Registers::new(),
                host: None,
                generation: 0,
                busy: false,
                stop: false,
            }),
            work: Condvar::new(),
            idle: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("edu".into())
            .stack_size(64 << 10)
            .spawn(move || for_thread.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn read(&self, offset: u64, width: Width) -> u64 {
        self.shared.lock().registers.read(offset, width)
    }

    pub(super) fn write(&self, offset: u64, width: Width, value: u64) {
        let (consequence, host) = {
            let mut inner = self.shared.lock();
            (inner.registers.write(offset, width, value), inner.host.clone())
        };
        self.shared.follow(consequence, host.as_ref());
    }

    pub(super) fn attach(&self, host: Host) {
        self.shared.lock().host = Some(host);
    }

    pub(super) fn detach(&self) {
        self.reset();
        self.shared.lock().host = None;
    }

    /// Back to power-on; on return no job of before is under way.
    pub(super) fn reset(&self) {
        let mut inner = self.shared.lock();
        inner.generation = inner.generation.wrapping_add(1);
        inner.registers = Registers::new();
        let inner = self
            .shared
            .idle
            .wait_while(inner, |inner| inner.busy)
            .unwrap_or_else(PoisonError::into_inner);
        let host = inner.host.clone();
        drop(inner);
        self.shared.show_level(host.as_ref());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread panics nowhere; if it did, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is a plain store, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let inner = self
                .work
                .wait_while(self.lock(), |inner| !inner.stop && !inner.has_work())
                .unwrap_or_else(PoisonError::into_inner);
            let mut inner = inner;
            if inner.stop {
                return;
            }
            let job = inner.take_job();
            let generation = inner.generation;
            let host = inner.host.clone();
            inner.busy = true;
            drop(inner);

            let consequence = self.work_off(job, generation, host.as_ref());
            self.follow(consequence, host.as_ref());
            self.lock().busy = false;
            self.idle.notify_all();
        }
    }

    fn work_off(&self, job: Job, generation: u64, host: Option<&Host>) -> Consequence {
        // Applies a result, unless a reset came between.
        let finish = |apply: &mut dyn FnMut(&mut Registers) -> Consequence| {
            let mut inner = self.lock();
            if inner.generation == generation {
                apply(&mut inner.registers)
            } else {
                Consequence::None
            }
        };
        match job {
            Job::Factorial(n) => finish(&mut |registers| registers.factorial_done(factorial(n))),
            Job::Refused(why) => {
                Self::refused(&why);
                finish(&mut |registers| registers.dma_done(false))
            }
            Job::Write(transfer, buffer) => {
                let data = buffer
                    .get(transfer.at..transfer.at + transfer.bytes)
                    .unwrap_or_default();
                if let Some(host) = host
                    && let Err(error) = host.dma().write(self.address(transfer.iova), data)
                {
                    Self::refused(&error);
                }
                finish(&mut |registers| registers.dma_done(true))
            }
            Job::Read(transfer) => {
                let mut data = [0; BUFFER_BYTES];
                let data = data.get_mut(..transfer.bytes).unwrap_or_default();
                let arrived = match host.map(|host| host.dma().read(self.address(transfer.iova), data)) {
                    Some(Ok(())) => true,
                    Some(Err(error)) => {
                        Self::refused(&error);
                        false
                    }
                    None => false,
                };
                finish(&mut |registers| {
                    if arrived
                        && let Some(part) = registers
                            .buffer
                            .get_mut(transfer.at..transfer.at + transfer.bytes)
                    {
                        part.copy_from_slice(data);
                    }
                    registers.dma_done(true)
                })
            }
        }
    }

    /// Logs a transfer that was refused.
    fn refused(why: &dyn std::fmt::Display) {
        tracing::warn!(target: "audit", device = "edu", "{why}");
    }

    /// Cuts off the address bits that the device does not drive.
    fn address(&self, iova: u64) -> u64 {
        let driven = iova & self.dma_mask;
        if driven != iova {
            tracing::debug!(
                "edu: DMA address {iova:#x} has bits outside the mask {:#x}; using {driven:#x}",
                self.dma_mask
            );
        }
        driven
    }

    fn follow(&self, consequence: Consequence, host: Option<&Host>) {
        match consequence {
            Consequence::None => {}
            Consequence::Work => self.work.notify_all(),
            Consequence::Raised(message) => {
                self.show_level(host);
                if let Some(host) = host {
                    host.signal(message);
                }
            }
            Consequence::Acknowledged => self.show_level(host),
        }
    }

    /// INTx follows the interrupt status; whether messages are sent instead is the model's to know.
    fn show_level(&self, host: Option<&Host>) {
        if let Some(host) = host {
            host.follow_intx(|| self.lock().registers.interrupt_status != 0);
        }
    }
}

impl Inner {
    fn has_work(&self) -> bool {
        self.registers.computing || self.registers.dma.command & COMMAND_RUN != 0
    }

    /// The next job: a factorial first, since it is short and a transfer may wait for the user.
    fn take_job(&self) -> Job {
        if self.registers.computing {
            return Job::Factorial(self.registers.factorial);
        }
        match self.registers.dma.transfer() {
            Ok(transfer) if transfer.from_device => Job::Write(transfer, self.registers.buffer.clone()),
            Ok(transfer) => Job::Read(transfer),
            Err(outside) => Job::Refused(outside.to_string()),
        }
    }
}
