//! QEMU's NVMe controller through the virtual view: a command through the user's memory, vectors and their masks, resets
//! and power states.

use anyhow::{Context as _, Result, ensure};
use uvfio_core::{DmaAccess, IrqIndex};
use uvfio_linux::vfio::Word;

use crate::nvme::{
    ADMIN_COMPLETION_QUEUE, ADMIN_QUEUE_ATTRIBUTES, ADMIN_SUBMISSION_QUEUE, CAPABILITIES, COMPLETIONS,
    CONFIGURATION, DATA, DOORBELLS, ENABLE, ENTRIES, IDENTIFY, IDENTIFY_CONTROLLER, IOVA, MEMORY, READY,
    SERIAL_NUMBER, SERIAL_NUMBER_BYTES, STATUS, SUBMISSIONS,
};
use crate::owned::{Eventfds, eventually};
use crate::report::Report;
use crate::virtual_view::{
    BUS_MASTER, COMMAND, EXPRESS, MEMORY as MEMORY_SPACE, MSIX, POWER, User, UserMemory,
};

/// How far into a table entry its mask bit is (PCI Local Bus 3.0, 6.8.2.9).
const VECTOR_CONTROL: u64 = 12;
const TABLE: u64 = 4;
const PENDING: u64 = 8;
/// PMCSR (PCI Bus Power Management 1.2, 3.2.4).
const POWER_STATE: u64 = 4;
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

    let state = user.capability(POWER)? + POWER_STATE;
    user.set_config(state, 3_u16)?;
    eventually("D3hot", || hardware_state(&user).is_ok_and(|state| state == 3))?;
    user.next()?;
    report.same(
        "a user who leaves it asleep leaves it awake",
        &0,
        &hardware_state(&user)?,
    )?;
    report.same(
        "the next user finds configuration space as the first did",
        &first,
        &user.configuration()?,
    )?;
    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    let mut nvme = Nvme::found(&user)?;
    let ready: u32 = user.read(0, STATUS)?;
    report.same("and the controller not enabled", &0, &(ready & READY))?;
    nvme.enable()?;
    nvme.works("the next user's commands work", serial, report)
}

struct Nvme<'a> {
    user: &'a User,
    memory: UserMemory,
    eventfds: Eventfds,
    /// How far apart doorbells are
    stride: u64,
    /// Commands since the controller was enabled
    sent: u32,
}

impl<'a> Nvme<'a> {
    /// The controller as it is, with memory and eventfds of this user's.
    fn found(user: &'a User) -> Result<Self> {
        let memory = UserMemory::new(MEMORY)?;
        memory.map(user, IOVA, DmaAccess::READ | DmaAccess::WRITE)?;
        let eventfds = Eventfds::new(VECTORS)?;
        user.signal(IrqIndex::MsiX, &eventfds)?;
        let capabilities: u64 = user.read(0, CAPABILITIES)?;
        Ok(Self {
            user,
            memory,
            eventfds,
            stride: 4 << (capabilities >> 32 & 0xf),
            sent: 0,
        })
    }

    fn new(user: &'a User) -> Result<Self> {
        let mut nvme = Self::found(user)?;
        nvme.enable()?;
        Ok(nvme)
    }

    fn write<W: Word>(&self, register: u64, value: W) -> Result<()> {
        self.user.write(0, register, value)
    }

    fn ready(&self) -> Result<u32> {
        Ok(self.user.read::<u32>(0, STATUS)? & READY)
    }

    fn enable(&mut self) -> Result<()> {
        self.write(CONFIGURATION, 0_u32)?;
        eventually("the controller's stop", || {
            self.ready().is_ok_and(|ready| ready == 0)
        })?;
        for at in (0..MEMORY).step_by(8) {
            self.memory.memory.write(at, 0_u64).context("memory")?;
        }
        self.write(ADMIN_QUEUE_ATTRIBUTES, (ENTRIES - 1) << 16 | (ENTRIES - 1))?;
        self.write(ADMIN_SUBMISSION_QUEUE, IOVA + SUBMISSIONS)?;
        self.write(ADMIN_COMPLETION_QUEUE, IOVA + COMPLETIONS)?;
        self.write(CONFIGURATION, ENABLE)?;
        self.sent = 0;
        eventually("the controller's start", || {
            self.ready().is_ok_and(|ready| ready != 0)
        })
    }

    /// Sends Identify, and waits until the completion is in memory; gives the serial number.
    fn identify(&mut self) -> Result<String> {
        let memory = &self.memory.memory;
        let entry = SUBMISSIONS + 64 * u64::from(self.sent);
        memory
            .write(entry, IDENTIFY | self.sent << 16)
            .context("memory")?;
        memory.write(entry + 24, IOVA + DATA).context("memory")?;
        memory.write(entry + 40, IDENTIFY_CONTROLLER).context("memory")?;
        for at in 0..SERIAL_NUMBER_BYTES {
            memory.write(DATA + SERIAL_NUMBER + at, 0_u8).context("memory")?;
        }
        self.write(DOORBELLS, self.sent + 1)?;
        let at = COMPLETIONS + 16 * u64::from(self.sent) + 14;
        let status = || memory.read::<u16>(at).unwrap_or_default();
        eventually("a command", || status() & 1 != 0)?;
        ensure!(status() >> 1 == 0, "Identify ended with status {:#x}", status());
        self.sent += 1;
        self.write(DOORBELLS + self.stride, self.sent)?;
        let bytes: Vec<u8> = (0..SERIAL_NUMBER_BYTES)
            .filter_map(|at| memory.read(DATA + SERIAL_NUMBER + at))
            .collect();
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A command, and the interrupt that tells of its end.
    fn works(&mut self, what: &str, serial: &str, report: &mut Report) -> Result<()> {
        self.eventfds.quiet()?;
        let got = (self.identify()?, self.eventfds.after(0)?);
        report.same(what, &(serial.to_owned(), vec![(0, 1)]), &got)
    }

    /// Where the MSI-X table and the pending bits are in BAR 0.
    fn windows(&self) -> Result<(u64, u64)> {
        let msix = self.user.capability(MSIX)?;
        let at = |register| Ok::<_, anyhow::Error>(u64::from(self.user.config::<u32>(msix + register)? & !7));
        Ok((at(TABLE)?, at(PENDING)?))
    }

    fn vectors(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        self.works(
            "Identify goes through the user's memory, and vector 0 tells of it",
            serial,
            report,
        )?;
        let (table, pending) = self.windows()?;
        self.write(table + VECTOR_CONTROL, 1_u32)?;
        self.identify()?;
        report.same("masked, vector 0 does not come", &vec![], &self.eventfds.quiet()?)?;
        let bits: u32 = self.user.read(0, pending)?;
        report.same("it is pending", &1, &bits)?;
        self.write(table + VECTOR_CONTROL, 0_u32)?;
        report.same("unmasked, it comes once", &vec![(0, 1)], &self.eventfds.after(0)?)?;
        let bits: u32 = self.user.read(0, pending)?;
        report.same("it is pending no more", &0, &bits)?;
        let entry: u32 = self.user.read(0, table)?;
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
                &self.ready()?,
            )?;
            reset(self.user)?;
            report.same("after it, it is not", &0, &self.ready()?)?;
            report.same(
                "configuration space is as before",
                &before,
                &self.user.configuration()?,
            )?;
            self.enable()?;
            self.works("memory and vectors are, too: Identify works", serial, report)?;
        }
        Ok(())
    }

    fn sleeps(&mut self, serial: &str, report: &mut Report) -> Result<()> {
        let state = self.user.capability(POWER)? + POWER_STATE;
        self.user.set_config(state, 3_u16)?;
        eventually("D3hot", || {
            hardware_state(self.user).is_ok_and(|state| state == 3)
        })?;
        report.ok("D3hot reaches the hardware")?;
        let asleep: u32 = self.user.read(0, STATUS)?;
        report.same("asleep, registers read all ones", &u32::MAX, &asleep)?;
        self.user.set_config(state, 0_u16)?;
        eventually("D0", || hardware_state(self.user).is_ok_and(|state| state == 0))?;
        // A reset follows where the function says that it loses its registers; a driver waits 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(500));
        self.user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
        self.user.signal(IrqIndex::MsiX, &self.eventfds)?;
        self.enable()?;
        self.works("awake again, it works", serial, report)
    }
}

/// The power state that the hardware has.
fn hardware_state(user: &User) -> Result<u16> {
    let config = user.device.config()?;
    let mut at = u64::from(config.read_word::<u8>(0x34)?);
    while at != 0 && config.read_word::<u8>(at)? != POWER {
        at = u64::from(config.read_word::<u8>(at + 1)?);
    }
    Ok(config.read_word::<u16>(at + POWER_STATE)? & 3)
}
