//! QEMU's igb through the virtual view: vectors that the device raises, resets, one user after another.

use std::time::Duration;

use anyhow::Result;
use uvfio_core::IrqIndex;

use crate::igb::{EICR, EICS, EIMS, GPIE, GPIE_MULTIPLE_VECTORS, VET, VET_AFTER_RESET};
use crate::owned::Eventfds;
use crate::report::Report;
use crate::virtual_view::{BUS_MASTER, COMMAND, EXPRESS, MEMORY, MSI, MSIX, POWER, User};

const VECTORS: usize = 10;
pub(crate) const WRITTEN: u32 = 0x88a8;
/// How long a driver leaves a function alone that it has reset (PCI Express Base 5.0, 6.6.2).
const AFTER_RESET: Duration = Duration::from_millis(100);

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    user.page(&[POWER, MSI, MSIX, EXPRESS], report)?;
    user.bars(report)?;
    let first = user.configuration()?;
    let igb = Igb(&user);

    let eventfds = igb.start()?;
    igb.vectors(&eventfds, report)?;
    igb.write(VET, WRITTEN)?;
    let before = user.configuration()?;
    user.function_level_reset()?;
    report.same(
        "a function level reset reaches the device",
        &VET_AFTER_RESET,
        &igb.read(VET)?,
    )?;
    report.same(
        "configuration space is as before it",
        &before,
        &user.configuration()?,
    )?;
    igb.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
    igb.vectors(&eventfds, report)?;
    user.notices(report)?;

    igb.write(VET, WRITTEN)?;
    user.next()?;
    report.same(
        "the next user finds configuration space as the first did",
        &first,
        &user.configuration()?,
    )?;
    let eventfds = igb.start()?;
    report.same("and the device reset", &VET_AFTER_RESET, &igb.read(VET)?)?;
    igb.vectors(&eventfds, report)
}

/// Every vector comes to the user; where `again`, after a function level reset too.
pub(crate) fn vectors(user: &User, again: bool, report: &mut Report) -> Result<()> {
    let igb = Igb(user);
    let eventfds = igb.start()?;
    igb.vectors(&eventfds, report)?;
    if again {
        user.function_level_reset()?;
        std::thread::sleep(AFTER_RESET);
        igb.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
        igb.vectors(&eventfds, report)?;
    }
    Ok(())
}

pub(crate) struct Igb<'a>(pub(crate) &'a User);

impl Igb<'_> {
    pub(crate) fn read(&self, register: u64) -> Result<u32> {
        self.0.read(0, register)
    }

    pub(crate) fn write(&self, register: u64, value: u32) -> Result<()> {
        self.0.write(0, register, value)
    }

    /// Memory and bus master on, and all vectors enabled.
    pub(crate) fn start(&self) -> Result<Eventfds> {
        self.0.set_config(COMMAND, MEMORY | BUS_MASTER)?;
        let eventfds = Eventfds::new(VECTORS)?;
        self.0.signal(IrqIndex::MsiX, &eventfds)?;
        self.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
        Ok(eventfds)
    }

    /// Has the device raise each of its vectors.
    pub(crate) fn vectors(&self, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        let mut got = Vec::new();
        for vector in 0..VECTORS {
            let bit = 1_u32 << vector;
            self.write(EIMS, bit)?;
            self.write(EICS, bit)?;
            got.push(eventfds.after(vector)?);
            self.write(EICR, bit)?;
        }
        let expected: Vec<_> = (0..VECTORS).map(|vector| vec![(vector, 1)]).collect();
        report.same(
            "each vector that the device raises comes alone, once",
            &expected,
            &got,
        )
    }
}
