//! A function level reset: the device forgets, configuration is as the user had it.

use std::time::Instant;

use uvfio_core::{Device, region_index::CONFIG};
use uvfio_soft::edu::Reg;

use super::{register, set_register, until};
use crate::demo::function::{
    BAR0, CAP_EXPRESS, COMMAND, EXPRESS_FLR, capability, config_u16, config_u32, set_config_u16,
};
use crate::demo::link::Refused;
use crate::demo::page::Section;
use crate::demo::user::User;

pub(in crate::demo) fn flr(user: &mut User, _edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    let bytes = link.region_bytes(CONFIG)? as usize;
    let mut before = vec![0; bytes];
    link.read(CONFIG, 0, &mut before)?;
    let (bar, command) = (config_u32(link, BAR0)?, config_u16(link, COMMAND)?);
    set_register(link, Reg::Liveness, 0x1234_5678)?;
    let held = register(link, Reg::Liveness)?;

    let control = capability(link, CAP_EXPRESS)? + 8;
    let value = config_u16(link, control)?;
    let start = Instant::now();
    set_config_u16(link, control, value | EXPRESS_FLR)?;
    // A driver waits this long before it looks again; here the device says when it answers.
    let answers = until(|| Ok(register(link, Reg::Identification)? != u32::MAX))?;
    let took = start.elapsed();
    let seen = if answers {
        format!("answers after {} µs", took.as_micros())
    } else {
        "does not answer".into()
    };
    let after = register(link, Reg::Liveness)?;
    page.check(
        "FLR by DEVCTL bit 15",
        format!("{seen}; a register of the device read {held:#x}, then {after:#x}"),
        answers && after == 0 && held != 0,
        "that it answers again, and has forgotten the register",
    )
    .number("answers_after_us", took.as_micros() as u64)
    .number("register_before", held)
    .number("register_after", after);

    let (bar_after, command_after) = (config_u32(link, BAR0)?, config_u16(link, COMMAND)?);
    let mut now = vec![0; bytes];
    link.read(CONFIG, 0, &mut now)?;
    let differ = before.iter().zip(&now).filter(|(a, b)| a != b).count();
    page.check(
        "configuration space after it",
        format!("{differ} of {bytes} bytes differ; BAR 0 {bar_after:#010x}, COMMAND {command_after:#06x}"),
        differ == 0 && (bar_after, command_after) == (bar, command) && bar != 0,
        format!("none; {bar:#010x}, {command:#06x} as before"),
    )
    .number("differ_bytes", differ)
    .number("address", bar_after)
    .number("command", command_after);

    let mut arrived = vec![0_u64; 8];
    set_register(link, Reg::InterruptRaise, 1 << 5)?;
    if let Some(counters) = &user.messages {
        until(|| {
            counters.add_to(&mut arrived);
            Ok(arrived.iter().any(|n| *n > 0))
        })?;
    }
    let link = &mut user.link;
    set_register(link, Reg::InterruptAcknowledge, 1 << 5)?;
    let ok = arrived == [0, 0, 0, 0, 0, 1, 0, 0];
    let seen: Vec<String> = arrived.iter().map(ToString::to_string).collect();
    page.check(
        "message 5 raised after it; arrived",
        seen.join(" "),
        ok,
        "message 5, once",
    )
    .number("arrived", arrived);
    Ok(())
}
