//! A device that is taken away from a guest that uses it.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::Guest;
use crate::vm::server::Server;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "gone",
    about: "when our NVMe is taken away while files are written, the guest runs on without it and reboots",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    for (iommu, how) in [(false, "no IOMMU"), (true, "behind an IOMMU")] {
        checks.part(how);
        let mut nvme = context.nvme(&context.image()?, &[])?;
        let guest = context.guest().attach(&nvme).may_reboot();
        let mut guest = if iommu { guest.iommu() } else { guest }.start()?;
        let Some(server) = &mut nvme.server else {
            // QEMU takes away none of its own devices without asking.
            checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
            continue;
        };
        guest.run("nvme_is_impatient; nvme_make_files", STEP, checks)?;
        guest.run("nvme_write_until_failure", STEP, checks)?;
        server.take_away()?;
        guest_goes_on(guest, server, ("the server ends with the guest", 0), checks)?;
    }
    Ok(())
}

/// The guest, whose NVMe is no more, sees that, reboots, and ends; then the server ends so.
pub(super) fn guest_goes_on(
    mut guest: Guest,
    server: &mut Server,
    (what, exit): (&str, i32),
    checks: &mut Checks,
) -> Result<()> {
    guest.run("nvme_is_gone", 2 * STEP, checks)?;
    guest.reboot()?;
    checks.ok("the guest reboots");
    guest.run(
        "same 'functions of an NVMe that are left' '' \"$(pci_class 0x0108)\"",
        STEP,
        checks,
    )?;
    checks.same(
        "the server serves on while the guest runs",
        &None,
        &server.ended()?,
    );
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    checks.same(what, &Some(exit), &server.wait(STEP)?);
    Ok(())
}
