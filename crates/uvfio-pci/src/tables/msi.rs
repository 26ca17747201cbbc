//! Message signalled interrupts. The layout has four forms: with a 32 or a 64-bit address, with mask bits or
//! without; the parts are placed one after another.

use crate::{Action, Field, Table, tables};

const S: &str = "PCI Local Bus 3.0, 6.8.1";

/// The capability's ID.
pub const ID: u8 = 0x05;

/// MSI enable.
pub const ENABLE: Field = Field::new("MSI Enable", 0x02, 2, 0, 0)
    .users()
    .guarded()
    .action(Action::Msi)
    .says(
        "Whether messages are sent instead of INTx. SET_IRQS sets and clears it too.",
        S,
    );
/// Multiple message capable.
pub const CAPABLE: Field = Field::new("Multiple Message Capable", 0x02, 2, 3, 1)
    .says("Log2 of the messages the function can send, 0 to 5.", S);
/// Multiple message enable.
pub const GRANTED: Field = Field::new("Multiple Message Enable", 0x02, 2, 6, 4)
    .users()
    .guarded()
    .action(Action::Msi)
    .says("Log2 of the messages it may send; more than it can send counts as what it can. SET_IRQS with n vectors makes it ceil(log2 n).", S);
/// 64-bit address capable.
pub const WIDE: Field =
    Field::new("64-bit Address Capable", 0x02, 2, 7, 7).says("Whether there is an upper address.", S);
/// Per-vector masking capable.
pub const MASKABLE: Field = Field::new("Per-Vector Masking Capable", 0x02, 2, 8, 8)
    .says("Whether there are mask and pending bits.", S);
/// Message address.
pub const ADDRESS: Field = Field::new("Message Address", 0x04, 4, 31, 2)
    .users()
    .guarded()
    .says("Kept for the user; messages are delivered by eventfd.", S);

/// Control and address: what every form begins with.
pub static MSI: Table = Table {
    name: "Message Signalled Interrupts",
    doc: "Lets the function send 1 to 32 different messages.",
    section: S,
    fields: &[
        tables::CAPABILITY_ID,
        tables::NEXT,
        ENABLE,
        CAPABLE,
        GRANTED,
        WIDE,
        MASKABLE,
        ADDRESS,
    ],
};

/// Upper half of a 64-bit message address.
pub static ADDRESS_HIGH: Table = Table {
    name: "MSI upper address",
    doc: "There with a 64-bit address only.",
    section: S,
    fields: &[Field::new("Message Upper Address", 0, 4, 31, 0)
        .users()
        .guarded()
        .says("Kept for the user; messages are delivered by eventfd.", S)],
};

/// Message data.
pub static DATA: Table = Table {
    name: "MSI data",
    doc: "The lowest word of the message.",
    section: S,
    fields: &[
        Field::new("Message Data", 0, 2, 15, 0)
            .users()
            .guarded()
            .says("Kept for the user; messages are delivered by eventfd.", S),
        Field::new("Extended Message Data", 2, 2, 15, 0)
            .hidden()
            .guarded()
            .says("Not offered.", S),
    ],
};

/// Mask bits.
pub const MASK: Field = Field::new("Mask Bits", 0, 4, 31, 0)
    .users()
    .action(Action::Msi)
    .says(
        "A masked message that the function wants to send becomes pending, and is sent once when unmasked.",
        S,
    );
/// Pending bits.
pub const PENDING: Field = Field::new("Pending Bits", 4, 4, 31, 0)
    .models()
    .says("Messages waiting to be unmasked.", S);

/// Mask and pending bits.
pub static MASKS: Table = Table {
    name: "MSI mask and pending bits",
    doc: "There with per-vector masking only.",
    section: S,
    fields: &[MASK, PENDING],
};

/// The parts of one form of the structure, in the order in which they stand.
pub fn parts(wide: bool, maskable: bool) -> impl Iterator<Item = &'static Table> {
    let all: [(bool, &'static Table); 4] = [
        (true, &MSI),
        (wide, &ADDRESS_HIGH),
        (true, &DATA),
        (maskable, &MASKS),
    ];
    all.into_iter()
        .filter(|(there, _)| *there)
        .map(|(_, table)| table)
}
