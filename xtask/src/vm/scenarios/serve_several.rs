//! Our server owns several of QEMU's own devices through the kernel's VFIO, inside a guest, and serves each to a user of
//! its own: an NVMe controller to a QEMU that runs there, too, and has no processor (a program of ours makes its accesses);
//! two controllers of one group to one such QEMU;
//! two edus to two users who try each other's memory;
//! others to somebody who only looks at them.

use anyhow::Result;
use serde_json::json;

use super::functions::{self, E1000E, EDU, IGB, NVME, XHCI};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "serve-several",
    about: "users of several functions at a time: a QEMU inside the guest, and two who try each other's memory",
    run,
};

/// What the NVMe controller says when it is asked for its serial number.
const SERIAL: &str = "uvfio-inside";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = functions::machine(context, SERIAL)
        .root_ports(2)
        .device(json!({ "driver": "edu", "bus": "rp5" }))
        .device(json!({ "driver": "nvme", "serial": "group-a", "bus": "rp6", "addr": "0.0", "multifunction": true }))
        .device(json!({ "driver": "nvme", "serial": "group-b", "bus": "rp6", "addr": "0.1" }))
        .device(json!({ "driver": "e1000e" }))
        .iommu()
        .memory(1024)
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .programs(&[
            "usr/bin/qemu-system-x86_64",
            "usr/lib/x86_64-linux-gnu/qemu/accel-qtest.so",
        ])
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    for grant in ["trapped", "device-fd"] {
        checks.part(grant);
        guest.run(
            &format!("serve_to_qemu {NVME} {SERIAL} {grant}"),
            STEP * 2,
            checks,
        )?;
    }
    for grant in ["trapped", "device-fd"] {
        checks.part(&format!("group, {grant}"));
        guest.run(
            &format!("serve_group_to_qemu {NVME} group-a group-b {grant}"),
            STEP * 2,
            checks,
        )?;
    }
    checks.part("taken");
    guest.run(
        &format!("serve_taken_from_qemu {NVME} {SERIAL}"),
        STEP * 2,
        checks,
    )?;
    checks.part("others");
    guest.run(&format!("serve_neighbours {EDU}"), STEP, checks)?;
    for id in [XHCI, IGB, E1000E] {
        guest.run(&format!("serve_face {id}"), STEP, checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
