//! A guest that means no good.

use anyhow::Result;

use super::{Context, Reach, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "abuse",
    about: "random accesses of every kind to edu and NVMe harm only their user: both serve on, and work after a reboot",
    run,
};

/// Accesses to each device.
const ACCESSES: u32 = 20_000;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let mut nvme = context.nvme(&context.image()?, &[])?;
    let (mut edu, messages) = context.edu()?;
    // An IOMMU keeps what the devices are made to write away from the guest's kernel.
    let mut guest = context
        .guest_reached_by(Reach::Iommu)
        .attach(&nvme)
        .attach(&edu)
        .tool(&context.programs.guest_tools)
        .may_reboot()
        .start()?;
    for seed in 1..=2 {
        for class in ["0x0108", "0x00ff"] {
            guest.run(&format!("abuse {class} {ACCESSES} {seed}"), 4 * STEP, checks)?;
        }
        for (name, device) in [("nvme", &mut nvme), ("edu", &mut edu)] {
            if let Some(server) = &mut device.server {
                checks.same(
                    &format!("the server of {name} has not ended"),
                    &None,
                    &server.ended()?,
                );
            }
        }
        guest.reboot()?;
        guest.run("nvme_make_files", STEP, checks)?;
        guest.run(&format!("edu_by_vfio {messages}"), STEP, checks)?;
        guest.reboot()?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
