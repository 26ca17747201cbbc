//! How fast the devices are for drivers written with `uvfio-driver`, while the page is made. Nothing is held against a
//! time; what came back must be what was asked for.

use std::path::Path;
use std::time::{Duration, Instant};

use uvfio_driver::drivers::nvme::{Disk, NvmeError, Options, Request};
use uvfio_driver::{Bar, DmaBuffer, DriverError, Function, Interrupts, IrqKind};
use uvfio_soft::edu::{
    BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, COMMAND_INTERRUPT, COMMAND_RUN, Config, Reg,
};

use crate::demo::page::Section;
use crate::names;

/// How long each thing is done over and over.
const TIME: Duration = Duration::from_millis(150);
/// How long an interrupt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a read of the disk.
const PAGE: usize = 4096;
const DEPTHS: [u16; 2] = [1, 32];

/// Registers and DMA of edu.
pub(in crate::demo) fn edu_speed(socket: &Path, page: &mut Section) -> Result<(), DriverError> {
    let edu = Function::connect(socket)?;
    let registers = edu.bar(0)?;
    let mut wrong = 0_u32;
    let mut count = 0_u32;
    let rate = repeat(|| {
        count += 1;
        registers.write(Reg::Liveness.offset(), count)?;
        let inverse: u32 = registers.read(Reg::Liveness.offset())?;
        wrong += u32::from(inverse != !count);
        Ok::<_, DriverError>(())
    })?;
    // A write and a read, each a message with an answer.
    let rate = Rate {
        median: rate.median / 2,
        a_second: rate.a_second * 2.0,
    };
    rate.show(page, "edu: a register, read or written", None, wrong == 0);

    edu.set_dma_limit(Config::default().dma_mask);
    edu.set_bus_master(true)?;
    let memory = edu.dma_buffer(BUFFER_BYTES as u64)?;
    let message = edu.interrupts(IrqKind::Msi, 1)?;
    let data: Vec<u8> = (0..BUFFER_BYTES).map(|n| (n % 251) as u8 ^ 0xa5).collect();
    memory.write_bytes(0, &data)?;
    transfer(&registers, &message, memory.iova(), BUFFER_AT, 0)?;
    let mut back = vec![0; BUFFER_BYTES];
    memory.write_bytes(0, &back)?;
    let rate = repeat(|| back_again(&registers, &message, &memory))?;
    memory.read_bytes(0, &mut back)?;
    rate.show(
        page,
        "edu: DMA of 4096 bytes, to interrupt",
        Some(BUFFER_BYTES),
        back == data,
    );
    Ok(())
}

/// The device's buffer into memory, whose first byte is cleared so that what the last one moved is not taken for new.
fn back_again(registers: &Bar, message: &Interrupts, memory: &DmaBuffer) -> Result<(), DriverError> {
    memory.write(0, 0_u8)?;
    transfer(registers, message, BUFFER_AT, memory.iova(), COMMAND_FROM_DEVICE)
}

/// One transfer, from the first register written until its interrupt is acknowledged.
fn transfer(
    registers: &Bar,
    message: &Interrupts,
    from: u64,
    to: u64,
    flags: u64,
) -> Result<(), DriverError> {
    registers.write(Reg::DmaSource.offset(), from)?;
    registers.write(Reg::DmaDestination.offset(), to)?;
    registers.write(Reg::DmaCount.offset(), BUFFER_BYTES as u64)?;
    let command = COMMAND_RUN | COMMAND_INTERRUPT | flags;
    registers.write(Reg::DmaCommand.offset(), command)?;
    if message.wait(0, Some(PATIENCE))? == 0 {
        return Err(DriverError::TimedOut {
            what: "edu's interrupt",
            patience: PATIENCE,
        });
    }
    registers.write(Reg::InterruptAcknowledge.offset(), u32::MAX)
}

/// Reads of the disk, with so many under way.
pub(in crate::demo) fn nvme_speed(socket: &Path, page: &mut Section) -> Result<(), NvmeError> {
    for depth in DEPTHS {
        let options = Options {
            depth,
            ..Options::default()
        };
        let mut disk = Disk::open(Function::connect(socket)?, options)?;
        let pages = disk.blocks() * disk.block_bytes() / PAGE as u64;
        if Some(&depth) == DEPTHS.first() {
            write_numbers(&mut disk, pages, page)?;
        }
        let (rate, wrong) = read_at_random(&mut disk, pages)?;
        let name = format!("nvme: random reads, {depth} under way");
        rate.show(page, &name, Some(PAGE), wrong == 0);
    }
    Ok(())
}

/// Writes to each page of the disk its number, and reads all of it back.
fn write_numbers(disk: &mut Disk, pages: u64, page: &mut Section) -> Result<(), NvmeError> {
    let mut data = vec![0; pages as usize * PAGE];
    for (number, place) in data.chunks_exact_mut(PAGE).enumerate() {
        place.fill(number as u8);
        place[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    disk.write(0, &data)?;
    disk.flush()?;
    let mut back = vec![0; data.len()];
    disk.read(0, &mut back)?;
    let differ = data.iter().zip(&back).filter(|(a, b)| a != b).count();
    let controller = disk.controller();
    let doorbells = if controller.has_shadow() {
        "shadow"
    } else {
        "plain"
    };
    page.check(
        "nvme: written, read back, compared",
        format!(
            "{differ} of {} differ; {}, NVMe {}, {doorbells} doorbells",
            names::bytes(data.len() as u64),
            controller.identity().model,
            controller.version()?
        ),
        differ == 0,
        "none",
    )
    .number("differ_bytes", differ)
    .number("bytes", data.len());
    Ok(())
}

/// Reads pages at random, as many at once as there is room for; also gives how many were not the page asked for. The
/// latency is that of each read, from its start until it is seen to be done.
fn read_at_random(disk: &mut Disk, pages: u64) -> Result<(Rate, u64), NvmeError> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let (mut under_way, mut wrong) = (0_u32, 0_u64);
    // By tag: the page, and when it was asked for.
    let mut asked = Vec::new();
    let mut latencies = Vec::new();
    let start = Instant::now();
    let mut on = true;
    while on || under_way > 0 {
        while on && disk.has_room() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let number = (random >> 33) % pages.max(1);
            let block = number * (PAGE as u64 / disk.block_bytes());
            disk.start(Request::Read { block, bytes: PAGE }, asked.len() as u64)?;
            asked.push((number, Instant::now()));
            under_way += 1;
        }
        disk.submit()?;
        let mut next = Some(disk.finish()?);
        while let Some(done) = next {
            done.result()?;
            let mut first = [0; 8];
            disk.copy_out(&done, &mut first)?;
            if let Some((number, since)) = asked.get(done.tag as usize) {
                latencies.push(since.elapsed());
                wrong += u64::from(u64::from_le_bytes(first) != *number);
            }
            disk.release(done);
            under_way -= 1;
            next = disk.try_finish()?;
        }
        on = start.elapsed() < TIME;
    }
    Ok((Rate::of(latencies, start.elapsed()), wrong))
}

/// How fast something is.
struct Rate {
    /// From the beginning of one to its end.
    median: Duration,
    a_second: f64,
}

impl Rate {
    fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self {
            median: latencies.get(latencies.len() / 2).copied().unwrap_or_default(),
            a_second: latencies.len() as f64 / elapsed.as_secs_f64(),
        }
    }

    /// A line of the page; `bytes` are those that each moves.
    fn show(&self, page: &mut Section, name: &str, bytes: Option<usize>, right: bool) {
        let micros = self.median.as_secs_f64() * 1e6;
        let mib = bytes.map(|bytes| self.a_second * bytes as f64 / f64::from(1 << 20));
        let moved = mib.map_or_else(String::new, |mib| format!(", {mib:.0} MiB/s"));
        let line = page.check(
            name,
            format!(
                "{micros:.1} µs in the median, {:.0} a second{moved}",
                self.a_second
            ),
            right && self.a_second > 0.0,
            "some, and the data that were asked for",
        );
        line.number("median_us", rounded(micros))
            .number("per_second", self.a_second.round());
        if let Some(mib) = mib {
            line.number("mib_per_second", rounded(mib));
        }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Does something over and over.
fn repeat<E>(mut what: impl FnMut() -> Result<(), E>) -> Result<Rate, E> {
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME {
        let before = Instant::now();
        what()?;
        latencies.push(before.elapsed());
    }
    Ok(Rate::of(latencies, start.elapsed()))
}
