//! Intel's DMA engine (8086:2021) owned through VFIO: chains of copies on all channels at once, each compared, and
//! resets while chains run.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::abuse::Random;
use crate::edu::{PATIENCE, eventfds, eventually, wait};
use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG, Device, DmaMemory, MSIX};

// Registers, as offsets in BAR 0.
const CHANNEL_COUNT: u64 = 0x00;
const INTERRUPT_CONTROL: u64 = 0x03;
const CHANNELS: u64 = 0x80;
// And within a channel's 0x80 bytes.
const CONTROL: u64 = 0x00;
const COUNT: u64 = 0x06;
const STATUS: u64 = 0x08;
const CHAIN: u64 = 0x10;
const COMPLETION: u64 = 0x18;
const ERROR: u64 = 0x28;

/// Master enable, and a vector for each channel.
const INTERRUPTS_ON: u8 = 0x9;
/// Rearm the interrupt; errors interrupt, end the chain and are written.
const CONTROL_RUN: u16 = 0x1d;
const HALTED: u64 = 3;
const IDLE: u64 = 1;
/// Of a descriptor: interrupt, and write the status.
const INTERRUPT: u32 = 1 << 0;
const WRITE_STATUS: u32 = 1 << 3;

// Memory of a channel, by offsets in its part.
const PART: u64 = 1 << 20;
const RING: u64 = 0;
const STATUS_AT: u64 = 0x2000;
const SOURCE: u64 = 0x1_0000;
const SOURCE_BYTES: u64 = 0x4_0000;
const SLOTS: u64 = 0x8_0000;
const SLOT_BYTES: u64 = 0x4000;

const RING_SLOTS: u64 = 64;
/// The most copies in one go, each to a slot of its own.
const MOST: u64 = 32;
const IOVA: u64 = 0x1000_0000;
/// What memory holds where nothing was copied to.
const UNTOUCHED: u8 = 0xee;

/// Checks that the function has `channels` channels, and that `rounds` chains of copies on each, all at once, arrive.
pub(crate) fn run(address: &str, channels: u8, rounds: u32, report: &mut Report) -> Result<()> {
    let device = Device::open(address)?;
    let command = u16::from_le_bytes(device.read(CONFIG, COMMAND)?) | COMMAND_MEMORY_AND_MASTER;
    device.write(CONFIG, COMMAND, &command.to_le_bytes())?;
    device.reset()?;
    report.same("channels", &[channels], &device.read(0, CHANNEL_COUNT)?)?;
    let memory = device.dma_memory(IOVA, PART * u64::from(channels))?;
    let eventfds = eventfds(channels.into())?;
    device.enable(MSIX, &eventfds)?;
    let channels: Vec<Channel<'_>> = (0..)
        .zip(&eventfds)
        .map(|(number, eventfd)| Channel {
            device: &device,
            memory: &memory,
            eventfd,
            registers: CHANNELS * (number + 1),
            part: PART * number,
        })
        .collect();
    copy_on_all(&channels, rounds)?;
    report.ok(&format!(
        "{rounds} chains of copies on each channel, all at once, are compared"
    ))?;
    for round in 1..=5 {
        for channel in &channels {
            channel.turn_in_a_circle()?;
        }
        device.reset()?;
        for channel in &channels {
            // Where the host is busy the reset may outlast what the kernel waits; the registers read all ones so long.
            eventually("the reset", || Ok(channel.status()? != u64::MAX))?;
            let state = (channel.status()?, channel.error()?);
            ensure!(
                state == (HALTED, 0),
                "reset {round} under load: CHANSTS and CHANERR are {state:x?}"
            );
            channel.clear_slots()?;
        }
        thread::sleep(Duration::from_millis(20));
        for channel in &channels {
            let slots = memory.read(channel.part + SLOTS, SOURCE_BYTES as usize)?;
            ensure!(
                slots.iter().all(|byte| *byte == UNTOUCHED),
                "DMA after reset {round}"
            );
        }
        copy_on_all(&channels, 20)?;
    }
    report.ok("five resets while chains run: nothing moves after them, and copies work again")?;
    device.disable(MSIX)
}

fn copy_on_all(channels: &[Channel<'_>], rounds: u32) -> Result<()> {
    let [first, ..] = channels else {
        bail!("no channel")
    };
    first.device.write(0, INTERRUPT_CONTROL, &[INTERRUPTS_ON])?;
    thread::scope(|scope| {
        let all: Vec<_> = channels
            .iter()
            .map(|channel| scope.spawn(|| channel.copy(rounds)))
            .collect();
        all.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

struct Channel<'a> {
    device: &'a Device,
    memory: &'a DmaMemory,
    eventfd: &'a OwnedFd,
    /// Where its registers lie in BAR 0.
    registers: u64,
    /// Where its part of the memory begins.
    part: u64,
}

impl Channel<'_> {
    fn put(&self, register: u64, bytes: &[u8]) -> Result<()> {
        self.device.write(0, self.registers + register, bytes)
    }

    fn status(&self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.device.read(0, self.registers + STATUS)?))
    }

    fn error(&self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.device.read(0, self.registers + ERROR)?))
    }

    fn iova(&self, offset: u64) -> u64 {
        IOVA + self.part + offset
    }

    /// Writes the descriptor at a place of the ring.
    fn describe(&self, place: u64, control: u32, bytes: u64, source: u64, destination: u64) -> Result<()> {
        let words = [
            bytes | u64::from(control) << 32,
            self.iova(source),
            self.iova(destination),
            self.iova(RING + 64 * ((place + 1) % RING_SLOTS)),
        ];
        let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(self.memory.write(self.part + RING + 64 * place, &raw)?)
    }

    /// Begins a chain at the ring's first place.
    fn arm(&self) -> Result<()> {
        self.put(CONTROL, &CONTROL_RUN.to_le_bytes())?;
        self.put(COMPLETION, &self.iova(STATUS_AT).to_le_bytes())?;
        self.put(CHAIN, &self.iova(RING).to_le_bytes())
    }

    fn clear_slots(&self) -> Result<()> {
        Ok(self
            .memory
            .write(self.part + SLOTS, &[UNTOUCHED; (MOST * SLOT_BYTES) as usize])?)
    }

    fn copy(&self, rounds: u32) -> Result<()> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ self.part);
        let source: Vec<u8> = (0..SOURCE_BYTES).map(|_| random.below(256) as u8).collect();
        self.memory.write(self.part + SOURCE, &source)?;
        self.arm()?;
        let mut count = 0_u64;
        for round in 0..rounds {
            self.clear_slots()?;
            let copies: Vec<(usize, usize)> = (0..=random.below(MOST))
                .map(|_| {
                    let bytes = 1 + random.below(SLOT_BYTES);
                    (random.below(SOURCE_BYTES - bytes) as usize, bytes as usize)
                })
                .take(MOST as usize)
                .collect();
            for (slot, (from, bytes)) in (0..).zip(&copies) {
                let last = slot + 1 == copies.len() as u64;
                let control = WRITE_STATUS | if last { INTERRUPT } else { 0 };
                let to = SLOTS + SLOT_BYTES * slot;
                let place = (count + slot) % RING_SLOTS;
                self.describe(place, control, *bytes as u64, SOURCE + *from as u64, to)?;
            }
            count += copies.len() as u64;
            self.put(COUNT, &(count as u16).to_le_bytes())?;
            ensure!(
                wait(self.eventfd, PATIENCE)?,
                "round {round}: no interrupt; CHANERR {:#x}",
                self.error()?
            );
            rustix::io::read(self.eventfd, &mut [0; 8]).context("the eventfd")?;
            self.put(CONTROL, &CONTROL_RUN.to_le_bytes())?;
            let last = self.iova(RING + 64 * ((count - 1) % RING_SLOTS)) | IDLE;
            let written = self.memory.read(self.part + STATUS_AT, 8)?;
            ensure!(
                written == last.to_le_bytes(),
                "round {round}: status {written:x?}, not {last:#x}"
            );
            for (slot, (from, bytes)) in (0..).zip(&copies) {
                let got = self
                    .memory
                    .read(self.part + SLOTS + SLOT_BYTES * slot, SLOT_BYTES as usize)?;
                let (copied, rest) = got.split_at(*bytes);
                ensure!(
                    source.get(*from..from + bytes) == Some(copied)
                        && rest.iter().all(|byte| *byte == UNTOUCHED),
                    "round {round}: {bytes} bytes from {from} differ"
                );
            }
        }
        Ok(())
    }

    /// Starts a chain that nobody waits for: as many large copies as the count has room for.
    fn turn_in_a_circle(&self) -> Result<()> {
        for place in 0..RING_SLOTS {
            self.describe(place, WRITE_STATUS, SOURCE_BYTES, SOURCE, SLOTS)?;
        }
        self.arm()?;
        self.put(COUNT, &u16::MAX.to_le_bytes())?;
        eventually("a descriptor of the circle", || Ok(self.status()? > 7))
    }
}
