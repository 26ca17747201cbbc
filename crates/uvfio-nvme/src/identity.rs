//! Who the controller says it is, on PCI and in Identify.
//!
//! Vendor ID fef0h is nobody's in the public list of PCI IDs, so no driver knows the function by its number and
//! applies a vendor's quirks to it: it is found by its class code, 01 08 02, and by that alone.

use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Extended, Identity};

use crate::config::{Config, InterruptConfig};

/// Vendor and subsystem vendor.
pub(crate) const VENDOR: u16 = 0xfef0;
/// Device: the version of the specification.
pub(crate) const DEVICE: u16 = 0x0140;
/// Subsystem.
pub(crate) const SUBSYSTEM: u16 = 0x0001;
/// Mass storage, non-volatile memory, NVM Express I/O controller.
const CLASS: [u8; 3] = [0x01, 0x08, 0x02];
/// MN.
pub(crate) const MODEL: &str = "uvfio NVMe controller";
/// FR.
pub(crate) const FIRMWARE: &str = "1.0";

/// BAR 0: registers, doorbells, MSI-X table and PBA, each in pages of its own so that they can be mapped or
/// trapped apart.
const BAR_BYTES: u64 = 0x4000;
/// The end of the doorbells, the beginning of the MSI-X table.
pub(crate) const REGISTERS_END: u64 = 0x2000;
const MSIX_TABLE: BarSpan = BarSpan {
    bar: 0,
    offset: 0x2000,
};
const MSIX_PBA: BarSpan = BarSpan {
    bar: 0,
    offset: 0x3000,
};

/// What the function declares.
#[derive(Debug)]
pub(crate) struct Function {
    capabilities: Vec<Capability<'static>>,
    extended: [Extended<'static>; 2],
}

impl Function {
    /// The function of a controller with this configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let interrupts = match config.interrupts {
            InterruptConfig::MsiX => Capability::MsiX {
                vectors: vectors(config),
                table: MSIX_TABLE,
                pba: MSIX_PBA,
            },
            InterruptConfig::Msi { messages } => Capability::Msi {
                messages,
                wide: true,
                maskable: true,
            },
        };
        let capabilities = vec![
            Capability::PowerManagement { no_soft_reset: true },
            interrupts,
            Capability::Express {
                flr: true,
                integrated: false,
            },
        ];
        let serial = u64::from_be_bytes(Identifiers::new(&config.serial, 0).eui64);
        Self {
            capabilities,
            extended: [Extended::Aer, Extended::SerialNumber(serial)],
        }
    }

    /// The blueprint.
    pub(crate) fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory64 {
            bytes: BAR_BYTES,
            prefetchable: false,
        };
        Blueprint {
            identity: Identity {
                vendor: VENDOR,
                device: DEVICE,
                revision: 1,
                class: CLASS,
                subsystem_vendor: VENDOR,
                subsystem: SUBSYSTEM,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &self.capabilities,
            extended: &self.extended,
        }
    }
}

/// Vectors that a completion queue may name.
pub(crate) fn vectors(config: &Config) -> u16 {
    match config.interrupts {
        InterruptConfig::MsiX => config.queues + 1,
        InterruptConfig::Msi { messages } => u16::from(messages),
    }
}

/// Identifiers of a namespace, unique as far as the serial number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identifiers {
    pub(crate) nguid: [u8; 16],
    pub(crate) eui64: [u8; 8],
    pub(crate) uuid: [u8; 16],
}

impl Identifiers {
    /// Those of namespace `number` of the controller with this serial number; the controller's own are number 0's.
    pub(crate) fn new(serial: &str, number: usize) -> Self {
        let hash = |salt: u8| {
            let number = (number as u64).to_le_bytes();
            // FNV-1a, 64 bits: spreads, and is the same for ever.
            serial
                .bytes()
                .chain([0, salt])
                .chain(number)
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                })
        };
        let wide = |salt: u8| (u128::from(hash(salt)) << 64 | u128::from(hash(salt + 1))).to_be_bytes();
        let mut eui64 = hash(0).to_be_bytes();
        let mut nguid = wide(1);
        let mut uuid = wide(3);
        // Locally administered, not of a manufacturer (EUI-64, and the NGUID's last half).
        eui64[0] = eui64[0] & !1 | 2;
        nguid[8] = nguid[8] & !1 | 2;
        // RFC 9562, version 8 (made our own way), variant 10b.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self { nguid, eui64, uuid }
    }
}

/// A UUID in text.
pub(crate) fn uuid_text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts =
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default().to_owned());
    parts.join("-")
}

/// Text as Identify has it: padded with spaces, cut where it is too long.
pub(crate) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    for (to, from) in out.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    out
}
