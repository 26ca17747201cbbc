//! The project's own tasks; `cargo xtask --help` lists them.
//!
//! One module a subcommand; this file only chooses between them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod vm;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's own tasks",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs the scenarios that need virtual machines
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match Cli::parse().task {
        Task::Vm(args) => vm::main(&args),
    }
}
