//! The machine that runs our server ends without notice.
//!
//! The server runs inside a guest here, its image on the guest's disk, and a small driver of our
//! own uses it there. Killing the guest loses whatever its kernel had not yet been told to write,
//! which killing a guest that merely uses a device does not.

use anyhow::Result;
use serde_json::json;

use super::{Context, RECORDS, STEP, Scenario, flushed_records};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "machine-killed",
    about: "when the machine that runs our server is killed, everything that its user flushed is in the image",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let disk = context.scratch.join("machine.img");
    device::make_image(&disk, 128)?;
    let disk = Device {
        description: json!({ "driver": "virtio-blk-pci", "id": "disk", "drive": "disk0" }),
        drive: Some(disk),
        server: None,
    };
    let machine = || {
        context
            .guest()
            .attach(&disk)
            .tool(&context.programs.guest_tools)
            .dynamic_tool(uvfio)
            .start()
    };
    let mut guest = machine()?;
    guest.run("server_make_disk", STEP, checks)?;
    guest.run("server_start", STEP, checks)?;
    guest.tell("uvfio-guest-tools nvme-write /run/nvme.sock --records 8192 >&3")?;
    let flushed = flushed_records(&mut guest, RECORDS)?;
    guest.kill()?;
    let mut guest = machine()?;
    guest.run("server_mount_disk", STEP, checks)?;
    guest.run(
        &format!("uvfio-guest-tools nvme-find /mnt/nvme.img --records {flushed} >&3"),
        STEP,
        checks,
    )?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
