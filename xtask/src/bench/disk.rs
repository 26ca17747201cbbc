//! NVMe in a guest: 4 KiB random reads of ours beside QEMU's own controller in the same guest.
//!
//! The guest is emulated, so the figures are those of an emulated processor; what counts is the ratio. There is no limit:
//! QEMU's controller answers inside QEMU, ours in another process.

use anyhow::Result;

use super::Effort;
use super::figures::{Figure, Report};
use crate::vm;

const DEPTHS: [u32; 2] = [1, 32];

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let seconds = if effort.smoke { 1 } else { 4 };
    for rates in vm::disk_rates(&DEPTHS, effort.runs, seconds)? {
        report.add(&Figure {
            name: format!(
                "NVMe in a guest, 4 KiB random read, depth {} ({:.3} doorbell messages a read)",
                rates.depth, rates.doorbells
            ),
            beside: "QEMU's own nvme in the same guest",
            ours: rates.ours,
            theirs: rates.qemus,
            unit: "µs",
            limit: None,
        });
    }
    Ok(())
}
