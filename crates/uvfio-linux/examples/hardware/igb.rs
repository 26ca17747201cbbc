//! QEMU's igb, an Intel 82576: MSI-X vectors that are added while others are enabled, raised by the device itself, and
//! reset. Registers by the 82576's datasheet, chapter 8.

use anyhow::{Context as _, Result};
use uvfio_linux::vfio::{Irq, Window};

use crate::nvme::same_configuration;
use crate::owned::{Eventfds, Owned};
use crate::report::Report;

/// General Purpose Interrupt Enable, 8.8.18
pub(crate) const GPIE: u64 = 0x1514;
pub(crate) const GPIE_MULTIPLE_VECTORS: u32 = 1 << 4;
/// Extended Interrupt Cause Set, 8.8.3
pub(crate) const EICS: u64 = 0x1520;
/// Extended Interrupt Mask Set, 8.8.4
pub(crate) const EIMS: u64 = 0x1524;
/// Extended Interrupt Cause Read, 8.8.1
pub(crate) const EICR: u64 = 0x1580;
/// VLAN Ether Type, 8.2.8: holds what is written, and after a reset the type of both tags
pub(crate) const VET: u64 = 0x0038;
pub(crate) const VET_AFTER_RESET: u32 = 0x8100_8100;

pub(crate) const FIRST: usize = 3;
pub(crate) const ALL: usize = 5;

/// Three vectors, then two more.
pub(crate) fn vectors(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let device = &owned.device;
    let info = device.irq(Irq::Msix)?;
    report.same(
        "igb has 10 MSI-X vectors, to which some can be added",
        &(10, true),
        &(info.count, info.resizable),
    )?;
    let bar = device.region(0)?;
    let window = bar.window(0, bar.info().size)?;
    let eventfds = Eventfds::new(ALL)?;
    let all = eventfds.all();
    let (first, later) = all.split_at(FIRST);
    device.set_eventfds(Irq::Msix, 0, first)?;
    report.same("3 vectors are enabled", &FIRST, &owned.function.vectors())?;
    write(&window, GPIE, GPIE_MULTIPLE_VECTORS)?;
    for vector in 0..FIRST {
        raise(&window, vector, &eventfds, report)?;
    }
    device.set_eventfds(Irq::Msix, FIRST as u32, later)?;
    report.same(
        "2 are added, while the others stay",
        &ALL,
        &owned.function.vectors(),
    )?;
    for vector in 0..ALL {
        raise(&window, vector, &eventfds, report)?;
    }
    device.trigger(Irq::Msix, 1..4)?;
    let expected = vec![(1, 1), (2, 1), (3, 1)];
    report.same(
        "a triggered range signals its eventfds",
        &expected,
        &eventfds.quiet()?,
    )?;
    device.disable(Irq::Msix)?;
    report.same(
        "none are left when MSI-X is disabled",
        &0,
        &owned.function.vectors(),
    )
}

/// Has the device itself raise a vector.
fn raise(window: &Window, vector: usize, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
    eventfds.quiet()?;
    let bit = 1_u32 << vector;
    write(window, EIMS, bit)?;
    write(window, EICS, bit)?;
    let signalled = eventfds.after(vector)?;
    write(window, EICR, bit)?;
    report.same(
        &format!("vector {vector}, raised by the device, signals its eventfd alone"),
        &vec![(vector, 1)],
        &signalled,
    )
}

/// The function's own reset.
pub(crate) fn reset(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let bar = owned.device.region(0)?;
    let window = bar.window(0, bar.info().size)?;
    let eventfds = Eventfds::new(FIRST)?;
    owned.device.set_eventfds(Irq::Msix, 0, &eventfds.all())?;
    write(&window, VET, 0x88a8)?;
    report.same(
        "a register holds what is written",
        &Some(0x88a8),
        &window.read::<u32>(VET),
    )?;
    let before = owned.configuration()?;
    owned.device.reset()?;
    report.same(
        "the reset reaches the register",
        &Some(VET_AFTER_RESET),
        &window.read::<u32>(VET),
    )?;
    same_configuration("configuration space is as before", &before, &owned, report)?;
    write(&window, GPIE, GPIE_MULTIPLE_VECTORS)?;
    raise(&window, 1, &eventfds, report)
}

fn write(window: &Window, register: u64, value: u32) -> Result<()> {
    window
        .write(register, value)
        .context("a register outside the window")
}
