//! NVMe without a machine: our driver in this process, over the socket to a confined server, beside io_uring.
//!
//! Both sides read the same image through the page cache (no `O_DIRECT`), which is hot: 4 KiB at the same places in the
//! same order, with as many reads under way. io_uring is the floor: one process, and nothing between it and the kernel.
//! Both look at what they have read. Neither is kept on a core: a driver and its server may run at once.
//!
//! Processor time is the time of all threads of the processes that take part: for ours the server's two (supervisor and
//! worker) and this one, for the floor this one.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use uvfio_driver::Function;
use uvfio_driver::drivers::nvme::{Disk, Options, Request, Waiting};

use super::Effort;
use super::figures::{Figure, Report};
use super::processes::processor_time;
use super::server::Server;
use super::uring::Ring;
use crate::paths::as_option;

const DEPTHS: [u16; 2] = [1, 32];
/// Bytes of a read.
const PAGE: usize = 4096;
/// Reads that the image has room for.
const PAGES: u64 = 16 << 10;

/// One way of serving and driving.
struct Way {
    name: &'static str,
    /// What is appended to the device's name.
    option: &'static str,
    waiting: Waiting,
    shadow: bool,
}

const WAYS: [Way; 2] = [
    Way {
        name: "shadow doorbells, by interrupt",
        option: "",
        waiting: Waiting::Interrupt,
        shadow: true,
    },
    Way {
        name: "poll=always, doorbells mapped, polled",
        option: ",poll=always",
        waiting: Waiting::Polled,
        shadow: false,
    },
];

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = image(folder.path())?;
    for way in WAYS {
        let device = format!("nvme,file={}{}", as_option(&image), way.option);
        let server = Server::start(folder.path(), &device)?;
        for depth in DEPTHS {
            measure(effort, report, &way, depth, &server, &image)?;
        }
    }
    Ok(())
}

/// A file whose every page begins with its number; in the page cache, since it has just been written.
fn image(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("image");
    let mut bytes = vec![0x5a; PAGES as usize * PAGE];
    for (number, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    let mut file = File::create(&path).context("creating the image")?;
    file.write_all(&bytes).context("writing the image")?;
    // So that nothing is written back to the disk meanwhile.
    file.sync_all().context("writing the image")?;
    Ok(path)
}

fn measure(
    effort: Effort,
    report: &mut Report,
    way: &Way,
    depth: u16,
    server: &Server,
    image: &Path,
) -> Result<()> {
    let options = Options {
        waiting: way.waiting,
        shadow: way.shadow,
        depth,
        transfer_bytes: PAGE as u64,
    };
    let mut disk = Disk::open(Function::connect(server.socket())?, options)?;
    let controller = disk.controller();
    if way.shadow && !controller.has_shadow() {
        bail!("the controller offers no shadow doorbells");
    }
    if !way.shadow && !controller.has_mapped_doorbells() {
        bail!("the controller's doorbells cannot be mapped, though poll=always was asked for");
    }
    let mut ring = Ring::new(
        File::open(image).context("opening the image")?,
        depth.into(),
        PAGE,
    )?;
    let floor = [std::process::id()];
    let ours = [server.processes()?, floor.to_vec()].concat();

    let (blocks, time) = if effort.smoke {
        (2, Duration::from_millis(60))
    } else {
        (4, Duration::from_millis(250))
    };
    let (mut rates, mut floor_rates) = (Vec::new(), Vec::new());
    let (mut costs, mut floor_costs) = (Vec::new(), Vec::new());
    for run in 0..effort.runs as u64 {
        let (mut mine, mut its) = (Tally::default(), Tally::default());
        for block in 0..blocks {
            let seed = run * blocks + block;
            if let Some(ring) = &mut ring {
                its.add(ring, &floor, seed, time)?;
            }
            mine.add(&mut disk, &ours, seed, time)?;
        }
        rates.push(mine.thousands_a_second());
        costs.push(mine.processor_micros());
        if ring.is_some() {
            floor_rates.push(its.thousands_a_second());
            floor_costs.push(its.processor_micros());
        }
    }
    let beside = if ring.is_some() {
        "io_uring"
    } else {
        "nothing: there is no io_uring here"
    };
    let mut figure = |what, unit, ours, theirs| {
        report.add(&Figure {
            name: format!(
                "NVMe driver, 4 KiB random read, depth {depth}, {}: {what}",
                way.name
            ),
            beside,
            ours,
            theirs,
            unit,
            limit: None,
        });
    };
    figure("thousand reads a second", "k/s", rates, floor_rates);
    figure("processor time a read", "µs", costs, floor_costs);
    Ok(())
}

/// What one side has done in one run.
#[derive(Default)]
struct Tally {
    reads: u64,
    elapsed: Duration,
    processor: Duration,
}

impl Tally {
    /// Reads for `time`, and adds what `processes` took for it.
    fn add(&mut self, side: &mut dyn Reads, processes: &[u32], seed: u64, time: Duration) -> Result<()> {
        let before = processor_time(processes)?;
        let start = Instant::now();
        self.reads += read_for(side, seed, time)?;
        self.elapsed += start.elapsed();
        self.processor += processor_time(processes)?.saturating_sub(before);
        Ok(())
    }

    fn thousands_a_second(&self) -> f64 {
        self.reads as f64 / self.elapsed.as_secs_f64() / 1e3
    }

    fn processor_micros(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.reads as f64
    }
}

/// One side: what can read pages, several at once.
trait Reads {
    fn has_room(&self) -> bool;

    /// Prepares to read a page.
    fn start(&mut self, page: u64) -> Result<()>;

    /// Carries out what was started, and waits until at least one read is done; gives how many are, and the sum of the
    /// numbers that their data begin with.
    fn finish(&mut self) -> Result<(u64, u64)>;
}

/// Reads pages at random for a time, as many at once as there is room for, and looks whether they were the right ones.
fn read_for(side: &mut dyn Reads, seed: u64, time: Duration) -> Result<u64> {
    let mut random = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut started, mut finished) = (0, 0);
    let (mut wanted, mut found) = (0_u64, 0_u64);
    let late = Instant::now() + time;
    let mut on = true;
    while on || finished < started {
        while on && side.has_room() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let page = (random >> 33) % PAGES;
            wanted = wanted.wrapping_add(page);
            side.start(page)?;
            started += 1;
        }
        let (count, sum) = side.finish()?;
        finished += count;
        found = found.wrapping_add(sum);
        on = Instant::now() < late;
    }
    if found != wanted {
        bail!(
            "the pages read are not those that were asked for: their numbers add up to {found}, not {wanted}"
        );
    }
    Ok(finished)
}

fn first_number(data: &[u8]) -> Result<u64> {
    let first = data.first_chunk().context("a page has 8 bytes")?;
    Ok(u64::from_le_bytes(*first))
}

impl Reads for Disk {
    fn has_room(&self) -> bool {
        Self::has_room(self)
    }

    fn start(&mut self, page: u64) -> Result<()> {
        let block = page * (PAGE as u64 / self.block_bytes());
        Ok(Self::start(self, Request::Read { block, bytes: PAGE }, page)?)
    }

    fn finish(&mut self) -> Result<(u64, u64)> {
        self.submit()?;
        let (mut count, mut sum) = (0, 0_u64);
        let mut next = Some(Self::finish(self)?);
        while let Some(done) = next {
            done.result()?;
            let mut first = [0; 8];
            self.copy_out(&done, &mut first)?;
            sum = sum.wrapping_add(u64::from_le_bytes(first));
            count += 1;
            self.release(done);
            next = self.try_finish()?;
        }
        Ok((count, sum))
    }
}

impl Reads for Ring {
    fn has_room(&self) -> bool {
        Self::has_room(self)
    }

    fn start(&mut self, page: u64) -> Result<()> {
        self.push(page * PAGE as u64)
    }

    fn finish(&mut self) -> Result<(u64, u64)> {
        self.submit(true)?;
        let (mut count, mut sum) = (0, 0_u64);
        while let Some(data) = self.pop()? {
            sum = sum.wrapping_add(first_number(data)?);
            count += 1;
        }
        Ok((count, sum))
    }
}
