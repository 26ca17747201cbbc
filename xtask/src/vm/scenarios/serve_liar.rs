//! A device that lies, or takes its time: our edu, whose answers a relay changes before they reach the guest. There the
//! kernel's vfio-pci has it, and our server is asked to give it to a user.
//!
//! QEMU and the kernel answer for capability pointers, BARs and MSI themselves; loops and lengths past the end are told in
//! the tests of `uvfio-linux` and `uvfio-pci`.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::tap::Tap;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "serve-liar",
    about: "a device that lies is not given to a user, and one whose reset takes long is served through it",
    run,
};

// In edu's configuration space.
const DEVICE_ID: u64 = 0x02;
const REVISION: u64 = 0x08;
const HEADER_TYPE: u64 = 0x0e;
/// The ID of its first capability, power management, of 8 bytes.
const FIRST_CAPABILITY: u64 = 0x40;

const BRIDGE: u8 = 1;
const EXPRESS: u8 = 0x10;

/// Longer than a client waits for an answer (QEMU: 5 s).
const LONG_RESET: Duration = Duration::from_secs(6);

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let (mut edu, _) = context.edu()?;
    let server = edu
        .server
        .as_ref()
        .context("our server is needed to lie")?
        .socket();
    let between = context.scratch.join("tap.sock");
    let tap = Tap::start(&between, server)?;
    edu.description["socket"]["path"] = between.display().to_string().into();
    let mut guest = context
        .guest()
        .iommu()
        .attach(&edu)
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    guest.run("serve_true", STEP, checks)?;
    for (at, byte, lie) in [
        (HEADER_TYPE, BRIDGE, "the header layout (register 0x0e) is 1"),
        (
            FIRST_CAPABILITY,
            EXPRESS,
            "the PCI Express capability at 0x40 is cut off",
        ),
    ] {
        tap.lies().config.insert(at, byte);
        guest.run(&format!("serve_lie '{lie}'"), STEP, checks)?;
        tap.lies().config.clear();
    }
    guest.run("serve_true", STEP, checks)?;

    checks.part("slow");
    guest.run("serve_edu_again", STEP, checks)?;
    tap.lies().reset_takes = LONG_RESET;
    guest.run("serve_slow_reset", STEP, checks)?;
    tap.lies().reset_takes = Duration::ZERO;

    checks.part("changed");
    guest.run("serve_keep_busy", STEP, checks)?;
    tap.lies().config.insert(REVISION, 0x99);
    guest.run("serve_changed", STEP, checks)?;
    tap.lies().config.clear();
    guest.run("serve_edu_again", STEP, checks)?;

    checks.part("exchanged");
    guest.run("serve_keep_busy", STEP, checks)?;
    tap.lies().config.insert(DEVICE_ID, 0x99);
    guest.run("serve_exchanged", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}
