//! DPDK under `uvfio run`: copies by ioat, driven by DPDK's own driver, beside those of DPDK's engine in software
//! (dma_skeleton: a thread of the application's that calls memcpy).
//!
//! The application is `dpdk.c`, the same for both: one thread that starts copies and looks for their ends, while another one
//! makes them. So neither is kept on a core.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::Effort;
use super::figures::{Figure, Report};
use crate::dpdk::{compile, text_of};
use crate::paths;

const OURS: &str = "0000:01:00.0";
const THEIRS: &str = "dma_skeleton";

/// A figure that the application prints, in nanoseconds for a copy.
struct Printed {
    key: &'static str,
    name: &'static str,
    /// Reported as copies a second; else as the time for one.
    rate: bool,
}

const FIGURES: [Printed; 3] = [
    Printed {
        key: "pages",
        name: "copies a second on ioat, 4 KiB, 32 a doorbell",
        rate: true,
    },
    Printed {
        key: "small",
        name: "copies a second on ioat, 64 bytes, 32 a doorbell",
        rate: true,
    },
    Printed {
        key: "one",
        name: "copy on ioat, 4 KiB, one at a time",
        rate: false,
    },
];

impl Printed {
    fn unit(&self) -> &'static str {
        if self.rate { "k/s" } else { "µs" }
    }

    /// What is reported, from nanoseconds.
    fn value(&self, time: f64) -> f64 {
        if self.rate { 1e6 / time } else { time * 1e-3 }
    }
}

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("dpdk");
    compile("xtask/src/bench/dpdk.c", &program)?;
    let mut values = FIGURES.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..effort.runs {
        let text = text_of(application(&program, effort).stderr(Stdio::inherit()))?;
        for (figure, (ours, theirs)) in FIGURES.iter().zip(&mut values) {
            let key = figure.key;
            // DPDK's driver says something, too.
            let pair = text.lines().find_map(|line| pair(line.strip_prefix(key)?));
            let pair = pair.with_context(|| format!("the application printed no {key}: {text:?}"))?;
            ours.push(figure.value(pair.0));
            theirs.push(figure.value(pair.1));
        }
    }
    for (figure, (ours, theirs)) in FIGURES.iter().zip(values) {
        report.add(&Figure {
            name: format!("run: DPDK's {}", figure.name),
            beside: THEIRS,
            ours,
            theirs,
            unit: figure.unit(),
            limit: None,
        });
    }
    Ok(())
}

fn pair(words: &str) -> Option<(f64, f64)> {
    let mut numbers = words.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The application under `uvfio run`. Outside DPDK would look at this machine's own functions.
fn application(program: &Path, effort: Effort) -> Command {
    let (blocks, milliseconds) = if effort.smoke { ("3", "20") } else { ("9", "100") };
    let mut command = Command::new(paths::target().join("release/uvfio"));
    command
        .args(["run", "--via", "preload", "--device", "ioat", "--"])
        .arg(program)
        .args([
            "--no-huge",
            "-m",
            "64",
            "--iova-mode=va",
            "--no-shconf",
            "--no-telemetry",
        ])
        .args([
            "--log-level=warning",
            "-l",
            "0",
            "-a",
            OURS,
            "--vdev",
            THEIRS,
            "--",
        ])
        .args([blocks, milliseconds, OURS, THEIRS])
        .stdin(Stdio::null());
    command
}
