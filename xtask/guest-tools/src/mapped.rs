//! A user of an NVMe controller whose server hands out the function itself: its registers are mapped, and the mapping
//! outlives what it was given for.
// Registers are reached by address.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr::null_mut;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::pipe::pipe;
use vfio_user::Client;

use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG};

/// QEMU's controller: registers and doorbells, then a page with the MSI-X table, then one with its pending bits.
const BYTES: u64 = 0x4000;
const REGISTERS: u64 = 0x2000;
/// What the controller can do, and its version (NVM Express 1.4, 3.1).
const CAPABILITIES: usize = 0x00;
const VERSION: usize = 0x08;

const CAPABILITIES_POINTER: u8 = 0x34;
const POWER_MANAGEMENT: u8 = 0x01;
const D0: u16 = 0;
const D3HOT: u16 = 3;

const AGAIN: Duration = Duration::from_millis(20);

/// Registers, mapped for as long as this process lives.
struct Mapping {
    base: *const u8,
    pipe: (OwnedFd, OwnedFd),
}

impl Mapping {
    fn new(client: &Client, report: &mut Report) -> Result<Self> {
        let region = client.region(0).context("there is no BAR 0")?;
        let areas: Vec<_> = region
            .sparse_areas
            .iter()
            .map(|area| (area.offset, area.size))
            .collect();
        report.same(
            "the pages of the MSI-X structures are not to be mapped, and the others are",
            &(BYTES, vec![(0, REGISTERS)]),
            &(region.size, areas),
        )?;
        let file = region.file_offset.as_ref().context("there is no file to map")?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base = unsafe {
            mmap(
                null_mut(),
                REGISTERS as usize,
                prot,
                MapFlags::SHARED,
                file.file(),
                file.start(),
            )
        }?;
        Ok(Self {
            base: base.cast_const().cast(),
            pipe: pipe()?,
        })
    }

    /// A register, by the processor; it must answer.
    fn read(&self, offset: usize) -> u32 {
        // SAFETY: within the mapping, and aligned.
        unsafe { self.base.wrapping_add(offset).cast::<u32>().read_volatile() }
    }

    /// Whether the registers answer: the kernel looks, which gets an error where this process would get a signal.
    fn answers(&self) -> Result<bool> {
        let (from, to) = (&self.pipe.0, &self.pipe.1);
        // SAFETY: within the mapping; the kernel checks every address that it reads.
        let copied = unsafe { libc::write(to.as_raw_fd(), self.base.wrapping_add(VERSION).cast(), 4) };
        if copied != 4 {
            return Ok(false);
        }
        rustix::io::read(from, &mut [0; 4])?;
        Ok(true)
    }

    /// Waits until the registers answer, or until they don't any more.
    fn wait_until(&self, answers: bool) -> Result<()> {
        while self.answers()? != answers {
            thread::sleep(AGAIN);
        }
        Ok(())
    }
}

/// Where the power state is written: PMCSR (PCI Power Management 1.2, 3.2.4), found in the list of capabilities.
fn power_register(client: &mut Client) -> Result<u64> {
    let mut at = [CAPABILITIES_POINTER];
    client.region_read(CONFIG, at[0].into(), &mut at)?;
    while at[0] != 0 {
        let mut head = [0; 2];
        client.region_read(CONFIG, at[0].into(), &mut head)?;
        if head[0] == POWER_MANAGEMENT {
            return Ok(u64::from(at[0]) + 4);
        }
        at[0] = head[1];
    }
    bail!("it has no power management")
}

/// Maps the registers and checks that they are the device's, as far as COMMAND lets them be. Then, if it `leaves`, drops
/// the connection and keeps the mapping; and says when the mapping answers no more. Until it is killed.
pub(crate) fn keep(socket: &Path, leaves: bool, report: &mut Report) -> Result<()> {
    let mut client = Client::new(socket)?;
    let mapping = Mapping::new(&client, report)?;
    report.same("memory is off at first", &false, &mapping.answers()?)?;
    let command = |client: &mut Client, bits: u16| client.region_write(CONFIG, COMMAND, &bits.to_le_bytes());
    let by_message = |client: &mut Client, offset: usize| -> Result<u32> {
        let mut bytes = [0; 4];
        client.region_read(0, offset as u64, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    };
    command(&mut client, COMMAND_MEMORY_AND_MASTER)?;
    for register in [CAPABILITIES, VERSION] {
        let expected = by_message(&mut client, register)?;
        ensure!(expected != u32::MAX, "the controller does not answer");
        report.same(
            &format!("register {register:#04x} reads by the mapping as it does by message"),
            &expected,
            &mapping.read(register),
        )?;
    }
    let version = mapping.read(VERSION);
    client.reset()?;
    report.same("the mapping survives a reset", &version, &mapping.read(VERSION))?;
    let power = power_register(&mut client)?;
    client.region_write(CONFIG, power, &D3HOT.to_le_bytes())?;
    mapping.wait_until(false)?;
    report.ok("in D3hot it faults")?;
    client.region_write(CONFIG, power, &D0.to_le_bytes())?;
    mapping.wait_until(true)?;
    report.same("in D0 it answers again", &version, &mapping.read(VERSION))?;
    command(&mut client, 0)?;
    report.same("with memory off it faults", &false, &mapping.answers()?)?;
    command(&mut client, COMMAND_MEMORY_AND_MASTER)?;
    report.same(
        "with memory on it answers again",
        &(true, version),
        &(mapping.answers()?, mapping.read(VERSION)),
    )?;
    report.note("mapped")?;
    let mut client = Some(client).filter(|_| !leaves);
    mapping.wait_until(false)?;
    if let Some(client) = &mut client {
        let ones = by_message(client, VERSION)?;
        report.same("by message it reads all ones", &u32::MAX, &ones)?;
    }
    report.note("faults")?;
    loop {
        thread::sleep(AGAIN);
    }
}
