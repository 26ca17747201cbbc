//! `cargo xtask test`: the programs that the tests run, every test there is, and what they said in a few lines.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{packages, paths};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leaves out the scenarios that need virtual machines
    #[arg(long)]
    no_vm: bool,
    /// Runs the scenarios too that take minutes by their nature
    #[arg(long, conflicts_with = "no_vm")]
    all: bool,
}

/// What one part of the run came to.
struct Part {
    name: &'static str,
    passed: u64,
    failed: u64,
    /// What was not run, and why, where something was not.
    not_run: Option<String>,
    /// Whether its program ended with success.
    success: bool,
    seconds: u64,
}

/// Runs all tests; fails if any does.
pub(super) fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(parts) => summary(&parts),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Vec<Part>> {
    packages::ensure()?;
    let mut tests = paths::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    let mut parts = vec![part("cargo test", tests)?];
    if args.no_vm {
        parts.push(Part {
            name: "virtual machines",
            passed: 0,
            failed: 0,
            not_run: Some("all scenarios NOT RUN: --no-vm".into()),
            success: true,
            seconds: 0,
        });
    } else {
        // By cargo and not by this program's own path: the tests before may have built it anew.
        let mut machines = paths::cargo();
        machines.args(["run", "--quiet", "--package", "xtask", "--", "vm"]);
        if args.all {
            machines.arg("--all");
        }
        parts.push(part("virtual machines", machines)?);
    }
    Ok(parts)
}

/// Runs a program, passes on what it prints, and adds up the results among it.
fn part(name: &'static str, mut command: Command) -> Result<Part> {
    println!("=== {name}");
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let (mut passed, mut failed) = (0, 0);
    let mut not_run = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("reading what {name} prints"))?;
            if let Some((good, bad)) = results(&line) {
                passed += good;
                failed += bad;
            }
            not_run = left_out(&line).map(str::to_owned).or(not_run);
            println!("{line}");
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    Ok(Part {
        name,
        passed,
        failed,
        not_run,
        success: status.success(),
        seconds: start.elapsed().as_secs(),
    })
}

/// The counts in a line of results: `test result: ok. 4 passed; 0 failed; ..` or `12 passed, 0 failed`.
fn results(line: &str) -> Option<(u64, u64)> {
    let counts = line
        .strip_prefix("test result: ")
        .map_or(line, |rest| rest.split_once(". ").map_or("", |r| r.1));
    let mut numbers = counts.split([';', ',']).map(str::trim);
    let passed = numbers.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = numbers.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

/// What a line of results says was not run: `0 passed, 0 failed, 12 scenarios NOT RUN: why`.
fn left_out(line: &str) -> Option<&str> {
    results(line)?;
    let rest = line.splitn(3, ", ").nth(2)?;
    rest.contains(" NOT RUN").then_some(rest)
}

fn summary(parts: &[Part]) -> ExitCode {
    println!("\n=== summary");
    for part in parts {
        let end = if part.success { "ok" } else { "FAILED" };
        println!(
            "{:<18} {:>5} passed, {:>3} failed, {:>4} s  {end}",
            part.name, part.passed, part.failed, part.seconds
        );
        if let Some(not_run) = &part.not_run {
            println!("{:<18} {not_run}", "");
        }
    }
    if parts.iter().all(|part| part.success) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::{left_out, results};

    #[test]
    fn results_of_cargo_and_of_the_scenarios_are_counted() {
        let cargo = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(results(cargo), Some((3, 2)));
        assert_eq!(results("12 passed, 1 failed"), Some((12, 1)));
        let cut = "0 passed, 2 failed, 12 scenarios NOT RUN: no mirror, no cache";
        assert_eq!(results(cut), Some((0, 2)));
        assert_eq!(left_out(cut), Some("12 scenarios NOT RUN: no mirror, no cache"));
        assert_eq!(left_out("12 passed, 1 failed"), None);
        assert_eq!(left_out(cargo), None);
        assert_eq!(results("running 3 tests"), None);
        assert_eq!(results("test a_test ... ok"), None);
    }
}
