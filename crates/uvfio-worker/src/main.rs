//! The confined worker as a program of its own. `uvfio serve` starts it; it is of no use by hand.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    uvfio_worker::worker_main()
}
