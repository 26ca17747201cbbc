//! `cargo xtask vm`: what holds only in a virtual machine, without hardware and without root.
//!
//! A **testbed** ([`testbed`]) is made once, under `target/testbed`, from Debian's packages: QEMU
//! with a vfio-user client, a Linux kernel with VFIO, busybox, lspci, mke2fs, fio. Each
//! **scenario** ([`scenarios`]) starts our server where it needs one, and a guest ([`guest`]) whose
//! init ([`initramfs`], `xtask/guest`) does what the scenario tells it. Guests are emulated (QEMU's
//! TCG): they need no KVM, boot in about five seconds, and may own devices through an emulated
//! IOMMU with the kernel's own vfio-pci.
//!
//! The testbed is kept; remove its folder to have it made anew from the newest packages.
//!
//! Logs of a run stay in `target/testbed/runs/SCENARIO`: the guest's console, QEMU's messages and
//! command line, and what our server printed.

use std::env;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::paths;
use checks::Checks;
use scenarios::{ALL, Context, Programs, SLOW, Scenario};
use sources::Mirror;
use testbed::Testbed;

mod apt;
mod checks;
mod cpio;
mod device;
mod guest;
mod initramfs;
mod modules;
mod qmp;
mod scenarios;
mod server;
mod sources;
mod tap;
mod testbed;

pub(super) use scenarios::disk_rates::Rates;
pub(super) use scenarios::hardware_rates::{Calls, Way};

/// Options of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Runs only scenarios whose names contain one of these
    #[arg(value_name = "NAME")]
    filters: Vec<String>,
    /// Lists the scenarios and runs none
    #[arg(long)]
    list: bool,
    /// How many scenarios run at a time [default: as many as there are processors, four at most]
    #[arg(short, long, value_name = "COUNT")]
    jobs: Option<NonZero<usize>>,
    /// Runs those too that take minutes by their nature, and counts scenarios that could not be run as failed, as CI=true
    /// does
    #[arg(long)]
    all: bool,
    /// Where the testbed is kept [default: target/testbed]
    #[arg(long, env = "UVFIO_TESTBED", value_name = "DIR")]
    testbed: Option<PathBuf>,
    /// The mirror of Debian's archive to make the testbed from [default: the one that the machine
    /// uses]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Uses this server instead of building one
    #[arg(long, value_name = "PROGRAM")]
    uvfio: Option<PathBuf>,
    /// Gives guests QEMU's own devices in place of ours: what fails then too is not our server's
    /// fault
    #[arg(long, conflicts_with = "uvfio")]
    qemu_devices: bool,
}

/// Runs the scenarios that `args` ask for; the last line says how many checks passed and failed, and
/// how many scenarios did not run.
pub(super) fn main(args: &Args) -> ExitCode {
    let chosen = chosen(&args.filters, args.all || args.list);
    if args.list {
        for scenario in chosen {
            println!("{:<16} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!(
            "error: no scenario's name contains {}; --list shows all",
            args.filters.join(" or ")
        );
        return ExitCode::FAILURE;
    }
    let programs = match build_all(args) {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (checks, not_run, why) = match prepare(args) {
        Ok(testbed) => {
            let checks = run_all(&chosen, jobs(args), |scenario| run(scenario, &testbed, &programs));
            (checks, 0, String::new())
        }
        Err(error) => (
            Checks::default(),
            chosen.len(),
            format!("the testbed cannot be made: {error:#}"),
        ),
    };
    if !checks.failures().is_empty() {
        println!("\nfailed:");
        checks
            .failures()
            .iter()
            .for_each(|failure| println!("  {failure}"));
    }
    let must_run = args.all || env::var_os("CI").is_some_and(|value| value == "true");
    let failed = checks.failures().len() + if must_run { not_run } else { 0 };
    println!("\n{}", closing_line(checks.passed(), failed, not_run, &why));
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The scenarios that were asked for; a slow one by its whole name, or with all.
fn chosen(filters: &[String], all: bool) -> Vec<&'static Scenario> {
    let named = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let usual = ALL.iter().filter(|scenario| named(scenario.name));
    let slow = SLOW.iter().filter(|scenario| {
        all && named(scenario.name) || filters.iter().any(|filter| filter == scenario.name)
    });
    usual.chain(slow).collect()
}

/// The last line. Scenarios that did not run stand in it: who reads nothing else must not take them for passed.
fn closing_line(passed: usize, failed: usize, not_run: usize, why: &str) -> String {
    let counts = format!("{passed} passed, {failed} failed");
    if not_run == 0 {
        return counts;
    }
    // One line, whatever the reason looks like.
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{counts}, {not_run} scenarios NOT RUN: {why}")
}

fn prepare(args: &Args) -> Result<Testbed> {
    let dir = args
        .testbed
        .clone()
        .unwrap_or_else(|| paths::target().join("testbed"));
    let mirror = || match &args.mirror {
        Some(uri) => Ok(Mirror::at(uri)),
        None => Mirror::of_machine(Path::new("/etc/apt")),
    };
    Testbed::prepare(&dir, mirror, &|doing| println!("testbed: {doing}"))
}

fn build_all(args: &Args) -> Result<Programs> {
    let target = paths::target();
    let uvfio = match &args.uvfio {
        Some(program) => Some(
            program
                .canonicalize()
                .with_context(|| format!("finding {}", program.display()))?,
        ),
        None if args.qemu_devices => None,
        None => {
            // The library that `uvfio run` preloads lies beside it.
            build(&["--release", "-p", "uvfio", "-p", "uvfio-preload"], &[])?;
            Some(target.join("release/uvfio"))
        }
    };
    // Statically linked, so that they run whatever the guest's libraries are; and quickly built, since none of them
    // is measured.
    let triple = "x86_64-unknown-linux-gnu";
    let mut arguments = vec!["--release", "--target", triple];
    for package in ["uvfio-guest-tools", "uvfio-linux", "uvfio-driver"] {
        arguments.extend(["-p", package]);
    }
    arguments.extend(["--bin", "uvfio-guest-tools"]);
    for example in ["hardware", "edu", "nvme", "promises", "compare"] {
        arguments.extend(["--example", example]);
    }
    build(
        &arguments,
        &[
            ("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static"),
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
        ],
    )?;
    Ok(Programs {
        uvfio,
        guest_tools: target.join(triple).join("release/uvfio-guest-tools"),
        hardware: target.join(triple).join("release/examples/hardware"),
        driver_edu: target.join(triple).join("release/examples/edu"),
        driver_nvme: target.join(triple).join("release/examples/nvme"),
        driver_compare: target.join(triple).join("release/examples/compare"),
        driver_promises: target.join(triple).join("release/examples/promises"),
    })
}

fn build(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = paths::cargo();
    command
        .arg("build")
        .arg("--quiet")
        .args(arguments)
        .envs(environment.iter().copied());
    let status = command.status().context("cargo could not be started")?;
    if !status.success() {
        bail!("`cargo build {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// How many scenarios run at a time. A guest takes one processor, and QEMU and our server beside it little: more guests
/// than processors would only make each slower, and its waits longer.
fn jobs(args: &Args) -> usize {
    let processors = || thread::available_parallelism().map_or(1, |count| count.get().min(4));
    args.jobs.map_or_else(processors, NonZero::get)
}

/// Runs scenarios in their order, `jobs` at a time.
fn run_all<T: Sync>(scenarios: &[T], jobs: usize, run: impl Fn(&T) -> Checks + Sync) -> Checks {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Checks::default());
    thread::scope(|scope| {
        for _ in 0..jobs.min(scenarios.len()) {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checks = run(scenario);
                    all.lock().unwrap_or_else(PoisonError::into_inner).add(checks);
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run(scenario: &Scenario, testbed: &Testbed, programs: &Programs) -> Checks {
    println!("{}: {}", scenario.name, scenario.about);
    let mut checks = Checks::default();
    checks.scenario(scenario.name);
    let start = Instant::now();
    let result = in_folder(testbed, programs, scenario.name, |context| {
        (scenario.run)(context, &mut checks)
    });
    if let Err(error) = result {
        checks.fail(&format!(
            "could not go on: {error:#}\n    logs: {}",
            folder(scenario.name).display()
        ));
    }
    println!("{}: took {:.1} s", scenario.name, start.elapsed().as_secs_f32());
    checks
}

/// Where the logs of a scenario are kept.
fn folder(name: &str) -> PathBuf {
    paths::target().join("testbed/runs").join(name)
}

/// Gives `work` an empty folder for its logs, and one with a short path that is removed after it.
fn in_folder<T>(
    testbed: &Testbed,
    programs: &Programs,
    name: &str,
    work: impl FnOnce(&Context<'_>) -> Result<T>,
) -> Result<T> {
    let dir = folder(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    // A short path: names of UNIX sockets are limited to 107 bytes.
    let scratch = tempfile::Builder::new().prefix("uvfio-vm").tempdir()?;
    let context = Context {
        testbed,
        dir,
        scratch: scratch.path(),
        programs,
    };
    work(&context)
}

/// Measures NVMe reads in a guest, ours beside QEMU's own: at each of `depths`, `runs` runs of `seconds` each.
pub(super) fn disk_rates(depths: &[u32], runs: usize, seconds: u32) -> Result<Vec<Rates>> {
    measured("disk-rates", |context| {
        scenarios::disk_rates::measure(context, depths, runs, seconds)
    })
}

/// Measures functions that exist in a guest, through our server beside the kernel's VFIO: times in `runs` runs of so many
/// blocks, and our system calls over so many operations.
pub(super) fn hardware_rates(runs: usize, blocks: usize, operations: u32) -> Result<(Vec<Way>, Vec<Calls>)> {
    measured("hardware-rates", |context| {
        scenarios::hardware_rates::measure(context, runs, blocks, operations)
    })
}

/// Has something measured by what is built here, in a folder of its own.
fn measured<T>(name: &str, work: impl FnOnce(&Context<'_>) -> Result<T>) -> Result<T> {
    /// The options as they are where none is given, which also looks at the environment.
    #[derive(Debug, clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        args: Args,
    }
    let Defaults { args } = clap::Parser::parse_from(["bench"]);
    let programs = build_all(&args)?;
    let testbed = prepare(&args).context("the testbed cannot be made")?;
    in_folder(&testbed, &programs, name, work)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::{Checks, SLOW, chosen, closing_line, run_all};

    #[test]
    fn a_slow_scenario_runs_where_it_is_named_or_all_are_asked_for() {
        for slow in SLOW {
            let runs = |filters: &[&str], all| {
                let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
                chosen(&filters, all)
                    .iter()
                    .any(|chosen| chosen.name == slow.name)
            };
            assert!(!runs(&[], false));
            assert!(!runs(&["hardware"], false));
            assert!(runs(&[slow.name], false));
            assert!(runs(&[], true));
        }
    }

    #[test]
    fn each_scenario_runs_once_two_at_a_time_and_all_checks_count() {
        let together = Barrier::new(2);
        let checks = run_all(&["a", "b", "c", "d"], 2, |name| {
            // Waits for ever where only one runs at a time.
            together.wait();
            let mut checks = Checks::default();
            checks.scenario(name);
            checks.ok("it ran");
            if *name == "c" {
                checks.fail("it failed");
            }
            checks
        });
        assert_eq!(checks.passed(), 4);
        assert_eq!(checks.failures(), ["c: it failed"]);
    }

    #[test]
    fn the_last_line_says_what_was_not_run_and_why() {
        assert_eq!(closing_line(12, 1, 0, ""), "12 passed, 1 failed");
        assert_eq!(
            closing_line(0, 0, 14, "the testbed cannot be made:\n no mirror, no cache"),
            "0 passed, 0 failed, 14 scenarios NOT RUN: the testbed cannot be made: no mirror, no cache"
        );
    }
}
