//! DPDK under `uvfio run` with huge pages, which root of a guest may reserve as this machine's may not.
//!
//! DPDK is this machine's (Debian's package `dpdk-dev`), which the tests outside of guests run, too; the guest's kernel and
//! libc are the testbed's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Context, STEP, Scenario};
use crate::dpdk;
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "run-dpdk",
    about: "DPDK under `uvfio run` with huge pages that root has reserved: its own test of our DMA engine, several devices",
    run,
};

/// The program that the tests outside of guests use, too.
const PROGRAM: &str = "crates/uvfio/tests/run/programs/dpdk.c";

/// Pages of 2 MiB.
const PAGES: u32 = 128;

/// What DPDK loads by itself of what is in its folder.
const PLUG_INS: [&str; 3] = ["dma_ioat", "dma_skeleton", "mempool_ring"];

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        // Nothing of QEMU's takes part.
        return Ok(());
    };
    let program = context.scratch.join("dpdk");
    dpdk::compile(PROGRAM, &program)?;
    let mut guest = context
        .guest()
        .memory(1024)
        .for_dpdk()
        .dynamic_tool(uvfio)
        .dynamic_tool(&uvfio.with_file_name("libuvfio_preload.so"))
        .installed(&dpdk_test()?, "usr/bin/dpdk-test")
        .installed(&program, "usr/bin/dpdk");
    for plug_in in plug_ins()? {
        let place = plug_in
            .strip_prefix("/")?
            .to_str()
            .context("its path is not UTF-8")?;
        guest = guest.installed(&plug_in, place);
    }
    let mut guest = guest.start()?;
    guest.run(&format!("dpdk_reserves {PAGES}"), STEP, checks)?;
    for user in ["root", "guest"] {
        checks.part(user);
        guest.run(&format!("dpdk_finds {user}"), STEP, checks)?;
    }
    // A hundred and fifty thousand copies.
    guest.run("dpdk_tests guest", 4 * STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

fn dpdk_test() -> Result<PathBuf> {
    let path = Path::new("/usr/bin/dpdk-test");
    if !path.is_file() {
        bail!(
            "{} is not there; Debian's package dpdk-dev has it",
            path.display()
        );
    }
    Ok(path.to_owned())
}

/// The plug-ins, where this machine's DPDK looks for them.
fn plug_ins() -> Result<Vec<PathBuf>> {
    let libraries = dpdk::configured("--variable=libdir")?;
    let folder = Path::new(&libraries).join("dpdk");
    let of_plug_ins = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("pmds-"))
    };
    let names = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let found = names.flatten().map(|entry| entry.path()).find(of_plug_ins);
    let found = found.with_context(|| format!("{} has no folder of plug-ins", folder.display()))?;
    let path = |name: &&str| found.join(format!("librte_{name}.so"));
    Ok(PLUG_INS.iter().map(path).collect())
}
