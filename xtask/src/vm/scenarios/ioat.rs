//! Our DMA engine with the driver that Linux has for Intel's, and with a program that loads it.

use anyhow::Result;

use super::{Context, Reach, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "ioat",
    about: "Linux's ioatdma finds our DMA engine good, again and again; chains on all channels are compared and reset",
    run,
};

const CHANNELS: u32 = 4;

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    for (reach, how) in [(Reach::Iommu, "behind an IOMMU"), (Reach::Messages, "by message")] {
        checks.part(how);
        let Some(mut ioat) = context.ioat(CHANNELS)? else {
            checks.ok("QEMU has no such device: nothing to do without our server");
            return Ok(());
        };
        let mut guest = context
            .guest_reached_by(reach)
            .attach(&ioat)
            .tool(&context.programs.guest_tools)
            .modules(&["ioatdma"])
            .start()?;
        guest.run(&format!("ioat_load {CHANNELS} intx"), STEP, checks)?;
        guest.run("ioat_unload", STEP, checks)?;
        guest.run(&format!("ioat_load {CHANNELS} msix"), STEP, checks)?;
        guest.run(&format!("ioat_returns 10 {CHANNELS}"), STEP, checks)?;
        // The guest's VFIO wants an IOMMU, which also keeps what the device is made to write from the guest's kernel.
        if let Reach::Iommu = reach {
            guest.run(&format!("ioat_by_vfio {CHANNELS} 500"), 2 * STEP, checks)?;
            guest.run("ioat_abuse 20000 1", 4 * STEP, checks)?;
            guest.run(&format!("ioat_comes_home {CHANNELS}"), STEP, checks)?;
        }
        if let Some(server) = &mut ioat.server {
            checks.same("the server has not ended", &None, &server.ended()?);
        }
        checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    }
    Ok(())
}
