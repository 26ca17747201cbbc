//! Vendor-specific structures: the headers are the specification's, the bodies the device's own.

use crate::{Field, Table, tables};

/// The capability's ID.
pub const ID: u8 = 0x09;
/// The vendor-specific extended capability's ID.
pub const VSEC_ID: u16 = 0x000b;
/// The designated vendor-specific extended capability's ID.
pub const DVSEC_ID: u16 = 0x0023;

const S: &str = "PCI Local Bus 3.0, appendix H";
const V: &str = "PCI Express Base 5.0, 7.9.5";
const D: &str = "PCI Express Base 5.0, 7.9.6";

/// Length of the vendor-specific capability.
pub const LENGTH: Field =
    Field::new("Capability Length", 0x02, 1, 7, 0).says("Bytes of the whole structure, header included.", S);
/// The vendor-specific capability's header; the body follows.
pub static VENDOR: Table = Table {
    name: "Vendor-specific",
    doc: "What the vendor likes. The device declares which bits of the body its user may write.",
    section: S,
    fields: &[tables::CAPABILITY_ID, tables::NEXT, LENGTH],
};

/// One byte of a body.
pub const BYTE: Field = Field::new("Vendor data", 0, 1, 7, 0)
    .users()
    .says("The device's own; only bits that it declares writable change.", S);
/// One byte of a vendor-specific body, as often as the structure is long.
pub static BODY: Table = Table {
    name: "Vendor-specific data",
    doc: "The body of a vendor-specific structure.",
    section: S,
    fields: &[BYTE],
};

/// VSEC ID.
pub const VSEC_KIND: Field =
    Field::new("VSEC ID", 0x04, 4, 15, 0).says("Which of the vendor's structures.", V);
/// VSEC revision.
pub const VSEC_REVISION: Field = Field::new("VSEC Rev", 0x04, 4, 19, 16).says("Its revision.", V);
/// VSEC length.
pub const VSEC_LENGTH: Field =
    Field::new("VSEC Length", 0x04, 4, 31, 20).says("Bytes of the whole structure, headers included.", V);
/// The vendor-specific extended capability's headers.
pub static VSEC: Table = Table {
    name: "Vendor-specific extended",
    doc: "What the vendor likes, in extended configuration space.",
    section: V,
    fields: &[
        tables::EXTENDED_ID,
        tables::EXTENDED_VERSION,
        tables::EXTENDED_NEXT,
        VSEC_KIND,
        VSEC_REVISION,
        VSEC_LENGTH,
    ],
};

/// DVSEC vendor ID.
pub const DVSEC_VENDOR: Field =
    Field::new("DVSEC Vendor ID", 0x04, 4, 15, 0).says("Who defines the structure.", D);
/// DVSEC revision.
pub const DVSEC_REVISION: Field = Field::new("DVSEC Revision", 0x04, 4, 19, 16).says("Its revision.", D);
/// DVSEC length.
pub const DVSEC_LENGTH: Field =
    Field::new("DVSEC Length", 0x04, 4, 31, 20).says("Bytes of the whole structure, headers included.", D);
/// DVSEC ID.
pub const DVSEC_KIND: Field =
    Field::new("DVSEC ID", 0x08, 2, 15, 0).says("Which of its maker's structures.", D);
/// The designated vendor-specific extended capability's headers.
pub static DVSEC: Table = Table {
    name: "Designated vendor-specific extended",
    doc: "A structure that one vendor defines and others may use.",
    section: D,
    fields: &[
        tables::EXTENDED_ID,
        tables::EXTENDED_VERSION,
        tables::EXTENDED_NEXT,
        DVSEC_VENDOR,
        DVSEC_REVISION,
        DVSEC_LENGTH,
        DVSEC_KIND,
    ],
};
