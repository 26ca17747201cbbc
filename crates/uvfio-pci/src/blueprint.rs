//! What a device declares of itself: identity, BARs, capabilities.

/// Everything that a device says to have its configuration space made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blueprint<'a> {
    /// Who the device is.
    pub identity: Identity,
    /// BAR 0 to 5. The slot after a [`Bar::Memory64`] must be [`Bar::None`].
    pub bars: [Bar; 6],
    /// Size of the expansion ROM in bytes, a power of two from 2 KiB to 16 MiB; 0 where there is none.
    pub rom_bytes: u32,
    /// The capabilities, in the order of the chain; placed from 0x40 on, dword aligned.
    pub capabilities: &'a [Capability<'a>],
    /// The extended capabilities, in the order of the chain, placed from 0x100 on. Where there are none and
    /// no [`Capability::Express`], the configuration space has 256 bytes, else 4096.
    pub extended: &'a [Extended<'a>],
}

/// Identity registers of the type 0 header (PCI Local Bus 3.0, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Interrupt pin: 0 none, 1 INTA .. 4 INTD.
    pub interrupt_pin: u8,
}

/// One base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bar {
    /// Not implemented: reads 0.
    #[default]
    None,
    /// 32-bit memory, `bytes` a power of two from 16.
    Memory32 {
        /// Size in bytes.
        bytes: u32,
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// 64-bit memory, taking this slot and the next.
    Memory64 {
        /// Size in bytes, a power of two from 16.
        bytes: u64,
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// I/O ports, `bytes` a power of two from 4 to 256.
    Io {
        /// Size in bytes.
        bytes: u32,
    },
}

/// A part of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarSpan {
    /// BAR 0 to 5.
    pub bar: u8,
    /// Byte offset in that BAR, a multiple of 8.
    pub offset: u32,
}

/// A capability in the first 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability<'a> {
    /// Power management (PCI Power Management 1.2), version 3.
    PowerManagement {
        /// No_Soft_Reset: registers survive D3hot to D0.
        no_soft_reset: bool,
    },
    /// Vital product data; the data themselves are the device's.
    Vpd {
        /// Whether the user may write. Off unless policy says so.
        writable: bool,
    },
    /// Message signalled interrupts.
    Msi {
        /// Messages the function can send: 1, 2, 4, 8, 16 or 32.
        messages: u8,
        /// 64-bit address.
        wide: bool,
        /// Per-vector masking.
        maskable: bool,
    },
    /// MSI-X.
    MsiX {
        /// Table size in vectors, 1 to 2048.
        vectors: u16,
        /// Where the table lies.
        table: BarSpan,
        /// Where the pending bit array lies.
        pba: BarSpan,
    },
    /// PCI Express endpoint, capability version 2.
    Express {
        /// Function level reset capable.
        flr: bool,
        /// Root complex integrated endpoint (no link registers) instead of an endpoint.
        integrated: bool,
    },
    /// Advanced features of conventional functions: FLR and transactions pending.
    AdvancedFeatures,
    /// Vendor-specific: the body after id, next and length, and its writable bits (same length).
    Vendor {
        /// Body bytes at power-on.
        body: &'a [u8],
        /// Bits that the user may write.
        writable: &'a [u8],
    },
    /// Subsystem ID and subsystem vendor ID (bridges).
    Subsystem {
        /// Subsystem vendor ID.
        vendor: u16,
        /// Subsystem ID.
        device: u16,
    },
}

/// An extended capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended<'a> {
    /// Advanced error reporting of an endpoint.
    Aer,
    /// Device serial number.
    SerialNumber(u64),
    /// Vendor-specific (VSEC): id, revision, body and writable bits.
    Vendor {
        /// VSEC ID.
        id: u16,
        /// VSEC revision, 4 bits.
        revision: u8,
        /// Body after the two headers.
        body: &'a [u8],
        /// Bits that the user may write.
        writable: &'a [u8],
    },
    /// Designated vendor-specific.
    Designated {
        /// Vendor that defines it.
        vendor: u16,
        /// DVSEC revision, 4 bits.
        revision: u8,
        /// DVSEC ID.
        id: u16,
        /// Body after the headers.
        body: &'a [u8],
        /// Bits that the user may write.
        writable: &'a [u8],
    },
}
