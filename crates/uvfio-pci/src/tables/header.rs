//! The type 0 configuration header.

use crate::{Access, Action, Field, Table};

const S: &str = "PCI Local Bus 3.0, 6.2.1";
const COMMAND_S: &str = "PCI Local Bus 3.0, 6.2.2";
const STATUS_S: &str = "PCI Local Bus 3.0, 6.2.3";
const BAR_S: &str = "PCI Local Bus 3.0, 6.2.5.1";

/// Vendor ID.
pub const VENDOR: Field = Field::new("Vendor ID", 0x00, 2, 15, 0).says("Who made the function.", S);
/// Device ID.
pub const DEVICE: Field = Field::new("Device ID", 0x02, 2, 15, 0).says("Which function it is.", S);

/// Vendor and device ID, as one register.
pub const VENDOR_AND_DEVICE: Field =
    Field::new("Vendor and Device ID", 0x00, 4, 31, 0).says("All ones: there is no function.", S);

/// I/O space enable.
pub const IO: Field = Field::new("I/O Space Enable", 0x04, 2, 0, 0)
    .users()
    .action(Action::Decode)
    .says(
        "Whether I/O BARs answer; without I/O BARs it is hard-wired to 0.",
        COMMAND_S,
    );
/// Memory space enable.
pub const MEMORY: Field = Field::new("Memory Space Enable", 0x04, 2, 1, 1)
    .users()
    .action(Action::Decode)
    .says(
        "Whether memory BARs and the ROM answer; while 0 they read all ones and drop writes.",
        COMMAND_S,
    );
/// Bus master enable.
pub const BUS_MASTER: Field = Field::new("Bus Master Enable", 0x04, 2, 2, 2)
    .users()
    .action(Action::BusMaster)
    .says(
        "Whether the function may access memory and send messages.",
        COMMAND_S,
    );
/// Parity error response.
pub const PARITY: Field = Field::new("Parity Error Response", 0x04, 2, 6, 6).users().says(
    "Kept for the driver; a virtual device sees no parity errors.",
    COMMAND_S,
);
/// SERR# enable.
pub const SERR: Field = Field::new("SERR# Enable", 0x04, 2, 8, 8)
    .users()
    .says("Whether reported errors set Signaled System Error.", COMMAND_S);
/// Interrupt disable.
pub const INTX_DISABLE: Field = Field::new("Interrupt Disable", 0x04, 2, 10, 10)
    .users()
    .action(Action::IntxDisable)
    .says(
        "Whether INTx is kept from being signalled; messages are not affected.",
        COMMAND_S,
    );

/// Interrupt status.
pub const INTX_STATUS: Field = Field::new("Interrupt Status", 0x06, 2, 3, 3).models().says(
    "Whether the function asserts INTx, also while it is disabled.",
    STATUS_S,
);
/// Capabilities list.
pub const CAPABILITIES_LIST: Field =
    Field::new("Capabilities List", 0x06, 2, 4, 4).says("Whether there is a capability chain.", STATUS_S);
const fn error(name: &'static str, bit: u8, doc: &'static str) -> Field {
    Field::new(name, 0x06, 2, bit, bit)
        .access(Access::Rw1c)
        .models()
        .says(doc, STATUS_S)
}
/// Master data parity error.
pub const MASTER_PARITY: Field = error(
    "Master Data Parity Error",
    8,
    "A poisoned access was made or answered.",
);
/// Signaled target abort.
pub const SIGNALED_TARGET_ABORT: Field = error(
    "Signaled Target Abort",
    11,
    "The function aborted an access to it.",
);
/// Received target abort.
pub const RECEIVED_TARGET_ABORT: Field = error(
    "Received Target Abort",
    12,
    "An access of the function's was aborted.",
);
/// Received master abort.
pub const RECEIVED_MASTER_ABORT: Field = error(
    "Received Master Abort",
    13,
    "An access of the function's found nobody.",
);
/// Signaled system error.
pub const SIGNALED_SYSTEM_ERROR: Field = error(
    "Signaled System Error",
    14,
    "The function reported a fatal or non-fatal error.",
);
/// Detected parity error.
pub const DETECTED_PARITY: Field = error(
    "Detected Parity Error",
    15,
    "The function received something poisoned.",
);

/// Revision ID.
pub const REVISION: Field =
    Field::new("Revision ID", 0x08, 1, 7, 0).says("Which revision of the function.", S);
/// Programming interface.
pub const INTERFACE: Field =
    Field::new("Programming Interface", 0x09, 1, 7, 0).says("Lowest byte of the class code.", S);
/// Subclass.
pub const SUBCLASS: Field = Field::new("Sub-Class", 0x0a, 1, 7, 0).says("Middle byte of the class code.", S);
/// Base class.
pub const BASE_CLASS: Field =
    Field::new("Base Class", 0x0b, 1, 7, 0).says("Highest byte of the class code.", S);
/// Cache line size.
pub const CACHE_LINE: Field = Field::new("Cache Line Size", 0x0c, 1, 7, 0).users().says(
    "Kept for the driver; has no effect (PCI Express Base 5.0, 7.5.1.1.7).",
    S,
);
/// Latency timer.
pub const LATENCY: Field =
    Field::new("Latency Timer", 0x0d, 1, 7, 0).says("Hard-wired to 0, as PCI Express requires.", S);
/// Header layout.
pub const HEADER_LAYOUT: Field = Field::new("Header Layout", 0x0e, 1, 6, 0).says("0: a type 0 header.", S);
/// Multi-function device.
pub const MULTI_FUNCTION: Field = Field::new("Multi-Function Device", 0x0e, 1, 7, 7)
    .hidden()
    .says("A user holds one function, and sees no others.", S);
/// BIST.
pub const BIST: Field = Field::new("BIST", 0x0f, 1, 7, 0)
    .access(Access::Rw)
    .hidden()
    .guarded()
    .says("Self tests take the function away from its user; not offered.", S);

/// CardBus CIS pointer.
pub const CIS: Field = Field::new("Cardbus CIS Pointer", 0x28, 4, 31, 0)
    .hidden()
    .says("Not used any more.", S);
/// Subsystem vendor ID.
pub const SUBSYSTEM_VENDOR: Field =
    Field::new("Subsystem Vendor ID", 0x2c, 2, 15, 0).says("Who made the board.", "PCI Local Bus 3.0, 6.2.4");
/// Subsystem ID.
pub const SUBSYSTEM: Field =
    Field::new("Subsystem ID", 0x2e, 2, 15, 0).says("Which board.", "PCI Local Bus 3.0, 6.2.4");
/// Capabilities pointer.
pub const CAPABILITIES: Field = Field::new("Capabilities Pointer", 0x34, 1, 7, 0).says(
    "Byte offset of the first capability that the user may see.",
    "PCI Local Bus 3.0, 6.7",
);
/// Interrupt line.
pub const INTERRUPT_LINE: Field = Field::new("Interrupt Line", 0x3c, 1, 7, 0).users().says(
    "A byte for system software; nothing reads it here.",
    "PCI Local Bus 3.0, 6.2.4",
);
/// Interrupt pin.
pub const INTERRUPT_PIN: Field = Field::new("Interrupt Pin", 0x3d, 1, 7, 0).says(
    "Which line INTx is: 0 none, 1 INTA to 4 INTD.",
    "PCI Local Bus 3.0, 6.2.4",
);
/// Min_Gnt.
pub const MIN_GNT: Field = Field::new("Min_Gnt", 0x3e, 1, 7, 0).says("Hard-wired to 0.", S);
/// Max_Lat.
pub const MAX_LAT: Field = Field::new("Max_Lat", 0x3f, 1, 7, 0).says("Hard-wired to 0.", S);

/// The header without its BARs.
pub static HEADER: Table = Table {
    name: "Type 0 header",
    doc: "Identity, COMMAND and STATUS, and the pointers to everything else.",
    section: S,
    fields: &[
        VENDOR,
        DEVICE,
        IO,
        MEMORY,
        BUS_MASTER,
        PARITY,
        SERR,
        INTX_DISABLE,
        INTX_STATUS,
        CAPABILITIES_LIST,
        MASTER_PARITY,
        SIGNALED_TARGET_ABORT,
        RECEIVED_TARGET_ABORT,
        RECEIVED_MASTER_ABORT,
        SIGNALED_SYSTEM_ERROR,
        DETECTED_PARITY,
        REVISION,
        INTERFACE,
        SUBCLASS,
        BASE_CLASS,
        CACHE_LINE,
        LATENCY,
        HEADER_LAYOUT,
        MULTI_FUNCTION,
        BIST,
        CIS,
        SUBSYSTEM_VENDOR,
        SUBSYSTEM,
        CAPABILITIES,
        INTERRUPT_LINE,
        INTERRUPT_PIN,
        MIN_GNT,
        MAX_LAT,
    ],
};

/// Byte offset of BAR 0; the others follow, 4 bytes each.
pub const BAR0: u16 = 0x10;
/// Byte offset of the expansion ROM BAR.
pub const ROM_BAR: u16 = 0x30;

/// A BAR as a register.
pub const BAR_REGISTER: Field =
    Field::new("Base Address Register", 0, 4, 31, 0).says("Address and flags.", BAR_S);
/// Space indicator of a BAR: 0 memory, 1 I/O.
pub const SPACE: Field =
    Field::new("Space Indicator", 0, 4, 0, 0).says("0: the BAR maps memory. 1: I/O ports.", BAR_S);
/// Type of a memory BAR.
pub const BAR_TYPE: Field =
    Field::new("Type", 0, 4, 2, 1).says("0: a 32-bit address. 2: a 64-bit one, with the next BAR.", BAR_S);
/// Prefetchable.
pub const PREFETCHABLE: Field =
    Field::new("Prefetchable", 0, 4, 3, 3).says("Whether reads have no side effects.", BAR_S);
/// Base address of a memory BAR.
pub const MEMORY_BASE: Field = Field::new("Base Address", 0, 4, 31, 4)
    .users()
    .guarded()
    .action(Action::Bar)
    .says(
        "The address; bits below the BAR's size read 0, which is how it is sized.",
        BAR_S,
    );
/// Upper half of a 64-bit base address.
pub const MEMORY_BASE_HIGH: Field = Field::new("Base Address, upper 32 bits", 0, 4, 31, 0)
    .users()
    .guarded()
    .action(Action::Bar)
    .says("Upper half of the address of the BAR before it.", BAR_S);
/// Base address of an I/O BAR.
pub const IO_BASE: Field = Field::new("Base Address", 0, 4, 31, 2)
    .users()
    .guarded()
    .action(Action::Bar)
    .says("The port; bits below the BAR's size read 0.", BAR_S);
const ABSENT: Field = Field::new("Not implemented", 0, 4, 31, 0).says("No BAR: reads 0.", BAR_S);

/// A 32-bit memory BAR.
pub static BAR_MEMORY32: Table = Table {
    name: "Base address register, 32-bit memory",
    doc: "Where a region of the function answers. The virtual device's own address decides nothing but what reads back: a user reaches the region by its number.",
    section: BAR_S,
    fields: &[SPACE, BAR_TYPE, PREFETCHABLE, MEMORY_BASE],
};
/// The first half of a 64-bit memory BAR.
pub static BAR_MEMORY64: Table = Table {
    name: "Base address register, 64-bit memory",
    doc: "As the 32-bit one; the next register holds the upper half of the address.",
    section: BAR_S,
    fields: &[SPACE, BAR_TYPE, PREFETCHABLE, MEMORY_BASE],
};
/// The second half of a 64-bit memory BAR.
pub static BAR_MEMORY64_HIGH: Table = Table {
    name: "Base address register, upper half",
    doc: "The upper half of a 64-bit address.",
    section: BAR_S,
    fields: &[MEMORY_BASE_HIGH],
};
/// An I/O BAR.
pub static BAR_IO: Table = Table {
    name: "Base address register, I/O",
    doc: "Where I/O ports of the function answer.",
    section: BAR_S,
    fields: &[SPACE, IO_BASE],
};
/// A BAR that is not there.
pub static BAR_NONE: Table = Table {
    name: "Base address register, none",
    doc: "Reads 0; a write is dropped.",
    section: BAR_S,
    fields: &[ABSENT],
};

/// Expansion ROM enable.
pub const ROM_ENABLE: Field = Field::new("Expansion ROM Enable", 0, 4, 0, 0)
    .users()
    .guarded()
    .action(Action::Decode)
    .says(
        "Whether the ROM answers, memory space being enabled.",
        "PCI Local Bus 3.0, 6.2.5.2",
    );
/// Expansion ROM base address.
pub const ROM_BASE: Field = Field::new("Expansion ROM Base Address", 0, 4, 31, 11)
    .users()
    .guarded()
    .action(Action::Bar)
    .says(
        "The address; bits below the ROM's size read 0.",
        "PCI Local Bus 3.0, 6.2.5.2",
    );
/// The expansion ROM BAR.
pub static ROM: Table = Table {
    name: "Expansion ROM base address register",
    doc: "Where the function's ROM answers.",
    section: "PCI Local Bus 3.0, 6.2.5.2",
    fields: &[ROM_ENABLE, ROM_BASE],
};
/// No expansion ROM.
pub static ROM_NONE: Table = Table {
    name: "Expansion ROM base address register, none",
    doc: "Reads 0; a write is dropped.",
    section: "PCI Local Bus 3.0, 6.2.5.2",
    fields: &[ABSENT],
};
