//! QEMU's edu device through the virtual view: registers, DMA and where it ends, a message, one user after another.

use anyhow::Result;
use uvfio_core::{DmaAccess, IrqAction, IrqIndex};

use crate::edu::{Edu, FACTORIAL, IDENTIFICATION, IOVA, LIVENESS, MEMORY};
use crate::owned::{Eventfds, eventually, switches};
use crate::report::Report;
use crate::virtual_view::{BUS_MASTER, COMMAND, MEMORY as MEMORY_SPACE, MSI, User, UserMemory};

const INTX_DISABLE: u16 = 1 << 10;
/// Those that have to do with interrupts.
pub(crate) const THREADS: &[&str] = &["interrupts", "delivery"];

const BOTH: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let edu = Edu(User::attach(address)?);
    let user = &edu.0;
    report.same("it can be reset", &true, &user.virt.resettable())?;
    user.page(&[MSI], report)?;
    user.bars(report)?;
    let first = user.configuration()?;
    edu.registers(report)?;
    let memory = edu.dma(report)?;
    edu.msi(report)?;
    edu.exchanged(report)?;
    edu.undisturbed(report)?;
    edu.intx(report)?;
    edu.intx_unmasked_by_eventfd(report)?;
    user.notices(report)?;

    user.next()?;
    report.same(
        "the next user finds configuration space as the first did",
        &first,
        &user.configuration()?,
    )?;
    let command = user.hardware_command()?;
    report.same("the hardware is no bus master", &0, &(command & BUS_MASTER))?;
    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    report.same(
        "the device does not reach the first user's memory; first byte touched",
        &None,
        &edu.touched(&memory.memory)?,
    )?;
    edu.fresh(report)?;
    user.virt.detach()?;
    report.same("it is there for a third", &false, &user.virt.is_gone())
}

impl Edu<User> {
    fn registers(&self, report: &mut Report) -> Result<()> {
        report.same(
            "while memory is off BAR 0 reads all ones",
            &u32::MAX,
            &self.read(IDENTIFICATION)?,
        )?;
        self.0.set_config(COMMAND, MEMORY_SPACE)?;
        let identification = self.read(IDENTIFICATION)? & 0xffff;
        report.same("while it is on, the identification", &0xed, &identification)?;
        self.write(LIVENESS, 0x1234_5678)?;
        let liveness = self.read(LIVENESS)?;
        report.same(
            "the liveness register inverts what was written",
            &!0x1234_5678,
            &liveness,
        )?;
        self.write(FACTORIAL, 10)?;
        eventually("a factorial", || {
            self.read(FACTORIAL).is_ok_and(|value| value == 3_628_800)
        })?;
        report.ok("the factorial is right")
    }

    /// A user's DMA from its memory and to it, and everything that stops it.
    fn dma(&self, report: &mut Report) -> Result<UserMemory> {
        let user = &self.0;
        let memory = UserMemory::new(MEMORY)?;
        memory.map(user, IOVA, BOTH)?;
        let before = self.touched(&memory.memory)?;
        report.same(
            "before bus master is on, nothing is touched; first byte",
            &None,
            &before,
        )?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        let command = user.hardware_command()?;
        report.same(
            "the hardware is bus master then",
            &BUS_MASTER,
            &(command & BUS_MASTER),
        )?;
        report.same(
            "4096 bytes go to the device by DMA and back; first that differs",
            &None,
            &self.there_and_back(&memory.memory)?,
        )?;
        report.same(
            "the device writes where it may; first byte touched",
            &Some(0),
            &self.touched(&memory.memory)?,
        )?;

        user.set_config(COMMAND, MEMORY_SPACE)?;
        report.same(
            "bus master off stops it; first byte touched",
            &None,
            &self.touched(&memory.memory)?,
        )?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        report.same(
            "bus master on lets it go on",
            &Some(0),
            &self.touched(&memory.memory)?,
        )?;
        report.same(
            "an unmap says how much was mapped",
            &MEMORY,
            &user.virt.dma_unmap(IOVA, MEMORY)?,
        )?;
        report.same(
            "outside a mapping nothing is touched",
            &None,
            &self.touched(&memory.memory)?,
        )?;
        memory.map(user, IOVA, DmaAccess::READ)?;
        report.same(
            "nor where the device may only read",
            &None,
            &self.touched(&memory.memory)?,
        )?;
        // Everything, whose length is no 64-bit number.
        report.same(
            "everything is unmapped at once",
            &MEMORY,
            &user.virt.dma_unmap(0, 0)?,
        )?;
        memory.map(user, IOVA, BOTH)?;
        report.same("and mapped again", &Some(0), &self.touched(&memory.memory)?)?;
        Ok(memory)
    }

    fn msi(&self, report: &mut Report) -> Result<()> {
        let user = &self.0;
        report.same(
            "there is one MSI message",
            &1,
            &user.virt.irq_info(IrqIndex::Msi as u32)?.count,
        )?;
        let eventfds = Eventfds::new(1)?;
        user.signal(IrqIndex::Msi, &eventfds)?;
        self.raise(0x100)?;
        report.same(
            "a message that edu raises comes once",
            &vec![(0, 1)],
            &eventfds.after(0)?,
        )?;
        report.same("edu says what it raised", &0x100, &self.acknowledge()?)?;
        let control = user.capability(MSI)? + 2;
        let enabled: u16 = user.config(control)?;
        report.same("MSI reads enabled", &1, &(enabled & 1))?;
        user.set_config(control, enabled & !1)?;
        self.raise(0x200)?;
        report.same(
            "disabled in configuration space it comes no more",
            &vec![],
            &eventfds.quiet()?,
        )?;
        self.acknowledge()?;
        user.set_config(control, enabled)?;
        eventfds.quiet()?;
        self.raise(0x400)?;
        report.same("enabled there it comes again", &vec![(0, 1)], &eventfds.after(0)?)?;
        self.acknowledge()?;
        user.reset()?;
        self.raise(0x800)?;
        report.same("and after a reset, too", &vec![(0, 1)], &eventfds.after(0)?)?;
        self.acknowledge()?;
        Ok(())
    }

    /// Another eventfd for a message: what comes goes to the new one, and the old one is let go of.
    fn exchanged(&self, report: &mut Report) -> Result<()> {
        let (old, new) = (Eventfds::new(1)?, Eventfds::new(1)?);
        self.0.signal(IrqIndex::Msi, &old)?;
        old.quiet()?;
        self.0.signal(IrqIndex::Msi, &new)?;
        // edu's messages have no mask bits: one may have been lost, and so one is delivered.
        report.same(
            "an exchange of eventfds delivers one message for what may have been lost",
            &vec![(0, 1)],
            &new.after(0)?,
        )?;
        self.message("and then what edu raises, once", &new, report)?;
        report.same("the old eventfd is signalled no more", &vec![], &old.quiet()?)?;
        self.0.eventfds(IrqIndex::Msi, 0, IrqAction::Trigger, &[None])?;
        self.raise(0x100)?;
        self.acknowledge()?;
        report.same(
            "without an eventfd a message does not come",
            &vec![],
            &new.quiet()?,
        )?;
        self.0.signal(IrqIndex::Msi, &new)?;
        report.same(
            "it waits, and comes once there is one",
            &true,
            &!new.after(0)?.is_empty(),
        )
    }

    /// A thousand interrupts in none of which a thread of ours has a part.
    fn undisturbed(&self, report: &mut Report) -> Result<()> {
        const MANY: usize = 1000;
        let eventfds = Eventfds::new(1)?;
        self.0.signal(IrqIndex::Msi, &eventfds)?;
        eventfds.quiet()?;
        let before = switches(THREADS)?;
        let mut came = 0;
        for _ in 0..MANY {
            self.raise(0x100)?;
            came += eventfds.next(0)?;
            self.acknowledge()?;
        }
        report.same("a thousand messages come", &(MANY as u64), &came)?;
        report.same(
            "the threads of interrupts have not run meanwhile: not a system call",
            &before,
            &switches(THREADS)?,
        )?;
        eventfds.write(0, u64::MAX - 1)?;
        for _ in 0..3 {
            self.raise(0x100)?;
            self.acknowledge()?;
        }
        report.same(
            "an eventfd that its user has filled stops nobody",
            &(true, before),
            &(eventfds.next(0)? >= u64::MAX - 1, switches(THREADS)?),
        )?;
        self.message("and once it is read, a message comes again", &eventfds, report)
    }

    /// The line: masked by itself, by request and by COMMAND, each apart from the others.
    fn intx(&self, report: &mut Report) -> Result<()> {
        let user = &self.0;
        let came = vec![(0, 1)];
        user.set_interrupt(IrqIndex::Msi, 0, IrqAction::Trigger)?;
        report.same(
            "INTx is there",
            &1,
            &user.virt.irq_info(IrqIndex::Intx as u32)?.count,
        )?;
        let eventfds = Eventfds::new(1)?;
        user.signal(IrqIndex::Intx, &eventfds)?;
        let unmask = || user.set_interrupt(IrqIndex::Intx, 1, IrqAction::Unmask);
        report.same(
            "with MSI off and nothing raised, it is quiet",
            &vec![],
            &eventfds.quiet()?,
        )?;
        let before = switches(THREADS)?;
        self.raise(0x100)?;
        report.same("raised, it comes once", &came, &eventfds.after(0)?)?;
        report.same("and again where it is unmasked", &came, &{
            unmask()?;
            eventfds.after(0)?
        })?;
        report.same(
            "the threads of interrupts have not run",
            &before,
            &switches(THREADS)?,
        )?;
        self.acknowledge()?;
        unmask()?;
        report.same(
            "acknowledged and unmasked, it is quiet",
            &vec![],
            &eventfds.quiet()?,
        )?;

        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER | INTX_DISABLE)?;
        self.raise(0x100)?;
        report.same(
            "disabled in COMMAND, it does not come",
            &vec![],
            &eventfds.quiet()?,
        )?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        report.same("enabled, it comes", &came, &eventfds.after(0)?)?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER | INTX_DISABLE)?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        report.same("COMMAND does not unmask it", &vec![], &eventfds.quiet()?)?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER | INTX_DISABLE)?;
        unmask()?;
        report.same("nor does an unmask enable it", &vec![], &eventfds.quiet()?)?;
        user.set_interrupt(IrqIndex::Intx, 1, IrqAction::Mask)?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        report.same("masked by request it does not come", &vec![], &eventfds.quiet()?)?;
        unmask()?;
        report.same("until it is unmasked", &came, &eventfds.after(0)?)?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER | INTX_DISABLE)?;
        unmask()?;
        self.acknowledge()?;
        user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        report.same(
            "acknowledged while it is disabled, it does not come after",
            &vec![],
            &eventfds.quiet()?,
        )?;
        self.raise(0x100)?;
        report.same("but with the next one", &came, &eventfds.after(0)?)?;
        self.acknowledge()?;
        unmask()?;
        user.reset()?;
        self.raise(0x100)?;
        report.same("and after a reset", &came, &eventfds.after(0)?)?;
        self.acknowledge()?;
        unmask()
    }

    fn intx_unmasked_by_eventfd(&self, report: &mut Report) -> Result<()> {
        let user = &self.0;
        let (eventfds, unmask) = (Eventfds::new(1)?, Eventfds::new(1)?);
        user.signal(IrqIndex::Intx, &eventfds)?;
        user.eventfds(IrqIndex::Intx, 0, IrqAction::Unmask, &unmask.all())?;
        let before = switches(THREADS)?;
        self.raise(0x100)?;
        report.same("INTx comes", &vec![(0, 1)], &eventfds.after(0)?)?;
        unmask.write(0, 1)?;
        report.same("unmasked by eventfd, again", &vec![(0, 1)], &eventfds.after(0)?)?;
        self.acknowledge()?;
        unmask.write(0, 1)?;
        report.same("acknowledged, not", &vec![], &eventfds.quiet()?)?;
        self.raise(0x100)?;
        report.same("raised, again", &vec![(0, 1)], &eventfds.after(0)?)?;
        self.acknowledge()?;
        report.same(
            "the kernel has read the eventfd, and no thread of ours",
            &(vec![], before),
            &(unmask.quiet()?, switches(THREADS)?),
        )?;
        user.set_interrupt(IrqIndex::Intx, 0, IrqAction::Trigger)?;
        unmask.write(0, 1)?;
        report.same("disabled, nobody reads it", &vec![(0, 1)], &unmask.quiet()?)
    }

    /// Has edu send a message, which must come once.
    pub(crate) fn message(&self, what: &str, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        self.raise(0x100)?;
        report.same(what, &vec![(0, 1)], &eventfds.after(0)?)?;
        self.acknowledge()?;
        Ok(())
    }

    /// A second user does what the first did.
    fn fresh(&self, report: &mut Report) -> Result<()> {
        let memory = UserMemory::new(MEMORY)?;
        memory.map(&self.0, IOVA, BOTH)?;
        report.same(
            "the next user's own memory is reached",
            &Some(0),
            &self.touched(&memory.memory)?,
        )?;
        let eventfds = Eventfds::new(1)?;
        self.0.signal(IrqIndex::Msi, &eventfds)?;
        self.message("and its eventfd signalled", &eventfds, report)
    }
}

/// A function that the kernel can't reset.
pub(crate) fn unresettable(address: &str, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    user.page(&[], report)?;
    user.bars(report)?;
    report.same("it can't be reset", &false, &user.virt.resettable())?;
    match user.reset() {
        Ok(()) => report.fail("a reset by request: expected a refusal got success")?,
        Err(error) => {
            report.ok(&format!("a reset by request: {error}"))?;
            report.same("after which the device goes on", &false, &user.virt.is_gone())?;
        }
    }
    match user.virt.detach() {
        Ok(()) => report.fail("its user leaves: expected a refusal got success"),
        Err(error) => {
            report.ok(&format!("its user leaves: {error}"))?;
            report.same("and there is no second", &true, &user.virt.is_gone())
        }
    }
}
