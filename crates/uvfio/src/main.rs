//! The `uvfio` command: it reads the command line, calls the crates below, and prints. One module a subcommand.
//!
//! Exit status: 0 done, 1 something failed while running, 2 the command line or what it names can't be used.

mod exit;
mod inherited;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use uvfio_pci::View;

/// VFIO as a service in user space: virtual PCI devices over the vfio-user protocol.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
}

/// A view, as on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ViewArg {
    /// The abstract device: only what the model declares exists.
    Virtual,
    /// The real registers; writes that would disrupt the system are stopped.
    Filtered,
    /// The real registers and every write. Its user is trusted.
    Raw,
}

impl From<ViewArg> for View {
    fn from(view: ViewArg) -> Self {
        match view {
            ViewArg::Virtual => Self::Virtual,
            ViewArg::Filtered => Self::Filtered,
            ViewArg::Raw => Self::Raw,
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
