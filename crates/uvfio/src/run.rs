//! `uvfio run`: a program that was written for the kernel's VFIO, over devices in software or behind servers.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, setrlimit};
use uvfio_core::{Policy, VirtualDevice};
use uvfio_remote::{Patience, Remote};
use uvfio_run::{Backend, LockedMemory, Order, Run, RunError, Via};
use uvfio_worker::DeviceSpec;

use crate::exit::Failure;
use crate::{inherited, serve};

/// The hidden verb of the program's parent.
pub(crate) const INSIDE: &str = "run-inside";

/// Run a program that was written for Linux's VFIO, as it is, over devices in software or behind vfio-user servers.
///
/// The program finds /dev/vfio, and in /sys the devices alone, bound to vfio-pci: the first is 0000:01:00.0. Nothing of
/// that exists for others, or when the program has ended; nor does any process that it started. The exit status is the
/// program's; where it died by a signal, so does this command.
#[derive(Debug, clap::Args)]
#[command(after_help = serve::devices_help())]
pub(crate) struct Args {
    /// A device: NAME[,OPTION[=VALUE]]...; several may be given.
    #[arg(long, required_unless_present = "socket", value_name = "DEVICE")]
    device: Vec<String>,
    /// A device that a vfio-user server has, which listens at this UNIX socket; several may be given. They come after
    /// those of --device.
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    /// How many seconds the program has to give its devices back once SIGUSR1 is sent to this command; then they are
    /// taken, and are gone for the program.
    #[arg(long, value_name = "SECONDS", default_value_t = serve::RELEASE_WITHIN.as_secs() as u32)]
    release_within: u32,
    /// What is logged to stderr: a level, or a filter such as `info,uapi=debug`. Refused calls, and why, are the target
    /// `uapi`, at level info.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: String,
    /// How the program's calls are caught: without this, by the library where the program takes one.
    #[arg(long, value_enum, value_name = "WAY")]
    via: Option<ViaArg>,
    /// How much memory may be mapped for DMA: `unlimited`, `rlimit` (RLIMIT_MEMLOCK of the process that maps, as with the
    /// kernel), or a number of bytes, which may end in K, M or G.
    #[arg(long, value_name = "LIMIT", default_value = "unlimited")]
    locked_memory: LockedMemory,
    /// The program, looked for in PATH, and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// How calls are caught.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ViaArg {
    /// By a library that is preloaded; BARs can be mapped.
    Preload,
    /// By the kernel, which tells of them: also those of static programs, and without libc. BARs can't be mapped.
    Seccomp,
}

/// The program's parent.
#[derive(Debug, clap::Args)]
pub(crate) struct InsideArgs {
    /// The number of the socket's descriptor.
    socket: u16,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let ended = supervise(args).map_err(|failure| failure.report());
    uvfio_worker::finish_log();
    ended.map_or_else(std::convert::identity, pass_on)
}

fn supervise(args: &Args) -> Result<ExitStatus, Failure> {
    // Before all else: until then the signal ends this command.
    let order = Order::listen().map_err(Failure::running)?;
    serve::log_to_stderr(&args.log, std::io::stderr().is_terminal())?;
    let mut devices = Vec::new();
    for device in &args.device {
        let spec: DeviceSpec = device.parse().map_err(Failure::usage)?;
        if !spec.addresses().is_empty() {
            return Err(Failure::usage(format_args!(
                "{device} is a PCI function of this machine; `uvfio run` gives programs devices in software"
            )));
        }
        let device = spec.build().map_err(Failure::usage)?;
        let device = VirtualDevice::new(device, &Policy::default()).map_err(Failure::running)?;
        devices.push(device as Arc<dyn Backend>);
    }
    for path in &args.socket {
        let remote = Remote::connect(path, Patience::default()).map_err(Failure::usage)?;
        devices.push(remote as Arc<dyn Backend>);
    }
    let own = std::env::current_exe().map_err(Failure::running)?;
    let preload = own.with_file_name("libuvfio_preload.so");
    let mut inside = Command::new(own);
    inside.arg(INSIDE);
    let no_libraries = || {
        args.command
            .first()
            .is_some_and(|program| uvfio_run::is_static(program))
    };
    let via = match args.via {
        Some(ViaArg::Preload) => Via::Preload(&preload),
        Some(ViaArg::Seccomp) => Via::Seccomp,
        None if no_libraries() => Via::Seccomp,
        None => Via::Preload(&preload),
    };
    let run = Run {
        devices,
        command: &args.command,
        inside,
        via,
        locked_memory: args.locked_memory,
        release_within: Duration::from_secs(args.release_within.into()),
        order,
    };
    run.run().map_err(|error| match error {
        RunError::TooMany(_) | RunError::NotStarted(_) | RunError::Preload { .. } => Failure::usage(error),
        _ => Failure::running(error),
    })
}

/// Ends as the program has ended.
fn pass_on(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // The program has left its core; ours would tell nothing.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    ExitCode::from(status.code().unwrap_or(1) as u8)
}

pub(crate) fn inside(args: &InsideArgs) -> Result<(), Failure> {
    let bad = |why| Failure::usage(format_args!("{INSIDE} is for `uvfio run` alone: {why}"));
    let socket = inherited::take(args.socket).map_err(bad)?;
    uvfio_run::inside(UnixStream::from(socket), &args.command);
    Ok(())
}
