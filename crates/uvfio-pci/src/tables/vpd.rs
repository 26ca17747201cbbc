//! Vital product data.

use crate::{Action, Field, Table, tables};

const S: &str = "PCI Local Bus 3.0, appendix I";

/// The capability's ID.
pub const ID: u8 = 0x03;

/// VPD address.
pub const ADDRESS: Field = Field::new("VPD Address", 0x02, 2, 14, 0)
    .users()
    .says("Byte address of the four bytes to transfer, a multiple of 4.", S);
/// The flag that starts and ends a transfer.
pub const FLAG: Field = Field::new("F", 0x02, 2, 15, 15)
    .users()
    .action(Action::Vpd)
    .says("Written 0: reads four bytes into VPD Data, and becomes 1 when done. Written 1: stores VPD Data, and becomes 0 when done; where policy forbids writes nothing is stored.", S);
/// VPD data.
pub const DATA: Field = Field::new("VPD Data", 0x04, 4, 31, 0)
    .users()
    .says("The four bytes.", S);

/// Vital product data.
pub static VPD: Table = Table {
    name: "Vital Product Data",
    doc: "Lets the user read what the maker says of the device, four bytes at a time.",
    section: S,
    fields: &[tables::CAPABILITY_ID, tables::NEXT, ADDRESS, FLAG, DATA],
};
