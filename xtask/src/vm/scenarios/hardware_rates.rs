//! Not a scenario but a measurement in the same surroundings: QEMU's NVMe controllers behind its VT-d, driven by our driver
//! over the kernel's VFIO as it is, and through our server by each grant of their BARs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Context, Device, STEP};
use crate::vm::device;
use crate::vm::guest::Guest;

/// How the three controllers are reached, in the order in which the guest's program is given them.
const WAYS: [&str; 3] = ["kernel", "device-fd", "trapped"];

/// Size of each disk, MiB.
const DISK: u64 = 16;

/// A piece of work, reached in one way through our server, beside the kernel's VFIO in the same guest.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// What was done, as the example `compare` calls it.
    pub(crate) work: String,
    /// The grant.
    pub(crate) grant: &'static str,
    /// Microseconds through us, one a run.
    pub(crate) ours: Vec<f64>,
    /// The same over the kernel's VFIO.
    pub(crate) kernels: Vec<f64>,
}

/// System calls of our worker's while its user works.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    /// What was done.
    pub(crate) work: &'static str,
    /// The grant.
    pub(crate) grant: &'static str,
    /// Calls for each time that it was done.
    pub(crate) each: f64,
}

/// Measures: times in so many runs of so many blocks, and system calls over so many operations.
pub(in crate::vm) fn measure(
    context: &Context<'_>,
    runs: usize,
    blocks: usize,
    operations: u32,
) -> Result<(Vec<Way>, Vec<Calls>)> {
    let uvfio = context.programs.uvfio.as_ref();
    let uvfio = uvfio.context("our server is needed")?;
    let mut builder = context
        .guest()
        .iommu()
        .root_ports(WAYS.len() as u32)
        .tool(&context.programs.guest_tools)
        .tool(&context.programs.driver_compare)
        .dynamic_tool(uvfio);
    for (number, way) in WAYS.iter().enumerate() {
        let image = context.scratch.join(format!("{way}.img"));
        device::make_image(&image, DISK)?;
        let nvme = Device::qemu_nvme(&format!("nvme{number}"), &image);
        let mut nvme = nvme.below(&format!("rp{}", number + 1));
        nvme.description["drive"] = format!("disk{number}").into();
        builder = builder.attach(&nvme);
    }
    let mut guest = builder.start()?;
    let said = guest.text("rates_serve", STEP)?;
    let Some(targets) = said.iter().find_map(|line| line.strip_prefix("targets ")) else {
        bail!("the controllers are not served: {said:?}");
    };
    let patience = STEP * 5 + Duration::from_secs(60) * runs as u32;
    let said = guest.text(&format!("text compare time {runs} {blocks} {targets}"), patience)?;
    let ways = ways(&said)?;
    let mut calls = Vec::new();
    for (work, grants) in [
        ("register", [Some("device-fd"), Some("trapped")]),
        ("config", [Some("trapped"), None]),
        ("read-polled-1", [Some("device-fd"), Some("trapped")]),
        ("read-interrupt-1", [Some("device-fd"), Some("trapped")]),
    ] {
        for grant in grants.into_iter().flatten() {
            let each = count(&mut guest, work, grant, operations)?;
            calls.push(Calls { work, grant, each });
        }
    }
    guest.quit()?;
    Ok((ways, calls))
}

/// What the lines of `compare time` say.
fn ways(said: &[String]) -> Result<Vec<Way>> {
    let mut figures: Vec<(&str, [Vec<f64>; WAYS.len()])> = Vec::new();
    for line in said {
        let words: Vec<&str> = line.split(' ').collect();
        let &[work, target, median] = words.as_slice() else {
            bail!("the guest's program said {line:?}");
        };
        let (target, median): (usize, f64) = (target.parse()?, median.parse()?);
        if figures.last().is_none_or(|(last, _)| *last != work) {
            figures.push((work, Default::default()));
        }
        let of_target = figures.last_mut().and_then(|(_, all)| all.get_mut(target));
        of_target.context("more targets than there are")?.push(median);
    }
    let mut ways = Vec::new();
    for (work, [kernels, by_descriptor, trapped]) in figures {
        for (grant, ours) in [(WAYS[1], by_descriptor), (WAYS[2], trapped)] {
            ways.push(Way {
                work: work.to_owned(),
                grant,
                ours,
                kernels: kernels.clone(),
            });
        }
    }
    Ok(ways)
}

/// Has the guest's kernel count the worker's system calls.
fn count(guest: &mut Guest, work: &str, grant: &str, operations: u32) -> Result<f64> {
    let said = guest.text(&format!("rates_count {work} {grant} {operations}"), STEP * 2)?;
    let calls = said.iter().find_map(|line| line.strip_prefix("calls "));
    let calls: f64 = calls
        .with_context(|| format!("nothing was counted: {said:?}"))?
        .parse()?;
    if grant == "trapped" && calls == 0.0 {
        bail!("no system call of the worker's was counted, though each {work} is a message to it");
    }
    Ok(calls / f64::from(operations))
}
