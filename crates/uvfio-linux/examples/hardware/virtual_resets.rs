//! Resets of igb under the virtual view: what comes back, what a slow one is answered with, and those that nobody asked us
//! for.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::Result;
use uvfio_core::ResetProgress;

use crate::igb::{VET, VET_AFTER_RESET};
use crate::owned::eventually;
use crate::report::Report;
use crate::virtual_igb::{Igb, WRITTEN};
use crate::virtual_view::{BUS_MASTER, COMMAND, MEMORY, User};

/// BAR 0's register.
const BAR0: u64 = 0x10;

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    let igb = Igb(&user);
    let eventfds = igb.start()?;
    igb.vectors(&eventfds, report)?;
    let header = user.hardware_header()?;
    let whole = user.configuration()?;

    igb.is_reset_by("a function level reset", || user.function_level_reset(), report)?;
    report.same(
        "identity, COMMAND and BARs in the hardware are as before it",
        &header,
        &user.hardware_header()?,
    )?;
    slow(&igb, &whole, report)?;
    report.same("and they are after a slow one", &header, &user.hardware_header()?)?;
    igb.vectors_after_reset(&eventfds, report)?;

    igb.is_reset_by("a reset by root through /sys", || user.reset_by_sysfs(), report)?;
    igb.vectors_after_reset(&eventfds, report)?;

    igb.write(VET, WRITTEN)?;
    user.reset_behind_our_back()?;
    let lost = user.hardware_header()? != header;
    report.same("a reset behind our back takes BARs and COMMAND", &true, &lost)?;
    report.same(
        "the next access finds the device again, as after a reset",
        &VET_AFTER_RESET,
        &igb.read(VET)?,
    )?;
    report.same("BARs and COMMAND are back", &header, &user.hardware_header()?)?;
    igb.vectors_after_reset(&eventfds, report)?;

    igb.write(VET, WRITTEN)?;
    user.hardware_config()?.write_all_at(&[0; 4], BAR0)?;
    eventually("a BAR's coming back", || {
        igb.read(VET).is_ok_and(|value| value == WRITTEN)
    })?;
    report.ok("a BAR that somebody has cleared is back after a few accesses")?;
    user.hardware_config()?.write_all_at(&[0; 4], BAR0)?;
    user.set_config(COMMAND, MEMORY)?;
    user.set_config(COMMAND, MEMORY | BUS_MASTER)?;
    report.same(
        "or when bus mastering is switched",
        &header,
        &user.hardware_header()?,
    )?;
    igb.vectors(&eventfds, report)?;

    user.reset_behind_our_back()?;
    user.next()?;
    igb.start()?;
    report.same(
        "and when its user leaves: the next one's hardware is as the first one's",
        &header,
        &user.hardware_header()?,
    )
}

/// A function that only its bus can reset.
pub(crate) fn bus(address: &str, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    user.set_config(COMMAND, MEMORY | BUS_MASTER)?;
    let header = user.hardware_header()?;
    user.reset()?;
    report.same(
        "identity, COMMAND and BARs in the hardware are as before a reset of the bus",
        &header,
        &user.hardware_header()?,
    )?;
    user.next()?;
    user.set_config(COMMAND, MEMORY | BUS_MASTER)?;
    report.same("and for the next user", &header, &user.hardware_header()?)
}

/// A reset whose user does not wait for it: the kernel's takes 100 ms at least.
fn slow(igb: &Igb<'_>, whole: &[u8], report: &mut Report) -> Result<()> {
    let Igb(user) = igb;
    igb.write(VET, WRITTEN)?;
    let progress = user.virt.reset(Duration::ZERO)?;
    report.same(
        "a reset without patience is under way",
        &ResetProgress::UnderWay,
        &progress,
    )?;
    report.same("meanwhile registers read all ones", &u32::MAX, &igb.read(VET)?)?;
    let identity = user.configuration()?.get(..4).map(<[u8]>::to_vec);
    report.same(
        "and configuration space answers",
        &whole.get(..4).map(<[u8]>::to_vec),
        &identity,
    )?;
    eventually("a slow reset", || {
        igb.read(VET).is_ok_and(|value| value != u32::MAX)
    })?;
    igb.0.virt.settle();
    report.same(
        "it is finished behind the user",
        &VET_AFTER_RESET,
        &igb.read(VET)?,
    )?;
    report.same(
        "configuration space is as before it",
        &whole.to_vec(),
        &user.configuration()?,
    )
}
