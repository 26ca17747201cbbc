//! Owns devices through `uvfio_linux::vfio`, and through the virtual view over `uvfio_linux::device`, and checks that each
//! answers as it should.
//!
//! It runs inside a virtual machine (`cargo xtask vm hardware`), whose devices are QEMU's, and shows what is needed to
//! own one. It takes what to check, and the addresses of functions that vfio-pci has:
//!
//!     hardware edu 0000:01:00.0

use std::process::ExitCode;

use anyhow::{Result, bail};

mod adversary;
mod edu;
mod events;
mod igb;
mod nvme;
mod own_registers;
mod owned;
mod passed;
mod refusals;
mod report;
mod survey;
mod token;
mod virtual_confined;
mod virtual_edu;
mod virtual_igb;
mod virtual_nvme;
mod virtual_resets;
mod virtual_view;
mod xhci;

use report::Report;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut report = Report;
    match run(&arguments, &mut report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let _ = report.fail(&format!("{}: {error:#}", arguments.join(" ")));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str], report: &mut Report) -> Result<()> {
    match arguments {
        ["survey", address] => survey::run(address, report),
        ["edu", address] => edu::run(address, report),
        ["passed", address] => passed::give(address, report),
        ["passed-to", address] => passed::take(address, report),
        ["release", address] => events::release(address, report),
        ["error", address] => events::error(address, report),
        ["features", address] => events::features(address, report),
        ["nvme", address, serial] => nvme::run(address, serial, report),
        ["nvme-resets", address] => nvme::resets(address, report),
        ["igb-vectors", address] => igb::vectors(address, report),
        ["igb-reset", address] => igb::reset(address, report),
        ["token", address] => token::run(address, report),
        ["xhci", address] => xhci::run(address, report),
        ["one-message", address] => xhci::one_message(address, report),
        ["no-bus", address] => refusals::no_bus(address, report),
        ["order", address] => refusals::order(address, report),
        ["mappings", address] => refusals::mappings(address, report),
        ["held", address] => refusals::held(address, report),
        ["not-viable", address] => refusals::not_viable(address, report),
        ["viable", address] => refusals::viable(address, report),
        ["virtual-edu", address] => virtual_edu::run(address, report),
        ["virtual-unresettable", address] => virtual_edu::unresettable(address, report),
        ["virtual-confined", address] => virtual_confined::run(address, report),
        ["virtual-messages", address, count] => virtual_view::messages(address, count.parse()?, report),
        ["virtual-nvme", address, serial] => virtual_nvme::run(address, serial, report),
        ["adversary-virtual", address] => adversary::by_virtual_view(address, report),
        ["adversary-kernel", address] => adversary::by_kernel(address, report),
        ["adversary-filtered", address] => adversary::by_filtered_view(address, report),
        ["own-registers", address] => own_registers::reads(address, report),
        ["own-registers-moved", address] => own_registers::moves(address, report),
        ["own-registers-igb", address] => own_registers::interrupts(address, report),
        ["virtual-function", address] => own_registers::virtual_function(address, report),
        ["virtual-bus-reset", address] => virtual_resets::bus(address, report),
        ["virtual-resets", address] => virtual_resets::run(address, report),
        ["virtual-igb", address] => virtual_igb::run(address, report),
        ["no-remapping", address] => refusals::no_remapping(address, report),
        _ => bail!("usage: hardware CHECK ADDRESS, where CHECK is one of those in this file"),
    }
}
