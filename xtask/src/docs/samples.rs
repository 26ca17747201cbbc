//! Functions that between them have every structure that the model knows, in every layout.

use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Extended, Identity};

/// A page of the book: one structure, in one or more layouts.
pub(super) struct Sample {
    /// File name below `registers/`, without its end.
    pub(super) file: &'static str,
    /// The layouts, each with a word for it.
    pub(super) variants: Vec<(&'static str, Blueprint<'static>)>,
}

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

/// Every structure, in the order of the book.
pub(super) fn all() -> Vec<Sample> {
    let one = |file, blueprint| Sample {
        file,
        variants: vec![("", blueprint)],
    };
    vec![
        one("header", PLAIN),
        one(
            "power-management",
            with(&[Capability::PowerManagement { no_soft_reset: false }]),
        ),
        one("vpd", with(&[Capability::Vpd { writable: false }])),
        Sample {
            file: "msi",
            variants: vec![
                ("32-bit address", with(&const { [msi(false, false)] })),
                ("64-bit address", with(&const { [msi(true, false)] })),
                ("32-bit address, maskable", with(&const { [msi(false, true)] })),
                ("64-bit address, maskable", with(&const { [msi(true, true)] })),
            ],
        },
        one(
            "msi-x",
            with(&[Capability::MsiX {
                vectors: 64,
                table: TABLE,
                pba: PBA,
            }]),
        ),
        Sample {
            file: "pci-express",
            variants: vec![
                (
                    "endpoint",
                    with(&[Capability::Express {
                        flr: true,
                        integrated: false,
                    }]),
                ),
                (
                    "root complex integrated endpoint",
                    with(&[Capability::Express {
                        flr: true,
                        integrated: true,
                    }]),
                ),
            ],
        },
        one("advanced-features", with(&[Capability::AdvancedFeatures])),
        one(
            "vendor",
            with(&[Capability::Vendor {
                body: &[0; 5],
                writable: &[0; 5],
            }]),
        ),
        one(
            "subsystem",
            with(&[Capability::Subsystem {
                vendor: 0x1234,
                device: 1,
            }]),
        ),
        one("aer", extended(&[Extended::Aer])),
        one("serial-number", extended(&[Extended::SerialNumber(1)])),
        one(
            "vsec",
            extended(&[Extended::Vendor {
                id: 1,
                revision: 0,
                body: &[0; 8],
                writable: &[0; 8],
            }]),
        ),
        one(
            "dvsec",
            extended(&[Extended::Designated {
                vendor: 0x1234,
                revision: 0,
                id: 1,
                body: &[0; 6],
                writable: &[0; 6],
            }]),
        ),
    ]
}
