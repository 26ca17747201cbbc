//! Devices of our own server in virtual machines of KVM's: the kernel of a guest carries their doorbells and interrupts
//! between a small VMM's machine and the server, and neither process is asked.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kvm",
    about: "a VMM's machine rings doorbells and gets interrupts past the VMM: ioeventfds and irqfds",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = context
        .guest()
        .virtualization()
        .modules(&["kvm-amd"])
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("kvm_is_there", STEP, checks)?;
    guest.run("kvm_doorbell", STEP, checks)?;
    guest.run("kvm_level", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
