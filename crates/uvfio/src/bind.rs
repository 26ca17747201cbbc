//! `uvfio bind` and `uvfio unbind`: functions given to vfio-pci, and back to their drivers.

use uvfio_linux::sysfs::{Address, Bound, Unbound};

use crate::exit::Failure;
use crate::list::{Machine, failure};
use crate::print;

/// Give PCI functions to vfio-pci, so that user space can own them.
#[derive(Debug, clap::Args)]
pub(crate) struct BindArgs {
    /// The functions: as 0000:01:00.0, or 01:00.0 in domain 0.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Also a function that the system needs: one that carries mounted file systems, swap or the way to the network,
    /// or that has virtual functions.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Give PCI functions back to the drivers that they had before `bind`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnbindArgs {
    /// The functions: as 0000:01:00.0, or 01:00.0 in domain 0.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Ask a process that holds a function to let go, and wait until it has.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn bind(args: &BindArgs) -> Result<(), Failure> {
    let host = args.machine.host();
    for address in &args.addresses {
        let bound = host.bind(*address, args.force).map_err(failure)?;
        print(&bound_text(*address, &bound))?;
    }
    Ok(())
}

pub(crate) fn unbind(args: &UnbindArgs) -> Result<(), Failure> {
    let host = args.machine.host();
    for address in &args.addresses {
        let unbound = host.unbind(*address, args.wait).map_err(failure)?;
        print(&unbound_text(*address, &unbound))?;
    }
    Ok(())
}

fn bound_text(address: Address, bound: &Bound) -> String {
    let Bound { driver, group, .. } = bound;
    let mut text = match (bound.changed, &bound.former) {
        (false, _) => format!("{address} is with {driver} already"),
        (true, Some(former)) => format!("{address} went from {former} to {driver}"),
        (true, None) => format!("{address} went to {driver}"),
    };
    text += &format!("; its IOMMU group is /dev/vfio/{group}\n");
    for member in &bound.blockers {
        text += &format!("  ! the group can't be opened yet: {member}\n");
    }
    if let Some(error) = &bound.not_noted {
        text += &format!("  ! unbind will let the kernel choose the driver: {error}\n");
    }
    text
}

fn unbound_text(address: Address, unbound: &Unbound) -> String {
    let driver = unbound
        .driver
        .as_deref()
        .map_or_else(|| "no driver".to_owned(), |name| format!("driver {name}"));
    let mut text = match unbound.changed {
        true => format!("{address} went back: {driver}\n"),
        false => format!("{address} is not with vfio-pci: {driver}\n"),
    };
    if let Some(missed) = &unbound.missed {
        text += &format!("  ! {missed} had it before, and did not take it back; is its module loaded?\n");
    }
    text
}
