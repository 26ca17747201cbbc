//! The machine: what it is, and keeping both sides of a measurement on one core of it.

use std::fs;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Names the processor, the number of cores and the kernel.
pub(super) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.trim())
        })
        .unwrap_or("unknown processor");
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("machine: {model}, {cores} cores, Linux {}\n", kernel.trim())
}

/// Keeps this thread, and processes that it starts meanwhile, on one core until dropped.
#[derive(Debug)]
pub(super) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Takes the last core that this process may use: the first often has the machine's interrupts.
    pub(super) fn to_one_core() -> Result<Self> {
        let before = sched_getaffinity(None).context("reading which cores may be used")?;
        let Some(core) = (0..CpuSet::MAX_CPU).rev().find(|core| before.is_set(*core)) else {
            bail!("no core may be used");
        };
        let mut one = CpuSet::new();
        one.set(core);
        sched_setaffinity(None, &one).with_context(|| format!("keeping to core {core}"))?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Where this fails, later parts run on one core: slower, and still right.
        let _ = sched_setaffinity(None, &self.before);
    }
}
