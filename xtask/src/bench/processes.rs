//! What processes use, as the kernel tells it in `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A server's processes: the one that was started, and those that it started (its worker).
///
/// # Errors
/// Where `/proc` cannot be read, or the process has no child.
pub(super) fn family(parent: u32) -> Result<Vec<u32>> {
    let mut found = vec![parent];
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        // One that has ended since it was listed is nobody's child.
        let Some((number, stat)) = number.zip(stat(&entry.path()).ok()) else {
            continue;
        };
        if stat.parent == parent {
            found.push(number);
        }
    }
    if found.len() < 2 {
        bail!("process {parent} has no child: a server has a worker");
    }
    Ok(found)
}

/// The processor time of these processes: user and system, all threads, those that have ended too. The kernel tells it
/// in ticks, of which a second has 100.
pub(super) fn processor_time(processes: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for process in processes {
        ticks += stat(Path::new(&format!("/proc/{process}")))?.ticks;
    }
    let a_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
}

/// Memory that nobody else has, in KiB, summed over these processes: pages that would be free if they ended.
pub(super) fn private_kib(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let path = format!("/proc/{process}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        for name in ["Private_Clean:", "Private_Dirty:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            sum += kib.with_context(|| format!("{path} has no {name} in kB"))?;
        }
    }
    Ok(sum)
}

/// What is used of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    /// utime and stime.
    ticks: u64,
}

fn stat(process: &Path) -> Result<Stat> {
    let path = process.join("stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not as proc(5) has it", path.display()))
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may have spaces and parentheses of its own. Field 3 (state) is the first after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat {
        parent,
        ticks: user + system,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parent_and_ticks_are_found_behind_a_name_with_parentheses_and_spaces() {
        let line = "7 (a) (b c) S 42 7 7 0 -1 4194560 100 0 0 0 31 11 2 3 20 0 1 0 9 1 1";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (42, 42));
    }
}
