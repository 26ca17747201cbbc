//! QEMU's edu device (its documentation, "EDU device"): registers through a mapped BAR, DMA, each kind of interrupt.

use anyhow::{Context as _, Result};
use uvfio_linux::vfio::{Access, AddressSpace as _, Irq, SharedMemory};

use crate::owned::{Eventfds, Mapped, Owned, Registers, eventually, signal};
use crate::report::Report;

// Registers, as offsets in BAR 0.
pub(crate) const IDENTIFICATION: u64 = 0x00;
pub(crate) const LIVENESS: u64 = 0x04;
pub(crate) const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

const STATUS_RAISE_WHEN_COMPUTED: u32 = 1 << 7;
const FACTORIAL_IS_COMPUTED: u32 = 1;
const DMA_START: u64 = 1 << 0;
const DMA_TO_MEMORY: u64 = 1 << 1;
/// Where the device's own buffer begins in its address space.
const BUFFER: u64 = 0x40000;

/// Where memory lies for the device, which has 28 address lines.
pub(crate) const IOVA: u64 = 0x100_0000;
pub(crate) const MEMORY: u64 = 0x10000;
/// Where in memory the device writes.
const RESULT: u64 = 0x8000;
const BYTES: u64 = 4096;

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    check(Owned::enabled(address)?, report)
}

/// Everything, with a device that is open and may access memory.
pub(crate) fn check(owned: Owned, report: &mut Report) -> Result<()> {
    let edu = Edu(Mapped::new(owned)?);
    edu.registers(report)?;
    edu.dma(report)?;
    edu.msi(report)?;
    edu.intx(report)
}

/// The device, by its registers.
pub(crate) struct Edu<R>(pub(crate) R);

impl<R: Registers> Edu<R> {
    pub(crate) fn read(&self, register: u64) -> Result<u32> {
        self.0.read(register)
    }

    pub(crate) fn write(&self, register: u64, value: u32) -> Result<()> {
        self.0.write(register, value)
    }

    /// Has the device read 4096 bytes of memory and write them back elsewhere; returns the first byte that differs.
    pub(crate) fn there_and_back(&self, memory: &SharedMemory) -> Result<Option<u64>> {
        let word = |at: u64| (at << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words = || (0..BYTES).step_by(8);
        for at in words() {
            memory.write(at, word(at + 1)).context("memory")?;
        }
        self.transfer(IOVA, BUFFER, DMA_START)?;
        self.transfer(BUFFER, IOVA + RESULT, DMA_START | DMA_TO_MEMORY)?;
        let differs = words().find(|at| memory.read(RESULT + at) != Some(word(at + 1)));
        Ok(differs)
    }

    /// Has the device write, and returns the first byte of memory that has changed.
    pub(crate) fn touched(&self, memory: &SharedMemory) -> Result<Option<u64>> {
        const BEFORE: u64 = 0x5a5a_5a5a_5a5a_5a5a;
        for at in (0..BYTES).step_by(8) {
            memory.write(RESULT + at, BEFORE).context("memory")?;
        }
        self.transfer(BUFFER, IOVA + RESULT, DMA_START | DMA_TO_MEMORY)?;
        Ok((0..BYTES)
            .step_by(8)
            .find(|at| memory.read(RESULT + at) != Some(BEFORE)))
    }

    fn transfer(&self, from: u64, to: u64, command: u64) -> Result<()> {
        for (register, value) in [
            (DMA_SOURCE, from),
            (DMA_DESTINATION, to),
            (DMA_COUNT, BYTES),
            (DMA_COMMAND, command),
        ] {
            self.0.write(register, value)?;
        }
        eventually("a DMA transfer", || {
            self.0
                .read::<u64>(DMA_COMMAND)
                .is_ok_and(|command| command & DMA_START == 0)
        })
    }

    pub(crate) fn raise(&self, value: u32) -> Result<()> {
        self.write(INTERRUPT_RAISE, value)
    }

    pub(crate) fn acknowledge(&self) -> Result<u32> {
        let status = self.read(INTERRUPT_STATUS)?;
        self.write(INTERRUPT_ACKNOWLEDGE, status)?;
        Ok(status)
    }
}

impl Edu<Mapped> {
    fn registers(&self, report: &mut Report) -> Result<()> {
        let identification = self.read(IDENTIFICATION)?;
        report.same(
            "the mapped BAR reads the identification",
            &0xed,
            &(identification & 0xffff),
        )?;
        let by_call: u32 = self.0.owned.device.region(0)?.read_word(IDENTIFICATION)?;
        report.same("a read by call gives the same", &identification, &by_call)?;
        self.write(LIVENESS, 0x1234_5678)?;
        report.same(
            "the liveness register inverts what was written",
            &!0x1234_5678,
            &self.read(LIVENESS)?,
        )
    }

    /// Memory to the device, and from it to memory; then the same without a mapping.
    fn dma(&self, report: &mut Report) -> Result<()> {
        let memory = SharedMemory::new(MEMORY)?;
        let container = &self.0.owned.container;
        container.map(IOVA, &memory, 0, MEMORY, Access::ReadWrite)?;
        report.same(
            "4096 bytes go to the device by DMA and back; first that differs",
            &None,
            &self.there_and_back(&memory)?,
        )?;

        report.same(
            "the unmap says how much was mapped",
            &MEMORY,
            &container.unmap(IOVA, MEMORY)?,
        )?;
        report.same(
            "after it the device reaches the memory no more; first byte touched",
            &None,
            &self.touched(&memory)?,
        )?;
        container.map(IOVA, &memory, 0, MEMORY, Access::Read)?;
        report.same(
            "nor where it may only read; first byte touched",
            &None,
            &self.touched(&memory)?,
        )?;
        container.unmap(IOVA, MEMORY)?;
        container.map(IOVA, &memory, 0, MEMORY, Access::Write)?;
        report.same(
            "where it may write it does; first byte touched",
            &Some(0),
            &self.touched(&memory)?,
        )
    }

    fn msi(&self, report: &mut Report) -> Result<()> {
        let device = &self.0.owned.device;
        report.same("edu has one MSI message", &1, &device.irq(Irq::Msi)?.count)?;
        let eventfds = Eventfds::new(1)?;
        signal(device, Irq::Msi, &eventfds)?;
        self.raise(0x100)?;
        report.same(
            "the message that edu raises signals the eventfd once",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        report.same("edu says what it raised", &0x100, &self.acknowledge()?)?;

        self.write(STATUS, STATUS_RAISE_WHEN_COMPUTED)?;
        self.write(FACTORIAL, 10)?;
        report.same(
            "a factorial that is computed signals it",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        report.same("the factorial is right", &3_628_800, &self.read(FACTORIAL)?)?;
        report.same(
            "edu says that it computed one",
            &FACTORIAL_IS_COMPUTED,
            &self.acknowledge()?,
        )?;

        let others = Eventfds::new(1)?;
        signal(device, Irq::Msi, &others)?;
        self.raise(0x200)?;
        report.same(
            "another eventfd takes the first one's place",
            &vec![(0, 1)],
            &others.after(0)?,
        )?;
        report.same("and the first hears no more", &vec![], &eventfds.quiet()?)?;
        self.acknowledge()?;
        device.set_eventfds(Irq::Msi, 0, &[None])?;
        self.raise(0x400)?;
        report.same(
            "without an eventfd nothing is signalled",
            &vec![],
            &others.quiet()?,
        )?;
        self.acknowledge()?;
        device.disable(Irq::Msi)?;
        report.ok("MSI is disabled again")
    }

    fn intx(&self, report: &mut Report) -> Result<()> {
        let device = &self.0.owned.device;
        let info = device.irq(Irq::Intx)?;
        let what = "edu has one INTx, which can be masked and masks itself";
        report.same(
            what,
            &(1, true, true),
            &(info.count, info.maskable, info.automasked),
        )?;
        let eventfds = Eventfds::new(1)?;
        signal(device, Irq::Intx, &eventfds)?;
        self.raise(1)?;
        report.same(
            "the pin that edu asserts signals the eventfd once",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        device.unmask_intx()?;
        report.same(
            "unmasked while asserted, it signals again",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        self.acknowledge()?;
        self.raise(1)?;
        report.same("masked, it does not signal", &vec![], &eventfds.quiet()?)?;
        self.acknowledge()?;
        device.unmask_intx()?;
        report.same(
            "unmasked while quiet, it does not either",
            &vec![],
            &eventfds.quiet()?,
        )?;
        device.mask_intx()?;
        self.raise(1)?;
        report.same("masked by request, it does not", &vec![], &eventfds.quiet()?)?;
        self.intx_by_eventfd(&eventfds, report)?;
        device.disable(Irq::Intx)?;
        report.ok("INTx is disabled again")
    }

    /// Unmasking by an eventfd; the pin is masked and asserted.
    fn intx_by_eventfd(&self, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        let device = &self.0.owned.device;
        let unmask = Eventfds::new(1)?;
        device.unmask_intx_by(Some(unmask.get(0)?))?;
        rustix::io::write(unmask.get(0)?, &1_u64.to_ne_bytes())?;
        report.same(
            "an eventfd that unmasks does so",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        self.acknowledge()?;
        device.unmask_intx_by(None)?;
        rustix::io::write(unmask.get(0)?, &1_u64.to_ne_bytes())?;
        self.raise(1)?;
        report.same("and no more when it was taken away", &vec![], &eventfds.quiet()?)?;
        self.acknowledge()?;
        Ok(())
    }
}
