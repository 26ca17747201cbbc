//! A guest that sleeps (ACPI S3): functions go to D3hot, and lose power.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nvme-sleep",
    about: "a guest with a mounted file system on our NVMe sleeps, wakes, and goes on writing",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    let nvme = context.nvme(&image, &[])?;
    let mut guest = context.guest().attach(&nvme).start()?;
    guest.run("nvme_make_files", STEP, checks)?;
    // The firmware of this machine wakes from S3 once; a second time hangs with any device.
    guest.tell("nvme_sleep_mounted")?;
    checks.same("the guest falls asleep", &true, &guest.wait_asleep(STEP)?);
    guest.wake()?;
    guest.finish("nvme_sleep_mounted", STEP, checks)?;
    guest.run("nvme_find_files", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    context.image_is_clean(&image, checks)
}
