//! A kernel that is locked down: what of our server works there, and what is refused, with the reason.

use anyhow::Result;
use serde_json::json;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "locked-down",
    about: "on a kernel that is locked down functions are served, but for the view that writes past the kernel",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = context
        .guest()
        .iommu()
        .kernel_words("lockdown=integrity")
        .root_ports(1)
        .device(json!({ "driver": "edu", "bus": "rp1" }))
        .tool(&context.programs.guest_tools)
        .tool(&context.programs.driver_edu)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    guest.run("serve_locked_down", STEP * 2, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
