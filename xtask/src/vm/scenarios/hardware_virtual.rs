//! The virtual view over devices that exist, against a real kernel and QEMU's own devices.
//!
//! The program in the guest is the example `hardware` of the crate `uvfio-linux`: it makes the virtual device in its own
//! process, and plays its user. What it checks stands there.

use anyhow::Result;
use serde_json::json;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hardware-virtual",
    about: "the virtual view of QEMU's own devices: configuration space, BARs, DMA, interrupts, resets, one user after another",
    run,
};

const EDU: &str = "1234:11e8";
const NVME: &str = "1b36:0010";
const IGB: &str = "8086:10c9";
/// On the root bus, so that there is no bus to reset either; its second BAR is of I/O ports.
const TEST_DEVICE: &str = "1b36:0005";

/// What the NVMe controller says when it is asked for its serial number.
const SERIAL: &str = "uvfio-virtual";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let port = |number: u32| json!({ "driver": "pcie-root-port", "id": format!("rp{number}"), "chassis": number, "slot": number });
    let mut guest = context
        .guest()
        .root_port()
        .tool(&context.programs.hardware)
        .device(port(2))
        .device(port(3))
        .device(json!({ "driver": "edu", "bus": "rp1" }))
        .device(json!({ "driver": "nvme", "serial": SERIAL, "bus": "rp2" }))
        .device(json!({ "driver": "igb", "bus": "rp3" }))
        .device(json!({ "driver": "pci-testdev" }))
        .iommu()
        .start()?;
    for (what, id, more) in [
        ("virtual-edu", EDU, ""),
        ("virtual-nvme", NVME, SERIAL),
        ("virtual-igb", IGB, ""),
        ("virtual-unresettable", TEST_DEVICE, ""),
    ] {
        checks.part(&format!("{what} {id}"));
        let command = format!("vfio_owns {id} && hardware {what} $address {more} >&3");
        guest.run(&command, STEP, checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
