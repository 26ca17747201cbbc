//! A user that means no good: register accesses of every size at any offset with any value, resets
//! and changes of interrupts in between, with memory full of noise for the device to read.
//!
//! Its function is owned through vfio-pci; configuration space is written past vfio-pci's own
//! filter as well, through sysfs. All is drawn from one seed, so a run can be repeated.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, eventfd};

use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG, Device, MSI, MSIX};

/// Where the noise lies for the device, and how much there is.
const IOVA: u64 = 0;
const NOISE: u64 = 1 << 20;

/// Values that mean something to some register: everything off, everything on, small numbers, an
/// NVMe controller's enable with its entry sizes, function reset in Device Control.
const VALUES: [u64; 8] = [0, u64::MAX, 1, 2, 0x10, 0x0046_0001, 0x8000, 0x00ff_00ff];

/// Makes `accesses` accesses, drawn from `seed`.
pub(crate) fn run(address: &str, accesses: u32, seed: u64, report: &mut Report) -> Result<()> {
    let device = Device::open(address)?;
    let path = format!("/sys/bus/pci/devices/{address}/config");
    let config = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {path}"))?;
    let mut random = Random(seed | 1);
    let memory = device.dma_memory(IOVA, NOISE)?;
    for offset in (0..NOISE).step_by(64) {
        memory.write(offset, &random.noise())?;
    }
    let mut refused = 0;
    for _ in 0..accesses {
        // What is refused is none of our business; that the device's server lives is.
        let done = match random.below(1000) {
            0 => device.reset(),
            1..10 => interrupts(&device, &mut random),
            // Whatever was written there: most registers need memory enabled.
            10..60 => device.write(CONFIG, COMMAND, &COMMAND_MEMORY_AND_MASTER.to_le_bytes()),
            60..70 => run_noise(&device, &mut random),
            70..200 => past_vfio(&config, &mut random),
            200..400 => access(&device, CONFIG, 256, &mut random),
            400..950 => access(&device, 0, 0x1100, &mut random),
            _ => {
                let region = random.below(9) as u32;
                access(&device, region, 0x1000, &mut random)
            }
        };
        refused += u32::from(done.is_err());
    }
    report.ok(&format!(
        "{accesses} accesses of seed {seed} are made, {refused} of them refused"
    ))
}

/// A read or a write, at an offset that is mostly within the region's first `size` bytes.
fn access(device: &Device, region: u32, size: u64, random: &mut Random) -> Result<()> {
    let offset = random.offset(size);
    let length = 1 << random.below(4);
    if random.below(3) == 0 {
        return match length {
            1 => device.read::<1>(region, offset).map(drop),
            2 => device.read::<2>(region, offset).map(drop),
            4 => device.read::<4>(region, offset).map(drop),
            _ => device.read::<8>(region, offset).map(drop),
        };
    }
    device.write(region, offset, &random.value()[..length])
}

/// Where the device is an NVMe controller: has it take noise for its queue of commands.
fn run_noise(device: &Device, random: &mut Random) -> Result<()> {
    // CC, AQA, ASQ, ACQ, CC again, the doorbell of the admin submission queue (NVM Express base
    // specification 2.0, section 3.1).
    let (queue, other) = (random.page(), random.page());
    device.write(0, 0x14, &0u32.to_le_bytes())?;
    device.write(0, 0x24, &0x003f_003f_u32.to_le_bytes())?;
    device.write(0, 0x28, &queue.to_le_bytes())?;
    device.write(0, 0x30, &other.to_le_bytes())?;
    device.write(0, 0x14, &0x0046_0001_u32.to_le_bytes())?;
    let tail = random.below(64) as u32;
    device.write(0, 0x1000, &tail.to_le_bytes())
}

fn past_vfio(config: &File, random: &mut Random) -> Result<()> {
    let length = 1 << random.below(3);
    let (offset, value) = (random.offset(256), random.value());
    Ok(config.write_all_at(&value[..length], offset)?)
}

fn interrupts(device: &Device, random: &mut Random) -> Result<()> {
    let index = if random.below(2) == 0 { MSI } else { MSIX };
    let eventfds: Vec<_> = (0..random.below(20))
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC))
        .collect::<Result<_, _>>()?;
    if eventfds.is_empty() {
        device.disable(index)
    } else {
        device.enable(index, &eventfds)
    }
}

/// Numbers by Marsaglia's xorshift with shifts 13, 7 and 17: repeatable, and good enough here.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    /// Mostly a register's offset below `size`; sometimes unaligned, or far outside.
    fn offset(&mut self, size: u64) -> u64 {
        match self.below(20) {
            0 => self.next() >> 24,
            1..4 => self.below(size),
            4..10 => self.below(size) & !7,
            _ => self.below(0x60) & !3,
        }
    }

    /// The address of a page of noise, or of one just outside.
    fn page(&mut self) -> u64 {
        IOVA + (self.below(NOISE + NOISE / 8) & !0xfff)
    }

    /// 64 bytes: any, or such as an NVMe controller takes for a command of a few that it may know,
    /// with addresses of noise and small numbers in its fields.
    fn noise(&mut self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let command = self.below(4) != 0;
        for (field, word) in bytes.chunks_exact_mut(8).enumerate() {
            let value = match field {
                _ if !command => self.next(),
                0 => self.below(0x12) | self.below(3) << 32,
                // PRP entries
                3 | 4 => self.page(),
                _ => self.below(4) | self.below(0x40) << 16 | self.below(4) << 32,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn value(&mut self) -> [u8; 8] {
        let value = match self.below(3) {
            0 => self.next(),
            1 => self.page(),
            _ => VALUES[self.below(VALUES.len() as u64) as usize],
        };
        value.to_le_bytes()
    }
}
