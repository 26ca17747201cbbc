//! QEMU's NVMe controller through the virtual view: a command through the user's memory, vectors and their masks, resets
//! and power states.

use anyhow::Result;
use uvfio_core::{DmaAccess, IrqAction, IrqIndex};

use crate::nvme::{self, IOVA, MEMORY, READY, STATUS};
use crate::owned::Eventfds;
use crate::report::Report;
use crate::virtual_view::{
    BUS_MASTER, COMMAND, D0, D3HOT, EXPRESS, MEMORY as MEMORY_SPACE, MSIX, MSIX_PENDING, MSIX_TABLE, POWER,
    User, UserMemory, VECTOR_CONTROL,
};

const VECTORS: usize = 4;

pub(crate) fn run(address: &str, serial: &str, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    user.page(&[MSIX, EXPRESS, POWER], report)?;
    user.bars(report)?;
    let first = user.configuration()?;
    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    let mut nvme = Nvme::new(&user)?;
    nvme.vectors(serial, report)?;
    nvme.resets(serial, report)?;
    nvme.sleeps(serial, report)?;

    nvme.intx(serial, report)?;

    user.set_power_state(D3HOT)?;
    user.next()?;
    report.same(
        "a user who leaves it asleep leaves it awake",
        &D0,
        &user.hardware_power_state()?,
    )?;
    report.same(
        "the next user finds configuration space as the first did",
        &first,
        &user.configuration()?,
    )?;
    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    let mut nvme = Nvme::found(&user)?;
    report.same("and the controller not enabled", &0, &nvme.controller.ready()?)?;
    nvme.controller.enable()?;
    nvme.works("the next user's commands work", serial, report)
}

struct Nvme<'a> {
    user: &'a User,
    controller: nvme::Nvme<&'a User>,
    eventfds: Eventfds,
}

impl<'a> Nvme<'a> {
    /// The controller as it is, with memory and eventfds of this user's.
    fn found(user: &'a User) -> Result<Self> {
        let memory = UserMemory::new(MEMORY)?;
        memory.map(user, IOVA, DmaAccess::READ | DmaAccess::WRITE)?;
        let eventfds = Eventfds::new(VECTORS)?;
        user.signal(IrqIndex::MsiX, &eventfds)?;
        Ok(Self {
            user,
            controller: nvme::Nvme::found(user, memory.memory)?,
            eventfds,
        })
    }

    fn new(user: &'a User) -> Result<Self> {
        let mut nvme = Self::found(user)?;
        nvme.controller.enable()?;
        Ok(nvme)
    }

    /// Sends Identify, and waits until the completion is in memory; gives the serial number.
    fn identify(&mut self) -> Result<String> {
        self.controller.identify(nvme::Nvme::ended)
    }

    /// A command, and the interrupt that tells of its end.
    fn works(&mut self, what: &str, serial: &str, report: &mut Report) -> Result<()> {
        self.eventfds.quiet()?;
        let got = (self.identify()?, self.eventfds.after(0)?);
        report.same(what, &(serial.to_owned(), vec![(0, 1)]), &got)
    }

    fn vectors(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        self.works(
            "Identify goes through the user's memory, and vector 0 tells of it",
            serial,
            report,
        )?;
        self.user.set_window(MSIX_TABLE, VECTOR_CONTROL, 1_u32)?;
        self.identify()?;
        report.same("masked, vector 0 does not come", &vec![], &self.eventfds.quiet()?)?;
        let bits: u32 = self.user.window(MSIX_PENDING, 0)?;
        report.same("it is pending", &1, &bits)?;
        self.user.set_window(MSIX_TABLE, VECTOR_CONTROL, 0_u32)?;
        report.same("unmasked, it comes once", &vec![(0, 1)], &self.eventfds.after(0)?)?;
        let bits: u32 = self.user.window(MSIX_PENDING, 0)?;
        report.same("it is pending no more", &0, &bits)?;
        let entry: u32 = self.user.window(MSIX_TABLE, 0)?;
        report.same("the table shows no address of the kernel's", &0, &entry)
    }

    fn resets(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        for (what, reset) in [
            (
                "a function level reset",
                User::function_level_reset as fn(&User) -> Result<()>,
            ),
            ("a reset by request", User::reset),
        ] {
            let before = self.user.configuration()?;
            report.same(
                &format!("before {what} the controller is ready"),
                &READY,
                &self.controller.ready()?,
            )?;
            reset(self.user)?;
            report.same("after it, it is not", &0, &self.controller.ready()?)?;
            report.same(
                "configuration space is as before",
                &before,
                &self.user.configuration()?,
            )?;
            self.controller.enable()?;
            self.works("memory and vectors are, too: Identify works", serial, report)?;
        }
        Ok(())
    }

    fn sleeps(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        self.user.set_power_state(D3HOT)?;
        report.ok("D3hot reaches the hardware")?;
        let asleep: u32 = self.user.read(0, STATUS)?;
        report.same("asleep, registers read all ones", &u32::MAX, &asleep)?;
        self.user.set_power_state(D0)?;
        // A reset follows where the function says that it loses its registers.
        self.user.virt.settle();
        self.user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        self.user.signal(IrqIndex::MsiX, &self.eventfds)?;
        self.controller.enable()?;
        self.works("awake again, it works", serial, report)
    }

    /// INTx, which a completion asserts until it is taken from the queue. A function that sleeps has none.
    fn intx(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        let user = self.user;
        user.set_interrupt(IrqIndex::MsiX, 0, IrqAction::Trigger)?;
        let line = Eventfds::new(1)?;
        user.signal(IrqIndex::Intx, &line)?;
        let unmask = || user.set_interrupt(IrqIndex::Intx, 1, IrqAction::Unmask);
        let named = self.controller.identify(|_| {
            report.same("INTx comes with a completion", &vec![(0, 1)], &line.after(0)?)?;
            user.set_power_state(D3HOT)?;
            unmask()?;
            report.same("unmasked in D3hot, it does not come", &vec![], &line.quiet()?)?;
            user.set_power_state(D0)?;
            report.same(
                "awake again, it comes, as it is still asserted",
                &vec![(0, 1)],
                &line.after(0)?,
            )
        })?;
        report.same("the command is taken from the queue", &serial.to_owned(), &named)?;
        unmask()?;
        report.same("then INTx comes no more", &vec![], &line.quiet()?)?;
        user.set_power_state(D3HOT)?;
        user.set_power_state(D0)?;
        report.same("nor by a sleep", &vec![], &line.quiet()?)?;
        let named = self
            .controller
            .identify(|_| report.same("but with the next completion", &vec![(0, 1)], &line.after(0)?))?;
        report.same("which is right", &serial.to_owned(), &named)?;
        user.set_interrupt(IrqIndex::Intx, 0, IrqAction::Trigger)
    }
}
