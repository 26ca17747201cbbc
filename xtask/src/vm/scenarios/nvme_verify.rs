//! Many requests at once, of many sizes, each block compared after it is read back.

use anyhow::Result;

use super::{Context, Reach, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nvme-verify",
    about: "fio reads back every block that it wrote to our NVMe, at random and in sequence, many at once",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    for (reach, how) in [
        (Reach::Shared, "shared memory"),
        (Reach::Messages, "by message"),
        (Reach::Iommu, "behind an IOMMU"),
    ] {
        checks.part(how);
        let nvme = context.nvme(&image, &[])?;
        let mut guest = context
            .guest_reached_by(reach)
            .attach(&nvme)
            .programs(&["usr/bin/fio"])
            .start()?;
        for options in [
            "--rw=randwrite --bsrange=4k-128k --blockalign=4k --iodepth=16 --size=16M",
            "--rw=write --bs=512 --iodepth=32 --size=1M",
            "--rw=randrw --bs=4k --iodepth=64 --size=4M",
        ] {
            guest.run(&format!("nvme_fio {options}"), 2 * STEP, checks)?;
        }
        checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    }
    Ok(())
}
