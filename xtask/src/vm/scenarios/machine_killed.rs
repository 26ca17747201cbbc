//! The machine that runs our server ends without notice.
//!
//! The server runs inside a guest here, its image on the guest's disk, and a small driver of our
//! own uses it there, over the client of the crate `vfio_user`. Killing the guest loses whatever its kernel had not yet been told to write,
//! which killing a guest that merely uses a device does not.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Context, RECORDS, STEP, Scenario, flushed_records, flushed_so_far};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "machine-killed",
    about: "when the machine that runs our server is killed, everything that its user flushed is in the image",
    run,
};

/// How often the machine is killed, each time with a new disk.
const ROUNDS: usize = 3;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    for _ in 0..ROUNDS {
        round(context, uvfio, checks)?;
    }
    Ok(())
}

fn round(context: &Context<'_>, uvfio: &Path, checks: &mut Checks) -> Result<()> {
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
    // Anywhere: between commands, in a write, in a flush.
    let chance = RandomState::new().build_hasher().finish();
    let records = 1 + chance as usize % RECORDS;
    let delay = Duration::from_micros(chance >> 32 & 0xffff);

    let mut guest = machine()?;
    guest.run("server_make_disk", STEP, checks)?;
    guest.run("server_start", STEP, checks)?;
    guest.tell("uvfio-guest-tools nvme-write /run/nvme.sock --records 8192 >&3")?;
    let mut flushed = flushed_records(&mut guest, records, checks)?;
    std::thread::sleep(delay);
    for note in guest.kill_for_notes()? {
        // The last one may have been cut short.
        flushed = flushed.max(flushed_so_far(&note).unwrap_or(0));
    }
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
