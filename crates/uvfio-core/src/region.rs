//! VFIO's regions of a PCI device.

use std::os::fd::OwnedFd;

/// VFIO's region indices of a PCI device. BAR 0 to 5 are 0 to 5.
pub mod region_index {
    /// The expansion ROM.
    pub const ROM: u32 = 6;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// Legacy VGA ranges; never there.
    pub const VGA: u32 = 8;
    /// How many there are.
    pub const COUNT: u32 = 9;
}

/// What GET_REGION_INFO tells of a region.
#[derive(Debug)]
pub struct RegionInfo {
    /// Size in bytes; 0 where the function has no such region.
    pub bytes: u64,
    /// Can be read.
    pub read: bool,
    /// Can be written.
    pub write: bool,
    /// Parts that the user may map, (offset, bytes), and the memory they are in. Not the whole region unless a
    /// part covers it.
    pub mappable: Vec<(u64, u64)>,
    /// The file that the mappable parts are mapped from.
    pub memory: Option<OwnedFd>,
    /// Where the region begins in that file, bytes; 0 where there is none.
    pub memory_at: u64,
}

/// Why a region access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Outside the region.
    #[error("region {region}: access of {bytes} bytes at {offset:#x} lies outside its {have:#x} bytes")]
    OutOfRange {
        /// Which region.
        region: u32,
        /// Where.
        offset: u64,
        /// How long.
        bytes: u64,
        /// The region's size.
        have: u64,
    },
    /// No such region.
    #[error("there is no region {0}; a PCI function has 0 (BAR 0) to 8 (VGA)")]
    NoSuchRegion(u32),
}
