//! QEMU's NVMe controller: its administrative queue in memory that it reaches by DMA, and its resets. Registers and
//! commands by the NVM Express Base Specification, 1.4.

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use uvfio_linux::vfio::{Access, AddressSpace as _, Irq, Rule, SharedMemory};

use crate::owned::{Eventfds, Mapped, Owned, Registers, eventually, signal};
use crate::report::Report;

// Registers, 3.1.
const CAPABILITIES: u64 = 0x00;
const CONFIGURATION: u64 = 0x14;
pub(crate) const STATUS: u64 = 0x1c;
const ADMIN_QUEUE_ATTRIBUTES: u64 = 0x24;
const ADMIN_SUBMISSION_QUEUE: u64 = 0x28;
const ADMIN_COMPLETION_QUEUE: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// Enabled; entries of 64 and 16 bytes
const ENABLE: u32 = 0x0046_0001;
pub(crate) const READY: u32 = 1;

// Identify, 5.15.
const IDENTIFY: u32 = 0x06;
const IDENTIFY_CONTROLLER: u32 = 0x01;
const SERIAL_NUMBER: u64 = 4;
const SERIAL_NUMBER_BYTES: u64 = 20;

// Where things lie in the memory, which the controller finds at `IOVA`.
pub(crate) const IOVA: u64 = 0x10_0000;
const SUBMISSIONS: u64 = 0x0000;
const COMPLETIONS: u64 = 0x1000;
const DATA: u64 = 0x2000;
pub(crate) const MEMORY: u64 = 0x3000;
const ENTRIES: u32 = 16;

/// A controller, and the memory that it finds at `IOVA`.
pub(crate) struct Nvme<R> {
    pub(crate) registers: R,
    memory: SharedMemory,
    /// How far apart doorbells are
    stride: u64,
    /// Commands since it was enabled
    sent: u32,
}

impl<R: Registers> Nvme<R> {
    /// The controller as it is.
    pub(crate) fn found(registers: R, memory: SharedMemory) -> Result<Self> {
        let capabilities: u64 = registers.read(CAPABILITIES)?;
        Ok(Self {
            registers,
            memory,
            stride: 4 << (capabilities >> 32 & 0xf),
            sent: 0,
        })
    }

    pub(crate) fn ready(&self) -> Result<u32> {
        Ok(self.registers.read::<u32>(STATUS)? & READY)
    }

    /// Starts it anew, with nothing in memory.
    pub(crate) fn enable(&mut self) -> Result<()> {
        self.registers.write(CONFIGURATION, 0_u32)?;
        eventually("the controller's stop", || {
            self.ready().is_ok_and(|ready| ready == 0)
        })?;
        for at in (0..MEMORY).step_by(8) {
            self.memory.write(at, 0_u64).context("memory")?;
        }
        self.sent = 0;
        self.registers
            .write(ADMIN_QUEUE_ATTRIBUTES, (ENTRIES - 1) << 16 | (ENTRIES - 1))?;
        self.registers.write(ADMIN_SUBMISSION_QUEUE, IOVA + SUBMISSIONS)?;
        self.registers.write(ADMIN_COMPLETION_QUEUE, IOVA + COMPLETIONS)?;
        self.registers.write(CONFIGURATION, ENABLE)?;
        eventually("the controller's start", || {
            self.ready().is_ok_and(|ready| ready != 0)
        })
    }

    /// Sends Identify, waits as told, and returns the serial number.
    pub(crate) fn identify(&mut self, wait: impl FnOnce(&Self) -> Result<()>) -> Result<String> {
        let entry = SUBMISSIONS + 64 * u64::from(self.sent);
        self.memory
            .write(entry, IDENTIFY | self.sent << 16)
            .context("memory")?;
        self.memory.write(entry + 24, IOVA + DATA).context("memory")?;
        self.memory
            .write(entry + 40, IDENTIFY_CONTROLLER)
            .context("memory")?;
        for at in 0..SERIAL_NUMBER_BYTES {
            self.memory
                .write(DATA + SERIAL_NUMBER + at, 0_u8)
                .context("memory")?;
        }
        self.registers.write(DOORBELLS, self.sent + 1)?;
        wait(self)?;
        ensure!(self.completed(), "the command has not ended");
        let completion = COMPLETIONS + 16 * u64::from(self.sent);
        let status: u16 = self.memory.read(completion + 14).context("memory")?;
        ensure!(status >> 1 == 0, "Identify ended with status {status:#x}");
        self.sent += 1;
        self.registers.write(DOORBELLS + self.stride, self.sent)?;
        let bytes: Vec<u8> = (0..SERIAL_NUMBER_BYTES)
            .filter_map(|at| self.memory.read(DATA + SERIAL_NUMBER + at))
            .collect();
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Waits until the last command has ended.
    pub(crate) fn ended(&self) -> Result<()> {
        eventually("a command", || self.completed())
    }

    /// Whether the controller has written the completion of the last command: the phase bit of the first round.
    fn completed(&self) -> bool {
        let completion = COMPLETIONS + 16 * u64::from(self.sent);
        self.memory
            .read::<u16>(completion + 14)
            .is_some_and(|status| status & 1 != 0)
    }
}

/// Opens the controller and enables it.
fn start(address: &str) -> Result<Nvme<Mapped>> {
    let owned = Owned::enabled(address)?;
    let memory = SharedMemory::new(MEMORY)?;
    owned.container.map(IOVA, &memory, 0, MEMORY, Access::ReadWrite)?;
    let mut nvme = Nvme::found(Mapped::new(owned)?, memory)?;
    nvme.enable()?;
    Ok(nvme)
}

/// Identify by polling, then by an interrupt.
pub(crate) fn run(address: &str, serial: &str, report: &mut Report) -> Result<()> {
    let mut nvme = start(address)?;
    let eventfds = Eventfds::new(4)?;
    signal(&nvme.registers.owned.device, Irq::Msix, &eventfds)?;
    report.same(
        "4 MSI-X vectors are enabled",
        &4,
        &nvme.registers.owned.function.vectors(),
    )?;
    report.same(
        "the table's page can be mapped",
        &true,
        &nvme.registers.owned.device.region(0)?.info().msix_mappable,
    )?;
    eventfds.quiet()?;
    let by_polling = nvme.identify(Nvme::ended)?;
    report.same(
        "the controller names its serial number",
        &serial.to_owned(),
        &by_polling,
    )?;
    report.same("and signals vector 0, alone", &vec![(0, 1)], &eventfds.quiet()?)?;
    let mut signalled = Vec::new();
    let by_interrupt = nvme.identify(|_| {
        signalled = eventfds.after(0)?;
        Ok(())
    })?;
    report.same(
        "it does so again, told by the interrupt",
        &(serial.to_owned(), vec![(0, 1)]),
        &(by_interrupt, signalled),
    )
}

/// The function's own reset, and its bus's.
pub(crate) fn resets(address: &str, report: &mut Report) -> Result<()> {
    let mut nvme = start(address)?;
    let device = &nvme.registers.owned.device;
    let before = nvme.registers.owned.configuration()?;
    report.same("the controller is ready", &READY, &nvme.ready()?)?;
    device.reset()?;
    report.same("after the reset it is not", &0, &nvme.ready()?)?;
    report.same(
        "nor is it enabled, read by the mapping from before",
        &0,
        &nvme.registers.read::<u32>(CONFIGURATION)?,
    )?;
    same_configuration(
        "configuration space is as before",
        &before,
        &nvme.registers.owned,
        report,
    )?;

    nvme.enable()?;
    let device = &nvme.registers.owned.device;
    let info = device.hot_reset_info()?;
    let reached: Vec<String> = info.functions.iter().map(ToString::to_string).collect();
    report.same(
        "a reset of the bus reaches this function alone",
        &vec![address.to_owned()],
        &reached,
    )?;
    let group = info.functions.first().map(|function| function.group);
    report.same(
        "and its group",
        &Some(nvme.registers.owned.function.group()?),
        &group,
    )?;
    let rule = |rule: &Rule| *rule == Rule::NotAllHeld;
    report.refused(
        "a bus reset without groups",
        device.hot_reset(&[]),
        (Errno::INVAL, &rule),
        &["groups"],
    )?;
    device.hot_reset(&[&nvme.registers.owned.group])?;
    report.same(
        "after the bus reset it is not enabled",
        &0,
        &nvme.registers.read::<u32>(CONFIGURATION)?,
    )?;
    same_configuration(
        "configuration space is as before the bus reset",
        &before,
        &nvme.registers.owned,
        report,
    )
}

/// Compares configuration space; a failure names what differs.
pub(crate) fn same_configuration(
    what: &str,
    before: &[u8],
    owned: &Owned,
    report: &mut Report,
) -> Result<()> {
    let after = owned.configuration()?;
    let differs: Vec<String> = (0..)
        .zip(before.iter().zip(&after))
        .filter(|(_, (before, after))| before != after)
        .map(|(at, (before, after)): (usize, _)| format!("{at:#x}: {before:#x} then {after:#x}"))
        .collect();
    report.same(what, &(before.len(), Vec::new()), &(after.len(), differs))
}
