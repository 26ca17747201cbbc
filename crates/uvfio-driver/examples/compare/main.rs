//! The same work on the same kind of NVMe controller, reached in several ways: how long each takes, in turn.
//!
//!     uvfio serve 0000:01:00.0 --bars device-fd --socket /tmp/nvme.sock
//!     cargo run --release --example compare -- time RUNS BLOCKS 0000:02:00.0 /tmp/nvme.sock
//!     cargo run --release --example compare -- count read N /tmp/nvme.sock
//!
//! A target is a PCI address or a socket. `time` prints a line for each piece of work, run and target: what it is, which
//! target, counted from 0, and the median of its blocks in microseconds. All targets take turns block by block, so that
//! whatever slows the machine slows all. `count` does one piece of work N times, after a line on standard input, and says
//! `ready` before and `done` after: for whoever counts what that costs others. Nothing is written to the disks.

use std::io::{self, BufRead as _, Write as _};
use std::time::{Duration, Instant};

use uvfio_driver::drivers::nvme::{Disk, NvmeError, Options, Request, Result, Waiting};
use uvfio_driver::tables::header;
use uvfio_driver::{Bar, Function, Structure};

/// The version's register (NVM Express 1.4, 3.1.2).
const VERSION: u64 = 0x08;
/// Operations in a block, where one takes microseconds.
const BLOCK: u32 = 100;
/// How long a target is left alone after a user, so that it waits for the next.
const IDLE: Duration = Duration::from_secs(2);
/// Bytes of a read.
const BYTES: usize = 4096;

/// Reads, by how the driver waits for them.
const READS: [(&str, Waiting, u16); 3] = [
    ("read-polled-1", Waiting::Polled, 1),
    ("read-interrupt-1", Waiting::Interrupt, 1),
    ("read-interrupt-32", Waiting::Interrupt, 32),
];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["time", runs, blocks, targets @ ..] if !targets.is_empty() => {
            time(number(runs)?, number(blocks)?, targets)
        }
        ["count", work, times, target] => count(work, number(times)?, target),
        _ => {
            let usage = "say: time RUNS BLOCKS TARGET... or: count WORK N TARGET";
            Err(NvmeError::Request(usage.into()))
        }
    }
}

fn number(text: &str) -> Result<u32> {
    let what = || NvmeError::Request(format!("{text:?} is no number"));
    text.parse().map_err(|_| what())
}

/// A function, opened to look at its registers.
struct Registers {
    function: Function,
    header: Structure,
    bar: Bar,
}

impl Registers {
    fn open(target: &str) -> Result<Self> {
        let function = Function::open_target(target)?;
        Ok(Self {
            header: function.config().need(&header::HEADER)?,
            bar: function.bar(0)?,
            function,
        })
    }

    fn config(&mut self, times: u32) -> Result<()> {
        (0..times).try_for_each(|_| Ok(self.header.get(&header::VENDOR).map(drop)?))
    }

    fn register(&mut self, times: u32) -> Result<()> {
        (0..times).try_for_each(|_| Ok(self.bar.read::<u32>(VERSION).map(drop)?))
    }
}

/// Reads of 4 KiB, one after another in steps that no cache guesses, as many at once as the disk's depth.
fn read(disk: &mut Disk, times: u32) -> Result<()> {
    let per_read = BYTES as u64 / disk.block_bytes();
    let places = (disk.blocks() / per_read).max(1);
    let (mut started, mut finished) = (0, 0);
    while finished < times {
        while started < times && disk.has_room() {
            let block = u64::from(started).wrapping_mul(7919) % places * per_read;
            disk.start(Request::Read { block, bytes: BYTES }, started.into())?;
            started += 1;
        }
        disk.submit()?;
        let done = disk.finish()?;
        done.result()?;
        disk.release(done);
        finished += 1;
    }
    Ok(())
}

fn disk(target: &str, waiting: Waiting, depth: u16) -> Result<Disk> {
    let options = Options {
        waiting,
        depth,
        ..Options::default()
    };
    Disk::open(Function::open_target(target)?, options)
}

/// The time of one of `times` operations.
fn timed(times: u32, work: impl FnOnce(u32) -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work(times)?;
    Ok(start.elapsed() / times)
}

fn time(runs: u32, blocks: u32, targets: &[&str]) -> Result<()> {
    let opened = targets.iter().map(|target| Registers::open(target));
    let mut opened: Vec<Registers> = opened.collect::<Result<_>>()?;
    alternate("config", runs, blocks, &mut opened, |registers| {
        timed(BLOCK, |times| registers.config(times))
    })?;
    alternate("register", runs, blocks, &mut opened, |registers| {
        timed(BLOCK, |times| registers.register(times))
    })?;
    alternate("reset", runs, 1, &mut opened, |registers| {
        timed(1, |_| Ok(registers.function.reset()?))
    })?;
    drop(opened);
    for (name, waiting, depth) in READS {
        let disks = targets.iter().map(|target| disk(target, waiting, depth));
        let mut disks: Vec<Disk> = disks.collect::<Result<_>>()?;
        alternate(name, runs, blocks, &mut disks, |disk| {
            timed(BLOCK, |times| read(disk, times))
        })?;
    }
    let mut users: Vec<(&str, Option<Registers>)> = targets.iter().map(|target| (*target, None)).collect();
    alternate("attach", runs, 1, &mut users, |(target, user)| {
        *user = None;
        std::thread::sleep(IDLE);
        timed(1, |_| {
            *user = Some(Registers::open(target)?);
            Ok(())
        })
    })?;
    alternate("next-user", runs, 1, &mut users, |(target, user)| {
        timed(1, |_| {
            *user = None;
            *user = Some(Registers::open(target)?);
            Ok(())
        })
    })
}

/// Has each target do a block of work, one after another, and prints the median of each target's blocks for every run.
fn alternate<T>(
    name: &str,
    runs: u32,
    blocks: u32,
    targets: &mut [T],
    mut block: impl FnMut(&mut T) -> Result<Duration>,
) -> Result<()> {
    for _ in 0..runs {
        let mut times = vec![Vec::new(); targets.len()];
        for _ in 0..blocks {
            for (target, times) in targets.iter_mut().zip(&mut times) {
                times.push(block(target)?);
            }
        }
        for (number, times) in times.iter_mut().enumerate() {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            println!("{name} {number} {:.2}", median.as_secs_f64() * 1e6);
        }
    }
    Ok(())
}

fn count(work: &str, times: u32, target: &str) -> Result<()> {
    if let Some(&(_, waiting, depth)) = READS.iter().find(|(name, ..)| *name == work) {
        let mut disk = disk(target, waiting, depth)?;
        return when_told(|| read(&mut disk, times));
    }
    let mut registers = Registers::open(target)?;
    match work {
        "config" => when_told(|| registers.config(times)),
        "register" => when_told(|| registers.register(times)),
        _ => Err(NvmeError::Request(format!("there is no work called {work:?}"))),
    }
}

/// Works between two words of its own, and stays attached until standard input ends.
fn when_told(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let say = |word: &str| {
        println!("{word}");
        io::stdout().flush().map_err(|error| stopped(&error))
    };
    let mut line = String::new();
    say("ready")?;
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| stopped(&error))?;
    work()?;
    say("done")?;
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| stopped(&error))?;
    Ok(())
}

fn stopped(error: &io::Error) -> NvmeError {
    NvmeError::Request(format!("nobody listens: {error}"))
}
