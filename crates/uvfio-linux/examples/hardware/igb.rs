//! QEMU's igb, an Intel 82576: MSI-X vectors that are added while others are enabled, raised by the device itself, and
//! reset. Registers by the 82576's datasheet, chapter 8.

use anyhow::Result;
use uvfio_linux::vfio::Irq;

use crate::nvme::same_configuration;
use crate::owned::{Eventfds, Mapped, Owned, Registers};
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

const FIRST: usize = 3;
const ALL: usize = 5;

/// Three vectors, then two more.
pub(crate) fn vectors(address: &str, report: &mut Report) -> Result<()> {
    let igb = Mapped::new(Owned::enabled(address)?)?;
    let device = &igb.owned.device;
    let info = device.irq(Irq::Msix)?;
    report.same(
        "igb has 10 MSI-X vectors, to which some can be added",
        &(10, true),
        &(info.count, info.resizable),
    )?;
    let eventfds = Eventfds::new(ALL)?;
    let all = eventfds.all();
    let (first, later) = all.split_at(FIRST);
    device.set_eventfds(Irq::Msix, 0, first)?;
    report.same("3 vectors are enabled", &FIRST, &igb.owned.function.vectors())?;
    igb.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
    for vector in 0..FIRST {
        raise(&igb, vector, &eventfds, report)?;
    }
    device.set_eventfds(Irq::Msix, FIRST as u32, later)?;
    report.same(
        "2 are added, while the others stay",
        &ALL,
        &igb.owned.function.vectors(),
    )?;
    for vector in 0..ALL {
        raise(&igb, vector, &eventfds, report)?;
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
        &igb.owned.function.vectors(),
    )
}

/// Has the device itself raise a vector.
fn raise(igb: &Mapped, vector: usize, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
    eventfds.quiet()?;
    let bit = 1_u32 << vector;
    igb.write(EIMS, bit)?;
    igb.write(EICS, bit)?;
    let signalled = eventfds.after(vector)?;
    igb.write(EICR, bit)?;
    report.same(
        &format!("vector {vector}, raised by the device, signals its eventfd alone"),
        &vec![(vector, 1)],
        &signalled,
    )
}

/// The function's own reset.
pub(crate) fn reset(address: &str, report: &mut Report) -> Result<()> {
    let igb = Mapped::new(Owned::enabled(address)?)?;
    let owned = &igb.owned;
    let eventfds = Eventfds::new(FIRST)?;
    owned.device.set_eventfds(Irq::Msix, 0, &eventfds.all())?;
    igb.write(VET, 0x88a8_u32)?;
    report.same("a register holds what is written", &0x88a8_u32, &igb.read(VET)?)?;
    let before = owned.configuration()?;
    owned.device.reset()?;
    report.same(
        "the reset reaches the register",
        &VET_AFTER_RESET,
        &igb.read(VET)?,
    )?;
    same_configuration("configuration space is as before", &before, owned, report)?;
    igb.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
    raise(&igb, 1, &eventfds, report)
}
