//! `uvfio run`: what it adds to a program's start, what a call on a file of VFIO's costs beside one on another file, a
//! register beside memory, and what calls that are none of VFIO's pay for being looked at.
//!
//! The program is `run.c`; it and the supervisor share a core. Then [`dpdk`] measures.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::figures::{Figure, Limit, Report, median};
use super::machine::Pinned;
use super::{Effort, dpdk};
use crate::paths;

/// What a program full of system calls, none of them VFIO's, may use with the library, of what it uses without.
const LIMIT: f64 = 1.02;

const WAYS: [&str; 2] = ["preload", "seccomp"];

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let preload = paths::cargo()
        .args(["build", "--quiet", "--release", "--package", "uvfio-preload"])
        .status();
    if !preload.context("cargo could not be started")?.success() {
        bail!("`cargo build --release -p uvfio-preload` failed");
    }
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("run");
    compile(&program)?;
    let pinned = Pinned::to_one_core()?;
    start(effort, report)?;
    calls(effort, &program, report)?;
    registers(effort, &program, report)?;
    busy(effort, &program, report)?;
    drop(pinned);
    dpdk::run(effort, report)
}

fn compile(program: &Path) -> Result<()> {
    let root = paths::workspace();
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Werror", "-o"])
        .arg(program)
        .arg("-I")
        .arg(root.join("crates/uvfio/tests/run/programs"))
        .arg(root.join("xtask/src/bench/run.c"))
        .status();
    if !compiled.context("cc could not be started")?.success() {
        bail!("cc did not compile xtask/src/bench/run.c");
    }
    Ok(())
}

/// `uvfio run`, up to the program's name.
fn uvfio_run(way: &str) -> Command {
    let mut command = Command::new(paths::target().join("release/uvfio"));
    command.args(["run", "--via", way, "--device", "edu"]);
    command.args(["--device", "nvme,mem=1M,poll=always", "--"]);
    command
}

/// Milliseconds until a command that says nothing has ended well.
fn milliseconds(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status();
    if !status.with_context(|| format!("starting {command:?}"))?.success() {
        bail!("{command:?} failed");
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn start(effort: Effort, report: &mut Report) -> Result<()> {
    let starts = if effort.smoke { 3 } else { 20 };
    for way in WAYS {
        let mut added = Vec::new();
        for _ in 0..effort.runs {
            let times: Result<Vec<f64>> = (0..starts)
                .map(|_| {
                    Ok(milliseconds(uvfio_run(way).arg("true"))? - milliseconds(&mut Command::new("true"))?)
                })
                .collect();
            added.push(median(&times?));
        }
        report.add(&Figure {
            name: format!("run: what it adds to `true`, {way}"),
            beside: "-",
            ours: added,
            theirs: Vec::new(),
            unit: "ms",
            limit: None,
        });
    }
    Ok(())
}

/// The figures that a command prints, each with its name: nanoseconds of ours and theirs.
fn printed(command: &mut Command) -> Result<Vec<(String, f64, f64)>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let figure = |line: &str| {
        let mut words = line.split_whitespace();
        Some((
            words.next()?.to_owned(),
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ))
    };
    let figures: Option<Vec<_>> = text.lines().map(figure).collect();
    figures.with_context(|| format!("{command:?} printed {text:?}"))
}

/// Adds what `kind` prints under its own names as figures, each as `described` calls it and what it is beside.
fn described(
    effort: Effort,
    program: &Path,
    (way, kind): (&str, &str),
    names: &[(&str, &str, &'static str, f64, &'static str)],
    report: &mut Report,
) -> Result<()> {
    let mut figures: Vec<_> = names
        .iter()
        .map(|(_, name, beside, _, unit)| Figure {
            name: format!("run: {name}, {way}"),
            beside,
            ours: Vec::new(),
            theirs: Vec::new(),
            unit,
            limit: None,
        })
        .collect();
    let (blocks, block) = (effort.blocks.to_string(), effort.block.to_string());
    for _ in 0..effort.runs {
        let values = printed(uvfio_run(way).arg(program).args([kind, &blocks, &block]))?;
        for (key, ours, theirs) in values {
            let place = names.iter().position(|(name, ..)| *name == key);
            let place = place.with_context(|| format!("the program printed {key:?}"))?;
            let scale = names[place].3;
            figures[place].ours.push(ours * scale);
            figures[place].theirs.push(theirs * scale);
        }
    }
    figures.iter().for_each(|figure| report.add(figure));
    Ok(())
}

fn calls(effort: Effort, program: &Path, report: &mut Report) -> Result<()> {
    for way in WAYS {
        let names: [(_, _, &'static str, _, _); 2] = [
            ("ioctl", "ioctl GET_INFO", "ioctl of a pipe", 1e-3, "µs"),
            (
                "config",
                "read of a config register",
                "pread of a memfd",
                1e-3,
                "µs",
            ),
        ];
        described(effort, program, (way, "calls"), &names, report)?;
    }
    Ok(())
}

fn registers(effort: Effort, program: &Path, report: &mut Report) -> Result<()> {
    let names: [(_, _, &'static str, _, _); 2] = [
        ("trapped", "load of a mapped register", "pread of it", 1e-3, "µs"),
        (
            "mapped",
            "load of a mapped doorbell",
            "a load of memory",
            1.0,
            "ns",
        ),
    ];
    described(effort, program, ("preload", "registers"), &names, report)
}

/// A program full of system calls, in turn without `uvfio run` and by each way.
///
/// With the library all is done in the program, so its processor time tells, which other programs on this machine disturb
/// least. Where the kernel tells of calls, the program waits for the supervisor, so that is the time of a clock.
fn busy(effort: Effort, program: &Path, report: &mut Report) -> Result<()> {
    let operations = if effort.smoke { "200" } else { "5000" };
    let once = |way: &str, command: &mut Command| -> Result<f64> {
        let figures = printed(command.args(["busy", operations]))?;
        let (_, passed, processor) = figures.first().context("the program printed nothing")?;
        Ok(1e-3 * if way == "preload" { processor } else { passed })
    };
    let ways = [
        ("preload", "processor time", Some(Limit::Ratio(LIMIT))),
        ("seccomp", "time", None),
    ];
    for (way, what, limit) in ways {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for _ in 0..effort.blocks.min(20) {
                without.push(once(way, &mut Command::new(program))?);
                with.push(once(way, uvfio_run(way).arg(program))?);
            }
            ours.push(median(&with));
            theirs.push(median(&without));
        }
        report.add(&Figure {
            name: format!("run: nine system calls that are none of VFIO's, one opens a file, {way}: {what}"),
            beside: "without `uvfio run`",
            ours,
            theirs,
            unit: "µs",
            limit,
        });
    }
    Ok(())
}
