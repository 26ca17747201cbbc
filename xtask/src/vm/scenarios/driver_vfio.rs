//! Drivers written with our library, on the kernel's VFIO: the ones that run on software devices, unchanged, on
//! QEMU's own devices.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::functions::{EDU, ERRING, NVME, erring, hears_of_an_error};
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};
use crate::vm::guest::Guest;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "driver-vfio",
    about: "our drivers for edu and NVMe run unchanged on the kernel's VFIO, as root and as an ordinary user",
    run,
};

const DISK_MIB: u64 = 64;
/// As QEMU's controller has them where nothing else is asked for
const BLOCK: usize = 512;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.scratch.join("disk.img");
    device::make_image(&image, DISK_MIB)?;
    let mut guest = context
        .guest()
        .iommu()
        .root_ports(3)
        .attach(&Device::qemu_nvme("nvme", &image).below("rp1"))
        .device(json!({ "driver": "edu", "bus": "rp2" }))
        .device(erring("rp3"))
        .tool(&context.programs.driver_edu)
        .tool(&context.programs.driver_nvme)
        .tool(&context.programs.driver_promises)
        .start()?;
    guest.run("iommu_groups_exist", STEP, checks)?;
    guest.run("driver_user", STEP, checks)?;
    guest.run("driver_refusals", STEP, checks)?;
    for user in ["root", "driver"] {
        checks.part(user);
        guest.run(&format!("driver_edu {user}"), STEP, checks)?;
        wipe(&image)?;
        guest.run(&format!("driver_nvme {user}"), STEP, checks)?;
        image_is_as_written(&mut guest, &image, checks)?;
    }
    checks.part("promises");
    guest.run(
        &format!("driver_promises {NVME} memory sleep buffers vectors"),
        STEP,
        checks,
    )?;
    guest.run(&format!("driver_promises {EDU} edu-intx"), STEP, checks)?;
    checks.part("events");
    hears_of_an_error(&mut guest, &format!("driver_events {ERRING}"), checks)?;
    checks.part("killed");
    guest.run("driver_killed", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// Zeros the disk behind the guest's back, so that nothing written earlier can be taken for written now.
fn wipe(image: &Path) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let file = File::options().write(true).open(image)?;
    (0..DISK_MIB).try_for_each(|mib| file.write_all_at(&zeros, mib << 20))?;
    Ok(())
}

/// What a written block's eight bytes say that have `before` times eight bytes before them on the disk.
fn written(before: u64) -> u64 {
    let mut z = (before + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Compares the disk, as QEMU keeps it, with what the driver in the guest says that it has written and flushed.
fn image_is_as_written(guest: &mut Guest, image: &Path, checks: &mut Checks) -> Result<()> {
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
