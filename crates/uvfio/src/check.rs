//! `uvfio check-server` and `uvfio check-client`: the conformance kit.

use std::path::PathBuf;
use std::time::Duration;

use uvfio_check::{Patience, Report, SocketPath, check_server};
use uvfio_worker::SocketFile;

use crate::exit::Failure;

/// Judge a vfio-user server, anybody's: conformance, and what it does with a hostile client.
///
/// Each case is tried on a connection of its own. The cases write the register Interrupt Line, map and unmap memory,
/// trigger interrupts by request and reset the device; the device edu they make do DMA. Do not point this at one that
/// is in use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 no case failed, 1 one did, 2 there is no such server.")]
pub(crate) struct ServerArgs {
    /// The UNIX socket on which the server listens.
    socket: PathBuf,
    /// Only the cases whose name contains this, such as `dma.`.
    #[arg(default_value = "", hide_default_value = true)]
    filter: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// List the cases and try none.
    #[arg(long)]
    list: bool,
    /// How long a reply may take, seconds.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

pub(crate) fn server(args: &ServerArgs) -> Result<(), Failure> {
    let chosen = || uvfio_check::all().filter(|case| case.name.contains(&args.filter));
    if chosen().next().is_none() {
        return Err(Failure::usage(format_args!(
            "no case has {:?} in its name; --list shows them",
            args.filter
        )));
    }
    if args.list {
        let lines: Vec<_> = chosen()
            .map(|case| {
                format!(
                    "{}\n    sent      {}\n    rule      {}\n    expected  {}\n",
                    case.name, case.what, case.rule, case.expected
                )
            })
            .collect();
        return crate::print(&lines.concat());
    }
    let server = SocketPath(args.socket.clone());
    if let Err(error) = uvfio_check::Server::connect(&server) {
        return Err(Failure::usage(format_args!(
            "nobody listens on {}: {error}",
            args.socket.display()
        )));
    }
    let patience = Patience {
        reply: Duration::from_secs(args.timeout),
        ..Patience::default()
    };
    let mut printed = Ok(());
    let report = check_server(&server, patience, &args.filter, |row| {
        if !args.json && printed.is_ok() {
            printed = crate::print(&format!("{row}\n"));
        }
    });
    printed?;
    if args.json {
        print_json(&report)?;
    } else {
        crate::print(&format!("\n{}\n", report.summary()))?;
    }
    judgement(&report)
}

/// Judge a vfio-user client: serve it a small device until it leaves.
///
/// The device has configuration space, a BAR of 4 KiB and INTx. The client's memory is read by message, and 8 bytes of it
/// are altered and put back: do not point a client at it whose memory matters.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 no rule was broken, 1 one was, 2 the socket can't be used.")]
pub(crate) struct ClientArgs {
    /// Listen on a UNIX socket at this path, for one client.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Refuse every command of this number, to see what the client does then.
    #[arg(long, value_name = "COMMAND")]
    refuse: Option<u16>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn client(args: &ClientArgs) -> Result<(), Failure> {
    let socket = SocketFile::listen(&args.socket).map_err(Failure::usage)?;
    let (stream, _) = socket.listener().accept().map_err(Failure::running)?;
    stream.set_nonblocking(false).map_err(Failure::running)?;
    let options = uvfio_check::client::Options { refuse: args.refuse };
    let report = uvfio_check::client::check_client(stream, &options).map_err(Failure::running)?;
    if args.json {
        print_json(&report)?;
    } else {
        crate::print(&report.to_string())?;
    }
    judgement(&report)
}

fn print_json(report: &Report) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).map_err(Failure::running)?;
    crate::print(&format!("{json}\n"))
}

fn judgement(report: &Report) -> Result<(), Failure> {
    if report.good() {
        Ok(())
    } else {
        Err(Failure::running(format_args!(
            "{} of {} cases failed",
            report.failed().len(),
            report.cases.len()
        )))
    }
}
