//! The tables: one file a structure, one row a field. Offsets and masks of registers stand here and nowhere
//! else.

pub mod advanced;
pub mod aer;
pub mod express;
pub mod header;
pub mod msi;
pub mod msix;
pub mod other;
pub mod power;
pub mod vendor;
pub mod vpd;

use crate::{Field, Table};

/// Capability ID.
pub const CAPABILITY_ID: Field = Field::new("Capability ID", 0x00, 1, 7, 0)
    .says("Says which capability this is.", "PCI Local Bus 3.0, 6.7");
/// Next capability pointer.
pub const NEXT: Field = Field::new("Next Capability Pointer", 0x01, 1, 7, 0).says(
    "Byte offset of the next capability that the user may see, 0 at the end of the chain.",
    "PCI Local Bus 3.0, 6.7",
);
/// Header of an extended capability, as a register.
pub const EXTENDED_HEADER: Field = Field::new("Extended Capability Header", 0x00, 4, 31, 0)
    .says("ID, version and pointer.", "PCI Express Base 5.0, 7.6.3");
/// Extended capability ID.
pub const EXTENDED_ID: Field = Field::new("Extended Capability ID", 0x00, 4, 15, 0).says(
    "Says which extended capability this is.",
    "PCI Express Base 5.0, 7.6.3",
);
/// Version of an extended capability.
pub const EXTENDED_VERSION: Field = Field::new("Capability Version", 0x00, 4, 19, 16).says(
    "The version of the capability's layout.",
    "PCI Express Base 5.0, 7.6.3",
);
/// Next extended capability.
pub const EXTENDED_NEXT: Field = Field::new("Next Capability Offset", 0x00, 4, 31, 20).says(
    "Byte offset of the next extended capability that the user may see, 0 at the end of the chain.",
    "PCI Express Base 5.0, 7.6.3",
);

/// A capability that no table describes: shown in a dump by its header only, never offered to a user.
pub static UNKNOWN: Table = Table {
    name: "Unknown capability",
    doc: "A capability that the model has no table for. In the virtual view it is not there at all.",
    section: "PCI Local Bus 3.0, 6.7",
    fields: &[CAPABILITY_ID, NEXT],
};

/// An extended capability that no table describes.
pub static UNKNOWN_EXTENDED: Table = Table {
    name: "Unknown extended capability",
    doc: "An extended capability that the model has no table for. In the virtual view it is not there at all.",
    section: "PCI Express Base 5.0, 7.6.3",
    fields: &[EXTENDED_ID, EXTENDED_VERSION, EXTENDED_NEXT],
};

/// What stands at the start of the extended chain where the first capability is one that the user does not see.
pub static EXTENDED_START: Table = Table {
    name: "Start of the extended capabilities",
    doc: "No capability (ID 0), only the pointer to the first that the user may see.",
    section: "PCI Express Base 5.0, 7.6.3",
    fields: &[EXTENDED_ID, EXTENDED_VERSION, EXTENDED_NEXT],
};

/// Every table, for the book and for tests that enumerate.
pub static ALL: &[&Table] = &[
    &header::HEADER,
    &header::BAR_MEMORY32,
    &header::BAR_MEMORY64,
    &header::BAR_MEMORY64_HIGH,
    &header::BAR_IO,
    &header::BAR_NONE,
    &header::ROM,
    &header::ROM_NONE,
    &power::POWER,
    &vpd::VPD,
    &msi::MSI,
    &msi::ADDRESS_HIGH,
    &msi::DATA,
    &msi::MASKS,
    &msix::MSIX,
    &msix::ENTRY,
    &msix::PENDING,
    &express::EXPRESS,
    &express::LINK,
    &express::EXPRESS2,
    &express::LINK2,
    &advanced::ADVANCED,
    &vendor::VENDOR,
    &vendor::BODY,
    &other::SUBSYSTEM,
    &aer::AER,
    &other::SERIAL,
    &vendor::VSEC,
    &vendor::DVSEC,
    &UNKNOWN,
    &UNKNOWN_EXTENDED,
    &EXTENDED_START,
];
