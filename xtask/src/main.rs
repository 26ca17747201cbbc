//! The project's own tasks; `cargo xtask --help` lists them.
//!
//! One module a subcommand; this file only chooses between them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod conformance;
mod docs;
mod dpdk;
mod fuzz;
mod packages;
mod paths;
mod test;
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
    /// Runs all tests: `cargo test` of the workspace, then the virtual machines
    Test(test::Args),
    /// Installs the programs that the tests run, where one is missing
    Packages,
    /// Runs the scenarios that need virtual machines
    Vm(vm::Args),
    /// Measures against limits, each figure beside a floor or a peer of the same run
    Bench(bench::Args),
    /// Runs the coverage-guided fuzz targets
    Fuzz(fuzz::Args),
    /// Writes the book's report of the conformance kit on the devices served here
    Conformance(conformance::Args),
    /// Writes the book's register pages from the tables, and checks the book
    Docs(docs::Args),
}

fn main() -> ExitCode {
    match Cli::parse().task {
        Task::Test(args) => test::main(&args),
        Task::Packages => packages::main(),
        Task::Vm(args) => vm::main(&args),
        Task::Bench(args) => bench::main(&args),
        Task::Fuzz(args) => fuzz::main(&args),
        Task::Conformance(args) => conformance::main(&args),
        Task::Docs(args) => docs::main(&args),
    }
}
