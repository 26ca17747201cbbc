//! The testbed itself: QEMU's own devices behind an emulated IOMMU, so that a failure here is not
//! ours.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Context, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "testbed",
    about: "the testbed boots a guest with kernel VFIO and an IOMMU; an emulated NVMe holds a file system",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.scratch.join("disk.img");
    File::create(&image)?.set_len(64 << 20)?;
    let mut guest = context
        .guest()
        .iommu()
        .drive(&image)
        .device(json!({ "driver": "nvme", "drive": "disk0", "serial": "testbed" }))
        .device(json!({ "driver": "edu" }))
        .may_reboot()
        .start()?;
    guest.run("iommu_groups_exist", Duration::from_secs(60), checks)?;
    guest.run("vfio_owns 1234:11e8", Duration::from_secs(60), checks)?;
    guest.run("nvme_make_files", Duration::from_secs(120), checks)?;
    guest.reboot()?;
    checks.ok("the guest reboots");
    guest.run("nvme_find_files", Duration::from_secs(120), checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
