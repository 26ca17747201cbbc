//! `uvfio doctor` on machines of which we know what they have: with and without an IOMMU.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::Guest;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "doctor",
    about: "`uvfio doctor` tells a machine with an IOMMU and interrupt remapping from one without, and sees VFIO come",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let machine = || {
        context
            .guest()
            .dynamic_tool(uvfio)
            .device(json!({ "driver": "edu" }))
    };

    let mut guest = machine().start()?;
    let without = doctor(&mut guest)?;
    expect(checks, "no IOMMU", &without, "IOMMU", "no");
    expect(checks, "no IOMMU", &without, "interrupt remapping", "no");
    verdicts(checks, "no IOMMU", &without, false);
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());

    let mut guest = machine().tool(&context.programs.guest_tools).iommu().start()?;
    let before = doctor(&mut guest)?;
    expect(checks, "an IOMMU", &before, "IOMMU", "ok");
    expect(checks, "an IOMMU", &before, "interrupt remapping", "ok");
    expect(checks, "an IOMMU", &before, "VFIO modules", "note");
    expect(checks, "an IOMMU", &before, "/dev/vfio", "note");
    verdicts(checks, "an IOMMU", &before, false);
    guest.run("vfio_owns 1234:11e8", STEP, checks)?;
    let bound = doctor(&mut guest)?;
    expect(checks, "a device of VFIO's", &bound, "VFIO modules", "ok");
    expect(checks, "a device of VFIO's", &bound, "/dev/vfio", "ok");
    verdicts(checks, "a device of VFIO's", &bound, true);
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

fn doctor(guest: &mut Guest) -> Result<Value> {
    let text = guest.text("text uvfio doctor --json", STEP)?.join("\n");
    serde_json::from_str(&text).with_context(|| format!("uvfio doctor said {text}"))
}

fn expect(checks: &mut Checks, machine: &str, report: &Value, subject: &str, status: &str) {
    let lines = report["findings"].as_array().into_iter().flatten();
    let line = lines.into_iter().find(|line| line["subject"] == subject);
    let found = line.map(|line| (&line["status"], &line["found"]));
    match found {
        Some((has, _)) if has == status => checks.ok(&format!("with {machine}: {subject}: {status}")),
        _ => checks.fail(&format!(
            "with {machine}: {subject}: expected {status}, got {found:?}"
        )),
    }
}

fn verdicts(checks: &mut Checks, machine: &str, report: &Value, real: bool) {
    for (kind, work) in [("software_devices", true), ("real_devices", real)] {
        let verdict = &report[kind];
        match verdict["work"] == work {
            true => checks.ok(&format!("with {machine}: {kind}: {work}")),
            false => checks.fail(&format!("with {machine}: {kind}: expected {work}, got {verdict}")),
        }
    }
}
