//! A machine of QEMU's without a processor: this program does what its processor would, by QEMU's qtest protocol. What it
//! drives is an NVMe controller that somebody serves to that QEMU.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::nvme::{IOVA, Nvme, Reach};
use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER};

// Configuration mechanism #1 of a PC (PCI Local Bus Specification 3.0, section 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

// Registers of a header of type 0, as double words.
const BAR_0: u8 = 0x10;
const BAR_1: u8 = 0x14;
/// BAR 0 is in memory, of 64 bits.
const MEMORY_OF_64_BITS: u32 = 0b100;

/// Where the machine has neither memory nor a device; each slot has a part of it.
const FREE: u32 = 0xe000_0000;
const PART: u32 = 1 << 20;

/// Identifies the NVMe controller in slot `slot` of the machine that listens at `socket`.
pub(crate) fn identify(socket: &Path, slot: u8, serial: &str, report: &mut Report) -> Result<()> {
    let mut machine = Machine::connect(socket)?;
    machine.slot = slot;
    let identity = machine.config_read(0)?;
    report.same(
        "the machine finds the controller's identity",
        &0x0010_1b36,
        &identity,
    )?;
    machine.config_write(BAR_0, u32::MAX)?;
    machine.config_write(BAR_1, u32::MAX)?;
    let size = machine.config_read(BAR_0)?;
    report.same(
        "BAR 0 says its size, 16 KiB",
        &(!0x3fff | MEMORY_OF_64_BITS),
        &size,
    )?;
    machine.config_write(BAR_0, machine.place())?;
    machine.config_write(BAR_1, 0)?;
    let mut nvme = Nvme::enabled(machine)?;
    report.ok("the controller is enabled by the machine's accesses")?;
    let said = nvme.serial_number()?;
    report.same(
        "Identify brings the serial number into the machine's memory",
        &serial.to_owned(),
        &said,
    )
}

struct Machine {
    stream: BufReader<UnixStream>,
    slot: u8,
}

impl Machine {
    fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self {
            stream: BufReader::new(stream),
            slot: 0,
        })
    }

    /// Where the controller's BAR is.
    fn place(&self) -> u32 {
        FREE + u32::from(self.slot) * PART
    }

    /// Sends one command, and returns what stands after `OK`.
    fn tell(&mut self, command: &str) -> Result<String> {
        writeln!(self.stream.get_mut(), "{command}")?;
        let mut answer = String::new();
        ensure!(
            self.stream.read_line(&mut answer)? > 0,
            "QEMU has gone, after {command:?}"
        );
        match answer
            .trim_end()
            .split_once(' ')
            .unwrap_or((answer.trim_end(), ""))
        {
            ("OK", rest) => Ok(rest.to_owned()),
            _ => bail!("QEMU answers {command:?} with {answer:?}"),
        }
    }

    /// Selects a double word of the function's configuration space.
    fn select(&mut self, register: u8) -> Result<()> {
        let address = 1 << 31 | u32::from(self.slot) << 11 | u32::from(register);
        self.tell(&format!("outl {CONFIG_ADDRESS:#x} {address:#x}"))?;
        Ok(())
    }

    fn config_read(&mut self, register: u8) -> Result<u32> {
        self.select(register)?;
        let value = self.tell(&format!("inl {CONFIG_DATA:#x}"))?;
        Ok(u32::from_str_radix(value.trim_start_matches("0x"), 16)?)
    }

    fn config_write(&mut self, register: u8, value: u32) -> Result<()> {
        self.select(register)?;
        self.tell(&format!("outl {CONFIG_DATA:#x} {value:#x}"))?;
        Ok(())
    }

    fn load(&mut self, address: u64, data: &mut [u8]) -> Result<()> {
        let answer = self.tell(&format!("read {address:#x} {:#x}", data.len()))?;
        let digits = answer.trim_start_matches("0x");
        ensure!(
            digits.len() == 2 * data.len(),
            "{} bytes asked for, got {answer:?}",
            data.len()
        );
        for (byte, pair) in data.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
        }
        Ok(())
    }

    fn store(&mut self, address: u64, data: &[u8]) -> Result<()> {
        let mut digits = String::new();
        for byte in data {
            write!(digits, "{byte:02x}")?;
        }
        self.tell(&format!("write {address:#x} {:#x} 0x{digits}", data.len()))?;
        Ok(())
    }
}

impl Reach for Machine {
    fn start(&mut self) -> Result<()> {
        self.config_write(COMMAND as u8, COMMAND_MEMORY_AND_MASTER.into())
    }

    fn read(&mut self, register: u64, data: &mut [u8]) -> Result<()> {
        let address = u64::from(self.place()) + register;
        let letter = if data.len() == 8 { 'q' } else { 'l' };
        let value = self.tell(&format!("read{letter} {address:#x}"))?;
        let value = u64::from_str_radix(value.trim_start_matches("0x"), 16)?;
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn write(&mut self, register: u64, data: &[u8]) -> Result<()> {
        let address = u64::from(self.place()) + register;
        let letter = if data.len() == 8 { 'q' } else { 'l' };
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        self.tell(&format!("write{letter} {address:#x} {value:#x}"))?;
        Ok(())
    }

    fn memory_read(&mut self, at: u64, data: &mut [u8]) -> Result<()> {
        self.load(IOVA + at, data)
    }

    fn memory_write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        self.store(IOVA + at, data)
    }
}
