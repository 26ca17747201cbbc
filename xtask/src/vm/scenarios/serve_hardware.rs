//! Our server owns QEMU's own devices through the kernel's VFIO, inside a guest, and gives them to programs of other
//! users there.
//!
//! Drivers are the examples of `uvfio-driver`, and small ones over the client that Cloud Hypervisor uses. What an NVMe
//! controller's user wrote is looked for in QEMU's own image file, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::functions::{image_is_as_written, wipe};
use super::{Context, STEP, Scenario, flushed_so_far};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};
use crate::vm::guest::{Builder, Guest};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "serve-hardware",
    about: "serve gives functions that exist to programs of other users, one after another, and takes them back",
    run,
};

/// Size of the disks of two controllers that are served together, MiB.
const TWIN_MIB: u64 = 64;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let image = context.image()?;
    let twins = [0, 1].map(|number| context.scratch.join(format!("twin{number}.img")));
    for twin in &twins {
        device::make_image(twin, TWIN_MIB)?;
    }
    let mut guest = machine(context, &Device::qemu_nvme("nvme", &image).below("rp2"), &twins)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("iommu_groups_exist", STEP, checks)?;
    guest.run("serve_users", STEP, checks)?;
    guest.run("serve_refusals", STEP, checks)?;
    guest.run("unbind_all shpchp", STEP, checks)?;
    guest.run("serve_not_viable", STEP, checks)?;
    guest.run("serve_edu", STEP, checks)?;
    guest.run("serve_given_away", STEP, checks)?;
    guest.run("serve_views", STEP * 2, checks)?;
    guest.run("serve_edu_as_owner", STEP, checks)?;
    for step in [
        "serve_interrupts",
        "serve_user_killed",
        "serve_bars_lost",
        "serve_held",
        "serve_worker_killed",
    ] {
        guest.run(step, STEP, checks)?;
    }
    guest.run("serve_locked_memory", STEP, checks)?;
    guest.run("serve_once", STEP, checks)?;
    guest.run("serve_lost_bar", STEP, checks)?;
    guest.run("serve_no_reset", STEP, checks)?;
    checks.part("group");
    guest.run("serve_group", STEP * 2, checks)?;
    guest.run("serve_group_again", STEP * 2, checks)?;
    guest.run("serve_group_mapped", STEP * 2, checks)?;
    guest.run("serve_group_to_be_erased", STEP * 3, checks)?;
    for twin in &twins {
        checks.same("the disk has something", &true, &(bytes_in(twin)? > 0));
    }
    guest.run("serve_group_erased", STEP * 2, checks)?;
    for twin in &twins {
        checks.same("and then nothing; bytes that are not 0", &0, &bytes_in(twin)?);
    }
    nvme(context, &image, &mut guest, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// An NVMe controller: a user who is killed while it writes, and then our own driver, by messages and by mappings.
fn nvme(context: &Context<'_>, image: &Path, guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    checks.part("nvme");
    guest.run("serve_nvme_as_owner", STEP, checks)?;
    guest.run("serve_nvme_writes", STEP, checks)?;
    let said = guest.text("serve_nvme_killed", STEP)?.join("");
    let flushed = flushed_so_far(&said)?;
    checks.same("the user had written before it was killed", &true, &(flushed > 1));
    // QEMU writes to its file as it goes; what is flushed is there.
    let found = Command::new(&context.programs.guest_tools)
        .arg("nvme-find")
        .arg(image)
        .args(["--records", &flushed.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    checks.same(
        "QEMU's image has every record that the killed user flushed",
        &true,
        &said.contains("UVFIO ok flushed records"),
    );
    guest.run("serve_nvme_driver", STEP * 3, checks)?;
    checks.part("mapped");
    guest.run("serve_nvme_mapped", STEP, checks)?;
    guest.run("serve_nvme_mapping_kept", STEP, checks)?;
    wipe(image)?;
    guest.run("serve_nvme_mapped_driver", STEP * 3, checks)?;
    image_is_as_written(guest, image, checks)?;
    guest.run("serve_nvme_mapped_gone", STEP, checks)?;
    checks.part("erased");
    checks.same("QEMU's image has something", &true, &(bytes_in(image)? > 0));
    guest.run("serve_nvme_to_be_erased", STEP * 3, checks)?;
    guest.run("serve_nvme_erased", STEP, checks)?;
    checks.same(
        "and after that nothing; bytes that are not 0",
        &0,
        &bytes_in(image)?,
    );
    Ok(())
}

/// How many bytes of a file are not 0.
fn bytes_in(image: &Path) -> Result<usize> {
    Ok(std::fs::read(image)?.iter().filter(|byte| **byte != 0).count())
}

/// A machine with the devices: those that a bus reset reaches below root ports, one that nothing resets on the root bus,
/// four of one group behind a bridge, two controllers in one slot, which are of one group, too.
fn machine<'a>(context: &Context<'a>, nvme: &Device, twins: &[PathBuf; 2]) -> Builder<'a> {
    context
        .guest()
        .iommu()
        .root_ports(3)
        .tool(&context.programs.guest_tools)
        .tool(&context.programs.driver_edu)
        .tool(&context.programs.driver_nvme)
        .device(json!({ "driver": "edu", "bus": "rp1" }))
        .attach(nvme)
        .device(json!({ "driver": "nec-usb-xhci" }))
        .device(json!({ "driver": "pcie-pci-bridge", "id": "bridge" }))
        .device(json!({ "driver": "pci-testdev", "bus": "bridge", "addr": "1" }))
        .device(json!({ "driver": "virtio-rng-pci", "bus": "bridge", "addr": "2" }))
        .device(json!({ "driver": "edu", "bus": "bridge", "addr": "3" }))
        .device(json!({ "driver": "edu", "bus": "bridge", "addr": "4" }))
        .attach(&twin(0, &twins[0]))
        .attach(&twin(1, &twins[1]))
}

/// One of two controllers in one slot, each with a disk of its own behind that of the machine's first.
fn twin(number: u32, image: &Path) -> Device {
    let mut twin = Device::qemu_nvme(&format!("twin{number}"), image).below("rp3");
    twin.description["drive"] = format!("disk{}", number + 1).into();
    // The kernel's driver wants controllers to be told from one another.
    twin.description["serial"] = format!("twin{number}").into();
    twin.description["addr"] = format!("0.{number}").into();
    twin.description["multifunction"] = (number == 0).into();
    twin
}
