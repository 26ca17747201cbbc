//! Log pages (section 5.14.1) and the events that name them (section 5.2).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// LID: error information.
pub(crate) const LID_ERROR: u8 = 0x01;
/// LID: SMART and health.
pub(crate) const LID_HEALTH: u8 = 0x02;
/// LID: firmware slots.
pub(crate) const LID_FIRMWARE: u8 = 0x03;
/// LID: changed namespaces.
pub(crate) const LID_CHANGED_NAMESPACES: u8 = 0x04;
/// LID: commands supported and effects.
pub(crate) const LID_EFFECTS: u8 = 0x05;

/// RAE: retain asynchronous event, in CDW10 of Get Log Page.
pub(crate) const CDW10_RETAIN_EVENT: u32 = 1 << 15;

/// One entry of the error information log (figure 194).
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ErrorEntry {
    /// Counts errors from 1; 0 is an entry that was never used.
    pub(crate) count: U64,
    pub(crate) sq_id: U16,
    pub(crate) cid: U16,
    /// As in the completion queue entry, phase tag included.
    pub(crate) status: U16,
    /// Byte and bit of the command that was wrong; all ones: not told.
    pub(crate) location: U16,
    pub(crate) lba: U64,
    pub(crate) nsid: U32,
    reserved_28: [u8; 36],
}

const _: () = assert!(size_of::<ErrorEntry>() == 64);

/// SMART and health (figure 196).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Health {
    pub(crate) critical_warning: u8,
    /// Kelvin.
    pub(crate) temperature: U16,
    pub(crate) spare: u8,
    pub(crate) spare_threshold: u8,
    pub(crate) used: u8,
    reserved_6: [u8; 26],
    /// Thousands of 512 bytes, rounded up.
    pub(crate) data_units_read: U128,
    /// Thousands of 512 bytes, rounded up.
    pub(crate) data_units_written: U128,
    pub(crate) host_reads: U128,
    pub(crate) host_writes: U128,
    pub(crate) busy_minutes: U128,
    pub(crate) power_cycles: U128,
    pub(crate) power_on_hours: U128,
    pub(crate) unsafe_shutdowns: U128,
    pub(crate) media_errors: U128,
    pub(crate) error_entries: U128,
    reserved_192: [u8; 320],
}

const _: () = assert!(size_of::<Health>() == 512);

/// Critical warning: the temperature is above or below a threshold.
pub(crate) const WARNING_TEMPERATURE: u8 = 1 << 1;

/// Firmware slots (figure 198).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FirmwareSlots {
    /// The slot that runs.
    pub(crate) active: u8,
    reserved_1: [u8; 7],
    pub(crate) slot1: [u8; 8],
    reserved_16: [u8; 496],
}

const _: () = assert!(size_of::<FirmwareSlots>() == 512);

/// Commands supported and effects (figure 199).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Effects {
    pub(crate) admin: [U32; 256],
    pub(crate) io: [U32; 256],
    reserved_2048: [u8; 2048],
}

const _: () = assert!(size_of::<Effects>() == 4096);

/// CSUPP: the command is supported.
pub(crate) const EFFECT_SUPPORTED: u32 = 1;
/// LBCC: it may change the content of logical blocks.
pub(crate) const EFFECT_CONTENT: u32 = 1 << 1;

/// Type of an asynchronous event (figure 146).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EventType {
    /// Error status.
    Error = 0,
    /// SMART and health status.
    Health = 1,
}

/// Error status: a doorbell was written whose queue doesn't exist (figure 147).
pub(crate) const EVENT_INVALID_DOORBELL_REGISTER: u8 = 0;
/// Error status: a doorbell was written with a value that can't be (figure 147).
pub(crate) const EVENT_INVALID_DOORBELL_VALUE: u8 = 1;
/// Health: the temperature passed a threshold (figure 148).
pub(crate) const EVENT_TEMPERATURE: u8 = 1;
