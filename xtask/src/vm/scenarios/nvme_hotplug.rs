//! Native PCI Express hotplug behind a root port.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::device::Device;
use crate::vm::guest::Guest;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nvme-hotplug",
    about: "our NVMe is added behind a root port of a running guest, given back, and added again",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    // QEMU 11.1 ends itself when a vfio-user device with MSI-X is unplugged.
    let nvme = context.nvme(&image, &["msix=off"])?.below("rp1");
    let mut guest = context.guest().root_ports(1).drive_of(&nvme).start()?;
    guest.run(
        "check 'no NVMe at the start' test ! -e /sys/class/nvme/nvme0",
        STEP,
        checks,
    )?;
    guest.plug(&nvme)?;
    guest.run("nvme_make_files", STEP, checks)?;
    unplug(&mut guest, &nvme, checks)?;
    // QEMU closes the drive of its own NVMe with it, so there is nothing to add again.
    if nvme.server.is_some() {
        guest.plug(&nvme)?;
        guest.run("nvme_find_files", STEP, checks)?;
        unplug(&mut guest, &nvme, checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    context.image_is_clean(&image, checks)
}

fn unplug(guest: &mut Guest, nvme: &Device, checks: &mut Checks) -> Result<()> {
    checks.same(
        "the guest gives the device back",
        &true,
        &guest.unplug(nvme, STEP)?,
    );
    guest.run(
        "check 'no NVMe is left' eventually 30 test ! -e /sys/class/nvme/nvme0",
        STEP,
        checks,
    )
}
