//! MSI-X: the capability, and the two windows in a BAR.

use crate::{Action, Field, Table, tables};

const S: &str = "PCI Local Bus 3.0, 6.8.2";

/// The capability's ID.
pub const ID: u8 = 0x11;

/// Table size.
pub const SIZE: Field = Field::new("Table Size", 0x02, 2, 10, 0).says("The number of vectors less one.", S);
/// Function mask.
pub const FUNCTION_MASK: Field = Field::new("Function Mask", 0x02, 2, 14, 14)
    .users()
    .action(Action::MsiX)
    .says("Masks every vector.", S);
/// MSI-X enable.
pub const ENABLE: Field = Field::new("MSI-X Enable", 0x02, 2, 15, 15)
    .users()
    .guarded()
    .action(Action::MsiX)
    .says(
        "Whether vectors are sent instead of INTx; wins over MSI Enable. SET_IRQS sets and clears it too.",
        S,
    );
/// Table BAR.
pub const TABLE_BAR: Field = Field::new("Table BIR", 0x04, 4, 2, 0).says("Which BAR holds the table.", S);
/// Table offset.
pub const TABLE_OFFSET: Field =
    Field::new("Table Offset", 0x04, 4, 31, 3).says("Where in that BAR, in units of 8 bytes.", S);
/// PBA BAR.
pub const PBA_BAR: Field = Field::new("PBA BIR", 0x08, 4, 2, 0).says("Which BAR holds the pending bits.", S);
/// PBA offset.
pub const PBA_OFFSET: Field =
    Field::new("PBA Offset", 0x08, 4, 31, 3).says("Where in that BAR, in units of 8 bytes.", S);

/// The capability.
pub static MSIX: Table = Table {
    name: "MSI-X",
    doc: "Lets the function send up to 2048 vectors, each with a mask of its own.",
    section: S,
    fields: &[
        tables::CAPABILITY_ID,
        tables::NEXT,
        SIZE,
        FUNCTION_MASK,
        ENABLE,
        TABLE_BAR,
        TABLE_OFFSET,
        PBA_BAR,
        PBA_OFFSET,
    ],
};

/// A vector's message address, lower half.
pub const ENTRY_ADDRESS: Field = Field::new("Message Address", 0x00, 4, 31, 0)
    .users()
    .guarded()
    .says("Kept for the user; vectors are delivered by eventfd.", S);
/// A vector's message address, upper half.
pub const ENTRY_ADDRESS_HIGH: Field = Field::new("Message Upper Address", 0x04, 4, 31, 0)
    .users()
    .guarded()
    .says("Kept for the user; vectors are delivered by eventfd.", S);
/// A vector's message data.
pub const ENTRY_DATA: Field = Field::new("Message Data", 0x08, 4, 31, 0)
    .users()
    .guarded()
    .says("Kept for the user; vectors are delivered by eventfd.", S);
/// A vector's mask bit.
pub const ENTRY_MASK: Field = Field::new("Mask Bit", 0x0c, 4, 0, 0)
    .users()
    .guarded()
    .action(Action::MsiX)
    .says("Masks the vector: it becomes pending, and is sent once when unmasked. 1 at power-on. An eventfd attached by SET_IRQS clears it, one taken away sets it; the last writer wins.", S);

/// One entry of the table in the BAR.
pub static ENTRY: Table = Table {
    name: "MSI-X table entry",
    doc: "One vector, 16 bytes; the table lies in a BAR.",
    section: "PCI Local Bus 3.0, 6.8.2.6 to 6.8.2.9",
    fields: &[ENTRY_ADDRESS, ENTRY_ADDRESS_HIGH, ENTRY_DATA, ENTRY_MASK],
};

/// 32 vectors of the pending bit array in the BAR.
pub static PENDING: Table = Table {
    name: "MSI-X pending bits",
    doc: "One bit a vector; the array lies in a BAR.",
    section: "PCI Local Bus 3.0, 6.8.2.10",
    fields: &[Field::new("Pending Bits", 0, 4, 31, 0)
        .models()
        .says("Vectors waiting to be unmasked.", S)],
};
