//! Drivers written with our library, on the kernel's VFIO: the ones that run on software devices, unchanged, on
//! QEMU's own devices.

use anyhow::Result;
use serde_json::json;

use super::functions::{EDU, ERRING, NVME, erring, hears_of_an_error, image_is_as_written, wipe};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "driver-vfio",
    about: "our drivers for edu and NVMe run unchanged on the kernel's VFIO, as root and as an ordinary user",
    run,
};

const DISK_MIB: u64 = 64;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.scratch.join("disk.img");
    device::make_image(&image, DISK_MIB)?;
    let mut guest = context
        .guest()
        .iommu()
        .root_ports(3)
        .attach(&Device::qemu_nvme("nvme", &image).below("rp1"))
        .device(json!({ "driver": "edu", "bus": "rp2" }))
        .device(erring("rp3"))
        .tool(&context.programs.driver_edu)
        .tool(&context.programs.driver_nvme)
        .tool(&context.programs.driver_promises)
        .start()?;
    guest.run("iommu_groups_exist", STEP, checks)?;
    guest.run("driver_user", STEP, checks)?;
    guest.run("driver_refusals", STEP, checks)?;
    for user in ["root", "driver"] {
        checks.part(user);
        guest.run(&format!("driver_edu {user}"), STEP, checks)?;
        wipe(&image)?;
        guest.run(&format!("driver_nvme {user}"), STEP, checks)?;
        image_is_as_written(&mut guest, &image, checks)?;
    }
    checks.part("promises");
    guest.run(
        &format!("driver_promises {NVME} memory sleep buffers vectors"),
        STEP,
        checks,
    )?;
    guest.run(&format!("driver_promises {EDU} edu-intx"), STEP, checks)?;
    checks.part("events");
    hears_of_an_error(&mut guest, &format!("driver_events {ERRING}"), checks)?;
    checks.part("killed");
    guest.run("driver_killed", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
