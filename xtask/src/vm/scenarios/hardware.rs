//! Our own layer over the kernel's VFIO, against a real kernel and QEMU's own devices.
//!
//! The program in the guest is the example `hardware` of the crate `uvfio-linux`; what it checks stands there.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hardware",
    about: "our layer over the kernel's VFIO owns QEMU's own devices: registers, DMA, interrupts, resets, refusals",
    run,
};

const EDU: &str = "1234:11e8";
const NVME: &str = "1b36:0010";
const IGB: &str = "8086:10c9";
const E1000E: &str = "8086:10d3";
const XHCI: &str = "1033:0194";
/// Two functions behind a bridge that keeps no two apart: one without a driver, and one whose driver is in the kernel
const TEST_DEVICE: &str = "1b36:0005";
const RNG: &str = "1af4:1005";

/// Below a root port, with error reporting that works
const ERRING: &str = "1af4:1044";

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
    let port = |number: u32| json!({ "driver": "pcie-root-port", "id": format!("rp{number}"), "chassis": number, "slot": number });
    context
        .guest()
        .root_port()
        .tool(&context.programs.hardware)
        .device(port(2))
        .device(port(3))
        .device(port(4))
        .device(below("rp1", json!({ "driver": "edu" })))
        .device(below("rp2", json!({ "driver": "nvme", "serial": SERIAL })))
        .device(below("rp3", json!({ "driver": "igb" })))
        .device(below(
            "rp4",
            json!({ "driver": "nec-usb-xhci", "msix": "off", "msi": "on" }),
        ))
        .device(port(5))
        .device(below(
            "rp5",
            json!({ "driver": "virtio-rng-pci", "id": "erring", "aer": true, "disable-legacy": "on" }),
        ))
        .device(json!({ "driver": "e1000e" }))
        .device(json!({ "driver": "pcie-pci-bridge", "id": "bridge" }))
        .device(below("bridge", json!({ "driver": "pci-testdev", "addr": "1" })))
        .device(below(
            "bridge",
            json!({ "driver": "virtio-rng-pci", "addr": "2" }),
        ))
}

/// A function reports an error (a completion that did not come in time), and its owner hears of it.
fn reports_an_error(guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    checks.part(&format!("error {ERRING}"));
    guest.run(&format!("vfio_owns {ERRING}"), STEP, checks)?;
    let command = format!("hardware error $(pci_find {ERRING}) >&3");
    guest.tell(&command)?;
    let note = guest.note(STEP, checks)?;
    checks.same("the owner waits", &"inject".to_owned(), &note);
    let inject = json!({ "command-line": "pcie_aer_inject_error erring COMP_TIME" });
    guest.execute("human-monitor-command", &inject)?;
    guest.finish(&command, STEP, checks)
}

/// A device below a root port or bridge.
fn below(bus: &str, mut device: Value) -> Value {
    device["bus"] = bus.into();
    device
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
