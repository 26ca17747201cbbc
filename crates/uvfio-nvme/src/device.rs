//! The controller as a PCI device.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use uvfio_core::{Device, DeviceError, Host, Mappable, Width};
use uvfio_pci::{Blueprint, InterruptMode, ResetKind};

use crate::changes::Changes;
use crate::completion::CompletionQueue;
use crate::config::{Config, InterruptConfig, MAX_NAMESPACES, MAX_QUEUES, NvmeError, PollConfig};
use crate::controller::Registers;
use crate::doorbell_page::DoorbellPage;
use crate::executor;
use crate::features::Features;
use crate::identity::{self, Function};
use crate::interrupts::Interrupts;
use crate::namespace::Namespace;
use crate::polling::Poller;
use crate::session::Session;
use crate::shared::Shared;
use crate::spec::registers::{DOORBELL_STRIDE, DOORBELLS};
use crate::statistics::{Counters, Statistics};
use crate::submission::SubmissionQueue;
use crate::sync::Mutex;

/// An NVMe controller.
#[derive(Debug)]
pub struct Nvme {
    shared: Arc<Shared>,
    function: Function,
}

impl Nvme {
    /// Makes a controller and starts its threads.
    ///
    /// # Errors
    /// Where the configuration breaks a rule, or the system gives no threads or memory.
    pub fn new(config: Config) -> Result<Arc<Self>, NvmeError> {
        check(&config)?;
        let function = Function::new(&config);
        let vectors = identity::vectors(&config);
        let (queues, serial, poll) = (config.queues, config.serial, config.poll);
        let namespaces = (1..)
            .zip(config.namespaces)
            .map(|(number, namespace)| Namespace::new(number, &serial, namespace))
            .collect::<Result<Vec<_>, _>>()?;
        let threads = |id| {
            if id == 0 {
                1
            } else {
                executor::threads_of_a_queue(queues)
            }
        };
        let shared = Arc::new(Shared {
            session: Session::default(),
            registers: Mutex::new(Registers::default()),
            submission: (0..=queues)
                .map(|id| SubmissionQueue::new(id, threads(id)))
                .collect(),
            completion: (0..=queues).map(|_| CompletionQueue::default()).collect(),
            interrupts: Interrupts::default(),
            events: Mutex::default(),
            features: Mutex::new(Features::new(queues, vectors)),
            namespaces,
            errors: Mutex::default(),
            counters: Counters::default(),
            changes: Changes::new(usize::from(queues) + 1),
            poller: Poller::new(poll),
            page: (poll == PollConfig::Always).then(|| DoorbellPage::new(queues)),
            shadow: Mutex::new(None),
            shadow_offered: AtomicBool::new(false),
            write_through: AtomicBool::new(false),
            shutdown_wanted: AtomicBool::new(false),
            serial,
            vectors,
            made: Instant::now(),
        });
        executor::start(&shared).map_err(NvmeError::Thread)?;
        Ok(Arc::new(Self { shared, function }))
    }

    /// What the controller has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.counters.snapshot()
    }
}

fn check(config: &Config) -> Result<(), NvmeError> {
    if config.namespaces.is_empty() || config.namespaces.len() > MAX_NAMESPACES {
        return Err(NvmeError::Namespaces(config.namespaces.len()));
    }
    if config.queues == 0 || config.queues > MAX_QUEUES {
        return Err(NvmeError::Queues(config.queues));
    }
    if let InterruptConfig::Msi { messages } = config.interrupts
        && (!messages.is_power_of_two() || messages > 32)
    {
        return Err(NvmeError::Messages(messages));
    }
    let printable = config
        .serial
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if !printable || config.serial.is_empty() || config.serial.len() > 20 {
        return Err(NvmeError::Serial(config.serial.clone()));
    }
    Ok(())
}

impl Drop for Nvme {
    /// The threads end by themselves: one that waits for its backend is not waited for.
    fn drop(&mut self) {
        executor::stop(&self.shared);
    }
}

impl Device for Nvme {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        self.function.blueprint()
    }

    fn attach(&self, host: Host) {
        self.shared.attach(host);
    }

    fn detach(&self) {
        self.shared.detach();
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        if bar != 0 || offset >= identity::REGISTERS_END {
            return 0;
        }
        let low = self.read_dword(offset & !3);
        match width {
            Width::B1 => u64::from(low >> (8 * (offset & 3)) & 0xff),
            Width::B2 => u64::from(low >> (8 * (offset & 3)) & 0xffff),
            Width::B4 => u64::from(low),
            Width::B8 => u64::from(self.read_dword(offset + 4)) << 32 | u64::from(low),
        }
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        let low = value as u32;
        match width {
            _ if bar != 0 || offset >= identity::REGISTERS_END => {}
            // Registers are written as whole dwords (3.1); parts of them can't be.
            Width::B1 | Width::B2 => {}
            Width::B4 => self.write_dword(offset, low),
            Width::B8 => {
                self.write_dword(offset, low);
                self.write_dword(offset + 4, (value >> 32) as u32);
            }
        }
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        self.shared.reset();
        Ok(())
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let page = self.shared.page.as_ref().filter(|_| bar == 0);
        page.and_then(DoorbellPage::mappable).into_iter().collect()
    }

    fn bus_master_changed(&self, on: bool) {
        if let Some(page) = &self.shared.page {
            page.set_bus_master(on);
        }
        if on {
            for queue in &self.shared.submission {
                queue.unpark();
            }
        }
    }

    fn interrupts_changed(&self, mode: InterruptMode) {
        self.shared.interrupts.change_mode(mode, &self.shared.completion);
    }
}

impl Nvme {
    /// Doorbells read as 0 (3.1.24: reading them has no defined result), or as the memory that they are.
    fn read_dword(&self, offset: u64) -> u32 {
        match offset.checked_sub(DOORBELLS) {
            None => self.shared.read_register(offset),
            Some(doorbell) => match &self.shared.page {
                Some(page) => page.read(doorbell / DOORBELL_STRIDE),
                None => 0,
            },
        }
    }

    fn write_dword(&self, offset: u64, value: u32) {
        match offset.checked_sub(DOORBELLS) {
            None => self.shared.write_register(offset, value),
            Some(doorbell) => self.shared.ring_by_message(doorbell / DOORBELL_STRIDE, value),
        }
    }
}
