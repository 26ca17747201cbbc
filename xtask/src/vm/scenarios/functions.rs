//! QEMU's own devices that several scenarios own: machines with them, and an error that one of them reports.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Context, STEP};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

// Vendor and device, as configuration space has them.
pub(super) const EDU: &str = "1234:11e8";
pub(super) const NVME: &str = "1b36:0010";
pub(super) const E1000E: &str = "8086:10d3";
pub(super) const IGB: &str = "8086:10c9";
/// Offers 16 MSI messages; without MSI-X in [`machine`].
pub(super) const XHCI: &str = "1033:0194";
pub(super) const TEST_DEVICE: &str = "1b36:0005";
/// Made by [`erring`].
pub(super) const ERRING: &str = "1af4:1044";

/// A machine with four of them, each below a root port. The controller says `serial` when it is asked for its serial
/// number; the one IOMMU or the other is the caller's.
pub(super) fn machine<'a>(context: &Context<'a>, serial: &str) -> Builder<'a> {
    context
        .guest()
        .root_ports(4)
        .device(json!({ "driver": "edu", "bus": "rp1" }))
        .device(json!({ "driver": "nvme", "serial": serial, "bus": "rp2" }))
        .device(json!({ "driver": "igb", "bus": "rp3" }))
        .device(json!({ "driver": "nec-usb-xhci", "msix": "off", "msi": "on", "bus": "rp4" }))
}

/// A function below a root port, with error reporting that works.
pub(super) fn erring(port: &str) -> Value {
    json!({ "driver": "virtio-rng-pci", "id": "erring", "bus": port, "aer": true, "disable-legacy": "on" })
}

/// Runs a command that sends a note and waits for an error of [`erring`]'s; the function then reports one: a completion
/// that did not come in time.
pub(super) fn hears_of_an_error(guest: &mut Guest, command: &str, checks: &mut Checks) -> Result<()> {
    guest.tell(command)?;
    let note = guest.note(STEP, checks)?;
    checks.same("the function's owner waits", &"inject".to_owned(), &note);
    let inject = json!({ "command-line": "pcie_aer_inject_error erring COMP_TIME" });
    guest.execute("human-monitor-command", &inject)?;
    guest.finish(command, STEP, checks)
}
