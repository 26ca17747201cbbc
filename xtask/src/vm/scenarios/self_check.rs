//! The testbed itself: QEMU's own devices behind an emulated IOMMU, so that a failure here is not
//! our server's.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::device::Device;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "testbed",
    about: "the testbed boots a guest that owns QEMU's own edu through an IOMMU and keeps files on QEMU's NVMe",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let mut guest = context
        .guest()
        .iommu()
        .attach(&Device::qemu_nvme("nvme", &context.image()?))
        .attach(&Device::qemu_edu("edu"))
        .tool(&context.programs.guest_tools)
        .may_reboot()
        .start()?;
    guest.run("iommu_groups_exist", STEP, checks)?;
    guest.run("edu_by_vfio 1", STEP, checks)?;
    guest.run("nvme_make_files", STEP, checks)?;
    guest.reboot()?;
    checks.ok("the guest reboots");
    guest.run("nvme_find_files", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
