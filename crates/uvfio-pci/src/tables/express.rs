//! The PCI Express capability, version 2, of an endpoint. A root complex integrated endpoint has the same
//! layout without link registers.

use crate::{Access, Action, Field, Table, tables};

const S: &str = "PCI Express Base 5.0, 7.5.3";

/// The capability's ID.
pub const ID: u8 = 0x10;
/// Byte offset of the link registers in the structure.
pub const LINK_AT: u16 = 0x0c;
/// Byte offset of the second half (Device Capabilities 2 and on).
pub const SECOND_AT: u16 = 0x24;
/// Byte offset of the second link registers.
pub const LINK2_AT: u16 = 0x2c;
/// The structure's length in bytes.
pub const BYTES: u16 = 0x3c;

const fn shown(name: &'static str, register: u16, bytes: u8, msb: u8, lsb: u8, doc: &'static str) -> Field {
    Field::new(name, register, bytes, msb, lsb).says(doc, S)
}
const fn control(name: &'static str, register: u16, msb: u8, lsb: u8) -> Field {
    Field::new(name, register, 2, msb, lsb).users().says(
        "Kept for the driver; the virtual device's traffic does not depend on it.",
        S,
    )
}

/// Capability version.
pub const VERSION: Field = shown("Capability Version", 0x02, 2, 3, 0, "2.");
/// Device/port type.
pub const TYPE: Field = shown(
    "Device/Port Type",
    0x02,
    2,
    7,
    4,
    "0: endpoint. 9: root complex integrated endpoint.",
);

/// Maximum payload size supported.
pub const PAYLOAD_SUPPORTED: Field = shown("Max_Payload_Size Supported", 0x04, 4, 2, 0, "0: 128 bytes.");
/// Role-based error reporting.
pub const ROLE_BASED: Field = shown(
    "Role-Based Error Reporting",
    0x04,
    4,
    15,
    15,
    "1, as every device since PCI Express 1.1.",
);
/// Function level reset capable.
pub const FLR_CAPABLE: Field = shown(
    "Function Level Reset Capability",
    0x04,
    4,
    28,
    28,
    "Whether Initiate Function Level Reset works.",
);
/// Extended tags supported.
pub const EXTENDED_TAG: Field = shown("Extended Tag Field Supported", 0x04, 4, 5, 5, "1: 8-bit tags.");

/// Correctable error reporting enable.
pub const REPORT_CORRECTABLE: Field = control("Correctable Error Reporting Enable", 0x08, 0, 0);
/// Non-fatal error reporting enable.
pub const REPORT_NONFATAL: Field = control("Non-Fatal Error Reporting Enable", 0x08, 1, 1);
/// Fatal error reporting enable.
pub const REPORT_FATAL: Field = control("Fatal Error Reporting Enable", 0x08, 2, 2);
/// Unsupported request reporting enable.
pub const REPORT_UNSUPPORTED: Field = control("Unsupported Request Reporting Enable", 0x08, 3, 3);
/// Relaxed ordering, 1 at power-on.
pub const RELAXED: Field = control("Enable Relaxed Ordering", 0x08, 4, 4);
const PAYLOAD: Field = control("Max_Payload_Size", 0x08, 7, 5).guarded();
const EXTENDED_TAG_ENABLE: Field = control("Extended Tag Field Enable", 0x08, 8, 8);
/// No snoop, 1 at power-on.
pub const NO_SNOOP: Field = control("Enable No Snoop", 0x08, 11, 11);
/// Maximum read request size: 128 bytes times 2 to this; 512 bytes at power-on.
pub const READ_REQUEST: Field = control("Max_Read_Request_Size", 0x08, 14, 12);
/// Initiate function level reset.
pub const INITIATE_FLR: Field = Field::new("Initiate Function Level Reset", 0x08, 2, 15, 15)
    .users()
    .action(Action::FunctionLevelReset)
    .says("Written 1: resets the function. Reads 0. In the virtual view the configuration is as the user had it afterwards.", S);

const fn detected(name: &'static str, bit: u8) -> Field {
    Field::new(name, 0x0a, 2, bit, bit)
        .access(Access::Rw1c)
        .models()
        .says(
            "Set when the function reports such an error, whether it is masked or not.",
            "PCI Express Base 5.0, 7.5.3.5",
        )
}
/// Correctable error detected.
pub const CORRECTABLE_DETECTED: Field = detected("Correctable Error Detected", 0);
/// Non-fatal error detected.
pub const NONFATAL_DETECTED: Field = detected("Non-Fatal Error Detected", 1);
/// Fatal error detected.
pub const FATAL_DETECTED: Field = detected("Fatal Error Detected", 2);
/// Unsupported request detected.
pub const UNSUPPORTED_DETECTED: Field = detected("Unsupported Request Detected", 3);
/// Transactions pending.
pub const TRANSACTIONS_PENDING: Field = Field::new("Transactions Pending", 0x0a, 2, 5, 5)
    .models()
    .says("1 while a reset is under way.", "PCI Express Base 5.0, 7.5.3.5");

/// The first part of the structure.
pub static EXPRESS: Table = Table {
    name: "PCI Express",
    doc: "Says that the function is a PCI Express endpoint, and resets it.",
    section: S,
    fields: &[
        tables::CAPABILITY_ID,
        tables::NEXT,
        VERSION,
        TYPE,
        PAYLOAD_SUPPORTED,
        EXTENDED_TAG,
        ROLE_BASED,
        FLR_CAPABLE,
        REPORT_CORRECTABLE,
        REPORT_NONFATAL,
        REPORT_FATAL,
        REPORT_UNSUPPORTED,
        RELAXED,
        PAYLOAD,
        EXTENDED_TAG_ENABLE,
        NO_SNOOP,
        READ_REQUEST,
        INITIATE_FLR,
        CORRECTABLE_DETECTED,
        NONFATAL_DETECTED,
        FATAL_DETECTED,
        UNSUPPORTED_DETECTED,
        TRANSACTIONS_PENDING,
    ],
};

const fn link(name: &'static str, register: u16, bytes: u8, msb: u8, lsb: u8, doc: &'static str) -> Field {
    Field::new(name, register, bytes, msb, lsb).says(doc, "PCI Express Base 5.0, 7.5.3.6 to 7.5.3.8")
}
/// Maximum link speed.
pub const MAX_SPEED: Field = link(
    "Max Link Speed",
    0x00,
    4,
    3,
    0,
    "1: 2.5 GT/s; a virtual link has no speed.",
);
/// Maximum link width.
pub const MAX_WIDTH: Field = link("Maximum Link Width", 0x00, 4, 9, 4, "1: one lane.");
const ASPM_CONTROL: Field = control("ASPM Control", 0x04, 1, 0).hidden().guarded();
const RCB: Field = control("Read Completion Boundary", 0x04, 3, 3).hidden().guarded();
const COMMON_CLOCK: Field = control("Common Clock Configuration", 0x04, 6, 6)
    .hidden()
    .guarded();
const EXTENDED_SYNCH: Field = control("Extended Synch", 0x04, 7, 7).hidden().guarded();
/// Current link speed.
pub const SPEED: Field = link("Current Link Speed", 0x06, 2, 3, 0, "As Max Link Speed.");
/// Negotiated link width.
pub const WIDTH: Field = link("Negotiated Link Width", 0x06, 2, 9, 4, "As Maximum Link Width.");

/// The link registers.
pub static LINK: Table = Table {
    name: "PCI Express link",
    doc: "The link is the system's; a user sees a plain one and changes nothing of it.",
    section: "PCI Express Base 5.0, 7.5.3.6",
    fields: &[
        MAX_SPEED,
        MAX_WIDTH,
        ASPM_CONTROL,
        RCB,
        COMMON_CLOCK,
        EXTENDED_SYNCH,
        SPEED,
        WIDTH,
    ],
};

const S2: &str = "PCI Express Base 5.0, 7.5.3.15 and 7.5.3.16";
/// Completion timeout disable supported.
pub const TIMEOUT_DISABLE_SUPPORTED: Field =
    Field::new("Completion Timeout Disable Supported", 0x00, 4, 4, 4)
        .says("1, as every endpoint that makes requests.", S2);
const TIMEOUT: Field = Field::new("Completion Timeout Value", 0x04, 2, 3, 0)
    .hidden()
    .guarded()
    .says("Not offered.", S2);
const TIMEOUT_DISABLE: Field = Field::new("Completion Timeout Disable", 0x04, 2, 4, 4)
    .users()
    .says(
        "Kept for the driver; the virtual device's traffic does not depend on it.",
        S2,
    );

/// Device capabilities, control and status 2.
pub static EXPRESS2: Table = Table {
    name: "PCI Express device 2",
    doc: "The second half of the structure.",
    section: S2,
    fields: &[TIMEOUT_DISABLE_SUPPORTED, TIMEOUT, TIMEOUT_DISABLE],
};

const S_LINK2: &str = "PCI Express Base 5.0, 7.5.3.18 and 7.5.3.19";
/// Supported link speeds.
pub const SPEEDS: Field =
    Field::new("Supported Link Speeds Vector", 0x00, 4, 7, 1).says("1: 2.5 GT/s.", S_LINK2);
/// Target link speed.
pub const TARGET_SPEED: Field =
    Field::new("Target Link Speed", 0x04, 2, 3, 0).says("1: 2.5 GT/s; can't be changed.", S_LINK2);

/// Link capabilities and control 2.
pub static LINK2: Table = Table {
    name: "PCI Express link 2",
    doc: "As the first link registers.",
    section: S_LINK2,
    fields: &[SPEEDS, TARGET_SPEED],
};

/// Whether a function of this device/port type has link registers: all but those integrated into the root
/// complex.
#[must_use]
pub const fn has_link(kind: u32) -> bool {
    !matches!(kind, 9 | 10)
}

/// Bytes that the structure has at least, in any version and for any device/port type.
#[must_use]
pub fn length(version: u32, kind: u32) -> u16 {
    match (version, has_link(kind)) {
        (0 | 1, false) => LINK_AT,
        (0 | 1, true) => LINK_AT + LINK.bytes(),
        (_, false) => LINK2_AT,
        (_, true) => BYTES,
    }
}
