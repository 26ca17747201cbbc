//! The edu device (QEMU documentation, "EDU device") owned through VFIO: registers, interrupts by
//! message, DMA, reset.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG, Device, DmaMemory, MSI};

// Registers, as offsets in BAR 0.
const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
pub(crate) const INTERRUPT_RAISE: u64 = 0x60;
pub(crate) const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
pub(crate) const DMA_SOURCE: u64 = 0x80;
pub(crate) const DMA_DESTINATION: u64 = 0x88;
pub(crate) const DMA_COUNT: u64 = 0x90;
pub(crate) const DMA_COMMAND: u64 = 0x98;

const STATUS_COMPUTING: u32 = 1 << 0;
pub(crate) const DMA_START: u64 = 1 << 0;
pub(crate) const DMA_TO_MEMORY: u64 = 1 << 1;
/// Where the device's own buffer begins in its address space.
pub(crate) const BUFFER: u64 = 0x40000;

/// Where memory lies for the device, which has 28 address lines.
const IOVA: u64 = 0x10_0000;

/// How long the device may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(address: &str, messages: u32, report: &mut Report) -> Result<()> {
    let mut edu = Edu {
        device: Device::open(address)?,
    };
    let command = u16::from_le_bytes(edu.device.read(CONFIG, COMMAND)?) | COMMAND_MEMORY_AND_MASTER;
    edu.device.write(CONFIG, COMMAND, &command.to_le_bytes())?;
    report.same(
        "the identification register ends in 00ed",
        &0xed,
        &(edu.read(IDENTIFICATION)? & 0xffff),
    )?;
    edu.registers(report)?;
    report.same(
        "the device offers MSI messages",
        &messages,
        &edu.device.vectors(MSI)?,
    )?;
    let eventfds = eventfds(messages)?;
    edu.device.enable(MSI, &eventfds)?;
    report.ok(&format!("{messages} MSI messages are enabled"))?;
    interrupts(&mut edu, &eventfds, report)?;
    edu.dma(report)?;
    edu.reset(&eventfds, report)?;
    edu.device.disable(MSI)?;
    report.ok("MSI is disabled again")
}

/// What raising a message did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interrupt {
    arrives: bool,
    /// Interrupt status, raised
    status: u32,
    /// Eventfds that were signalled, and how often
    counts: Vec<(u32, u64)>,
    /// Interrupt status, acknowledged
    acknowledged: u32,
}

/// BAR 0 of an edu, however it is reached.
pub(crate) trait Registers {
    fn read(&mut self, register: u64) -> Result<u32>;
    fn write(&mut self, register: u64, value: u32) -> Result<()>;
}

struct Edu {
    device: Device,
}

impl Registers for Edu {
    fn read(&mut self, register: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.device.read(0, register)?))
    }

    fn write(&mut self, register: u64, value: u32) -> Result<()> {
        self.device.write(0, register, &value.to_le_bytes())
    }
}

/// Whether the device answers: its liveness register inverts.
pub(crate) fn is_alive(edu: &mut impl Registers) -> Result<bool> {
    edu.write(LIVENESS, 0x1234_5678)?;
    Ok(edu.read(LIVENESS)? == !0x1234_5678)
}

/// Raises one message after the other.
pub(crate) fn interrupts(edu: &mut impl Registers, eventfds: &[OwnedFd], report: &mut Report) -> Result<()> {
    // A user before us may have left some.
    edu.write(INTERRUPT_ACKNOWLEDGE, u32::MAX)?;
    (0..eventfds.len() as u32).try_for_each(|message| interrupt(edu, message, eventfds, report))
}

/// Raises one message: the register's value is a set of messages, one bit each.
fn interrupt(
    edu: &mut impl Registers,
    message: u32,
    eventfds: &[OwnedFd],
    report: &mut Report,
) -> Result<()> {
    counts(eventfds)?;
    edu.write(INTERRUPT_RAISE, 1 << message)?;
    let eventfd = eventfds
        .get(message as usize)
        .context("a message without an eventfd")?;
    let expected = Interrupt {
        arrives: true,
        status: 1 << message,
        counts: vec![(message, 1)],
        acknowledged: 0,
    };
    let mut got = Interrupt {
        arrives: wait(eventfd, PATIENCE)?,
        ..Interrupt::default()
    };
    got.status = edu.read(INTERRUPT_STATUS)?;
    edu.write(INTERRUPT_ACKNOWLEDGE, got.status)?;
    got.acknowledged = edu.read(INTERRUPT_STATUS)?;
    got.counts = counts(eventfds)?;
    report.same(
        &format!("message {message} arrives once, alone, and is acknowledged"),
        &expected,
        &got,
    )
}

impl Edu {
    fn registers(&mut self, report: &mut Report) -> Result<()> {
        self.write(LIVENESS, 0x1234_5678)?;
        report.same(
            "the liveness register inverts",
            &(!0x1234_5678),
            &self.read(LIVENESS)?,
        )?;
        self.write(FACTORIAL, 10)?;
        eventually("the factorial", || Ok(self.read(STATUS)? & STATUS_COMPUTING == 0))?;
        report.same("10! is computed", &3_628_800, &self.read(FACTORIAL)?)
    }

    fn dma(&mut self, report: &mut Report) -> Result<()> {
        let memory = self.device.dma_memory(IOVA, 0x10000)?;
        let pattern: Vec<u8> = (0..4096u32).map(|i| (i * 7 + i / 256) as u8).collect();
        memory.write(0, &pattern)?;
        self.transfer(IOVA, BUFFER, DMA_START)?;
        self.transfer(BUFFER, IOVA + 0x8000, DMA_START | DMA_TO_MEMORY)?;
        same_bytes(&memory, &pattern, report)
    }

    fn transfer(&mut self, from: u64, to: u64, command: u64) -> Result<()> {
        for (register, value) in [
            (DMA_SOURCE, from),
            (DMA_DESTINATION, to),
            (DMA_COUNT, 4096),
            (DMA_COMMAND, command),
        ] {
            self.device.write(0, register, &value.to_le_bytes())?;
        }
        eventually("a DMA transfer", || {
            Ok(u64::from_le_bytes(self.device.read(0, DMA_COMMAND)?) & DMA_START == 0)
        })
    }

    /// A reset with messages enabled: they are enabled after it as well.
    fn reset(&mut self, eventfds: &[OwnedFd], report: &mut Report) -> Result<()> {
        if self.device.flags()? & vfio_bindings::bindings::vfio::VFIO_DEVICE_FLAGS_RESET == 0 {
            return report.note("the device has no reset");
        }
        self.write(LIVENESS, 5)?;
        self.device.reset()?;
        report.same("a reset clears the liveness register", &0, &self.read(LIVENESS)?)?;
        let command = u16::from_le_bytes(self.device.read(CONFIG, COMMAND)?) & COMMAND_MEMORY_AND_MASTER;
        report.same(
            "memory and bus master stay on in COMMAND",
            &COMMAND_MEMORY_AND_MASTER,
            &command,
        )?;
        interrupt(self, 0, eventfds, report)
    }
}

pub(crate) fn eventfds(count: u32) -> Result<Vec<OwnedFd>> {
    ensure!(count <= 32, "{count} messages: MSI has at most 32");
    let new = |_| Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    (0..count).map(new).collect()
}

pub(crate) fn wait(eventfd: &OwnedFd, patience: Duration) -> Result<bool> {
    let patience = Timespec::try_from(patience)?;
    Ok(poll(&mut [PollFd::new(eventfd, PollFlags::IN)], Some(&patience))? > 0)
}

/// The eventfds that were signalled since the last call, with how often.
pub(crate) fn counts(eventfds: &[OwnedFd]) -> Result<Vec<(u32, u64)>> {
    let mut signalled = Vec::new();
    for (number, eventfd) in (0..).zip(eventfds) {
        let mut count = [0; 8];
        match rustix::io::read(eventfd, &mut count) {
            Ok(_) => signalled.push((number, u64::from_le_bytes(count))),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(signalled)
}

fn same_bytes(memory: &DmaMemory, pattern: &[u8], report: &mut Report) -> Result<()> {
    let got = memory.read(0x8000, pattern.len())?;
    let differs = pattern.iter().zip(&got).position(|(want, got)| want != got);
    report.same(
        "4096 bytes go to the device and back; first byte that differs",
        &None,
        &differs,
    )
}

pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let step = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(step);
    }
    anyhow::bail!("{what} did not end in {PATIENCE:?}")
}
