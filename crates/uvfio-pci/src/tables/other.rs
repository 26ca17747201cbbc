//! Structures of identity: subsystem ID and device serial number.

use crate::{Field, Table, tables};

/// The subsystem capability's ID.
pub const SUBSYSTEM_ID: u8 = 0x0d;
/// The serial number extended capability's ID.
pub const SERIAL_ID: u16 = 0x0003;

const S: &str = "PCI-to-PCI Bridge Architecture 1.2, 3.2.5.13";
const N: &str = "PCI Express Base 5.0, 7.9.3";

/// Subsystem vendor ID.
pub const VENDOR: Field = Field::new("Subsystem Vendor ID", 0x04, 2, 15, 0).says("Who made the board.", S);
/// Subsystem ID.
pub const DEVICE: Field = Field::new("Subsystem ID", 0x06, 2, 15, 0).says("Which board.", S);
/// Subsystem ID.
pub static SUBSYSTEM: Table = Table {
    name: "Subsystem ID",
    doc: "Identity of the board, for functions whose header has no place for it.",
    section: S,
    fields: &[tables::CAPABILITY_ID, tables::NEXT, VENDOR, DEVICE],
};

/// Lower half of the serial number.
pub const SERIAL_LOW: Field =
    Field::new("Serial Number, lower 32 bits", 0x04, 4, 31, 0).says("An EUI-64.", N);
/// Upper half of the serial number.
pub const SERIAL_HIGH: Field =
    Field::new("Serial Number, upper 32 bits", 0x08, 4, 31, 0).says("An EUI-64.", N);
/// Device serial number.
pub static SERIAL: Table = Table {
    name: "Device Serial Number",
    doc: "Tells this device from another of its kind.",
    section: N,
    fields: &[
        tables::EXTENDED_ID,
        tables::EXTENDED_VERSION,
        tables::EXTENDED_NEXT,
        SERIAL_LOW,
        SERIAL_HIGH,
    ],
};
