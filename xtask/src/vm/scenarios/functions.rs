//! QEMU's own devices that several scenarios own: machines with them, an error that one of them reports, and the disk of
//! one as a driver has left it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Context, STEP};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

// Vendor and device, as configuration space has them.
pub(super) const EDU: &str = "1234:11e8";
pub(super) const NVME: &str = "1b36:0010";
pub(super) const E1000E: &str = "8086:10d3";
pub(super) const IGB: &str = "8086:10c9";
/// A virtual function of igb's.
pub(super) const IGB_VIRTUAL: &str = "8086:10ca";
/// Offers 16 MSI messages; without MSI-X in [`machine`].
pub(super) const XHCI: &str = "1033:0194";
pub(super) const TEST_DEVICE: &str = "1b36:0005";
/// Made by [`erring`].
pub(super) const ERRING: &str = "1af4:1044";

/// As QEMU's NVMe controller has them where nothing else is asked for.
const BLOCK: usize = 512;

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

/// Zeros a disk of whole MiB behind the guest's back, so that nothing written earlier can be taken for written now.
pub(super) fn wipe(image: &Path) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let file = File::options().write(true).open(image)?;
    let bytes = file.metadata()?.len();
    (0..bytes >> 20).try_for_each(|mib| file.write_all_at(&zeros, mib << 20))?;
    Ok(())
}

/// What a written block's eight bytes say that have `before` times eight bytes before them on the disk.
fn written(before: u64) -> u64 {
    let mut z = (before + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Compares the disk of whole MiB, as QEMU keeps it, with what the driver in the guest says that it has written and
/// flushed: the example `nvme` of `uvfio-driver`, which has to start with a disk of zeros.
pub(super) fn image_is_as_written(guest: &mut Guest, image: &Path, checks: &mut Checks) -> Result<()> {
    let printed = guest.text("text cat /tmp/printed", STEP)?;
    let mut counts = Vec::new();
    for line in &printed {
        if let Some((_, text)) = line.split_once(": ")
            && let Some(count) = text.strip_suffix(" blocks written at random places and flushed")
        {
            let count: usize = count.parse().with_context(|| format!("no number: {line}"))?;
            counts.push(count);
        }
    }
    let disk = fs::read(image)?;
    let (mut right, mut wrong) = (0, Vec::new());
    for (number, block) in disk.chunks_exact(BLOCK).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let first = (number * BLOCK / 8) as u64;
        let expected: Vec<u8> = (first..first + BLOCK as u64 / 8)
            .flat_map(|before| written(before).to_le_bytes())
            .collect();
        if block == expected {
            right += 1;
        } else {
            wrong.push(number);
        }
    }
    checks.same(
        "the driver has written by interrupt and polled, twice each",
        &(4, false),
        &(counts.len(), counts.contains(&0)),
    );
    checks.same(
        "the image has as many blocks as were flushed, each in its place",
        &counts.iter().sum(),
        &right,
    );
    checks.same("the image has no other data", &Vec::<usize>::new(), &wrong);
    Ok(())
}
