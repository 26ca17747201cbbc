//! The controller: enable, identify, create queues, reset.

use std::time::{Duration, Instant};

use crate::{Bar, DmaBuffer, Function, Interrupts};

use super::active;
use super::error::{NvmeError, Result};
use super::number;
use super::queue::{QueuePair, Shadow};
use super::spec::{
    CC_ENABLED, CLASS, CSTS_FATAL, CSTS_READY, Capabilities, Command, Completion, ERASE_USER_DATA,
    NUMBER_OF_QUEUES, OACS_DOORBELL_BUFFER, OACS_FORMAT, PAGE, admin, cns, register,
};

/// Entries of the admin queues; one command is under way at a time.
const ADMIN_ENTRIES: u32 = 16;
/// How long a command may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long Format NVM may take, which erases a whole disk.
const FORMAT_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How the driver learns that a command is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It looks, over and over.
    Polled,
    /// It sleeps until an interrupt comes.
    Interrupt,
}

/// What can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the driver learns that a command is done.
    pub waiting: Waiting,
    /// Uses shadow doorbells where the controller has them and does not let its own be mapped.
    pub shadow: bool,
    /// Commands under way at once, 1 to 1023.
    pub depth: u16,
    /// The longest transfer of one command, bytes, at most 2 MiB; the controller may allow less.
    pub transfer_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            waiting: Waiting::Interrupt,
            shadow: true,
            depth: 32,
            transfer_bytes: 128 << 10,
        }
    }
}

/// What Identify Controller tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number, without the spaces that fill its field.
    pub serial: String,
    /// Model number, likewise.
    pub model: String,
    /// Firmware revision, likewise.
    pub firmware: String,
    /// The longest transfer, bytes; none for no limit.
    pub transfer_bytes: Option<u64>,
    /// Whether the controller has Doorbell Buffer Config.
    pub shadow_doorbells: bool,
    /// Whether the controller has Format NVM, by which it can be erased.
    pub format: bool,
}

/// An enabled controller.
pub struct Controller {
    options: Options,
    identity: Identity,
    interrupts: Option<Interrupts>,
    shadow: Option<Shadow>,
    admin: QueuePair,
    /// For data of admin commands.
    page: DmaBuffer,
    capabilities: Capabilities,
    registers: Bar,
    function: Function,
}

impl Controller {
    /// Takes a controller into use.
    pub(crate) fn open(function: Function, options: Options) -> Result<Self> {
        let class = function.identity()?.class;
        if class != CLASS {
            return Err(NvmeError::Unfit(format!(
                "its class is {class:02x?}, not {CLASS:02x?}"
            )));
        }
        let registers = function.bar(0)?;
        let capabilities = Capabilities(registers.read(register::CAP)?);
        if capabilities.smallest_page() > PAGE {
            let what = format!("its smallest page has {} bytes", capabilities.smallest_page());
            return Err(NvmeError::Unfit(what));
        }
        function.set_bus_master(true)?;
        let admin = QueuePair::new(&function, &registers, capabilities, 0, ADMIN_ENTRIES)?;
        let interrupts = match options.waiting {
            Waiting::Polled => None,
            Waiting::Interrupt => Some(function.best_interrupts(2)?),
        };
        let mut controller = Self {
            options,
            identity: Identity {
                serial: String::new(),
                model: String::new(),
                firmware: String::new(),
                transfer_bytes: None,
                shadow_doorbells: false,
                format: false,
            },
            interrupts,
            shadow: None,
            admin,
            page: function.dma_buffer(PAGE)?,
            capabilities,
            registers,
            function,
        };
        controller.enable()?;
        controller.identity = controller.identify()?;
        // Doorbells that are memory cost no message anyway.
        if options.shadow && controller.identity.shadow_doorbells && !controller.has_mapped_doorbells() {
            controller.shadow = Some(Shadow {
                values: controller.function.dma_buffer(PAGE)?,
                events: controller.function.dma_buffer(PAGE)?,
            });
            controller.offer_shadow()?;
        }
        Ok(controller)
    }

    /// What was chosen when it was opened.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// What it says of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn function(&self) -> &Function {
        &self.function
    }

    /// The version that the controller complies to, as in "1.4".
    ///
    /// # Errors
    /// Where the function does not answer.
    pub fn version(&self) -> Result<String> {
        let version: u32 = self.registers.read(register::VS)?;
        Ok(format!("{}.{}", version >> 16, version >> 8 & 0xff))
    }

    /// Whether doorbells are stores to mapped memory, as far as this driver uses any: the BAR maps what it may.
    #[must_use]
    pub fn has_mapped_doorbells(&self) -> bool {
        let doorbells_of_two_pairs = 4 * self.capabilities.doorbell_stride();
        self.registers
            .is_mapped(register::DOORBELLS, doorbells_of_two_pairs)
    }

    /// Whether shadow doorbells are in use.
    #[must_use]
    pub fn has_shadow(&self) -> bool {
        self.shadow.is_some()
    }

    pub(crate) fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_ref()
    }

    /// Disables the controller, sets the admin queues up, and enables it (section 7.6.1).
    fn enable(&mut self) -> Result<()> {
        self.registers.write(register::CC, CC_ENABLED & !1)?;
        self.wait_ready(false)?;
        self.admin.clear()?;
        let entries = self.admin.entries() - 1;
        self.registers.write(register::AQA, entries << 16 | entries)?;
        self.registers
            .write(register::ASQ, self.admin.submission_iova())?;
        self.registers
            .write(register::ACQ, self.admin.completion_iova())?;
        self.registers.write(register::CC, CC_ENABLED)?;
        self.wait_ready(true)
    }

    fn status(&self) -> Result<u32> {
        Ok(self.registers.read(register::CSTS)?)
    }

    fn wait_ready(&self, ready: bool) -> Result<()> {
        let patience = Duration::from_millis(self.capabilities.ready_millis()).max(Duration::from_secs(1));
        let start = Instant::now();
        loop {
            let csts = self.status()?;
            if csts == u32::MAX {
                return Err(NvmeError::Broken("it reads all ones: it is gone".into()));
            }
            if ready && csts & CSTS_FATAL != 0 {
                return Err(NvmeError::Broken("it reports a fatal status".into()));
            }
            if (csts & CSTS_READY != 0) == ready {
                return Ok(());
            }
            if start.elapsed() > patience {
                let what = if ready { "enabling" } else { "disabling" };
                return Err(NvmeError::TimedOut { what, patience, csts });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Resets the function, and makes the controller ready again. Commands that were under way are lost, and so are I/O
    /// queues: create them again.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.function.reset()?;
        if let Some(interrupts) = &self.interrupts {
            for vector in 0..interrupts.count() {
                interrupts.poll(vector)?;
            }
        }
        self.enable()?;
        if let Some(shadow) = &self.shadow {
            let zeros = [0; PAGE as usize];
            shadow.values.write_bytes(0, &zeros)?;
            shadow.events.write_bytes(0, &zeros)?;
            self.offer_shadow()?;
        }
        Ok(())
    }

    fn offer_shadow(&mut self) -> Result<()> {
        let Some(shadow) = &self.shadow else { return Ok(()) };
        let pages = (shadow.values.iova(), shadow.events.iova());
        self.admin(
            "Doorbell Buffer Config",
            Command::new(admin::DOORBELL_BUFFER, 0).data(pages),
        )?;
        Ok(())
    }

    fn identify(&mut self) -> Result<Identity> {
        let data = self.identify_page(cns::CONTROLLER, 0)?;
        let text = |from, to| {
            let bytes: &[u8] = data.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim().to_owned()
        };
        // OACS.
        let optional = number(&data, 256, 2) as u16;
        // MDTS, as a power of two of the smallest page; 0 for no limit.
        let transfer_bytes = match data.get(77).copied().unwrap_or_default() {
            0 => None,
            power => 1_u64
                .checked_shl(power.into())
                .and_then(|pages| self.capabilities.smallest_page().checked_mul(pages)),
        };
        Ok(Identity {
            serial: text(4, 24),
            model: text(24, 64),
            firmware: text(64, 72),
            transfer_bytes,
            shadow_doorbells: optional & OACS_DOORBELL_BUFFER != 0,
            format: optional & OACS_FORMAT != 0,
        })
    }

    /// The numbers of the active namespaces, in ascending order.
    pub(crate) fn namespaces(&mut self) -> Result<Vec<u32>> {
        active::namespaces(|after| self.identify_page(cns::ACTIVE, after))
    }

    /// A namespace's size in blocks, and a block's in bytes.
    pub(crate) fn namespace_size(&mut self, namespace: u32) -> Result<(u64, u64)> {
        let data = self.identify_page(cns::NAMESPACE, namespace)?;
        let format = usize::from(data.get(26).copied().unwrap_or_default() & 0xf);
        let power = number(&data, 128 + 4 * format, 4) >> 16 & 0xff;
        if !(9..=12).contains(&power) {
            let what = format!("namespace {namespace} has blocks of 2^{power} bytes");
            return Err(NvmeError::Unfit(what));
        }
        Ok((number(&data, 0, 8), 1 << power))
    }

    fn identify_page(&mut self, what: u32, namespace: u32) -> Result<Vec<u8>> {
        let command = Command::new(admin::IDENTIFY, namespace)
            .data((self.page.iova(), 0))
            .parameters(what, 0, 0);
        self.admin("Identify", command)?;
        let mut data = vec![0; PAGE as usize];
        self.page.read_bytes(0, &mut data)?;
        Ok(data)
    }

    /// Memory for I/O queue 1, as long as the options want and the controller allows.
    pub(crate) fn io_queue(&mut self) -> Result<QueuePair> {
        let entries = u32::from(self.options.depth.max(1)) + 1;
        if entries > self.capabilities.queue_entries().min(1024) {
            let most = self.capabilities.queue_entries().min(1024) - 1;
            let what = format!("a depth of {} is too much; {most} are possible", entries - 1);
            return Err(NvmeError::Request(what));
        }
        let mut queue = QueuePair::new(&self.function, &self.registers, self.capabilities, 1, entries)?;
        self.create(&mut queue)?;
        Ok(queue)
    }

    /// Tells the controller of an I/O queue, which is as new then.
    pub(crate) fn create(&mut self, queue: &mut QueuePair) -> Result<()> {
        queue.clear()?;
        // One pair is asked for; 0 means 1.
        let count = Command::new(admin::SET_FEATURES, 0).parameters(NUMBER_OF_QUEUES, 0, 0);
        self.admin("Set Features", count)?;
        let size_and_id = (queue.entries() - 1) << 16 | u32::from(queue.id());
        let contiguous = 1;
        let completions = match &self.interrupts {
            Some(interrupts) => (interrupts.count() - 1).min(1) << 16 | 1 << 1 | contiguous,
            None => contiguous,
        };
        let command = Command::new(admin::CREATE_CQ, 0)
            .data((queue.completion_iova(), 0))
            .parameters(size_and_id, completions, 0);
        self.admin("Create I/O Completion Queue", command)?;
        let command = Command::new(admin::CREATE_SQ, 0)
            .data((queue.submission_iova(), 0))
            .parameters(size_and_id, u32::from(queue.id()) << 16 | contiguous, 0);
        self.admin("Create I/O Submission Queue", command)?;
        Ok(())
    }

    /// Erases the user data of a namespace, whose blocks keep their size, metadata and protection (section 5.23).
    pub(crate) fn erase(&mut self, namespace: u32) -> Result<()> {
        let data = self.identify_page(cns::NAMESPACE, namespace)?;
        let byte = |at: usize| u32::from(data.get(at).copied().unwrap_or_default());
        // FLBAS: the format, and whether metadata stand beside the data; DPS: protection, and where it stands.
        let (format, protection) = (byte(26) & 0x1f, byte(29) & 0xf);
        let command = Command::new(admin::FORMAT, namespace).parameters(
            ERASE_USER_DATA | protection << 5 | format,
            0,
            0,
        );
        self.admin_within("Format NVM", command, FORMAT_PATIENCE)?;
        Ok(())
    }

    /// Carries out an admin command, and gives dword 0 of its completion.
    fn admin(&mut self, name: &'static str, command: Command) -> Result<u32> {
        self.admin_within(name, command, PATIENCE)
    }

    fn admin_within(&mut self, name: &'static str, command: Command, patience: Duration) -> Result<u32> {
        if !self.admin.push(&command.id(0))? {
            return Err(NvmeError::Broken("the admin queue is full".into()));
        }
        self.admin.ring(None)?;
        let waiter = Waiter {
            interrupts: self.interrupts.as_ref(),
            vector: 0,
            registers: &self.registers,
            patience,
        };
        let completion = waiter.wait(name, || self.admin.pop(None))?;
        if completion.status.is_success() {
            Ok(completion.result)
        } else {
            Err(NvmeError::Command {
                command: name,
                status: completion.status,
            })
        }
    }

    /// What waits for completions of I/O queue 1.
    pub(crate) fn waiter(&self) -> Waiter<'_> {
        Waiter {
            interrupts: self.interrupts.as_ref(),
            vector: self
                .interrupts
                .as_ref()
                .map_or(0, |interrupts| (interrupts.count() - 1).min(1)),
            registers: &self.registers,
            patience: PATIENCE,
        }
    }
}

/// Waits for completions, one way or the other.
pub(crate) struct Waiter<'a> {
    interrupts: Option<&'a Interrupts>,
    vector: u32,
    registers: &'a Bar,
    patience: Duration,
}

impl Waiter<'_> {
    /// Calls `pop` until it gives a completion.
    pub(crate) fn wait(
        &self,
        what: &'static str,
        mut pop: impl FnMut() -> Result<Option<Completion>>,
    ) -> Result<Completion> {
        let start = Instant::now();
        let mut looks = 0_u32;
        loop {
            if let Some(completion) = pop()? {
                return Ok(completion);
            }
            looks = looks.wrapping_add(1);
            let left = self.patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(NvmeError::TimedOut {
                    what,
                    patience: self.patience,
                    csts: self.registers.read(register::CSTS)?,
                });
            }
            match self.interrupts {
                Some(interrupts) => {
                    interrupts.wait(self.vector, Some(left))?;
                    interrupts.rearm()?;
                }
                // The controller may need this processor.
                None if looks.is_multiple_of(64) => std::thread::yield_now(),
                None => std::hint::spin_loop(),
            }
        }
    }
}
