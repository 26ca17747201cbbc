//! QEMU's igb through the virtual view: vectors that the device raises, resets, one user after another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use uvfio_core::{IrqAction, IrqIndex};

use crate::igb::{EICR, EICS, EIMS, GPIE, GPIE_MULTIPLE_VECTORS, VET, VET_AFTER_RESET};
use crate::owned::{Eventfds, eventually};
use crate::report::Report;
use crate::virtual_view::{
    BUS_MASTER, COMMAND, EXPRESS, MEMORY, MSI, MSIX, MSIX_PENDING, MSIX_TABLE, POWER, User, VECTOR_CONTROL,
};

// MSI-X (PCI Local Bus 3.0, 6.8.2).
const MSIX_CONTROL: u64 = 2;
const FUNCTION_MASK: u16 = 1 << 14;
const ENTRY: u64 = 16;
const VECTORS: usize = 10;
/// What is written to [`VET`].
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
    igb.masks(&eventfds, report)?;
    igb.exchanges(&eventfds, report)?;
    igb.one_by_one(report)?;
    user.signal(IrqIndex::MsiX, &eventfds)?;
    let before = user.configuration()?;
    igb.is_reset_by("a function level reset", || user.function_level_reset(), report)?;
    report.same(
        "configuration space is as before it",
        &before,
        &user.configuration()?,
    )?;
    igb.vectors_after_reset(&eventfds, report)?;
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
        igb.vectors_after_reset(&eventfds, report)?;
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

    /// A reset reaches the device: a register that is written before has its first value after it.
    pub(crate) fn is_reset_by(
        &self,
        what: &str,
        reset: impl FnOnce() -> Result<()>,
        report: &mut Report,
    ) -> Result<()> {
        self.write(VET, WRITTEN)?;
        reset()?;
        report.same(
            &format!("{what} reaches the device"),
            &VET_AFTER_RESET,
            &self.read(VET)?,
        )
    }

    /// Every vector comes again, once the device is told to use more than one: a reset has made it forget that.
    pub(crate) fn vectors_after_reset(&self, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        self.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
        self.vectors(eventfds, report)
    }

    /// Memory and bus master on, and all vectors enabled.
    pub(crate) fn start(&self) -> Result<Eventfds> {
        self.0.set_config(COMMAND, MEMORY | BUS_MASTER)?;
        let eventfds = Eventfds::new(VECTORS)?;
        self.0.signal(IrqIndex::MsiX, &eventfds)?;
        self.write(GPIE, GPIE_MULTIPLE_VECTORS)?;
        Ok(eventfds)
    }

    /// Has the device raise a vector, once its user has said that the last one has come.
    fn raise(&self, vector: usize) -> Result<()> {
        let bit = 1_u32 << vector;
        self.write(EICR, bit)?;
        self.write(EIMS, bit)?;
        self.write(EICS, bit)
    }

    /// A vector's mask bit, the function's, and the pending bits.
    fn masks(&self, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        const VECTOR: usize = 3;
        let user = self.0;
        let msix = user.capability(MSIX)?;
        let control: u16 = user.config(msix + MSIX_CONTROL)?;
        let pending = || user.window::<u32>(MSIX_PENDING, 0);
        let mask = |on: u32| user.set_window(MSIX_TABLE, ENTRY * VECTOR as u64 + VECTOR_CONTROL, on);
        let function = |on: bool| {
            let value = if on { control | FUNCTION_MASK } else { control };
            user.set_config(msix + MSIX_CONTROL, value)
        };
        mask(1)?;
        for _ in 0..3 {
            self.raise(VECTOR)?;
            report.same("masked, a vector does not come", &vec![], &eventfds.quiet()?)?;
        }
        report.same("it is pending", &(1 << VECTOR), &pending()?)?;
        self.raise(VECTOR + 1)?;
        report.same(
            "others come",
            &vec![(VECTOR + 1, 1)],
            &eventfds.after(VECTOR + 1)?,
        )?;
        function(true)?;
        mask(0)?;
        self.raise(VECTOR + 1)?;
        report.same("with the function masked, none", &vec![], &eventfds.quiet()?)?;
        report.same("both are pending", &(3 << VECTOR), &pending()?)?;
        function(false)?;
        report.same(
            "unmasked, each comes once, however often it was raised",
            &vec![(VECTOR, 1), (VECTOR + 1, 1)],
            &eventfds.after(VECTOR)?,
        )?;
        report.same("nothing is pending", &0, &pending()?)?;
        mask(1)?;
        mask(0)?;
        report.same(
            "a mask that comes and goes delivers nothing",
            &vec![],
            &eventfds.quiet()?,
        )
    }

    /// Vectors that are raised while they are masked and unmasked all the time.
    fn exchanges(&self, eventfds: &Eventfds, report: &mut Report) -> Result<()> {
        const ROUNDS: usize = 200;
        let user = self.0;
        let (stop, times) = (AtomicBool::new(false), AtomicU64::new(0));
        let counts = std::thread::scope(|scope| {
            let masks = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    for on in [1_u32, 0] {
                        user.set_window(MSIX_TABLE, VECTOR_CONTROL, on)?;
                    }
                    times.fetch_add(1, Ordering::AcqRel);
                }
                anyhow::Ok(())
            });
            let raise = |round: usize| {
                if round.is_multiple_of(ROUNDS / 10) {
                    // The machine has one processor, which this thread could have for all rounds.
                    let before = times.load(Ordering::Acquire);
                    eventually("a mask that comes and goes", || {
                        times.load(Ordering::Acquire) > before
                    })?;
                }
                self.raise(0)?;
                eventfds.next(0)
            };
            let mut counts = Vec::new();
            for round in 0..ROUNDS {
                let came = raise(round);
                let failed = came.is_err();
                counts.push(came);
                if failed {
                    break;
                }
            }
            stop.store(true, Ordering::Release);
            masks
                .join()
                .map_err(|_| anyhow!("the thread that masks failed"))??;
            counts.into_iter().collect::<Result<Vec<_>>>()
        })?;
        report.same(
            "raised while it is masked and unmasked all the time, a vector comes once each time",
            &vec![1; ROUNDS],
            &counts,
        )?;
        report.same("and no more", &vec![], &eventfds.quiet()?)
    }

    /// Eventfds that are attached one after another.
    fn one_by_one(&self, report: &mut Report) -> Result<()> {
        self.0.set_interrupt(IrqIndex::MsiX, 0, IrqAction::Trigger)?;
        let eventfds = Eventfds::new(VECTORS)?;
        let mut got = Vec::new();
        for vector in 0..VECTORS {
            let file = eventfds.get(vector)?;
            self.raise(0)?;
            self.0.eventfds(
                IrqIndex::MsiX,
                u32::try_from(vector)?,
                IrqAction::Trigger,
                &[Some(file)],
            )?;
            if vector == 0 {
                eventfds.quiet()?;
                self.raise(0)?;
            } else {
                self.raise(vector)?;
            }
            got.push(eventfds.after(vector)?);
        }
        let expected: Vec<_> = (0..VECTORS)
            .map(|vector| match vector {
                0 => vec![(0, 1)],
                _ => vec![(0, 1), (vector, 1)],
            })
            .collect();
        report.same(
            "vectors are added one by one, and the first one comes meanwhile",
            &expected,
            &got,
        )
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
