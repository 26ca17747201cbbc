//! Identify data structures (section 5.15.2).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// CNS: the namespace's structure.
pub(crate) const CNS_NAMESPACE: u8 = 0x00;
/// CNS: the controller's structure.
pub(crate) const CNS_CONTROLLER: u8 = 0x01;
/// CNS: active namespaces after the one named.
pub(crate) const CNS_ACTIVE_NAMESPACES: u8 = 0x02;
/// CNS: the namespace's identification descriptors.
pub(crate) const CNS_NAMESPACE_DESCRIPTORS: u8 = 0x03;

/// Bytes of every Identify data structure.
pub(crate) const IDENTIFY_BYTES: usize = 4096;

/// Identify controller (figure 247).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct IdentifyController {
    pub(crate) vid: U16,
    pub(crate) ssvid: U16,
    pub(crate) serial: [u8; 20],
    pub(crate) model: [u8; 40],
    pub(crate) firmware: [u8; 8],
    pub(crate) rab: u8,
    pub(crate) ieee: [u8; 3],
    pub(crate) cmic: u8,
    pub(crate) mdts: u8,
    pub(crate) cntlid: U16,
    pub(crate) ver: U32,
    pub(crate) rtd3r: U32,
    pub(crate) rtd3e: U32,
    pub(crate) oaes: U32,
    pub(crate) ctratt: U32,
    pub(crate) rrls: U16,
    reserved_102: [u8; 9],
    pub(crate) cntrltype: u8,
    pub(crate) fguid: [u8; 16],
    reserved_128: [u8; 128],
    pub(crate) oacs: U16,
    pub(crate) acl: u8,
    pub(crate) aerl: u8,
    pub(crate) frmw: u8,
    pub(crate) lpa: u8,
    pub(crate) elpe: u8,
    pub(crate) npss: u8,
    pub(crate) avscc: u8,
    pub(crate) apsta: u8,
    pub(crate) wctemp: U16,
    pub(crate) cctemp: U16,
    reserved_270: [u8; 242],
    pub(crate) sqes: u8,
    pub(crate) cqes: u8,
    pub(crate) maxcmd: U16,
    pub(crate) nn: U32,
    pub(crate) oncs: U16,
    pub(crate) fuses: U16,
    pub(crate) fna: u8,
    pub(crate) vwc: u8,
    pub(crate) awun: U16,
    pub(crate) awupf: U16,
    reserved_530: [u8; 238],
    pub(crate) subnqn: [u8; 256],
    reserved_1024: [u8; 1024],
    /// Maximum power of power state 0 in centiwatts.
    pub(crate) psd0_mp: U16,
    reserved_2050: [u8; 2046],
}

const _: () = assert!(size_of::<IdentifyController>() == IDENTIFY_BYTES);

/// OACS: Doorbell Buffer Config is supported.
pub(crate) const OACS_DOORBELL_BUFFER: u16 = 1 << 8;
/// FRMW: one firmware slot, which is read-only.
pub(crate) const FRMW_ONE_READ_ONLY_SLOT: u8 = 1 << 1 | 1;
/// LPA: commands supported log, and Get Log Page with offset and extended length.
pub(crate) const LPA_EFFECTS_AND_OFFSET: u8 = 1 << 1 | 1 << 2;
/// CNTRLTYPE: an I/O controller.
pub(crate) const CNTRLTYPE_IO: u8 = 1;
/// ONCS: Compare, Dataset Management, Write Zeroes, Save and Select, Timestamp.
pub(crate) const ONCS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6;
/// VWC: a volatile write cache is there, and Flush takes NSID FFFFFFFFh.
pub(crate) const VWC_FLUSH_ALL: u8 = 1 | 3 << 1;

/// Identify namespace of the NVM command set (figure 245).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct IdentifyNamespace {
    pub(crate) nsze: U64,
    pub(crate) ncap: U64,
    pub(crate) nuse: U64,
    pub(crate) nsfeat: u8,
    pub(crate) nlbaf: u8,
    pub(crate) flbas: u8,
    pub(crate) mc: u8,
    pub(crate) dpc: u8,
    pub(crate) dps: u8,
    pub(crate) nmic: u8,
    pub(crate) rescap: u8,
    pub(crate) fpi: u8,
    pub(crate) dlfeat: u8,
    reserved_34: [u8; 65],
    pub(crate) nsattr: u8,
    reserved_100: [u8; 4],
    pub(crate) nguid: [u8; 16],
    pub(crate) eui64: [u8; 8],
    pub(crate) lbaf0: LbaFormat,
    reserved_132: [u8; 3964],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == IDENTIFY_BYTES);

/// LBA format (figure 246).
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LbaFormat {
    /// Metadata size.
    pub(crate) ms: U16,
    /// Data size, 2^n bytes.
    pub(crate) lbads: u8,
    /// Relative performance; 0 is best.
    pub(crate) rp: u8,
}

/// DLFEAT: deallocated blocks read as zeroes, and Write Zeroes takes Deallocate.
pub(crate) const DLFEAT_ZEROES: u8 = 1 | 1 << 3;
/// NSATTR: write protected.
pub(crate) const NSATTR_WRITE_PROTECTED: u8 = 1;

/// NIDT: EUI-64 (figure 249).
pub(crate) const NIDT_EUI64: u8 = 1;
/// NIDT: NGUID.
pub(crate) const NIDT_NGUID: u8 = 2;
/// NIDT: UUID.
pub(crate) const NIDT_UUID: u8 = 3;

/// Namespaces in an active namespace list.
pub(crate) const NAMESPACE_LIST_ENTRIES: usize = IDENTIFY_BYTES / 4;
