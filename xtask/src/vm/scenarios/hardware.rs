//! Our own layer over the kernel's VFIO, against a real kernel and QEMU's own devices.
//!
//! The program in the guest is the example `hardware` of the crate `uvfio-linux`; what it checks stands there.

use anyhow::Result;
use serde_json::json;

use super::functions::{self, E1000E, EDU, ERRING, IGB, NVME, TEST_DEVICE, XHCI, erring, hears_of_an_error};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hardware",
    about: "our layer over the kernel's VFIO owns QEMU's own devices: registers, DMA, interrupts, resets, refusals",
    run,
};

/// Behind a bridge that keeps no two apart, as the test device is: that has no driver, and this one's is in the kernel.
const RNG: &str = "1af4:1005";

/// What the NVMe controller says when it is asked for its serial number.
const SERIAL: &str = "uvfio-hardware";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let mut guest = machine(context).iommu().start()?;
    for id in [EDU, NVME, IGB, E1000E, XHCI] {
        checked(&mut guest, "survey", id, checks)?;
    }
    checks.part(&format!("nvme {NVME}"));
    guest.run(
        &format!("vfio_owns {NVME} && hardware nvme $address {SERIAL} >&3"),
        STEP,
        checks,
    )?;
    for what in ["edu", "order", "mappings", "held"] {
        checked(&mut guest, what, EDU, checks)?;
    }
    checked(&mut guest, "nvme-resets", NVME, checks)?;
    checked(&mut guest, "igb-vectors", IGB, checks)?;
    checked(&mut guest, "igb-reset", IGB, checks)?;
    checked(&mut guest, "no-bus", E1000E, checks)?;
    checked(&mut guest, "features", IGB, checks)?;
    checked(&mut guest, "token", IGB, checks)?;
    checked(&mut guest, "xhci", XHCI, checks)?;
    for what in ["passed", "release"] {
        checked(&mut guest, what, EDU, checks)?;
    }
    reports_an_error(&mut guest, checks)?;
    // The bridge's own driver is one of the group's too.
    guest.run("unbind_all shpchp", STEP, checks)?;
    checked(&mut guest, "not-viable", TEST_DEVICE, checks)?;
    guest.run(&format!("vfio_owns {RNG}"), STEP, checks)?;
    checked(&mut guest, "viable", TEST_DEVICE, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());

    let mut guest = machine(context).iommu_without_interrupts().start()?;
    checked(&mut guest, "no-remapping", EDU, checks)?;
    guest.run(
        "echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        STEP,
        checks,
    )?;
    checked(&mut guest, "one-message", XHCI, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// A machine with the devices; the one IOMMU or the other is the caller's.
fn machine<'a>(context: &Context<'a>) -> Builder<'a> {
    functions::machine(context, SERIAL)
        .tool(&context.programs.hardware)
        .root_ports(1)
        .device(erring("rp5"))
        .device(json!({ "driver": "e1000e" }))
        .device(json!({ "driver": "pcie-pci-bridge", "id": "bridge" }))
        .device(json!({ "driver": "pci-testdev", "bus": "bridge", "addr": "1" }))
        .device(json!({ "driver": "virtio-rng-pci", "bus": "bridge", "addr": "2" }))
}

/// A function reports an error, and its owner hears of it.
fn reports_an_error(guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    checks.part(&format!("error {ERRING}"));
    guest.run(&format!("vfio_owns {ERRING}"), STEP, checks)?;
    hears_of_an_error(guest, &format!("hardware error $(pci_find {ERRING}) >&3"), checks)
}

/// Has the program in the guest check what `what` names, with the function of this vendor and device.
fn checked(guest: &mut Guest, what: &str, id: &str, checks: &mut Checks) -> Result<()> {
    checks.part(&format!("{what} {id}"));
    guest.run(
        &format!("vfio_owns {id} && hardware {what} $address >&3"),
        STEP,
        checks,
    )
}
