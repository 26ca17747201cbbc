//! DMA map and unmap, waited one by one, among few mappings and among many.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::Effort;
use super::figures::{Figure, Limit, Report, median};
use super::floor::Floor;
use super::machine::Pinned;
use super::server::Server;
use super::wire::{self, Line, Request};

/// Times the raw ping-pong with one descriptor that a map may take.
const MAP_LIMIT: f64 = 1.85;
/// Times the raw ping-pong that an unmap may take.
const UNMAP_LIMIT: f64 = 1.5;
/// How much slower among many mappings than among few.
const FLAT_LIMIT: f64 = 1.10;

const PAGE: u64 = 4096;
/// Mappings that are measured at a time.
const FEW: u64 = 1000;

/// Medians of one run at one number of mappings, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    map: f64,
    map_floor: f64,
    unmap: f64,
    unmap_floor: f64,
}

/// The two sides of the measurement.
struct Sides {
    server: Line,
    map_floor: Line,
    unmap_floor: Line,
    memory: OwnedFd,
}

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let _pinned = Pinned::to_one_core()?;
    let floor = Floor::start(folder.path())?;
    let server = Server::start(folder.path(), "edu")?;
    let mut sides = Sides {
        server: server.line()?,
        map_floor: floor.line(&map(0))?,
        unmap_floor: floor.line(&unmap(0))?,
        memory: memory(effort.many * PAGE)?,
    };
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        few.push(sides.measure(effort, 0)?);
        let filled = effort.many.saturating_sub(FEW);
        for number in 0..filled {
            sides
                .server
                .round_trip(&map(number), Some(sides.memory.as_fd()))?;
        }
        many.push(sides.measure(effort, filled)?);
        for number in 0..filled {
            sides.server.round_trip(&unmap(number), None)?;
        }
    }
    let all = |samples: &[Sample], take: fn(&Sample) -> f64| samples.iter().map(take).collect::<Vec<_>>();
    let mut figure = |name: String, beside, unit, ours, theirs, limit| {
        report.add(&Figure {
            name,
            beside,
            ours,
            theirs,
            unit,
            limit: Some(Limit::Ratio(limit)),
        });
    };
    figure(
        format!("DMA map, up to {FEW} mappings"),
        "raw ping-pong with one descriptor",
        "µs",
        all(&few, |s| s.map),
        all(&few, |s| s.map_floor),
        MAP_LIMIT,
    );
    figure(
        format!("DMA unmap, up to {FEW} mappings"),
        "raw ping-pong",
        "µs",
        all(&few, |s| s.unmap),
        all(&few, |s| s.unmap_floor),
        UNMAP_LIMIT,
    );
    // Each in units of its own floor, so that a slower minute is not taken for a slower map.
    figure(
        format!("DMA map, up to {} mappings", effort.many),
        "the same up to 1000",
        "ping-pongs",
        all(&many, |s| s.map / s.map_floor),
        all(&few, |s| s.map / s.map_floor),
        FLAT_LIMIT,
    );
    figure(
        format!("DMA unmap, up to {} mappings", effort.many),
        "the same up to 1000",
        "ping-pongs",
        all(&many, |s| s.unmap / s.unmap_floor),
        all(&few, |s| s.unmap / s.unmap_floor),
        FLAT_LIMIT,
    );
    Ok(())
}

impl Sides {
    /// Maps and unmaps [`FEW`] ranges after `filled` others, again and again, each in an order of its own.
    fn measure(&mut self, effort: Effort, filled: u64) -> Result<Sample> {
        let (mut maps, mut map_floors) = (Vec::new(), Vec::new());
        let (mut unmaps, mut unmap_floors) = (Vec::new(), Vec::new());
        let memory = self.memory.as_fd();
        let rounds = (effort.blocks * effort.block).div_ceil(FEW as usize);
        for _ in 0..rounds {
            let numbers: Vec<u64> = scattered(FEW).map(|number| filled + number).collect();
            for block in numbers.chunks(effort.block) {
                timed(&mut self.map_floor, block, map, Some(memory), &mut map_floors)?;
                timed(&mut self.server, block, map, Some(memory), &mut maps)?;
            }
            for block in numbers.chunks(effort.block).rev() {
                timed(&mut self.unmap_floor, block, unmap, None, &mut unmap_floors)?;
                timed(&mut self.server, block, unmap, None, &mut unmaps)?;
            }
        }
        Ok(Sample {
            map: median(&maps),
            map_floor: median(&map_floors),
            unmap: median(&unmaps),
            unmap_floor: median(&unmap_floors),
        })
    }
}

fn timed(
    line: &mut Line,
    numbers: &[u64],
    request: fn(u64) -> Request,
    descriptor: Option<BorrowedFd<'_>>,
    times: &mut Vec<f64>,
) -> Result<()> {
    for number in numbers {
        times.push(line.time(&request(*number), descriptor)?);
    }
    Ok(())
}

/// Every number below `count` once, in an order that is neither ascending nor descending; `count` has no factor
/// of 7919.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| n * 7919 % count)
}

/// Maps page `number` of the file. Pages lie apart, so that no two mappings touch.
fn map(number: u64) -> Request {
    wire::dma_map(number * PAGE, number * 2 * PAGE, PAGE)
}

fn unmap(number: u64) -> Request {
    wire::dma_unmap(number * 2 * PAGE, PAGE)
}

/// Memory as a careful client gives it: it cannot shrink.
fn memory(bytes: u64) -> Result<OwnedFd> {
    let file =
        memfd_create("bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).context("making a memfd")?;
    ftruncate(&file, bytes).context("sizing the memfd")?;
    fcntl_add_seals(&file, SealFlags::SHRINK).context("sealing the memfd")?;
    Ok(file)
}
