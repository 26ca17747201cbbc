//! The virtual view over devices that exist, against a real kernel and QEMU's own devices.
//!
//! The program in the guest is the example `hardware` of the crate `uvfio-linux`: it makes the virtual device in its own
//! process, and plays its user. What it checks stands there.

use anyhow::Result;
use serde_json::json;

use super::functions::{self, E1000E, EDU, IGB, IGB_VIRTUAL, NVME, TEST_DEVICE, XHCI};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hardware-virtual",
    about: "the virtual view of QEMU's own devices: configuration space, BARs, DMA, interrupts, resets, one user after another",
    run,
};

/// What the NVMe controller says when it is asked for its serial number.
const SERIAL: &str = "uvfio-virtual";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let mut guest = machine(context).iommu().start()?;
    for (what, id, more) in [
        ("virtual-edu", EDU, ""),
        ("virtual-confined", EDU, ""),
        ("virtual-nvme", NVME, SERIAL),
        ("virtual-igb", IGB, ""),
        ("virtual-resets", IGB, ""),
        ("virtual-bus-reset", EDU, ""),
        ("virtual-bus-reset", XHCI, ""),
        ("virtual-messages", XHCI, "16"),
        ("virtual-unresettable", TEST_DEVICE, ""),
        ("own-registers", NVME, ""),
        ("own-registers", IGB, ""),
        ("own-registers-moved", NVME, ""),
        ("own-registers-igb", IGB, ""),
    ] {
        checked(&mut guest, what, id, more, checks)?;
    }
    for id in [EDU, NVME, IGB, XHCI, E1000E] {
        for view in ["virtual", "filtered", "kernel"] {
            checked(&mut guest, &format!("adversary-{view}"), id, "", checks)?;
        }
    }
    // Its physical function has the kernel's own driver, which makes it.
    guest.run(&format!("virtual_function {IGB}"), STEP, checks)?;
    for what in [
        "virtual-function",
        "adversary-virtual",
        "adversary-filtered",
        "adversary-kernel",
    ] {
        checked(&mut guest, what, IGB_VIRTUAL, "", checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());

    // Without interrupt remapping the kernel has one message for a function, however many it could send.
    let mut guest = machine(context).iommu_without_interrupts().start()?;
    let allow = "echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    checks.part("without interrupt remapping");
    guest.run(&format!("vfio_owns {XHCI} && {allow}"), STEP, checks)?;
    checked(&mut guest, "virtual-messages", XHCI, "1", checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// A machine with the devices; the one IOMMU or the other is the caller's.
fn machine<'a>(context: &Context<'a>) -> Builder<'a> {
    functions::machine(context, SERIAL)
        .tool(&context.programs.hardware)
        .modules(&["igb"])
        .device(json!({ "driver": "e1000e" }))
        // On the root bus, so that there is no bus to reset either; its second BAR is of I/O ports.
        .device(json!({ "driver": "pci-testdev" }))
}

/// Has the program in the guest check what `what` names, with the function of this vendor and device.
fn checked(guest: &mut Guest, what: &str, id: &str, more: &str, checks: &mut Checks) -> Result<()> {
    checks.part(&format!("{what} {id}"));
    let command = format!("vfio_owns {id} && hardware {what} $address {more} >&3");
    guest.run(&command, STEP, checks)
}
