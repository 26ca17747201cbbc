//! Our server owns QEMU's own NVMe controller through the kernel's VFIO, inside a guest, and serves it to a QEMU that runs
//! there, too. That one has no processor: a program of ours makes its accesses.

use anyhow::Result;

use super::functions::{self, NVME};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "serve-to-qemu",
    about: "a QEMU inside the guest attaches to a function that serve gives to it, and identifies the controller",
    run,
};

/// What the NVMe controller says when it is asked for its serial number.
const SERIAL: &str = "uvfio-inside";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = functions::machine(context, SERIAL)
        .iommu()
        .memory(1024)
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .programs(&[
            "usr/bin/qemu-system-x86_64",
            "usr/lib/x86_64-linux-gnu/qemu/accel-qtest.so",
        ])
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    guest.run(&format!("serve_to_qemu {NVME} {SERIAL}"), STEP * 2, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
