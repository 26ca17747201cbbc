//! Region accesses over the socket: what the server adds to a message there and one back.

use anyhow::{Result, bail};

use super::Effort;
use super::figures::{Figure, Limit, Report, median};
use super::floor::{Calls, Floor};
use super::machine::Pinned;
use super::server::Server;
use super::wire::{self, Line, Request};

/// Times the raw ping-pong that an access may take.
const LIMIT: f64 = 1.10;

const BAR0: u32 = 0;
/// edu's liveness register: reads the inverse of what was written.
const LIVENESS: u64 = 0x04;

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let _pinned = Pinned::to_one_core()?;
    let floor = Floor::start(folder.path())?;
    let server = Server::start(folder.path(), "edu")?;
    let mut line = server.line()?;
    really_the_device(&mut line)?;
    let accesses = [
        ("BAR read, 4 bytes", wire::region_read(BAR0, LIVENESS, 4)),
        (
            "BAR write, 4 bytes",
            wire::region_write(BAR0, LIVENESS, &[1, 2, 3, 4]),
        ),
        (
            "configuration read, 4 bytes",
            wire::region_read(wire::CONFIG, 0, 4),
        ),
        // The cache line size: a byte that is only stored.
        (
            "configuration write, 1 byte",
            wire::region_write(wire::CONFIG, 0x0c, &[0x10]),
        ),
    ];
    for (name, request) in accesses {
        let (ours, theirs) = medians(effort, &request, &mut line, &mut floor.line(&request)?)?;
        report.add(&Figure {
            name: name.into(),
            beside: "raw ping-pong",
            ours,
            theirs,
            unit: "µs",
            limit: Some(Limit::Ratio(LIMIT)),
        });
    }
    returns(effort, &floor, report)
}

/// What two functions cost the ping-pong, each with a system call in it: why the server has none.
fn returns(effort: Effort, floor: &Floor, report: &mut Report) -> Result<()> {
    let request = wire::region_read(BAR0, LIVENESS, 4);
    let mut in_functions = floor.line_by(&request, Calls::InFunctions)?;
    let (ours, theirs) = medians(effort, &request, &mut in_functions, &mut floor.line(&request)?)?;
    report.add(&Figure {
        name: "raw ping-pong, its two system calls in functions that return".into(),
        beside: "in place",
        ours,
        theirs,
        unit: "µs",
        limit: None,
    });
    Ok(())
}

/// A server that only pretends would be fast.
fn really_the_device(line: &mut Line) -> Result<()> {
    line.round_trip(
        &wire::region_write(BAR0, LIVENESS, &0x1234_5678_u32.to_le_bytes()),
        None,
    )?;
    let reply = line.round_trip(&wire::region_read(BAR0, LIVENESS, 4), None)?;
    let want = (!0x1234_5678_u32).to_le_bytes();
    if !reply.ends_with(&want) {
        bail!(
            "edu's liveness register (BAR 0, 0x04) reads {:x?}, not {want:x?}",
            &reply[reply.len() - 4..]
        );
    }
    Ok(())
}

/// The median of each run in microseconds, on a line and on the floor's beside it.
fn medians(
    effort: Effort,
    request: &Request,
    line: &mut Line,
    floor: &mut Line,
) -> Result<(Vec<f64>, Vec<f64>)> {
    (0..effort.runs)
        .map(|_| {
            let (ours, theirs) = interleaved(effort, request, line, floor)?;
            Ok((median(&ours), median(&theirs)))
        })
        .collect()
}

/// Microseconds of each access, on both lines, in alternating blocks.
fn interleaved(
    effort: Effort,
    request: &Request,
    line: &mut Line,
    floor: &mut Line,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.blocks {
        for _ in 0..effort.block {
            theirs.push(floor.time(request, None)?);
        }
        for _ in 0..effort.block {
            ours.push(line.time(request, None)?);
        }
    }
    Ok((ours, theirs))
}
