//! `uvfio reset`: a function reset through `/sys`.

use uvfio_linux::sysfs::{Address, ResetMethods};

use crate::exit::Failure;
use crate::list::{Machine, failure};
use crate::print;

/// Reset a PCI function.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The function: as 0000:01:00.0, or 01:00.0 in domain 0.
    address: Address,
    /// Also a function that another driver than vfio-pci works with, that the system needs, or that a process holds.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let address = args.address;
    let methods = args.machine.host().reset(address, args.force).map_err(failure)?;
    let how = match methods {
        ResetMethods::Named(methods) if methods.len() == 1 => format!(" by {}", methods.join("")),
        ResetMethods::Named(methods) => format!(" by the first that worked of {}", methods.join(", ")),
        ResetMethods::None | ResetMethods::Unnamed => String::new(),
    };
    print(&format!("{address} was reset{how}\n"))
}
