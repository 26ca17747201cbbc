//! `uvfio doctor`: what of uvfio works on this machine, and what to do about the rest.
//!
//! [`files`] and [`trials`] find out and judge nothing; [`judge`] judges and looks at nothing; [`report`] prints.

mod files;
#[cfg(test)]
mod files_tests;
mod findings;
mod judge;
#[cfg(test)]
mod judge_tests;
mod report;
mod trials;

use std::path::Path;

use files::Files;
use findings::{Confinement, Findings, Kernel, LockedMemory};

use crate::exit::Failure;
use crate::print;

pub(crate) use trials::{VERB as NAMESPACE_VERB, try_namespace};

/// Say what works on this machine, what doesn't, and how that can be changed.
///
/// Nothing is changed, and no device is touched. Ends with status 1 if software devices can't work, else 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = judge::judge(&look());
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(Failure::running)?;
        print(&format!("{json}\n"))?;
    } else {
        print(&report.text())?;
    }
    if report.software_devices.work {
        Ok(())
    } else {
        Err(Failure::running("software devices can't work on this machine"))
    }
}

fn look() -> Findings {
    let files = Files::under(Path::new("/"));
    Findings {
        release: files.release().to_owned(),
        kernel: Kernel {
            memfd_seals: trials::memfd_seals(),
            pidfd: trials::pidfd(),
            io_uring: files.io_uring(),
        },
        confinement: Confinement {
            trial: trials::worker(),
            landlock: uvfio_worker::landlock_version(),
            seccomp_notification: files.seccomp_notification(),
        },
        namespaces: trials::namespaces(),
        huge_pages: files.huge_pages(),
        locked_memory: LockedMemory {
            limit: trials::locked_bytes(),
            exempt: files.may_lock_all(),
        },
        iommu: files.iommu(),
        remapping: files.remapping(),
        vfio: files.vfio(),
        lockdown: files.lockdown(),
        devmem: files.devmem(),
    }
}
