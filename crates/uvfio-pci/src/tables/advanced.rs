//! Conventional PCI's advanced features: a function level reset for functions that are not PCI Express.

use crate::{Action, Field, Table, tables};

const S: &str = "PCI Advanced Capabilities ECN, section 3";

/// The capability's ID.
pub const ID: u8 = 0x13;
/// The structure's length in bytes, as its length register says.
pub const BYTES: u8 = 6;

/// Length.
pub const LENGTH: Field = Field::new("Length", 0x02, 1, 7, 0).says("6 bytes.", S);
/// Transactions pending capable.
pub const PENDING_CAPABLE: Field =
    Field::new("Transactions Pending Capable", 0x03, 1, 0, 0).says("1: Transactions Pending works.", S);
/// Function level reset capable.
pub const FLR_CAPABLE: Field =
    Field::new("Function Level Reset Capable", 0x03, 1, 1, 1).says("1: Initiate FLR works.", S);
/// Initiate FLR.
pub const INITIATE_FLR: Field = Field::new("Initiate FLR", 0x04, 1, 0, 0)
    .users()
    .action(Action::FunctionLevelReset)
    .says(
        "Written 1: resets the function, as PCI Express' bit does. Reads 0.",
        S,
    );
/// Transactions pending.
pub const TRANSACTIONS_PENDING: Field = Field::new("Transactions Pending", 0x05, 1, 0, 0)
    .models()
    .says("1 while a reset is under way.", S);

/// Advanced features.
pub static ADVANCED: Table = Table {
    name: "Advanced Features",
    doc: "A function level reset for conventional PCI.",
    section: S,
    fields: &[
        tables::CAPABILITY_ID,
        tables::NEXT,
        LENGTH,
        PENDING_CAPABLE,
        FLR_CAPABLE,
        INITIATE_FLR,
        TRANSACTIONS_PENDING,
    ],
};
