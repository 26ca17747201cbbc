//! Servers that are broken on purpose: each fault is found by the case that is there for it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod accesses;
mod by_message;
#[path = "../common/mod.rs"]
mod common;
mod information;
mod interrupts;
mod mappings;
mod messages;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use common::proxy::{Broken, Fault, Frame};
use common::{Ours, Windows, edu, notify};
use uvfio_check::{Outcome, Patience, check_server};

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const INFO: u16 = 4;
pub(crate) const REGION_INFO: u16 = 5;
pub(crate) const IO_FDS: u16 = 6;
pub(crate) const IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const READ: u16 = 9;
pub(crate) const WRITE: u16 = 10;
pub(crate) const DMA_READ: u16 = 11;
pub(crate) const DMA_WRITE: u16 = 12;
pub(crate) const RESET: u16 = 13;
pub(crate) const MULTI: u16 = 15;
pub(crate) const FEATURE: u16 = 16;

/// What is wrong, with which device, and the case that must find it.
pub(crate) type Row = (&'static str, Device, &'static str, Fault);

#[derive(Clone, Copy)]
pub(crate) enum Device {
    Edu,
    Windows,
    Notify,
}

pub(crate) use Device::{Edu as E, Notify as N, Windows as W};

/// Short: faults that are a silence cost this. A fault found too early on a busy machine is still a fault found.
const PATIENCE: Patience = Patience {
    reply: Duration::from_millis(700),
    connection: Duration::from_secs(30),
};

pub(crate) fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for &(what, device, case, fault) in rows {
        let ours = Ours::new(match device {
            E => edu(),
            W => Arc::new(Windows::new()),
            N => notify(),
        });
        let report = check_server(&Broken::new(ours, fault), PATIENCE, case, |_| {});
        let found = report.cases.iter().any(|row| match &row.outcome {
            // The device must still have been asked about: else any case would do.
            Outcome::Fail { got } => row.name == case && !got.contains("could not be learned"),
            _ => false,
        });
        if !found {
            wrong.push(format!("«{what}» was not found by {case}:\n{report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Alters each reply to one command that succeeded.
pub(crate) fn each(frames: &mut [Frame], command: u16, alter: impl Fn(&mut Frame)) {
    for frame in frames
        .iter_mut()
        .filter(|frame| frame.is(command) && !frame.is_error())
    {
        alter(frame);
    }
}

/// Makes every refusal of one command a success.
pub(crate) fn succeed(frames: &mut [Frame], command: u16, payload: &[u8]) {
    for frame in frames
        .iter_mut()
        .filter(|frame| frame.is(command) && frame.is_error())
    {
        frame.succeed(payload);
    }
}

/// The JSON of VERSION, NUL and all.
pub(crate) fn json(frame: &mut Frame, json: &str) {
    frame.payload.truncate(4);
    frame.payload.extend_from_slice(json.as_bytes());
    frame.payload.push(0);
}
