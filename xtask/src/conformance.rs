//! `cargo xtask conformance`: the book's report of the conformance kit on what `uvfio serve` serves.
//!
//! The report is made by the test that holds the page to it, so that there is one way to make it.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::paths;

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
    let mut cargo = paths::cargo();
    cargo.args(TEST);
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
