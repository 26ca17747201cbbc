//! The threads, one for each channel, and what they share with those who access registers.
//!
//! The rules are edu's. The registers' lock is never held over a call to the user's side ([`Host`]). A job takes what
//! it needs of the registers, works without the lock, and its outcome counts only if no reset came in between. A reset
//! waits for the jobs under way, their interrupts included, so none comes late.
//!
//! A chain may be a circle, and its user may ring for ever: each descriptor is a job of its own, and a copy looks
//! after each [`CHUNK_BYTES`] whether it is still wanted.
//!
//! While bus mastering is off a chain waits; the descriptor that met it begins again afterwards. An error would be
//! wrong: Linux switches bus mastering off before it resets a function, and expects to hear nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use uvfio_core::{DmaError, DmaSpace, Host, Width};

use super::ahead::Ahead;
use super::channel::{Channel, Job, Outcome};
use super::descriptor::{DESCRIPTOR_BYTES, Descriptor, Operation};
use super::map::{
    ERROR_CHAIN_ADDRESS, ERROR_COMPLETION_ADDRESS, ERROR_DESTINATION_ADDRESS, ERROR_NEXT_ADDRESS,
    ERROR_NEXT_ALIGNMENT, ERROR_READ_DATA, ERROR_SOURCE_ADDRESS, ERROR_WRITE_DATA,
};
use super::registers::{Effects, Registers};

/// How much is read before it is written, bytes.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// There is a job, or the end has come.
    work: Condvar,
    /// A job has ended, with all that it causes.
    idle: Condvar,
}

#[derive(Debug)]
struct Inner {
    registers: Registers,
    host: Option<Host>,
    /// Threads with a job, from taking it until its interrupt is on its way.
    working: usize,
    /// Resets that wait for them.
    resetting: usize,
    /// How often bus mastering was switched on: what waited for it goes on then.
    bus_master_on: u64,
    stop: bool,
}

impl Engine {
    pub(super) fn start(channels: u8) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                registers: Registers::new(channels),
                host: None,
                working: 0,
                resetting: 0,
                bus_master_on: 0,
                stop: false,
            }),
            work: Condvar::new(),
            idle: Condvar::new(),
        });
        // Made first: where one thread can't be started, dropping it ends those that were.
        let mut engine = Self {
            shared,
            threads: Vec::new(),
        };
        for number in 0..usize::from(channels) {
            let shared = Arc::clone(&engine.shared);
            let thread = std::thread::Builder::new()
                .name(format!("ioat-{number}"))
                .stack_size(64 << 10)
                .spawn(move || shared.run(number))?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    pub(super) fn read(&self, offset: u64, width: Width) -> u64 {
        let (value, effects, host) = {
            let mut inner = self.shared.lock();
            let (value, effects) = inner.registers.read(offset, width);
            (value, effects, inner.host.clone())
        };
        self.shared.tell(effects, host.as_ref());
        value
    }

    pub(super) fn write(&self, offset: u64, width: Width, value: u64) {
        let (effects, host) = {
            let mut inner = self.shared.lock();
            (inner.registers.write(offset, width, value), inner.host.clone())
        };
        if effects.work {
            self.shared.work.notify_all();
        }
        self.shared.tell(effects, host.as_ref());
    }

    pub(super) fn attach(&self, host: Host) {
        self.shared.lock().host = Some(host);
    }

    pub(super) fn detach(&self) {
        self.reset();
        self.shared.lock().host = None;
    }

    /// Bus mastering is on.
    pub(super) fn bus_master_on(&self) {
        let mut inner = self.shared.lock();
        inner.bus_master_on = inner.bus_master_on.wrapping_add(1);
        inner.registers.channels.iter_mut().for_each(Channel::go_on);
        drop(inner);
        self.shared.work.notify_all();
    }

    /// Back to power-on; on return no job of before is under way.
    pub(super) fn reset(&self) {
        let mut inner = self.shared.lock();
        inner.registers.power_on();
        inner.resetting += 1;
        let mut inner = self
            .shared
            .idle
            .wait_while(inner, |inner| inner.working != 0)
            .unwrap_or_else(PoisonError::into_inner);
        inner.resetting -= 1;
        let host = inner.host.clone();
        drop(inner);
        self.shared.show_level(host.as_ref());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // The threads panic nowhere; if one did, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is a plain store, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, number: usize) {
        let mut buffers = Buffers {
            chunk: vec![0; CHUNK_BYTES],
            ahead: Ahead::new(),
        };
        while let Some((job, host, job_began)) = self.next(number) {
            let outcome = match &host {
                Some(host) => self.work_off(number, &job, job_began, host.dma(), &mut buffers),
                None => Outcome::Undone,
            };
            if !matches!(outcome, Outcome::Done { .. }) {
                buffers.ahead.forget();
            }
            let effects = {
                let mut inner = self.lock();
                let again = inner.bus_master_on != job_began;
                inner.registers.finish(number, &job, outcome, again)
            };
            self.tell(effects, host.as_ref());
            let resetting = {
                let mut inner = self.lock();
                inner.working -= 1;
                inner.resetting
            };
            // A system call, and one for each descriptor if it were made for nobody.
            if resetting > 0 {
                self.idle.notify_all();
            }
        }
    }

    /// Waits for a job of the channel's; none at the end. With it come the user, and how often bus mastering had been
    /// switched on.
    fn next(&self, number: usize) -> Option<(Job, Option<Host>, u64)> {
        let mut inner = self.lock();
        loop {
            if inner.stop {
                return None;
            }
            let job = inner.registers.channels.get_mut(number).and_then(Channel::take);
            if let Some(job) = job {
                inner.working += 1;
                return Some((job, inner.host.clone(), inner.bus_master_on));
            }
            inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work_off(
        &self,
        number: usize,
        job: &Job,
        job_began: u64,
        memory: &DmaSpace,
        buffers: &mut Buffers,
    ) -> Outcome {
        let wanted = || {
            self.lock()
                .registers
                .channels
                .get(number)
                .is_some_and(|channel| channel.wants(job))
        };
        let mut errors = match carry_out(job, job_began, memory, buffers, &wanted) {
            Ok(outcome) => return outcome,
            Err(Trouble::BusMasterOff | Trouble::Abandoned) => return Outcome::Undone,
            Err(Trouble::Errors(errors)) => errors,
        };
        if !wanted() {
            return Outcome::Undone;
        }
        if errors & ERROR_COMPLETION_ADDRESS == 0
            && let Some(status) = job.when_failed
            && complete(job, status, memory).is_err()
        {
            errors |= ERROR_COMPLETION_ADDRESS;
        }
        tracing::warn!(
            target: "audit",
            device = "ioat",
            "channel {number}, descriptor at {:#x}: CHANERR bits {errors:#x}; the channel is halted until CHAINADDR is \
             written again",
            job.address
        );
        Outcome::Failed(errors)
    }

    /// Tells the user what it has to know.
    fn tell(&self, effects: Effects, host: Option<&Host>) {
        if effects.level {
            self.show_level(host);
        }
        let Some(host) = host else { return };
        for vector in (0..u32::BITS).filter(|vector| effects.vectors & 1 << vector != 0) {
            host.signal(vector as u16);
        }
    }

    /// INTx follows the registers; whether messages are sent instead is the model's to know.
    fn show_level(&self, host: Option<&Host>) {
        if let Some(host) = host {
            host.follow_intx(|| self.lock().registers.asserted());
        }
    }
}

/// What a channel's thread reads into.
struct Buffers {
    chunk: Vec<u8>,
    ahead: Ahead,
}

/// Why a descriptor was not worked off.
enum Trouble {
    /// It may be, once bus mastering is on again.
    BusMasterOff,
    /// A reset came between.
    Abandoned,
    /// With `ERROR_*` bits.
    Errors(u32),
}

impl Trouble {
    /// Of an access that failed: `address` where nothing is mapped there, `data` where the memory could not be had.
    fn of(error: &DmaError, memory: &DmaSpace, address: u32, data: u32) -> Self {
        match error {
            // By message it may have been under way when bus mastering went off.
            _ if !memory.enabled() => Self::BusMasterOff,
            DmaError::BusMasterOff { .. } => Self::BusMasterOff,
            DmaError::NotMapped { .. } => Self::Errors(address),
            DmaError::Truncated { .. } | DmaError::Message { .. } => Self::Errors(data),
        }
    }
}

/// Works one descriptor off.
fn carry_out(
    job: &Job,
    job_began: u64,
    memory: &DmaSpace,
    Buffers { chunk, ahead }: &mut Buffers,
    wanted: &dyn Fn() -> bool,
) -> Result<Outcome, Trouble> {
    let (unaligned, unreadable) = if job.first {
        (ERROR_CHAIN_ADDRESS, ERROR_CHAIN_ADDRESS)
    } else {
        (ERROR_NEXT_ALIGNMENT, ERROR_NEXT_ADDRESS)
    };
    if !job.address.is_multiple_of(DESCRIPTOR_BYTES as u64) {
        return Err(Trouble::Errors(unaligned));
    }
    let raw = ahead
        .descriptor(job, job_began, memory)
        .map_err(|error| Trouble::of(&error, memory, unreadable, unreadable))?;
    let descriptor = Descriptor::new(&raw);
    match descriptor.operation().map_err(Trouble::Errors)? {
        Operation::Null => {}
        Operation::Copy {
            source,
            destination,
            bytes,
        } => {
            for (at, size) in chunks(bytes, chunk.len()) {
                let part = chunk.get_mut(..size).unwrap_or_default();
                memory
                    .read(source + at, part)
                    .map_err(|error| Trouble::of(&error, memory, ERROR_SOURCE_ADDRESS, ERROR_READ_DATA))?;
                write(memory, destination + at, part, wanted)?;
            }
        }
        Operation::Fill {
            pattern,
            destination,
            bytes,
        } => {
            // A chunk is a whole number of patterns, so each begins with the pattern's first byte.
            for part in chunk.chunks_mut(pattern.len()) {
                part.copy_from_slice(pattern.get(..part.len()).unwrap_or_default());
            }
            for (at, size) in chunks(bytes, chunk.len()) {
                write(
                    memory,
                    destination + at,
                    chunk.get(..size).unwrap_or_default(),
                    wanted,
                )?;
            }
        }
    }
    if descriptor.completes() && wanted() {
        complete(job, job.when_done, memory)?;
    }
    Ok(Outcome::Done {
        next: descriptor.next,
        interrupt: descriptor.interrupts(),
    })
}

/// Writes data, unless a reset came between.
fn write(memory: &DmaSpace, iova: u64, data: &[u8], wanted: &dyn Fn() -> bool) -> Result<(), Trouble> {
    if !wanted() {
        return Err(Trouble::Abandoned);
    }
    memory
        .write(iova, data)
        .map_err(|error| Trouble::of(&error, memory, ERROR_DESTINATION_ADDRESS, ERROR_WRITE_DATA))
}

/// Writes the status at CHANCMP.
fn complete(job: &Job, status: u64, memory: &DmaSpace) -> Result<(), Trouble> {
    memory
        .write(job.completion, &status.to_le_bytes())
        .map_err(|error| Trouble::of(&error, memory, ERROR_COMPLETION_ADDRESS, ERROR_COMPLETION_ADDRESS))
}

/// Cuts `bytes` into chunks: where each begins, and how long it is.
fn chunks(bytes: u32, chunk: usize) -> impl Iterator<Item = (u64, usize)> {
    let bytes = bytes as usize;
    (0..bytes)
        .step_by(chunk.max(1))
        .map(move |at| (at as u64, (bytes - at).min(chunk)))
}
