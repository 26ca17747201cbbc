//! What happens to a function while our server gives it to somebody: the kernel wants it back, it is pulled out, it reports
//! an error, the machine sleeps.
//!
//! Each is looked at from all sides: what the user saw, what the server's log says, what the kernel did.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::functions::erring;
use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::guest::{Builder, Guest};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hardware-events",
    about: "served functions are wanted back, unplugged, pulled out, report errors, sleep; users are told, nothing hangs",
    run,
};

/// Takes minutes: the kernel waits three times for 65 seconds when what does not answer is closed.
pub(super) const STUCK: Scenario = Scenario {
    name: "hardware-stuck",
    about: "a served function that dies, and whose closing takes the kernel minutes, keeps nobody waiting but its remover",
    run: stuck,
};

fn stuck(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = context
        .guest()
        .iommu()
        .root_ports(1)
        .device(json!({ "driver": "igb", "bus": "rp1" }))
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    guest.run("events_stuck", STEP * 5, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let mut guest = machine(context)
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    reports_errors(&mut guest, checks)?;
    checks.part("sleep");
    guest.tell("events_sleep")?;
    checks.same("the machine falls asleep", &true, &guest.wait_asleep(STEP)?);
    guest.wake()?;
    guest.finish("events_sleep", STEP, checks)?;
    for step in ["idle", "obliging", "stubborn", "mapped"] {
        checks.part(step);
        guest.run(&format!("events_{step}"), STEP, checks)?;
    }
    unplugged(&mut guest, checks)?;
    checks.part("pulled out");
    guest.run("events_pulled_out", STEP, checks)?;
    guest.run("events_pulled_out_idle", STEP, checks)?;
    checks.part("powered off");
    guest.run("events_powered_off", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    virtual_functions(context, uvfio, checks)
}

/// A virtual function goes with its physical one. A machine of its own, since QEMU's igb makes none after a sleep.
fn virtual_functions(context: &Context<'_>, uvfio: &Path, checks: &mut Checks) -> Result<()> {
    checks.part("virtual function");
    let mut guest = context
        .guest()
        .iommu()
        .modules(&["igb"])
        .root_ports(1)
        .device(bare_port("bare3", 11))
        .device(json!({ "driver": "igb", "bus": "bare3" }))
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("serve_users", STEP, checks)?;
    guest.run("events_virtual_taken", STEP, checks)?;
    guest.run("events_virtual_pulled_out", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// Errors of the function itself, by QEMU: one that is not fatal, and one that is, after which the kernel resets the link.
/// Then those that the kernel is told of in the function's place.
fn reports_errors(guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    checks.part("errors");
    guest.run("events_erring_begins", STEP, checks)?;
    for (number, error) in [(1, "COMP_TIME"), (2, "MALF_TLP 0x4a000001 1 2 3")] {
        let inject = json!({ "command-line": format!("pcie_aer_inject_error erring {error}") });
        guest.execute("human-monitor-command", &inject)?;
        guest.run(&format!("events_erred rng {number}"), STEP, checks)?;
    }
    guest.run("events_erring_ends rng --bar 4", STEP, checks)?;
    checks.part("errors by the kernel");
    guest.run("events_injected", STEP, checks)
}

/// Somebody takes the function out of the machine, and presses the button first.
fn unplugged(guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    checks.part("unplugged");
    guest.run("events_unplug_begins", STEP, checks)?;
    guest.execute("device_del", &json!({ "id": "card" }))?;
    guest.run("events_unplugged", STEP, checks)
}

/// Each function below a root port of its own; the last two have no power to switch, as where a card is pulled out.
fn machine<'a>(context: &Context<'a>) -> Builder<'a> {
    context
        .guest()
        .iommu()
        .modules(&["aer_inject"])
        .root_ports(5)
        .device(bare_port("bare1", 9))
        .device(bare_port("bare2", 10))
        .device(json!({ "driver": "edu", "bus": "rp1" }))
        .device(erring("rp2"))
        .device(json!({ "driver": "igb", "id": "card", "bus": "rp3" }))
        .device(json!({ "driver": "nvme", "serial": "uvfio-events", "bus": "rp4" }))
        .device(json!({ "driver": "edu", "bus": "rp5" }))
        .device(json!({ "driver": "igb", "bus": "bare1" }))
        .device(json!({ "driver": "igb", "bus": "bare2" }))
}

fn bare_port(id: &str, slot: u8) -> Value {
    json!({
        "driver": "pcie-root-port", "id": id, "chassis": slot, "slot": slot, "power_controller_present": false,
    })
}
