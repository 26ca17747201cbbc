//! `cargo xtask conformance`: the book's report of the conformance kit on what `uvfio serve` serves.
//!
//! The report is made by the test that holds the page to it, so that there is one way to make it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

/// The test, and what makes it write.
const TEST: [&str; 5] = ["test", "-p", "uvfio", "--test", "conformance"];

/// Options of `cargo xtask conformance`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Changes nothing; fails where the page is not what the commands give
    #[arg(long)]
    check: bool,
}

/// Writes the page, or checks it.
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace's root")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(TEST).current_dir(root);
    if args.check {
        cargo.env_remove("BLESS");
    } else {
        cargo.env("BLESS", "1");
    }
    let good = cargo.status().context("cargo starts")?.success();
    if good && !args.check {
        println!("docs/src/conformance-report.md is written");
    }
    Ok(good)
}
