//! Users of a function that our server owns and serves, by the client that Cloud Hypervisor uses; the function is QEMU's
//! edu. And somebody who keeps hold of such a function when its lease is over.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use vfio_user::Client;

use crate::edu::{
    self, BUFFER, DMA_COMMAND, DMA_COUNT, DMA_DESTINATION, DMA_SOURCE, DMA_START, DMA_TO_MEMORY,
    INTERRUPT_ACKNOWLEDGE, INTERRUPT_RAISE, Registers,
};
use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG, DISABLE, MSI, TO_EVENTFDS};

pub(crate) const PAGE: u64 = 4096;
/// Where the first user's memory lies for the device, and where the second one's does.
pub(crate) const FIRST: u64 = 0x10_0000;
pub(crate) const SECOND: u64 = 0x20_0000;
/// What the first user's memory is full of, and what the second one's.
pub(crate) const SECRET: u8 = 0xa5;
pub(crate) const OWN: u8 = 0x3c;

/// How long a transfer may take; QEMU's takes 0.1 s.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Edu {
    pub(crate) client: Client,
    pub(crate) memory: File,
    /// Where its memory lies for the device.
    pub(crate) iova: u64,
}

impl Edu {
    /// Attaches, with one page of memory at `iova` that is full of `byte`.
    pub(crate) fn open(socket: &Path, iova: u64, byte: u8) -> Result<Self> {
        let mut client = Client::new(socket)?;
        let memory = File::from(memfd_create("edu", MemfdFlags::CLOEXEC)?);
        memory.set_len(PAGE)?;
        memory.write_all_at(&[byte; PAGE as usize], 0)?;
        client.dma_map(0, iova, PAGE, memory.as_raw_fd())?;
        client.region_write(CONFIG, COMMAND, &COMMAND_MEMORY_AND_MASTER.to_le_bytes())?;
        Ok(Self { client, memory, iova })
    }

    /// Has the device copy a page, and waits until it has.
    pub(crate) fn copy(&mut self, from: u64, to: u64, direction: u64) -> Result<()> {
        for (register, value) in [(DMA_SOURCE, from), (DMA_DESTINATION, to), (DMA_COUNT, PAGE)] {
            self.client.region_write(0, register, &value.to_le_bytes())?;
        }
        self.client
            .region_write(0, DMA_COMMAND, &(DMA_START | direction).to_le_bytes())?;
        let start = Instant::now();
        while self.is_running()? {
            if start.elapsed() > PATIENCE {
                bail!("the device did not end its transfer");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn is_running(&mut self) -> Result<bool> {
        let mut bytes = [0; 8];
        self.client.region_read(0, DMA_COMMAND, &mut bytes)?;
        if bytes == [0xff; 8] {
            bail!("the device reads all ones");
        }
        Ok(u64::from_le_bytes(bytes) & DMA_START != 0)
    }

    /// Enables messages, with an eventfd each.
    fn eventfds(&mut self, count: u32) -> Result<Vec<OwnedFd>> {
        let eventfds = edu::eventfds(count)?;
        let numbers: Vec<_> = eventfds.iter().map(AsRawFd::as_raw_fd).collect();
        self.client.set_irqs(MSI, TO_EVENTFDS, 0, count, &numbers)?;
        Ok(eventfds)
    }

    pub(crate) fn memory(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; PAGE as usize];
        self.memory.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Registers for Edu {
    fn read(&mut self, register: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.client.region_read(0, register, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn write(&mut self, register: u64, value: u32) -> Result<()> {
        Ok(self.client.region_write(0, register, &value.to_le_bytes())?)
    }
}

/// Has the device read memory and write it back, and interrupt us each time if it `interrupts`, without end; says when it
/// does, and when the device is gone.
pub(crate) fn keep_busy(socket: &Path, interrupts: bool, report: &mut Report) -> Result<()> {
    let mut edu = Edu::open(socket, FIRST, SECRET)?;
    edu.copy(FIRST, BUFFER, 0)?;
    report.ok("the first user's device reads its memory")?;
    let eventfd = if interrupts { edu.eventfds(1)?.pop() } else { None };
    report.note("busy")?;
    let mut rounds = 0_u64;
    let mut copies = || -> Result<()> {
        loop {
            edu.copy(BUFFER, FIRST, DMA_TO_MEMORY)?;
            edu.copy(FIRST, BUFFER, 0)?;
            if let Some(eventfd) = &eventfd {
                edu.write(INTERRUPT_RAISE, 1)?;
                if !edu::wait(eventfd, PATIENCE)? {
                    bail!("the device's interrupt did not come");
                }
                rustix::io::read(eventfd, &mut [0; 8])?;
                edu.write(INTERRUPT_ACKNOWLEDGE, 1)?;
                rounds += 1;
                report.note(&format!("round {rounds}"))?;
            }
        }
    };
    if let Err(error) = copies() {
        report.note(&format!("stopped: {error:#}"))?;
    }
    // Requests are still taken, and the user stays until it is killed.
    edu.client.dma_unmap(FIRST, PAGE)?;
    report.note("unmapped")?;
    loop {
        thread::sleep(PATIENCE);
    }
}

/// The next user: the device works, and reaches nothing of the former one's.
pub(crate) fn next_user(socket: &Path, report: &mut Report) -> Result<()> {
    let mut edu = Edu::open(socket, SECOND, OWN)?;
    edu.copy(SECOND, BUFFER, 0)?;
    edu.memory.write_all_at(&[0; PAGE as usize], 0)?;
    edu.copy(BUFFER, SECOND, DMA_TO_MEMORY)?;
    let own = vec![OWN; PAGE as usize];
    report.same(
        "the next user's device copies its memory both ways",
        &true,
        &(edu.memory()? == own),
    )?;
    // Where the former user's memory was.
    edu.copy(FIRST, BUFFER, 0)?;
    edu.copy(BUFFER, SECOND, DMA_TO_MEMORY)?;
    let found = edu.memory()?.iter().filter(|byte| **byte == SECRET).count();
    report.same(
        "bytes of the former user's memory that the device reads",
        &0,
        &found,
    )
}

/// Two users at a time, each with a device of its own: each has its device try the other one's memory, at the address
/// where it lies for the other one's device.
pub(crate) fn neighbours(sockets: [&Path; 2], report: &mut Report) -> Result<()> {
    let mut first = User::come(sockets[0], "first", FIRST, SECRET)?;
    let mut second = User::come(sockets[1], "second", SECOND, OWN)?;
    tries(&mut first, &mut second, report)?;
    tries(&mut second, &mut first, report)
}

struct User {
    name: &'static str,
    edu: Edu,
    iova: u64,
    /// What its memory is full of.
    byte: u8,
}

impl User {
    fn come(socket: &Path, name: &'static str, iova: u64, byte: u8) -> Result<Self> {
        Ok(Self {
            name,
            edu: Edu::open(socket, iova, byte)?,
            iova,
            byte,
        })
    }
}

fn tries(intruder: &mut User, other: &mut User, report: &mut Report) -> Result<()> {
    let (who, whose) = (intruder.name, other.name);
    let own = vec![intruder.byte; PAGE as usize];
    intruder.edu.memory.write_all_at(&own, 0)?;
    intruder.edu.copy(other.iova, BUFFER, 0)?;
    intruder.edu.copy(BUFFER, intruder.iova, DMA_TO_MEMORY)?;
    let found = intruder
        .edu
        .memory()?
        .iter()
        .filter(|byte| **byte == other.byte)
        .count();
    report.same(
        &format!("bytes of the {whose} user's memory that the {who} one's device reads"),
        &0,
        &found,
    )?;
    intruder.edu.memory.write_all_at(&own, 0)?;
    intruder.edu.copy(intruder.iova, BUFFER, 0)?;
    intruder.edu.copy(BUFFER, other.iova, DMA_TO_MEMORY)?;
    let theirs = vec![other.byte; PAGE as usize];
    report.same(
        &format!("the {who} user's device changes nothing of the {whose} one's memory"),
        &true,
        &(other.edu.memory()? == theirs),
    )?;
    for user in [other, intruder] {
        let full = vec![user.byte; PAGE as usize];
        user.edu.copy(user.iova, BUFFER, 0)?;
        user.edu.memory.write_all_at(&[0; PAGE as usize], 0)?;
        user.edu.copy(BUFFER, user.iova, DMA_TO_MEMORY)?;
        let name = user.name;
        report.same(
            &format!("the {name} user's device works on"),
            &true,
            &(user.edu.memory()? == full),
        )?;
    }
    Ok(())
}

/// Resets a device that takes longer than its user waits for an answer.
pub(crate) fn slow_reset(socket: &Path, report: &mut Report) -> Result<()> {
    let mut edu = Edu::open(socket, FIRST, OWN)?;
    edu.copy(FIRST, BUFFER, 0)?;
    edu.client.reset()?;
    let live = edu::is_alive(&mut edu)?;
    report.same("the device lives when its reset is answered", &false, &live)?;
    let mut identity = [0; 4];
    edu.client.region_read(CONFIG, 0, &mut identity)?;
    report.same(
        "its identity is answered meanwhile",
        &0x11e8_1234,
        &u32::from_le_bytes(identity),
    )?;
    let start = Instant::now();
    while !edu::is_alive(&mut edu)? {
        if start.elapsed() > PATIENCE {
            bail!("the device did not come back from its reset");
        }
        thread::sleep(Duration::from_millis(50));
    }
    report.ok("it comes back from it")?;
    edu.copy(FIRST, BUFFER, 0)?;
    edu.memory.write_all_at(&[0; PAGE as usize], 0)?;
    edu.copy(BUFFER, FIRST, DMA_TO_MEMORY)?;
    let own = vec![OWN; PAGE as usize];
    report.same(
        "it masters the bus, and reaches what was mapped, as before",
        &true,
        &(edu.memory()? == own),
    )
}

/// Raises each MSI message of an edu that has `count` of them.
pub(crate) fn messages(socket: &Path, count: u32, report: &mut Report) -> Result<()> {
    let mut edu = Edu::open(socket, FIRST, OWN)?;
    let offered = edu.client.get_irq_info(MSI)?.count;
    report.same("the device offers MSI messages", &count, &offered)?;
    let eventfds = edu.eventfds(count)?;
    edu::interrupts(&mut edu, &eventfds, report)
}

/// Gives an edu of `count` MSI messages one eventfd after another, each while those before it are on their way: none is lost.
pub(crate) fn growing(socket: &Path, count: u32, report: &mut Report) -> Result<()> {
    const ROUNDS: u32 = 10;
    let mut edu = Edu::open(socket, FIRST, OWN)?;
    let eventfds = edu::eventfds(count)?;
    let mut lost = Vec::new();
    for round in 0..ROUNDS {
        for (have, next) in (0..).zip(&eventfds) {
            edu.write(INTERRUPT_ACKNOWLEDGE, u32::MAX)?;
            edu::counts(&eventfds)?;
            for message in 0..have {
                edu.write(INTERRUPT_RAISE, 1 << message)?;
            }
            edu.client
                .set_irqs(MSI, TO_EVENTFDS, have, 1, &[next.as_raw_fd()])?;
            for (message, eventfd) in (0..have).zip(&eventfds) {
                if !edu::wait(eventfd, PATIENCE)? {
                    lost.push((round, have, message));
                }
            }
        }
        edu.client.set_irqs(MSI, DISABLE, 0, 0, &[])?;
    }
    report.same(
        "messages that did not come, raised while another one got its eventfd: (round, eventfds before, message)",
        &Vec::new(),
        &lost,
    )?;
    let eventfds = edu.eventfds(count)?;
    edu::interrupts(&mut edu, &eventfds, report)
}

/// A thousand interrupts, in which the threads of the worker of `server` must have no part.
pub(crate) fn interrupts(socket: &Path, server: u32, report: &mut Report) -> Result<()> {
    const MANY: u64 = 1000;
    let mut edu = Edu::open(socket, FIRST, OWN)?;
    // Each user has another one.
    let pid = child_of(server)?;
    let eventfd = edu.eventfds(1)?.pop().context("an eventfd")?;
    let before = switches(pid)?;
    let mut came = 0;
    for _ in 0..MANY {
        edu.write(INTERRUPT_RAISE, 1)?;
        edu.write(INTERRUPT_ACKNOWLEDGE, 1)?;
        if !edu::wait(&eventfd, PATIENCE)? {
            bail!("the device's interrupt {came} did not come");
        }
        let mut count = [0; 8];
        rustix::io::read(&eventfd, &mut count)?;
        came += u64::from_ne_bytes(count);
    }
    report.same(
        "a thousand messages of the device's come to its user",
        &MANY,
        &came,
    )?;
    report.same(
        "the server's threads of interrupts have not run meanwhile: not a system call",
        &before,
        &switches(pid)?,
    )
}

/// The only child of a process.
fn child_of(parent: u32) -> Result<u32> {
    let is_child = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let found = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        found.is_some_and(|found| found.trim().parse() == Ok(parent))
    };
    fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid| is_child(*pid))
        .with_context(|| format!("process {parent} has no child"))
}

/// How often the threads of a process that have to do with interrupts have been put to sleep or off the processor, by
/// name. One that sleeps and has not been since has made no system call.
fn switches(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).context("a line of a thread's status")
        };
        let times = |key| anyhow::Ok(value(key)?.parse::<u64>()?);
        found.insert(
            value("Name:")?.to_owned(),
            times("voluntary_ctxt_switches:")? + times("nonvoluntary_ctxt_switches:")?,
        );
    }
    found.retain(|name, _| ["interrupts", "delivery"].contains(&name.as_str()));
    if found.len() != 2 {
        bail!("process {pid} has not both threads of interrupts: {found:?}");
    }
    Ok(found)
}

/// Takes a duplicate of the descriptor of the VFIO device that process `pid` has, and keeps it until it is killed.
pub(crate) fn hold(pid: u32, report: &mut Report) -> Result<()> {
    let _held = duplicate(pid).with_context(|| format!("looking for a device of process {pid}"))?;
    report.note("held")?;
    loop {
        thread::sleep(PATIENCE);
    }
}

fn duplicate(pid: u32) -> Result<OwnedFd> {
    let process = Pid::from_raw(pid.try_into()?).context("no process")?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_device = fs::read_link(entry.path())?.as_os_str() == "anon_inode:[vfio-device]";
        if let (true, Some(number)) = (is_device, entry.file_name().to_str()) {
            return Ok(pidfd_getfd(&process, number.parse()?, PidfdGetfdFlags::empty())?);
        }
    }
    bail!("it has none");
}
