//! Advanced error reporting of an endpoint.

use crate::{Access, Field, Table, tables};

const S: &str = "PCI Express Base 5.0, 7.8.4";

/// The extended capability's ID.
pub const ID: u16 = 0x0001;
/// The structure's length in bytes.
pub const BYTES: u16 = 0x2c;

const fn uncorrectable(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x04, 4, bit, bit)
        .access(Access::Rw1cs)
        .models()
        .says(
            "Uncorrectable Error Status: the function reported this error, masked or not.",
            "PCI Express Base 5.0, 7.8.4.2",
        )
}
const fn mask(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x08, 4, bit, bit)
        .users()
        .access(Access::Rws)
        .says(
            "Uncorrectable Error Mask: the error is neither logged in the header log nor reported.",
            "PCI Express Base 5.0, 7.8.4.3",
        )
}
const fn severity(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x0c, 4, bit, bit)
        .users()
        .access(Access::Rws)
        .says(
            "Uncorrectable Error Severity: 1 fatal, 0 non-fatal.",
            "PCI Express Base 5.0, 7.8.4.4",
        )
}
const fn correctable(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x10, 4, bit, bit)
        .access(Access::Rw1cs)
        .models()
        .says(
            "Correctable Error Status: the function reported this error.",
            "PCI Express Base 5.0, 7.8.4.5",
        )
}
const fn correctable_mask(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x14, 4, bit, bit)
        .users()
        .access(Access::Rws)
        .says(
            "Correctable Error Mask: the error is not reported.",
            "PCI Express Base 5.0, 7.8.4.6",
        )
}

/// Uncorrectable Error Status, as a register.
pub const UNCORRECTABLE_STATUS: Field = Field::new("Uncorrectable Error Status", 0x04, 4, 31, 0);
/// Uncorrectable Error Mask, as a register.
pub const UNCORRECTABLE_MASK: Field = Field::new("Uncorrectable Error Mask", 0x08, 4, 31, 0);
/// Uncorrectable Error Severity, as a register.
pub const SEVERITY: Field = Field::new("Uncorrectable Error Severity", 0x0c, 4, 31, 0);
/// Correctable Error Status, as a register.
pub const CORRECTABLE_STATUS: Field = Field::new("Correctable Error Status", 0x10, 4, 31, 0);
/// Correctable Error Mask, as a register.
pub const CORRECTABLE_MASK: Field = Field::new("Correctable Error Mask", 0x14, 4, 31, 0);
/// The advisory non-fatal error's mask, 1 at power-on.
pub const ADVISORY_MASK: Field = correctable_mask("Advisory Non-Fatal Error Mask", 13);
/// The corrected internal error's mask, 1 at power-on.
pub const CORRECTED_INTERNAL_MASK: Field = correctable_mask("Corrected Internal Error Mask", 14);
/// The uncorrectable internal error's mask, 1 at power-on.
pub const INTERNAL_MASK: Field = mask("Uncorrectable Internal Error Mask", 22);
/// The bit of an unsupported request in the uncorrectable registers.
pub const UNSUPPORTED_REQUEST: Field = uncorrectable("Unsupported Request Error Status", 20);
/// The severities that are fatal at power-on.
pub const FATAL_AT_POWER_ON: [Field; 6] = [
    severity("Data Link Protocol Error Severity", 4),
    severity("Surprise Down Error Severity", 5),
    severity("Flow Control Protocol Error Severity", 13),
    severity("Receiver Overflow Severity", 17),
    severity("Malformed TLP Severity", 18),
    severity("Uncorrectable Internal Error Severity", 22),
];

/// First error pointer.
pub const FIRST_ERROR: Field = Field::new("First Error Pointer", 0x18, 4, 4, 0)
    .access(Access::Ros)
    .models()
    .says(
        "Bit number of the error that the header log belongs to, while its status bit is set.",
        "PCI Express Base 5.0, 7.8.4.7",
    );
/// The header log's registers.
pub const HEADER_LOG: [Field; 4] = [
    Field::new("Header Log 0", 0x1c, 4, 31, 0)
        .access(Access::Ros)
        .models()
        .says(
            "Dword 0 of the TLP that the first error came with.",
            "PCI Express Base 5.0, 7.8.4.8",
        ),
    Field::new("Header Log 1", 0x20, 4, 31, 0)
        .access(Access::Ros)
        .models()
        .says(
            "Dword 1 of the TLP that the first error came with.",
            "PCI Express Base 5.0, 7.8.4.8",
        ),
    Field::new("Header Log 2", 0x24, 4, 31, 0)
        .access(Access::Ros)
        .models()
        .says(
            "Dword 2 of the TLP that the first error came with.",
            "PCI Express Base 5.0, 7.8.4.8",
        ),
    Field::new("Header Log 3", 0x28, 4, 31, 0)
        .access(Access::Ros)
        .models()
        .says(
            "Dword 3 of the TLP that the first error came with.",
            "PCI Express Base 5.0, 7.8.4.8",
        ),
];

/// Advanced error reporting.
pub static AER: Table = Table {
    name: "Advanced Error Reporting",
    doc: "Which errors the function reported, which it shall report, and how serious they are.",
    section: S,
    fields: &[
        tables::EXTENDED_ID,
        tables::EXTENDED_VERSION,
        tables::EXTENDED_NEXT,
        uncorrectable("Data Link Protocol Error Status", 4),
        uncorrectable("Surprise Down Error Status", 5),
        uncorrectable("Poisoned TLP Received Status", 12),
        uncorrectable("Flow Control Protocol Error Status", 13),
        uncorrectable("Completion Timeout Status", 14),
        uncorrectable("Completer Abort Status", 15),
        uncorrectable("Unexpected Completion Status", 16),
        uncorrectable("Receiver Overflow Status", 17),
        uncorrectable("Malformed TLP Status", 18),
        uncorrectable("ECRC Error Status", 19),
        uncorrectable("Unsupported Request Error Status", 20),
        uncorrectable("Uncorrectable Internal Error Status", 22),
        mask("Data Link Protocol Error Mask", 4),
        mask("Surprise Down Error Mask", 5),
        mask("Poisoned TLP Received Mask", 12),
        mask("Flow Control Protocol Error Mask", 13),
        mask("Completion Timeout Mask", 14),
        mask("Completer Abort Mask", 15),
        mask("Unexpected Completion Mask", 16),
        mask("Receiver Overflow Mask", 17),
        mask("Malformed TLP Mask", 18),
        mask("ECRC Error Mask", 19),
        mask("Unsupported Request Error Mask", 20),
        mask("Uncorrectable Internal Error Mask", 22),
        severity("Data Link Protocol Error Severity", 4),
        severity("Surprise Down Error Severity", 5),
        severity("Poisoned TLP Received Severity", 12),
        severity("Flow Control Protocol Error Severity", 13),
        severity("Completion Timeout Severity", 14),
        severity("Completer Abort Severity", 15),
        severity("Unexpected Completion Severity", 16),
        severity("Receiver Overflow Severity", 17),
        severity("Malformed TLP Severity", 18),
        severity("ECRC Error Severity", 19),
        severity("Unsupported Request Error Severity", 20),
        severity("Uncorrectable Internal Error Severity", 22),
        correctable("Receiver Error Status", 0),
        correctable("Bad TLP Status", 6),
        correctable("Bad DLLP Status", 7),
        correctable("REPLAY_NUM Rollover Status", 8),
        correctable("Replay Timer Timeout Status", 12),
        correctable("Advisory Non-Fatal Error Status", 13),
        correctable("Corrected Internal Error Status", 14),
        correctable_mask("Receiver Error Mask", 0),
        correctable_mask("Bad TLP Mask", 6),
        correctable_mask("Bad DLLP Mask", 7),
        correctable_mask("REPLAY_NUM Rollover Mask", 8),
        correctable_mask("Replay Timer Timeout Mask", 12),
        correctable_mask("Advisory Non-Fatal Error Mask", 13),
        correctable_mask("Corrected Internal Error Mask", 14),
        FIRST_ERROR,
        HEADER_LOG[0],
        HEADER_LOG[1],
        HEADER_LOG[2],
        HEADER_LOG[3],
    ],
};
