//! A worker that dies under a guest that uses its device.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "worker-killed",
    about: "when the process that serves our NVMe is killed while files are written, the guest runs on without it and reboots",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let mut nvme = context.nvme(&context.image()?, &[])?;
    let mut guest = context.guest().attach(&nvme).may_reboot().start()?;
    let Some(server) = &mut nvme.server else {
        // QEMU's own device has no process to kill.
        checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
        return Ok(());
    };
    guest.run("nvme_make_files", STEP, checks)?;
    guest.run("nvme_write_until_failure", STEP, checks)?;
    server.kill_worker()?;
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
    checks.same(
        "the server ends with the guest, and says that something failed",
        &Some(1),
        &server.wait(STEP)?,
    );
    Ok(())
}
