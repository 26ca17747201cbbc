//! A worker that dies under a guest that uses its device.

use anyhow::Result;

use super::gone::guest_goes_on;
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
    let end = (
        "the server ends with the guest, and says that something failed",
        1,
    );
    guest_goes_on(guest, server, end, checks)
}
