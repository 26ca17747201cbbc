//! What scenarios run inside a virtual machine: users of the kernel's VFIO, one for each device.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod edu;
mod report;
mod vfio;

use report::Report;

#[derive(Debug, Parser)]
#[command(about = "Checks a device from inside a virtual machine")]
struct Cli {
    #[command(subcommand)]
    device: Device,
}

#[derive(Debug, Subcommand)]
enum Device {
    /// An edu device that vfio-pci owns
    Edu {
        /// PCI address, such as 0000:00:03.0
        address: String,
        /// How many MSI messages it must offer
        #[arg(long, default_value_t = 1)]
        messages: u32,
    },
}

fn main() -> ExitCode {
    let mut report = Report::new(Box::new(std::io::stdout()));
    let result = match Cli::parse().device {
        Device::Edu { address, messages } => edu::run(&address, messages, &mut report),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let _ = report.fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
