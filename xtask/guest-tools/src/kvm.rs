//! A small VMM: devices of our own server in a virtual machine of KVM's, whose doorbells and interrupts the kernel
//! carries.

mod machine;
mod wire;

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, eventfd};

use crate::report::Report;
use machine::{Exit, Machine, Program};
use wire::{INTX, MSIX, TRIGGER, UNMASK, Wire};

/// How often a doorbell is rung.
const TIMES: u32 = 1000;
/// How often edu raises its interrupt.
const LEVELS: u32 = 20;

/// A device that answers a store to its doorbell with a message: once with the doorbell at an ioeventfd and the message
/// at an irqfd, and once, for comparison, with the doorbell by message.
pub(crate) fn doorbell(socket: &Path, report: &mut Report) -> Result<()> {
    let mut wire = Wire::open(socket)?;
    let [doorbell] = <[_; 1]>::try_from(wire.doorbells()?)
        .ok()
        .context("BAR 0 does not have one doorbell")?;
    report.same(
        "the doorbell is the first register, for stores of any width and value",
        &(0, 0, 0),
        &(doorbell.offset, doorbell.bytes, doorbell.flags),
    )?;
    let trigger = eventfd(0, EventfdFlags::CLOEXEC)?;
    wire.set_eventfd(MSIX, TRIGGER, trigger.as_fd())?;

    let mut machine = Machine::new(Program::Messages, TIMES)?;
    machine.irqfd(&trigger)?;
    machine.ioeventfd(doorbell.offset, &doorbell.eventfd)?;
    let sent = wire.sent();
    let exits = machine.run(&mut wire)?;
    report.same(
        "the machine had an interrupt for each store",
        &TIMES,
        &machine.interrupts(),
    )?;
    report.same(
        "its processor came back to the VMM at its end only",
        &vec![Exit::End],
        &exits,
    )?;
    report.same("the VMM sent the server nothing", &sent, &wire.sent())?;
    report.same("the server sent the VMM nothing", &true, &wire.is_silent()?)?;
    report.same("the device has counted every store", &TIMES, &wire.register(4)?)?;
    drop(machine);

    let mut machine = Machine::new(Program::Messages, TIMES)?;
    machine.irqfd(&trigger)?;
    let exits = machine.run(&mut wire)?;
    report.same(
        "by message, the machine has as many interrupts",
        &TIMES,
        &machine.interrupts(),
    )?;
    report.same(
        "by message, its processor comes back for each store",
        &(TIMES as usize + 1),
        &exits.len(),
    )?;
    report.same(
        "the device has counted those as well",
        &(2 * TIMES),
        &wire.register(4)?,
    )
}

/// edu's interrupt by its level: the kernel asserts it, and says when the machine has ended one.
pub(crate) fn level(socket: &Path, report: &mut Report) -> Result<()> {
    let mut wire = Wire::open(socket)?;
    report.same("edu has no doorbell", &0, &wire.doorbells()?.len())?;
    let trigger = eventfd(0, EventfdFlags::CLOEXEC)?;
    let resample = eventfd(0, EventfdFlags::CLOEXEC)?;
    wire.set_eventfd(INTX, TRIGGER, trigger.as_fd())?;
    wire.set_eventfd(INTX, UNMASK, resample.as_fd())?;

    let mut machine = Machine::new(Program::Lines, LEVELS)?;
    machine.irqfd_with_resample(&trigger, &resample)?;
    let exits = machine.run(&mut wire)?;
    report.same(
        "the machine had each of edu's interrupts",
        &LEVELS,
        &machine.interrupts(),
    )?;
    let of = |kind| exits.iter().filter(|exit| **exit == kind).count() as u32;
    report.same(
        "its processor came back for edu's registers, and for no interrupt",
        &(LEVELS, 2 * LEVELS, 1),
        &(of(Exit::Load), of(Exit::Store), of(Exit::End)),
    )
}
