//! Functions that between them have every structure that the model knows, in every layout.

use uvfio_pci::tables::{self, advanced, aer, express, header, msi, msix, other, power, vendor, vpd};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Extended, Identity, Table};

/// A page of the book: one structure, in one or more layouts.
pub(super) struct Sample {
    /// File name below `registers/`, without its end.
    pub(super) file: &'static str,
    /// Its tables, in the order of the page.
    pub(super) tables: Vec<Row>,
    /// The layouts, each with a word for it.
    pub(super) variants: Vec<(&'static str, Blueprint<'static>)>,
}

/// A table on a page.
pub(super) struct Row {
    pub(super) table: &'static Table,
    /// Where it lies, in words; where none are, the samples' layouts tell.
    pub(super) place: Option<&'static str>,
    /// The specification's names of registers with several fields, by their offsets in the table.
    pub(super) names: &'static [(u16, &'static str)],
}

const fn row(table: &'static Table) -> Row {
    Row {
        table,
        place: None,
        names: &[],
    }
}

const fn said(table: &'static Table, place: &'static str) -> Row {
    Row {
        table,
        place: Some(place),
        names: &[],
    }
}

impl Row {
    /// Gives registers their names.
    const fn named(mut self, names: &'static [(u16, &'static str)]) -> Self {
        self.names = names;
        self
    }
}

const BODY: &str = "After the header, as many bytes as the device declares.";

const BARS: &str = "BAR n lies at 0x10 + 4n, n from 0 to 5.";

/// A function with nothing but its header.
const PLAIN: Blueprint<'static> = Blueprint {
    identity: Identity {
        vendor: 0x1234,
        device: 0x5678,
        revision: 1,
        class: [0xff, 0, 0],
        subsystem_vendor: 0x1234,
        subsystem: 1,
        interrupt_pin: 1,
    },
    bars: [
        Bar::Memory64 {
            bytes: 0x4000,
            prefetchable: false,
        },
        Bar::None,
        Bar::Memory32 {
            bytes: 0x1000,
            prefetchable: true,
        },
        Bar::Io { bytes: 0x20 },
        Bar::None,
        Bar::None,
    ],
    rom_bytes: 0x800,
    capabilities: &[],
    extended: &[],
};

const fn with(capabilities: &'static [Capability<'static>]) -> Blueprint<'static> {
    Blueprint {
        capabilities,
        ..PLAIN
    }
}

const fn extended(extended: &'static [Extended<'static>]) -> Blueprint<'static> {
    Blueprint {
        extended,
        ..with(&[Capability::Express {
            flr: true,
            integrated: false,
        }])
    }
}

const fn msi(wide: bool, maskable: bool) -> Capability<'static> {
    Capability::Msi {
        messages: 8,
        wide,
        maskable,
    }
}

const TABLE: BarSpan = BarSpan {
    bar: 0,
    offset: 0x2000,
};
const PBA: BarSpan = BarSpan {
    bar: 0,
    offset: 0x3000,
};

/// Every page, in the order of the book.
pub(super) fn all() -> Vec<Sample> {
    let one = |file, tables, blueprint| Sample {
        file,
        tables,
        variants: vec![("", blueprint)],
    };
    vec![
        one(
            "header",
            vec![
                row(&header::HEADER).named(&[(0x04, "Command"), (0x06, "Status"), (0x0e, "Header Type")]),
                said(&header::BAR_MEMORY32, BARS).named(&[(0x00, "Base Address Register")]),
                said(&header::BAR_MEMORY64, BARS).named(&[(0x00, "Base Address Register, lower half")]),
                said(&header::BAR_MEMORY64_HIGH, "The register after the lower half."),
                said(&header::BAR_IO, BARS).named(&[(0x00, "Base Address Register")]),
                said(&header::BAR_NONE, BARS),
                row(&header::ROM).named(&[(0x00, "Expansion ROM Base Address Register")]),
                said(
                    &header::ROM_NONE,
                    "Where there is no ROM, in place of the register above.",
                ),
            ],
            PLAIN,
        ),
        one(
            "power-management",
            vec![row(&power::POWER).named(&[
                (0x02, "Power Management Capabilities"),
                (0x04, "Power Management Control/Status"),
            ])],
            with(&[Capability::PowerManagement { no_soft_reset: false }]),
        ),
        one(
            "vpd",
            vec![row(&vpd::VPD).named(&[(0x02, "VPD Address")])],
            with(&[Capability::Vpd { writable: false }]),
        ),
        Sample {
            file: "msi",
            tables: vec![
                row(&msi::MSI).named(&[(0x02, "Message Control")]),
                row(&msi::ADDRESS_HIGH),
                row(&msi::DATA),
                row(&msi::MASKS),
            ],
            variants: vec![
                ("32-bit address", with(&const { [msi(false, false)] })),
                ("64-bit address", with(&const { [msi(true, false)] })),
                ("32-bit address, maskable", with(&const { [msi(false, true)] })),
                ("64-bit address, maskable", with(&const { [msi(true, true)] })),
            ],
        },
        one(
            "msi-x",
            vec![
                row(&msix::MSIX).named(&[
                    (0x02, "Message Control"),
                    (0x04, "Table Offset and BIR"),
                    (0x08, "PBA Offset and BIR"),
                ]),
                said(
                    &msix::ENTRY,
                    "In the BAR, from the table's offset on: 16 bytes a vector.",
                ),
                said(
                    &msix::PENDING,
                    "In the BAR, from the pending bits' offset on: one bit a vector.",
                ),
            ],
            with(&[Capability::MsiX {
                vectors: 64,
                table: TABLE,
                pba: PBA,
            }]),
        ),
        Sample {
            file: "pci-express",
            tables: vec![
                row(&express::EXPRESS).named(&[
                    (0x02, "PCI Express Capabilities"),
                    (0x04, "Device Capabilities"),
                    (0x08, "Device Control"),
                    (0x0a, "Device Status"),
                ]),
                row(&express::LINK).named(&[
                    (0x00, "Link Capabilities"),
                    (0x04, "Link Control"),
                    (0x06, "Link Status"),
                ]),
                row(&express::EXPRESS2).named(&[
                    (0x00, "Device Capabilities 2"),
                    (0x04, "Device Control 2"),
                    (0x06, "Device Status 2"),
                ]),
                row(&express::LINK2).named(&[
                    (0x00, "Link Capabilities 2"),
                    (0x04, "Link Control 2"),
                    (0x06, "Link Status 2"),
                ]),
            ],
            variants: vec![
                (
                    "endpoint",
                    with(&[Capability::Express {
                        flr: true,
                        integrated: false,
                    }]),
                ),
                (
                    "integrated endpoint",
                    with(&[Capability::Express {
                        flr: true,
                        integrated: true,
                    }]),
                ),
            ],
        },
        one(
            "advanced-features",
            vec![row(&advanced::ADVANCED).named(&[
                (0x03, "AF Capabilities"),
                (0x04, "AF Control"),
                (0x05, "AF Status"),
            ])],
            with(&[Capability::AdvancedFeatures]),
        ),
        one(
            "vendor",
            vec![row(&vendor::VENDOR), said(&vendor::BODY, BODY)],
            with(&[Capability::Vendor {
                body: &[0; 5],
                writable: &[0; 5],
            }]),
        ),
        one(
            "subsystem",
            vec![row(&other::SUBSYSTEM)],
            with(&[Capability::Subsystem {
                vendor: 0x1234,
                device: 1,
            }]),
        ),
        one(
            "aer",
            vec![row(&aer::AER).named(&[
                (0x00, "Extended Capability Header"),
                (0x04, "Uncorrectable Error Status"),
                (0x08, "Uncorrectable Error Mask"),
                (0x0c, "Uncorrectable Error Severity"),
                (0x10, "Correctable Error Status"),
                (0x14, "Correctable Error Mask"),
                (0x18, "Advanced Error Capabilities and Control"),
            ])],
            extended(&[Extended::Aer]),
        ),
        one(
            "serial-number",
            vec![row(&other::SERIAL).named(&[(0x00, "Extended Capability Header")])],
            extended(&[Extended::SerialNumber(1)]),
        ),
        one(
            "vsec",
            vec![
                row(&vendor::VSEC).named(&[
                    (0x00, "Extended Capability Header"),
                    (0x04, "Vendor-Specific Header"),
                ]),
                said(&vendor::BODY, BODY),
            ],
            extended(&[Extended::Vendor {
                id: 1,
                revision: 0,
                body: &[0; 8],
                writable: &[0; 8],
            }]),
        ),
        one(
            "dvsec",
            vec![
                row(&vendor::DVSEC).named(&[
                    (0x00, "Extended Capability Header"),
                    (0x04, "DVSEC Header 1"),
                    (0x08, "DVSEC Header 2"),
                ]),
                said(&vendor::BODY, BODY),
            ],
            extended(&[Extended::Designated {
                vendor: 0x1234,
                revision: 0,
                id: 1,
                body: &[0; 6],
                writable: &[0; 6],
            }]),
        ),
        one(
            "unknown",
            vec![
                said(&tables::UNKNOWN, "Only in what `uvfio show` prints of a dump."),
                said(
                    &tables::UNKNOWN_EXTENDED,
                    "Only in what `uvfio show` prints of a dump.",
                )
                .named(&[(0x00, "Extended Capability Header")]),
                said(
                    &tables::EXTENDED_START,
                    "0x100, where a dump's first extended capability is hidden.",
                )
                .named(&[(0x00, "Extended Capability Header")]),
            ],
            PLAIN,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use uvfio_pci::tables;

    #[test]
    fn every_table_of_the_model_has_a_page() {
        let samples = super::all();
        let missing: Vec<_> = tables::ALL
            .iter()
            .filter(|table| {
                !samples
                    .iter()
                    .any(|s| s.tables.iter().any(|row| row.table == **table))
            })
            .map(|table| table.name)
            .collect();
        assert!(
            missing.is_empty(),
            "no page has {missing:?}; give each a row in this file"
        );
    }
}
