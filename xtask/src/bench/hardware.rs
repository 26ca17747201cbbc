//! Functions that exist, in a guest with an IOMMU: through our server beside the kernel's VFIO as it is, both by our driver
//! for NVMe on QEMU's controllers.
//!
//! The guest is emulated, so the times are those of an emulated processor; what counts is the ratio. System calls are
//! counted by the guest's kernel, and are the worker's alone.

use anyhow::Result;

use super::Effort;
use super::figures::{Figure, Limit, Report};
use crate::vm;

/// Reads by mappings are the hardware's business and the driver's, and not ours.
const READS_LIMIT: f64 = 1.05;

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let (blocks, operations) = if effort.smoke { (2, 50) } else { (20, 1000) };
    let (ways, calls) = vm::hardware_rates(effort.runs, blocks, operations)?;
    for way in ways {
        let mapped_read = way.grant == "device-fd" && way.work.starts_with("read");
        report.add(&Figure {
            name: format!("function in a guest, {}, --bars {}", said(&way.work), way.grant),
            beside: "the kernel's VFIO in the same guest",
            ours: way.ours,
            theirs: way.kernels,
            unit: "µs",
            limit: mapped_read.then_some(Limit::Ratio(READS_LIMIT)),
        });
    }
    for calls in calls {
        let none = calls.grant == "device-fd" && matches!(calls.work, "register" | "read-polled-1");
        report.add(&Figure {
            name: format!(
                "function in a guest, system calls of ours for each {}, --bars {}",
                said(calls.work),
                calls.grant
            ),
            beside: "-",
            ours: vec![calls.each],
            theirs: Vec::new(),
            unit: "calls",
            limit: none.then_some(Limit::Value(0.0)),
        });
    }
    Ok(())
}

/// What the guest's program calls a piece of work, in words.
fn said(work: &str) -> &str {
    match work {
        "config" => "configuration read, 4 bytes",
        "register" => "BAR read, 4 bytes",
        "reset" => "reset",
        "read-polled-1" => "NVMe read of 4 KiB, depth 1, polled",
        "read-interrupt-1" => "NVMe read of 4 KiB, depth 1, by interrupt",
        "read-interrupt-32" => "NVMe read of 4 KiB, depth 32, by interrupt",
        "attach" => "attach",
        "next-user" => "detach and attach: one user after another",
        other => other,
    }
}
