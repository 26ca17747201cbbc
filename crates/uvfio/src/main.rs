//! The `uvfio` command: it reads the command line, calls the crates below, and prints. One module a subcommand.
//!
//! Exit status: 0 done, 1 something failed while running, 2 the command line or what it names can't be used.

mod bind;
mod check;
mod decode;
mod demo;
mod diff;
mod doctor;
mod dump;
mod exit;
mod explain;
mod inherited;
mod list;
mod names;
mod namespace;
mod reset;
mod run;
mod serve;
mod show;
mod target;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use uvfio_linux::device::BarGrant;
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
    Run(run::Args),
    Show(show::Args),
    Explain(explain::Args),
    Diff(diff::Args),
    List(list::Args),
    Bind(bind::BindArgs),
    Unbind(bind::UnbindArgs),
    Reset(reset::Args),
    Demo(demo::Args),
    Doctor(doctor::Args),
    CheckServer(check::ServerArgs),
    CheckClient(check::ClientArgs),
    #[command(name = demo::user::VERB, hide = true)]
    DemoUser(demo::user::Args),
    /// The process by which `doctor` tries a user namespace.
    #[command(name = doctor::NAMESPACE_VERB, hide = true)]
    DoctorNamespace,
    #[command(name = run::INSIDE, hide = true)]
    RunInside(run::InsideArgs),
    /// The confined process that `serve` starts.
    #[command(hide = true)]
    Worker,
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

/// How a user reaches the BARs of a function that exists, as on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BarsArg {
    /// By messages, each access one of the kernel's.
    Trapped,
    /// Mapped, by dma-bufs that can be taken back; refused where the kernel can't map one.
    Dmabuf,
    /// Mapped, by the function's own descriptor: its user is trusted with all that the kernel's VFIO allows.
    DeviceFd,
}

impl From<BarsArg> for BarGrant {
    fn from(bars: BarsArg) -> Self {
        match bars {
            BarsArg::Trapped => Self::Trapped,
            BarsArg::Dmabuf => Self::DmaBuf,
            BarsArg::DeviceFd => Self::DeviceFd,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::command_line(&Cli::command(), &error),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Run(args) => return run::run(&args),
        Command::RunInside(args) => run::inside(&args),
        Command::Show(args) => show::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::List(args) => list::run(&args),
        Command::Bind(args) => bind::bind(&args),
        Command::Unbind(args) => bind::unbind(&args),
        Command::Reset(args) => reset::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::DoctorNamespace => print(&doctor::try_namespace()),
        Command::CheckServer(args) => check::server(&args),
        Command::CheckClient(args) => check::client(&args),
        Command::DemoUser(args) => demo::user::run(&args),
        Command::Worker => return uvfio_worker::worker_main(),
    };
    let status = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    uvfio_worker::finish_log();
    status
}

/// Prints to standard output. A reader who has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), exit::Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(exit::Failure::running(error)),
        _ => Ok(()),
    }
}
