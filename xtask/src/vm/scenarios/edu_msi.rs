//! A guest's own vfio-pci on our edu: interrupts by several messages, DMA, reset; and our server in the guest, which owns
//! it by vfio-pci and gives it to somebody else.

use anyhow::Result;

use super::{Context, STEP, Scenario, parity};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "edu-msi",
    about: "a program in a guest owns edu by vfio-pci: each MSI message arrives, DMA works, a reset keeps messages on",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    for (shared, how) in [(true, "DMA to shared memory"), (false, "DMA by message")] {
        checks.part(how);
        let (mut edu, messages) = context.edu()?;
        let compares = shared && context.programs.uvfio.is_some();
        if compares {
            // A bus of its own, which can be reset.
            edu = edu.below("rp1");
        }
        let mut guest = context
            .guest()
            .iommu()
            .memory_shared(shared)
            .attach(&edu)
            .tool(&context.programs.guest_tools)
            .may_reboot();
        if let Some(uvfio) = &context.programs.uvfio {
            guest = guest.dynamic_tool(uvfio);
        }
        if compares {
            let program = parity::compile(context, "parity", &["-static"])?;
            guest = guest.root_ports(1).tool(&program);
        }
        let mut guest = guest.start()?;
        guest.run(&format!("edu_by_vfio {messages}"), STEP, checks)?;
        guest.run(&format!("edu_by_vfio {messages}"), STEP, checks)?;
        if let Some(uvfio) = context.programs.uvfio.as_ref().filter(|_| compares) {
            parity::compare(context, uvfio, &mut guest, checks)?;
        }
        if context.programs.uvfio.is_some() {
            guest.run("serve_users", STEP, checks)?;
            guest.run(&format!("serve_messages {messages}"), STEP, checks)?;
        }
        guest.reboot()?;
        guest.run(&format!("edu_by_vfio {messages}"), STEP, checks)?;
        checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    }
    Ok(())
}
