//! `cargo xtask bench`: figures against limits, each measured beside a floor or a peer in the same run.
//!
//! What is printed is a ratio: the median of ours over the median of the floor's, measured in short alternating blocks
//! on one core, so that whatever slows the machine slows both. Five such runs give five ratios; their median is held
//! against the limit, their spread says what the figure is worth.
//!
//! | module | measures | beside |
//! |---|---|---|
//! | [`access`] | region accesses over the socket | a raw ping-pong of the same bytes ([`floor`]) |
//! | [`dma`] | DMA map and unmap, with few and with many mappings | the same, with one descriptor for map |
//! | [`model`] | register reads and writes of the model | nothing: nanoseconds and allocations |
//! | [`driver`] | our NVMe driver over the socket: reads, processor time | io_uring on the same image |
//! | [`memory`] | private memory of a server at rest | nothing: MiB |
//! | [`start`] | a server's start to its first answer | nothing: milliseconds |
//! | [`run`] | a program under `uvfio run`: its start, calls, registers | the same without, other calls, memory |
//! | [`dpdk`] | the same with DPDK: copies by ioat | DPDK's engine in software |
//! | [`disk`] | NVMe reads in a guest | QEMU's own NVMe in the same guest |
//! | [`hardware`] | functions that exist, in a guest: accesses, reads, resets, our system calls | the kernel's VFIO in the same guest |
//!
//! The client of the first is as small as can be ([`wire`]), and the same for the server and the floor: what differs
//! between the two is the server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::paths::cargo;
use figures::Report;

mod access;
mod disk;
mod dma;
mod dpdk;
mod driver;
mod figures;
mod floor;
mod hardware;
mod machine;
mod memory;
mod model;
mod processes;
mod run;
mod server;
mod start;
mod uring;
mod wire;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Runs only figures whose group's name contains one of these: access, dma, model, driver, memory, start, run,
    /// disk, hardware
    #[arg(value_name = "GROUP")]
    filters: Vec<String>,
    /// A short run that shows that everything still runs; its figures mean little, and fail nothing
    #[arg(long)]
    smoke: bool,
    /// Answers the ping-pong of the floor on this socket (used by the benchmark itself)
    #[arg(long, hide = true, value_name = "SOCKET")]
    floor: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Interleaved runs a figure.
    runs: usize,
    /// Alternations between ours and the floor's in a run.
    blocks: usize,
    /// Operations in a block.
    block: usize,
    /// The many mappings that maps and unmaps are measured among.
    many: u64,
    smoke: bool,
}

impl Effort {
    const FULL: Self = Self {
        runs: 5,
        blocks: 40,
        block: 250,
        many: 60_000,
        smoke: false,
    };
    const SMOKE: Self = Self {
        runs: 1,
        blocks: 4,
        block: 100,
        many: 2_000,
        smoke: true,
    };
}

/// A group of figures.
type Group = fn(Effort, &mut Report) -> Result<()>;

const GROUPS: &[(&str, Group)] = &[
    ("access", access::run),
    ("dma", dma::run),
    ("model", model::run),
    ("driver", driver::run),
    ("memory", memory::run),
    ("start", start::run),
    ("run", run::run),
    ("disk", disk::run),
    ("hardware", hardware::run),
];

/// Measures, and says what holds; fails where a figure is beyond its limit.
pub(super) fn main(args: &Args) -> ExitCode {
    let result = match &args.floor {
        Some(socket) => floor::answer(socket).map(|()| true),
        None if cfg!(debug_assertions) => optimised(args),
        None => measure(args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the same by an optimised build of this program: an unoptimised client would flatter the server.
fn optimised(args: &Args) -> Result<bool> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "xtask", "--", "bench"]);
    command.args(&args.filters).args(args.smoke.then_some("--smoke"));
    Ok(command.status().context("cargo could not be started")?.success())
}

fn measure(args: &Args) -> Result<bool> {
    let asked_for =
        |name: &str| args.filters.is_empty() || args.filters.iter().any(|part| name.contains(part));
    let chosen: Vec<_> = GROUPS.iter().filter(|(name, _)| asked_for(name)).collect();
    if chosen.is_empty() {
        let all: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!(
            "no group's name contains {}; there are {}",
            args.filters.join(" or "),
            all.join(", ")
        );
    }
    let built = cargo()
        .args(["build", "--quiet", "--release", "--package", "uvfio"])
        .status();
    if !built.context("cargo could not be started")?.success() {
        bail!("`cargo build --release -p uvfio` failed");
    }
    let effort = if args.smoke { Effort::SMOKE } else { Effort::FULL };
    let mut report = Report::new(effort.smoke);
    println!("{}", machine::describe());
    println!("{}", Report::heading());
    for (_, group) in chosen {
        group(effort, &mut report)?;
    }
    Ok(report.finish())
}
