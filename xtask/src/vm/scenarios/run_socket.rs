//! QEMU with `-device vfio-pci`, as it is, under `uvfio run` over a vfio-user server.

use anyhow::Result;

use super::{Context, STEP, Scenario, nvme_of, uvfio_run};
use crate::vm::checks::Checks;
use crate::vm::device::Device;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "run-socket",
    about: "QEMU under `uvfio run --socket` gives a guest by vfio-pci the NVMe of a server, with and without memory of its",
    run,
};

/// Where `uvfio run` puts the first device.
const ADDRESS: &str = "0000:01:00.0";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        // QEMU's own devices are not behind a server.
        return Ok(());
    };
    let image = context.image()?;
    let server = context.serve(uvfio, "nvme", &nvme_of(&image))?;
    let options = ["--socket".as_ref(), server.socket().as_os_str()];
    // One user after another: the guest's memory as one file, and QEMU's own, which is reached by message.
    for (part, shared, files) in [
        ("memory by descriptor", true, "nvme_make_files"),
        ("memory by message", false, "nvme_find_files"),
    ] {
        checks.part(part);
        let nvme = Device::by_vfio("nvme", ADDRESS);
        let mut guest = context
            .guest()
            .launcher(uvfio_run(uvfio, &options))
            .memory_shared(shared)
            .attach(&nvme)
            .start()?;
        guest.run(files, STEP, checks)?;
        guest.run(
            "check 'interrupts arrive by MSI-X' grep -q 'PCI-MSIX.*nvme0q1' /proc/interrupts",
            STEP,
            checks,
        )?;
        guest.run("nvme_reset_under_load", 2 * STEP, checks)?;
        guest.run("nvme_find_files", STEP, checks)?;
        checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    }
    drop(server);
    context.image_is_clean(&image, checks)
}
