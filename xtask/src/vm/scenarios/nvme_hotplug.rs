//! Native PCI Express hotplug behind a root port.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nvme-hotplug",
    about: "our NVMe is added behind a root port of a running guest, given back, and added again",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    // QEMU 11.1 ends itself when a vfio-user device with MSI-X is unplugged.
    let nvme = context.nvme(&image, &["msix=off"])?.below_root_port();
    let mut guest = context.guest().root_port().drive_of(&nvme).start()?;
    guest.run(
        "check 'no NVMe at the start' test ! -e /sys/class/nvme/nvme0",
        STEP,
        checks,
    )?;
    guest.plug(&nvme)?;
    guest.run("nvme_make_files", STEP, checks)?;
    checks.same(
        "the guest gives the device back",
        &true,
        &guest.unplug(&nvme, STEP)?,
    );
    guest.run(
        "check 'no NVMe is left' eventually 30 test ! -e /sys/class/nvme/nvme0",
        STEP,
        checks,
    )?;
    let image_again = if nvme.server.is_some() {
        drop(nvme);
        let nvme = context.nvme(&image, &["msix=off"])?.below_root_port();
        guest.plug(&nvme)?;
        Some(nvme)
    } else {
        // QEMU closes a drive of its own with the device.
        None
    };
    if image_again.is_some() {
        guest.run("nvme_find_files", STEP, checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    context.image_is_clean(&image, checks)
}
