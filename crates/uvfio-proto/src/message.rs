//! What lies on the wire: the header, and each command's payload.
//!
//! All numbers are in the host's byte order (specification, "Protocol Specification"). A payload follows the
//! header at once; its offsets count from the header's end. Types here are read by copy from any alignment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length of [`Header`], bytes.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// `max_data_xfer_size` where a side says nothing, bytes ("VFIO_USER_VERSION").
pub const DEFAULT_DATA_BYTES: u32 = 1 << 20;

/// What every message begins with ("Header").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of the command and repeated in the reply; may be used again at any time.
    pub id: u16,
    /// Which command; see [`Command`].
    pub command: u16,
    /// Length of the message with this header, bytes.
    pub bytes: u32,
    /// Bits 0 to 3 the type, then [`HeaderFlags`].
    pub flags: u32,
    /// An error number, in a reply with [`HeaderFlags::ERROR`]; may be 0 even there.
    pub errno: u32,
}

bitflags::bitflags! {
    /// [`Header::flags`] above the type.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HeaderFlags: u32 {
        /// The sender wants no reply.
        const NO_REPLY = 1 << 4;
        /// The reply says that the command was refused.
        const ERROR = 1 << 5;
    }
}

/// What kind of message a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command.
    Command,
    /// The reply to a command.
    Reply,
    /// Nothing that the specification knows: 2 to 15.
    Unknown(u8),
}

impl Kind {
    /// The type bits of a reply; a command's are 0.
    pub const REPLY: u32 = 1;
}

impl Header {
    /// The message's type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.flags & 0xf {
            0 => Kind::Command,
            Kind::REPLY => Kind::Reply,
            other => Kind::Unknown(other as u8),
        }
    }

    /// Whether the sender wants no reply.
    #[must_use]
    pub fn no_reply(&self) -> bool {
        HeaderFlags::from_bits_retain(self.flags).contains(HeaderFlags::NO_REPLY)
    }

    /// Whether this reply says that the command was refused.
    #[must_use]
    pub fn is_error(&self) -> bool {
        HeaderFlags::from_bits_retain(self.flags).contains(HeaderFlags::ERROR)
    }
}

/// The commands ("Commands").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    /// Version and capabilities; the first message, once.
    Version = 1,
    /// Here is memory for the device.
    DmaMap = 2,
    /// It is no longer.
    DmaUnmap = 3,
    /// How many regions and interrupt indices.
    GetInfo = 4,
    /// What a region is.
    GetRegionInfo = 5,
    /// Which parts of a region have a descriptor for accesses.
    GetRegionIoFds = 6,
    /// What an interrupt index is.
    GetIrqInfo = 7,
    /// Enable, mask or trigger interrupts.
    SetIrqs = 8,
    /// Read a region.
    RegionRead = 9,
    /// Write a region.
    RegionWrite = 10,
    /// Server to client: read memory.
    DmaRead = 11,
    /// Server to client: write memory.
    DmaWrite = 12,
    /// Reset the device.
    Reset = 13,
    /// Several writes to regions.
    RegionWriteMulti = 15,
    /// Get, set or probe a feature.
    Feature = 16,
    /// Read the device's migration data.
    MigrationRead = 17,
    /// Write it.
    MigrationWrite = 18,
}

impl Command {
    /// The command of this number; 14 is no longer one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::DmaMap,
            3 => Self::DmaUnmap,
            4 => Self::GetInfo,
            5 => Self::GetRegionInfo,
            6 => Self::GetRegionIoFds,
            7 => Self::GetIrqInfo,
            8 => Self::SetIrqs,
            9 => Self::RegionRead,
            10 => Self::RegionWrite,
            11 => Self::DmaRead,
            12 => Self::DmaWrite,
            13 => Self::Reset,
            15 => Self::RegionWriteMulti,
            16 => Self::Feature,
            17 => Self::MigrationRead,
            18 => Self::MigrationWrite,
            _ => return None,
        })
    }

    /// The command's name without the specification's `VFIO_USER_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::DmaMap => "DMA_MAP",
            Self::DmaUnmap => "DMA_UNMAP",
            Self::GetInfo => "DEVICE_GET_INFO",
            Self::GetRegionInfo => "DEVICE_GET_REGION_INFO",
            Self::GetRegionIoFds => "DEVICE_GET_REGION_IO_FDS",
            Self::GetIrqInfo => "DEVICE_GET_IRQ_INFO",
            Self::SetIrqs => "DEVICE_SET_IRQS",
            Self::RegionRead => "REGION_READ",
            Self::RegionWrite => "REGION_WRITE",
            Self::DmaRead => "DMA_READ",
            Self::DmaWrite => "DMA_WRITE",
            Self::Reset => "DEVICE_RESET",
            Self::RegionWriteMulti => "REGION_WRITE_MULTI",
            Self::Feature => "DEVICE_FEATURE",
            Self::MigrationRead => "MIG_DATA_READ",
            Self::MigrationWrite => "MIG_DATA_WRITE",
        }
    }
}

/// The fixed part of VERSION, both ways; JSON may follow, ended by a NUL ("VFIO_USER_VERSION").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Version {
    /// Must agree.
    pub major: u16,
    /// The server answers at most what was asked.
    pub minor: u16,
}

/// DMA_MAP's payload ("VFIO_USER_DMA_MAP"); at most one descriptor comes with it. The reply has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaMap {
    /// Length of this structure, bytes.
    pub argsz: u32,
    /// [`DmaMapFlags`].
    pub flags: u32,
    /// Where in the descriptor's file, bytes; nothing without a descriptor.
    pub offset: u64,
    /// First IOVA.
    pub iova: u64,
    /// Length, bytes.
    pub bytes: u64,
}

bitflags::bitflags! {
    /// [`DmaMap::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DmaMapFlags: u32 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 1 << 1;
        /// The descriptor is meant to be mapped (libvfio-user's extension).
        const MMAP = 1 << 2;
        /// The descriptor is meant for `pread` and `pwrite` (libvfio-user's extension).
        const FILE_IO = 1 << 3;
    }
}

/// DMA_UNMAP's payload, both ways ("VFIO_USER_DMA_UNMAP").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaUnmap {
    /// Longest reply payload that the client takes, bytes.
    pub argsz: u32,
    /// [`DmaUnmapFlags`].
    pub flags: u32,
    /// First IOVA.
    pub iova: u64,
    /// Length, bytes.
    pub bytes: u64,
}

bitflags::bitflags! {
    /// [`DmaUnmap::flags`]; the specification has none, these are libvfio-user's and Linux's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DmaUnmapFlags: u32 {
        /// Give the bitmap of pages written.
        const DIRTY_BITMAP = 1;
        /// Unmap everything; address and size must be 0.
        const ALL = 1 << 1;
    }
}

/// DEVICE_GET_INFO's payload, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// Longest reply payload wanted; in the reply the length needed, bytes.
    pub argsz: u32,
    /// [`DeviceFlags`].
    pub flags: u32,
    /// How many regions.
    pub regions: u32,
    /// How many interrupt indices.
    pub irqs: u32,
}

bitflags::bitflags! {
    /// [`DeviceInfo::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceFlags: u32 {
        /// DEVICE_RESET works.
        const RESET = 1;
        /// It is a PCI device.
        const PCI = 1 << 1;
    }
}

/// DEVICE_GET_REGION_INFO's payload, both ways; capabilities may follow in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionInfo {
    /// Longest reply payload wanted; in the reply the length needed, bytes.
    pub argsz: u32,
    /// [`RegionFlags`].
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Where the first capability lies, bytes from this structure's start; 0 for none.
    pub cap_offset: u32,
    /// Region's size, bytes.
    pub bytes: u64,
    /// Where the region begins in the descriptor's file, bytes.
    pub offset: u64,
}

bitflags::bitflags! {
    /// [`RegionInfo::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegionFlags: u32 {
        /// Can be read.
        const READ = 1;
        /// Can be written.
        const WRITE = 1 << 1;
        /// Can be mapped; a descriptor comes with the reply.
        const MMAP = 1 << 2;
        /// Capabilities follow.
        const CAPS = 1 << 3;
    }
}

/// The capability that names the mappable areas, as far as its length is fixed; [`SparseArea`]s follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseMmap {
    /// [`SparseMmap::ID`].
    pub id: u16,
    /// 1.
    pub version: u16,
    /// Where the next capability lies, bytes from the start of [`RegionInfo`]; 0 for none.
    pub next: u32,
    /// How many areas.
    pub areas: u32,
    /// 0.
    pub reserved: u32,
}

impl SparseMmap {
    /// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
    pub const ID: u16 = 1;
}

/// One mappable area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseArea {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub bytes: u64,
}

/// DEVICE_GET_REGION_IO_FDS's payload, both ways; sub-regions may follow in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionIoFds {
    /// Longest reply payload wanted; in the reply the length needed, bytes.
    pub argsz: u32,
    /// 0.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// How many sub-regions; 0 in the request.
    pub count: u32,
}

/// One sub-region of [`RegionIoFds`] ("Sub-Region IO FD info format"). Where the entry after it begins is told by the
/// reply's length and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubRegionIoFd {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Length, bytes; 0 where accesses of any width are meant.
    pub bytes: u64,
    /// Which of the reply's descriptors.
    pub fd_index: u32,
    /// [`SubRegionIoFd::IOEVENTFD`], or another kind.
    pub kind: u32,
    /// [`IoEventFdFlags`].
    pub flags: u32,
    /// 0.
    pub padding: u32,
    /// The value of the stores that are meant, with [`IoEventFdFlags::DATAMATCH`].
    pub datamatch: u64,
}

impl SubRegionIoFd {
    /// `VFIO_USER_IO_FD_TYPE_IOEVENTFD`: the descriptor is an eventfd, written for each store.
    pub const IOEVENTFD: u32 = 0;
    /// `VFIO_USER_IO_FD_TYPE_IOREGIONFD`: accesses are messages on the descriptor.
    pub const IOREGIONFD: u32 = 1;
}

bitflags::bitflags! {
    /// [`SubRegionIoFd::flags`] of an ioeventfd; KVM's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IoEventFdFlags: u32 {
        /// Stores of one value only.
        const DATAMATCH = 1;
        /// The region is of I/O ports.
        const PIO = 1 << 1;
    }
}

/// DEVICE_GET_IRQ_INFO's payload, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqInfo {
    /// Longest reply payload wanted; in the reply the length needed, bytes.
    pub argsz: u32,
    /// [`IrqFlags`].
    pub flags: u32,
    /// Which index.
    pub index: u32,
    /// How many interrupts.
    pub count: u32,
}

bitflags::bitflags! {
    /// [`IrqInfo::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IrqFlags: u32 {
        /// Signalled by eventfd.
        const EVENTFD = 1;
        /// Can be masked by request.
        const MASKABLE = 1 << 1;
        /// Masks itself on delivery.
        const AUTOMASKED = 1 << 2;
        /// Vectors can't be added while enabled.
        const NORESIZE = 1 << 3;
    }
}

/// DEVICE_SET_IRQS's payload; with [`SetIrqsFlags::BOOL`], `count` bytes follow. The reply has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIrqs {
    /// Length of the request's payload, bytes.
    pub argsz: u32,
    /// [`SetIrqsFlags`]: one kind of data, one action.
    pub flags: u32,
    /// Which index.
    pub index: u32,
    /// First vector.
    pub start: u32,
    /// How many vectors.
    pub count: u32,
}

bitflags::bitflags! {
    /// [`SetIrqs::flags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SetIrqsFlags: u32 {
        /// No data.
        const NONE = 1;
        /// A byte a vector.
        const BOOL = 1 << 1;
        /// A descriptor a vector, with the message; none of them: taken away.
        const EVENTFD = 1 << 2;
        /// Mask.
        const MASK = 1 << 3;
        /// Unmask.
        const UNMASK = 1 << 4;
        /// Trigger.
        const TRIGGER = 1 << 5;
    }
}

/// What REGION_READ and REGION_WRITE and their replies begin with; data may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionAccess {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many bytes of data.
    pub count: u32,
}

/// One write of REGION_WRITE_MULTI, after a `u64` that says how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MultiWrite {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many bytes of `data`: at most 8.
    pub count: u32,
    /// The data, from the first byte.
    pub data: [u8; 8],
}

/// What DMA_READ and DMA_WRITE and their replies begin with; data may follow.
///
/// The specification's table gives `count` 4 bytes in DMA_WRITE's reply; QEMU and libvfio-user send 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaAccess {
    /// First IOVA.
    pub iova: u64,
    /// How many bytes.
    pub count: u64,
}

/// What DEVICE_FEATURE begins with, both ways; data may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Feature {
    /// Longest reply payload wanted; in the reply the length needed, bytes.
    pub argsz: u32,
    /// Bits 0 to 15 the feature, then [`FeatureFlags`].
    pub flags: u32,
}

bitflags::bitflags! {
    /// [`Feature::flags`] above the feature's number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FeatureFlags: u32 {
        /// Get the feature's data.
        const GET = 1 << 16;
        /// Set them.
        const SET = 1 << 17;
        /// Say whether the other bits' methods exist.
        const PROBE = 1 << 18;
    }
}

/// One range of [`feature_number::IOVA_RANGES`]'s data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IovaRange {
    /// First address.
    pub first: u64,
    /// Last address, inclusive: a range may end with the address space.
    pub last: u64,
}

/// Numbers of device features, as far as they are answered here: Linux's, and from `0xff00` on our own.
pub mod feature_number {
    /// The device may go to low power until the next access.
    pub const LOW_POWER_ENTRY: u16 = 3;
    /// Out of low power.
    pub const LOW_POWER_EXIT: u16 = 5;
    /// Bus mastering: data is a `u32`, 0 off, 1 on.
    pub const BUS_MASTER: u16 = 10;
    /// Ours: where memory may be mapped. GET gives an array of [`super::IovaRange`], in ascending order and without
    /// overlap; its length follows from the reply's.
    pub const IOVA_RANGES: u16 = 0xff00;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes by the specification's tables, written down apart from the types.
    #[test]
    fn payloads_have_the_lengths_of_the_specification() {
        let rows = [
            ("header", size_of::<Header>(), 16),
            ("version", size_of::<Version>(), 4),
            ("dma map", size_of::<DmaMap>(), 32),
            ("dma unmap", size_of::<DmaUnmap>(), 24),
            ("device info", size_of::<DeviceInfo>(), 16),
            ("region info", size_of::<RegionInfo>(), 32),
            ("region io fds", size_of::<RegionIoFds>(), 16),
            ("sub-region io fd", size_of::<SubRegionIoFd>(), 40),
            ("irq info", size_of::<IrqInfo>(), 16),
            ("set irqs", size_of::<SetIrqs>(), 20),
            ("region access", size_of::<RegionAccess>(), 16),
            ("multi write", size_of::<MultiWrite>(), 24),
            ("dma access", size_of::<DmaAccess>(), 16),
            ("feature", size_of::<Feature>(), 8),
            ("sparse mmap", size_of::<SparseMmap>(), 16),
        ];
        for (name, have, want) in rows {
            assert_eq!(have, want, "{name}");
        }
    }

    #[test]
    fn command_numbers_go_there_and_back() {
        for number in 0..=64 {
            if let Some(command) = Command::from_number(number) {
                assert_eq!(command as u16, number, "{}", command.name());
            }
        }
        assert_eq!(Command::from_number(14), None, "DIRTY_PAGES is gone");
    }

    #[test]
    fn type_and_flags_are_told_apart() {
        let header = |flags| Header {
            flags,
            ..Header::default()
        };
        assert_eq!(header(0x10).kind(), Kind::Command);
        assert!(header(0x10).no_reply());
        assert_eq!(header(0x21).kind(), Kind::Reply);
        assert!(header(0x21).is_error());
        assert_eq!(header(0xf).kind(), Kind::Unknown(15));
    }
}
