//! DMA: memory to the device and back, compared.

use std::os::unix::fs::FileExt;

use uvfio_core::Device;
use uvfio_soft::edu::{BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, COMMAND_INTERRUPT, COMMAND_RUN, Reg};

use super::{register, set_register, until};
use crate::demo::link::Refused;
use crate::demo::page::Section;
use crate::demo::user::{MEMORY_BYTES, MEMORY_IOVA, User};
use crate::names;

/// Where in the memory the data come from, and where they go back to.
const FROM: u64 = 0x2000;
const TO: u64 = 0x8000;

pub(in crate::demo) fn dma(user: &mut User, _edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    user.link.map(&user.memory, MEMORY_IOVA, MEMORY_BYTES)?;
    let data = pattern();
    let device = BUFFER_AT;
    user.memory
        .write_all_at(&data, FROM)
        .map_err(|e| Refused::absent(e.to_string()))?;
    let there = transfer(user, MEMORY_IOVA + FROM, device, COMMAND_INTERRUPT)?;
    let back = transfer(
        user,
        device,
        MEMORY_IOVA + TO,
        COMMAND_FROM_DEVICE | COMMAND_INTERRUPT,
    )?;
    page.check(
        "DMA to the device and back",
        format!(
            "{BUFFER_BYTES} bytes of {} mapped; there: {}; back: {}",
            names::bytes(MEMORY_BYTES),
            there.text(),
            back.text()
        ),
        there.as_wanted() && back.as_wanted(),
        "both ended, with an interrupt each",
    )
    .number("bytes", BUFFER_BYTES)
    .number("interrupts", vec![there.interrupts, back.interrupts]);

    let mut returned = vec![0; data.len()];
    user.memory
        .read_exact_at(&mut returned, TO)
        .map_err(|e| Refused::absent(e.to_string()))?;
    let differ = data.iter().zip(&returned).filter(|(a, b)| a != b).count();
    // One byte before and one after what was to be written.
    let mut around = [0; 2];
    user.memory
        .read_exact_at(&mut around[..1], TO - 1)
        .map_err(|e| Refused::absent(e.to_string()))?;
    user.memory
        .read_exact_at(&mut around[1..], TO + data.len() as u64)
        .map_err(|e| Refused::absent(e.to_string()))?;
    let beside = around.iter().filter(|byte| **byte != 0).count();
    let seen = format!(
        "{differ} of {} bytes differ, {beside} beside them changed",
        data.len()
    );
    page.check(
        "what came back, compared",
        seen,
        differ == 0 && beside == 0,
        "none",
    )
    .number("differ_bytes", differ)
    .number("beside_bytes", beside);
    Ok(())
}

/// Bytes that repeat at no power of two, so that data in a wrong place do not look right.
pub(super) fn pattern() -> Vec<u8> {
    (0..BUFFER_BYTES).map(|n| (n % 251) as u8 ^ 0x5a).collect()
}

/// How a transfer went.
pub(super) struct Transfer {
    /// Its command bit went back to 0.
    pub(super) ended: bool,
    interrupts: u64,
}

impl Transfer {
    fn text(&self) -> String {
        let ended = if self.ended { "ended" } else { "still runs" };
        format!("{ended}, {} interrupt", self.interrupts)
    }

    fn as_wanted(&self) -> bool {
        self.ended && self.interrupts == 1
    }
}

/// Has the device move as many bytes as its buffer has. `flags` are those of the command; with an interrupt asked for,
/// it is waited for.
pub(super) fn transfer(
    user: &mut User,
    source: u64,
    destination: u64,
    flags: u64,
) -> Result<Transfer, Refused> {
    let link = &mut user.link;
    set_register(link, Reg::DmaSource, source)?;
    set_register(link, Reg::DmaDestination, destination)?;
    set_register(link, Reg::DmaCount, BUFFER_BYTES as u64)?;
    set_register(link, Reg::DmaCommand, COMMAND_RUN | flags)?;
    let ended = until(|| Ok(u64::from(register(link, Reg::DmaCommand)?) & COMMAND_RUN == 0))?;
    let mut arrived = vec![0_u64; 8];
    if let Some(counters) = user.messages.as_ref().filter(|_| flags & COMMAND_INTERRUPT != 0) {
        until(|| {
            counters.add_to(&mut arrived);
            Ok(arrived.iter().any(|n| *n > 0))
        })?;
    }
    set_register(link, Reg::InterruptAcknowledge, u64::from(u32::MAX))?;
    Ok(Transfer {
        ended,
        interrupts: arrived.iter().sum(),
    })
}
