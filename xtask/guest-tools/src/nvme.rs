//! A small NVMe driver: one queue pair, one command at a time, blocks of 4 KiB. Register and command names are those of
//! the NVM Express base specification 2.0. It reaches its controller over vfio-user, by the client that Cloud Hypervisor
//! uses, or as [`Reach`] says.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use vfio_user::Client;

use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG};

/// A block of a record, bytes.
const BLOCK: u64 = 4096;

// Controller properties (section 3.1.3), as offsets in BAR 0.
const CAP: u64 = 0x00;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

const CC_ENABLE: u32 = 1;
/// Submission entries of 2^6 bytes, completion entries of 2^4.
const CC_ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
const CSTS_READY: u32 = 1 << 0;
const CSTS_FATAL: u32 = 1 << 1;

// Opcodes: admin commands (section 5), then I/O commands.
const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
const CREATE_COMPLETION_QUEUE: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;

/// Where our memory lies for the device: two pages a queue pair, then one for data.
pub(crate) const IOVA: u64 = 0x10_0000;
const DATA: u64 = 4 * BLOCK;
pub(crate) const MEMORY: u64 = 8 * BLOCK;
/// Entries in each queue.
const ENTRIES: u16 = 16;
const COMPLETION_BYTES: usize = 16;

/// How long the device may take for one command.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes numbered blocks to the NVMe behind `socket`, flushes after one, then after two more, up to eight and from
/// one again, and says each time which was the last.
pub(crate) fn write_records(socket: &Path, records: u64, report: &mut Report) -> Result<()> {
    let mut nvme = Nvme::open(Served::open(socket)?)?;
    report.ok("the controller is enabled and identifies its namespace")?;
    let mut number = 0;
    for batch in (1..=8).cycle() {
        for _ in 0..batch {
            nvme.reach.memory_write(DATA, &record(number))?;
            nvme.write(number)?;
            number += 1;
        }
        nvme.flush()?;
        report.note(&format!("flushed {}", number - 1))?;
        if number >= records {
            break;
        }
    }
    Ok(())
}

/// Finds the first `records` numbered blocks in `image`.
pub(crate) fn find_records(image: &Path, records: u64, report: &mut Report) -> Result<()> {
    let image = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let mut lacking = Vec::new();
    for number in 0..records {
        let mut block = vec![0; BLOCK as usize];
        if image.read_exact_at(&mut block, number * BLOCK).is_err() || block != record(number) {
            lacking.push(number);
        }
    }
    report.same("flushed records that the image lacks", &Vec::new(), &lacking)
}

fn record(number: u64) -> Vec<u8> {
    let mut block = format!("record {number:08}\n").into_bytes();
    block.resize(BLOCK as usize, b' ');
    block
}

/// How a controller is reached, and [`MEMORY`] bytes that it reaches too.
pub(crate) trait Reach {
    /// Lets it be reached in BAR 0, and reach memory.
    fn start(&mut self) -> Result<()>;
    fn read(&mut self, register: u64, data: &mut [u8]) -> Result<()>;
    fn write(&mut self, register: u64, data: &[u8]) -> Result<()>;
    fn memory_read(&mut self, at: u64, data: &mut [u8]) -> Result<()>;
    fn memory_write(&mut self, at: u64, data: &[u8]) -> Result<()>;
}

/// A controller behind a socket.
struct Served {
    client: Client,
    memory: File,
}

impl Served {
    fn open(socket: &Path) -> Result<Self> {
        let mut client = Client::new(socket)?;
        let memory = File::from(memfd_create("nvme", MemfdFlags::CLOEXEC)?);
        memory.set_len(MEMORY)?;
        client.dma_map(0, IOVA, MEMORY, memory.as_raw_fd())?;
        Ok(Self { client, memory })
    }
}

impl Reach for Served {
    fn start(&mut self) -> Result<()> {
        let on = COMMAND_MEMORY_AND_MASTER.to_le_bytes();
        Ok(self.client.region_write(CONFIG, COMMAND, &on)?)
    }

    fn read(&mut self, register: u64, data: &mut [u8]) -> Result<()> {
        Ok(self.client.region_read(0, register, data)?)
    }

    fn write(&mut self, register: u64, data: &[u8]) -> Result<()> {
        Ok(self.client.region_write(0, register, data)?)
    }

    fn memory_read(&mut self, at: u64, data: &mut [u8]) -> Result<()> {
        Ok(self.memory.read_exact_at(data, at)?)
    }

    fn memory_write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        Ok(self.memory.write_all_at(data, at)?)
    }
}

pub(crate) struct Nvme<R> {
    reach: R,
    /// Bytes from one doorbell to the next.
    stride: u64,
    /// Bytes of one of the namespace's logical blocks.
    logical_block: u64,
    admin: Queue,
    io: Queue,
}

/// A submission queue and its completion queue: one page of memory each.
struct Queue {
    number: u16,
    tail: u16,
    head: u16,
    /// What a new completion's phase tag is.
    phase: bool,
}

impl Queue {
    const fn new(number: u16) -> Self {
        Self {
            number,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    fn submissions(&self) -> u64 {
        u64::from(self.number) * 2 * BLOCK
    }

    fn completions(&self) -> u64 {
        self.submissions() + BLOCK
    }
}

/// The part of a submission that differs between the commands used here.
#[derive(Default)]
struct Submission {
    opcode: u8,
    namespace: u32,
    /// PRP entry 1; one page is all that is moved here.
    memory: u64,
    dwords_10_to_12: [u32; 3],
}

impl<R: Reach> Nvme<R> {
    /// Enables a controller.
    pub(crate) fn enabled(reach: R) -> Result<Self> {
        let mut nvme = Self {
            reach,
            stride: 4,
            logical_block: 512,
            admin: Queue::new(0),
            io: Queue::new(1),
        };
        nvme.enable()?;
        Ok(nvme)
    }

    fn open(reach: R) -> Result<Self> {
        let mut nvme = Self::enabled(reach)?;
        nvme.create_queues()?;
        nvme.identify()?;
        Ok(nvme)
    }

    /// What the controller says is its serial number (Identify Controller: SN).
    pub(crate) fn serial_number(&mut self) -> Result<String> {
        const CONTROLLER: u32 = 1;
        let identify = Submission {
            opcode: IDENTIFY,
            memory: IOVA + DATA,
            dwords_10_to_12: [CONTROLLER, 0, 0],
            ..Submission::default()
        };
        self.admin_command(&identify).context("Identify Controller")?;
        let mut serial = [0; 20];
        self.reach.memory_read(DATA + 4, &mut serial)?;
        Ok(String::from_utf8_lossy(&serial).trim_end().to_owned())
    }

    fn enable(&mut self) -> Result<()> {
        self.reach.start()?;
        let cap = u64::from_le_bytes(self.read(CAP)?);
        // CAP.DSTRD
        self.stride = 4 << ((cap >> 32) & 0xf);
        self.reach.write(CC, &0u32.to_le_bytes())?;
        self.wait_ready(0)?;
        // Another controller's completions may be there, which would be taken for this one's.
        let none = [0; ENTRIES as usize * COMPLETION_BYTES];
        self.reach.memory_write(self.admin.completions(), &none)?;
        let last = u32::from(ENTRIES - 1);
        self.reach.write(AQA, &(last << 16 | last).to_le_bytes())?;
        self.reach
            .write(ASQ, &(IOVA + self.admin.submissions()).to_le_bytes())?;
        self.reach
            .write(ACQ, &(IOVA + self.admin.completions()).to_le_bytes())?;
        self.reach
            .write(CC, &(CC_ENABLE | CC_ENTRY_SIZES).to_le_bytes())?;
        self.wait_ready(CSTS_READY)
    }

    fn create_queues(&mut self) -> Result<()> {
        let size_and_number = u32::from(ENTRIES - 1) << 16 | u32::from(self.io.number);
        let contiguous = 1;
        let completions = Submission {
            opcode: CREATE_COMPLETION_QUEUE,
            memory: IOVA + self.io.completions(),
            dwords_10_to_12: [size_and_number, contiguous, 0],
            ..Submission::default()
        };
        self.admin_command(&completions)
            .context("Create I/O Completion Queue")?;
        let its_completions = u32::from(self.io.number) << 16;
        let submissions = Submission {
            opcode: CREATE_SUBMISSION_QUEUE,
            memory: IOVA + self.io.submissions(),
            dwords_10_to_12: [size_and_number, its_completions | contiguous, 0],
            ..Submission::default()
        };
        self.admin_command(&submissions)
            .context("Create I/O Submission Queue")
    }

    /// Learns the size of a logical block (Identify Namespace: FLBAS and the LBA formats).
    fn identify(&mut self) -> Result<()> {
        let identify = Submission {
            opcode: IDENTIFY,
            namespace: 1,
            memory: IOVA + DATA,
            ..Submission::default()
        };
        self.admin_command(&identify).context("Identify Namespace")?;
        let mut format = [0; 1];
        self.reach.memory_read(DATA + 26, &mut format)?;
        let mut entry = [0; 4];
        self.reach
            .memory_read(DATA + 128 + 4 * u64::from(format[0] & 0xf), &mut entry)?;
        ensure!(
            (9..=12).contains(&entry[2]),
            "logical blocks of 2^{} bytes",
            entry[2]
        );
        self.logical_block = 1 << entry[2];
        Ok(())
    }

    /// Writes the data page to the block `number`.
    fn write(&mut self, number: u64) -> Result<()> {
        let count = BLOCK / self.logical_block;
        let first = number * count;
        let write = Submission {
            opcode: WRITE,
            namespace: 1,
            memory: IOVA + DATA,
            dwords_10_to_12: [first as u32, (first >> 32) as u32, count as u32 - 1],
        };
        self.io_command(&write)
            .with_context(|| format!("Write of block {number}"))
    }

    fn flush(&mut self) -> Result<()> {
        self.io_command(&Submission {
            opcode: FLUSH,
            namespace: 1,
            ..Submission::default()
        })
        .context("Flush")
    }

    fn admin_command(&mut self, submission: &Submission) -> Result<()> {
        command(&mut self.reach, self.stride, &mut self.admin, submission)
    }

    fn io_command(&mut self, submission: &Submission) -> Result<()> {
        command(&mut self.reach, self.stride, &mut self.io, submission)
    }

    fn wait_ready(&mut self, ready: u32) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let status = u32::from_le_bytes(self.read(CSTS)?);
            ensure!(
                status & CSTS_FATAL == 0,
                "CSTS is {status:#x}: the controller has failed"
            );
            if status & CSTS_READY == ready {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("CSTS.RDY did not become {ready} in {PATIENCE:?}")
    }

    fn read<const N: usize>(&mut self, register: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reach.read(register, &mut bytes)?;
        Ok(bytes)
    }
}

/// Submits one command and waits for its completion.
fn command(reach: &mut impl Reach, stride: u64, queue: &mut Queue, submission: &Submission) -> Result<()> {
    let mut entry = [0; 64];
    entry[0] = submission.opcode;
    entry[4..8].copy_from_slice(&submission.namespace.to_le_bytes());
    entry[24..32].copy_from_slice(&submission.memory.to_le_bytes());
    for (bytes, dword) in entry[40..52].chunks_exact_mut(4).zip(submission.dwords_10_to_12) {
        bytes.copy_from_slice(&dword.to_le_bytes());
    }
    reach.memory_write(queue.submissions() + u64::from(queue.tail) * 64, &entry)?;
    queue.tail = (queue.tail + 1) % ENTRIES;
    let doorbell = DOORBELLS + u64::from(queue.number) * 2 * stride;
    reach.write(doorbell, &u32::from(queue.tail).to_le_bytes())?;

    let start = Instant::now();
    loop {
        let mut status = [0; 2];
        reach.memory_read(
            queue.completions() + u64::from(queue.head) * COMPLETION_BYTES as u64 + 14,
            &mut status,
        )?;
        let status = u16::from_le_bytes(status);
        if (status & 1 == 1) == queue.phase {
            queue.head = (queue.head + 1) % ENTRIES;
            queue.phase ^= queue.head == 0;
            reach.write(doorbell + stride, &u32::from(queue.head).to_le_bytes())?;
            ensure!(status >> 1 == 0, "ended with status {:#x}", status >> 1);
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "was not completed in {PATIENCE:?}");
        thread::sleep(Duration::from_micros(200));
    }
}
