//! What the library promises of any function, tried on one of this machine's that is bound to vfio-pci.
//!
//!     cargo run --example promises -- 0000:01:00.0 memory
//!
//! Prints a line for each check, `ok WHAT` or `fail WHAT: expected A got B`. It is for functions that nobody needs: they
//! are reset, put to sleep and let go.

mod checks;
mod report;

use std::process::ExitCode;

use report::Report;
use uvfio_driver::{DriverError, Result};

/// A group of checks.
type Check = fn(&str, &mut Report) -> Result<()>;

/// By their names on the command line.
const CHECKS: [(&str, Check); 6] = [
    ("memory", checks::memory),
    ("sleep", checks::sleep),
    ("buffers", checks::buffers),
    ("vectors", checks::vectors),
    ("edu-intx", checks::edu_intx),
    ("events", checks::events),
];

fn run(report: &mut Report) -> Result<()> {
    let names: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    let usage = || DriverError::Device(format!("usage: promises ADDRESS {}", names.join("|")));
    let mut words = std::env::args().skip(1);
    let (address, name) = words.next().zip(words.next()).ok_or_else(usage)?;
    let (_, check) = CHECKS
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(usage)?;
    check(&address, report)
}

fn main() -> ExitCode {
    let mut report = Report::default();
    if let Err(error) = run(&mut report) {
        report.fail(&error.to_string());
    }
    if report.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
