//! `cargo xtask bench`.

use std::process::ExitCode;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A short run that shows that everything still runs; its figures mean little
    #[arg(long)]
    smoke: bool,
}

/// Measures.
pub(super) fn main(args: &Args) -> ExitCode {
    let _ = args.smoke;
    ExitCode::SUCCESS
}
