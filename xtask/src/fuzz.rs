//! `cargo xtask fuzz`: each fuzz target for some time, from its seeds.
//!
//! What a target finds stays in `fuzz/artifacts`; once it is fixed it goes to `fuzz/seeds`, which every run of the
//! tests replays without a fuzzer.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// The targets: as in `fuzz/Cargo.toml`.
const TARGETS: [&str; 6] = ["chains", "config", "dma", "ioat", "server", "nvme"];

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long each target runs
    #[arg(long, default_value = "10")]
    seconds: u32,
    /// Only the targets whose name contains this
    #[arg(default_value = "", hide_default_value = true)]
    filter: String,
    /// Fail where a nightly toolchain or cargo-fuzz is missing
    #[arg(long)]
    all: bool,
}

/// Runs the targets; fails if one finds something.
pub(super) fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let chosen: Vec<_> = TARGETS
        .into_iter()
        .filter(|target| target.contains(&args.filter))
        .collect();
    if chosen.is_empty() {
        bail!(
            "no target has {:?} in its name; there are {TARGETS:?}",
            args.filter
        );
    }
    let root = &paths::workspace();
    let folder = root.join("fuzz");
    let path = search_path(root)?;
    if let Some(missing) = missing(&path) {
        println!("not run: {missing}");
        return Ok(!args.all);
    }
    let mut found = Vec::new();
    for target in chosen {
        println!("=== {target}, {} s", args.seconds);
        let corpus = folder.join("corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
        let status = Command::new("cargo")
            .env("PATH", &path)
            .current_dir(&folder)
            .args(["+nightly", "fuzz", "run", target])
            .arg(&corpus)
            .arg(folder.join("seeds").join(target))
            .arg("--")
            .arg(format!("-max_total_time={}", args.seconds))
            .args([
                "-timeout=60",
                "-rss_limit_mb=2048",
                "-verbosity=0",
                "-print_final_stats=1",
            ])
            .status()
            .context("starting cargo fuzz")?;
        if !status.success() {
            found.push(target);
        }
    }
    if found.is_empty() {
        println!("\nnothing found");
    } else {
        println!("\nfound something: {found:?}; see fuzz/artifacts");
    }
    Ok(found.is_empty())
}

/// Where programs are looked for: tools that were built for this checkout first.
fn search_path(root: &Path) -> Result<std::ffi::OsString> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root.join("target/tools/bin")).chain(std::env::split_paths(&inherited));
    std::env::join_paths(folders.collect::<Vec<PathBuf>>()).context("the search path")
}

/// What is needed and not there.
fn missing(path: &std::ffi::OsStr) -> Option<&'static str> {
    let works = |args: &[&str]| {
        Command::new("cargo")
            .env("PATH", path)
            // This process runs under a toolchain of its own; `+nightly` must not be overridden by it.
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !works(&["+nightly", "--version"]) {
        return Some("there is no nightly toolchain; `rustup toolchain install nightly` gets one");
    }
    if !works(&["+nightly", "fuzz", "--version"]) {
        return Some("there is no cargo-fuzz; `cargo install cargo-fuzz --root target/tools` gets it");
    }
    None
}
