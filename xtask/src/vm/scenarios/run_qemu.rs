//! QEMU with `-device vfio-pci`, as it is, under `uvfio run` on this machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::{Context, STEP, Scenario, nvme_of, uvfio_run};
use crate::vm::checks::Checks;
use crate::vm::device::Device;
use crate::vm::guest::Guest;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "run-qemu",
    about: "QEMU under `uvfio run` gives a guest our NVMe by vfio-pci: by group and by iommufd, through resets, hotplug and REQ",
    run,
};

/// Where `uvfio run` puts the first device.
const ADDRESS: &str = "0000:01:00.0";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        // QEMU's own devices are not below a VFIO of this machine's.
        return Ok(());
    };
    let image = context.image()?;
    by_group(context, uvfio, &image, checks)?;
    by_iommufd(context, uvfio, &image, checks)?;
    context.image_is_clean(&image, checks)
}

/// By container and group, guest memory as one file, and doorbells that stop QEMU at each access.
fn by_group(context: &Context<'_>, uvfio: &Path, image: &Path, checks: &mut Checks) -> Result<()> {
    checks.part("by group");
    let nvme = Device::by_vfio("nvme", ADDRESS).below("rp1");
    let mut guest = context
        .guest()
        .launcher(launcher(uvfio, &nvme_of(image)))
        .root_ports(1)
        .attach(&nvme)
        .may_reboot()
        .start()?;
    guest.run("nvme_make_files", STEP, checks)?;
    guest.run(
        "check 'interrupts arrive by MSI-X' grep -q 'PCI-MSIX.*nvme0q1' /proc/interrupts",
        STEP,
        checks,
    )?;
    guest.run("nvme_reset_under_load", 2 * STEP, checks)?;
    guest.reboot()?;
    checks.ok("the guest reboots");
    guest.run("nvme_find_files", STEP, checks)?;
    for round in ["the device is given back", "once more"] {
        checks.same(round, &true, &guest.unplug(&nvme, STEP)?);
        guest.run(
            "check 'no NVMe is left' eventually 30 test ! -e /sys/class/nvme/nvme0",
            STEP,
            checks,
        )?;
        guest.plug(&nvme)?;
        guest.run("nvme_find_files", STEP, checks)?;
    }
    taken_back(context, &mut guest, &nvme, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// By the device's own file and iommufd, guest memory of QEMU's own, and doorbells that it maps.
fn by_iommufd(context: &Context<'_>, uvfio: &Path, image: &Path, checks: &mut Checks) -> Result<()> {
    checks.part("by iommufd");
    let mut nvme = Device::by_vfio("nvme", ADDRESS).below("rp1");
    nvme.description["iommufd"] = "iommufd0".into();
    let device = format!("{},poll=always", nvme_of(image));
    let mut guest = context
        .guest()
        .launcher(launcher(uvfio, &device))
        .memory_shared(false)
        .object(json!({ "qom-type": "iommufd", "id": "iommufd0" }))
        .root_ports(1)
        .attach(&nvme)
        .start()?;
    guest.run("nvme_find_files", STEP, checks)?;
    guest.run("nvme_reset_under_load", 2 * STEP, checks)?;
    taken_back(context, &mut guest, &nvme, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// The operator wants the device back: QEMU, asked by REQ, has its guest give it up, and the two go on without it.
fn taken_back(context: &Context<'_>, guest: &mut Guest, nvme: &Device, checks: &mut Checks) -> Result<()> {
    let log = context.dir.join("qemu.log");
    let before = fs::read_to_string(&log)?.len();
    guest.take_devices_back()?;
    checks.same(
        "asked by REQ, QEMU unplugs the device",
        &true,
        &guest.wait_unplugged(nvme, STEP)?,
    );
    guest.run(
        "check 'the guest has given it up' eventually 30 test ! -e /sys/class/nvme/nvme0",
        STEP,
        checks,
    )?;
    match guest.plug(nvme) {
        Ok(()) => checks.fail("the device is not to be had again: expected an error got none"),
        Err(error) => checks.says(
            "the device is not to be had again",
            "No such device",
            &error.to_string(),
        ),
    }
    let said = fs::read_to_string(&log)?.split_off(before);
    for (what, sentence) in [
        (
            "the log says that the program is asked",
            "the program is asked for it by REQ",
        ),
        (
            "and that it has obliged",
            "the program has none of the devices open any more",
        ),
    ] {
        checks.says(what, sentence, &said);
    }
    checks.same(
        "it was not taken",
        &false,
        &said.contains("was not given back in time"),
    );
    Ok(())
}

fn launcher(uvfio: &Path, device: &str) -> Command {
    uvfio_run(uvfio, &["--release-within", "600", "--device", device])
}
