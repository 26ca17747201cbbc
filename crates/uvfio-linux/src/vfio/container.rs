//! A container: an address space of devices, and the IOMMU behind it.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::answer::complete;
use super::argument::{Argument, u64_at};
use super::error::{Asked, Result};
use super::info::IommuInfo;
use super::locked::LockedMemory;
use super::memory::SharedMemory;
use super::request::{self, Request};
use super::rule::Rule;
use super::space::{Access, AddressSpace, PIECE, map_each, pieces};

const PATH: &str = "/dev/vfio/vfio";
const NO_RANGE: &str = "a range has at least one byte, and its last address is below 2^64";

/// What a container may be able to do, as `VFIO_CHECK_EXTENSION` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The IOMMU of version 1, which cuts mappings at an unmap.
    Type1,
    /// The IOMMU of version 2, which unmaps whole mappings only. What this crate uses.
    Type1v2,
    /// Devices' accesses are coherent with the processor's caches.
    DmaCoherent,
    /// Devices without an IOMMU, by `enable_unsafe_noiommu_mode`.
    NoIommu,
    /// Everything can be unmapped by one request.
    UnmapAll,
    /// The address of a mapping in the process can be changed.
    UpdateAddress,
}

impl Extension {
    fn number(self) -> u32 {
        match self {
            Self::Type1 => sys::VFIO_TYPE1_IOMMU,
            Self::Type1v2 => sys::VFIO_TYPE1v2_IOMMU,
            Self::DmaCoherent => sys::VFIO_DMA_CC_IOMMU,
            Self::NoIommu => sys::VFIO_NOIOMMU_IOMMU,
            Self::UnmapAll => sys::VFIO_UNMAP_ALL,
            Self::UpdateAddress => sys::VFIO_UPDATE_VADDR,
        }
    }
}

/// `/dev/vfio/vfio`, opened. Groups are put into it ([`Group::set_container`](super::Group::set_container)); then its
/// IOMMU is chosen; then it is an [`AddressSpace`].
///
/// Each container counts the memory that it pins by itself, against RLIMIT_MEMLOCK of the process that maps. The
/// files that tell of that limit are opened when this value is made, for a process that is confined later.
#[derive(Debug)]
pub struct Container {
    file: OwnedFd,
    locked: LockedMemory,
}

impl Container {
    /// Opens a new container.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(PATH, flags, Mode::empty()) {
            Ok(file) => Self::from_descriptor(file),
            Err(errno) => {
                let rule = match errno {
                    Errno::NOENT | Errno::NODEV => Rule::NoVfio,
                    Errno::ACCESS | Errno::PERM => Rule::NoPermission,
                    _ => Rule::Other,
                };
                Err(Asked::new("open", PATH).refused(rule, errno))
            }
        }
    }

    /// Takes a container that somebody else has opened. What is not one is refused.
    pub fn from_descriptor(file: OwnedFd) -> Result<Self> {
        let locked = LockedMemory::new();
        let container = Self { file, locked };
        match container.api_version()? {
            sys::VFIO_API_VERSION => Ok(container),
            other => Err(asked(request::GET_API_VERSION).invalid(format!(
                "the kernel's VFIO has version {other}, and this program knows 0"
            ))),
        }
    }

    /// The version of the kernel's VFIO; there has only been 0.
    pub fn api_version(&self) -> Result<u32> {
        let version = request::by_value(&self.file, request::GET_API_VERSION, 0);
        match version {
            Ok(version) => Ok(version.cast_unsigned()),
            Err(errno) => Err(asked(request::GET_API_VERSION).refused(Rule::WrongKind, errno)),
        }
    }

    /// Whether the container, or VFIO as it is loaded, can do something.
    pub fn has(&self, extension: Extension) -> Result<bool> {
        match request::by_value(&self.file, request::CHECK_EXTENSION, extension.number()) {
            Ok(answer) => Ok(answer > 0),
            Err(errno) => Err(asked(request::CHECK_EXTENSION).refused(Rule::Other, errno)),
        }
    }

    /// Chooses the IOMMU of type 1, version 2: once, after the first group is in the container.
    pub fn set_iommu(&self) -> Result<()> {
        match request::by_value(&self.file, request::SET_IOMMU, sys::VFIO_TYPE1v2_IOMMU) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let rule = match errno {
                    Errno::PERM => Rule::NoInterruptRemapping,
                    Errno::INVAL => Rule::IommuOrder,
                    Errno::BUSY => Rule::Held,
                    Errno::NODEV => Rule::Incompatible,
                    _ => Rule::Other,
                };
                Err(asked(request::SET_IOMMU).refused(rule, errno))
            }
        }
    }

    /// What the IOMMU can do, and how much more may be mapped.
    pub fn iommu_info(&self) -> Result<IommuInfo> {
        let asked = || asked(request::IOMMU_GET_INFO);
        let first = Argument::of::<sys::vfio_iommu_type1_info>();
        let answer = complete(&first, |argument| {
            request::by_argument(&self.file, request::IOMMU_GET_INFO, argument)
        });
        let answer = answer.map_err(|error| {
            error.of(asked(), |errno| match errno {
                Errno::INVAL | Errno::NOTTY => Rule::IommuOrder,
                _ => Rule::Other,
            })
        })?;
        IommuInfo::parse(answer.bytes()).map_err(|source| asked().malformed(source))
    }

    fn map_piece(
        &self,
        iova: u64,
        memory: &SharedMemory,
        offset: u64,
        size: u64,
        access: Access,
    ) -> Result<()> {
        let result = request::map(&self.file, iova, memory.mapping(), offset, size, access.flags());
        result.map_err(|errno| {
            let last = iova.saturating_add(size.saturating_sub(1));
            let asked = Asked::new(request::IOMMU_MAP_DMA.name, format!("IOVA {iova:#x}..={last:#x}"));
            let rule = match errno {
                Errno::EXIST => Rule::Mapped,
                Errno::NOSPC => Rule::TooManyMappings,
                Errno::NOMEM => self.locked.rule(size),
                Errno::FAULT => Rule::NoMemory,
                Errno::INVAL => self.why_not_mapped(iova, last, offset | size),
                Errno::OVERFLOW => Rule::Reserved {
                    usable: self.usable(),
                },
                Errno::NOTTY => Rule::IommuOrder,
                _ => Rule::Other,
            };
            asked.refused(rule, errno)
        })
    }

    /// What the kernel's EINVAL to a mapping meant.
    fn why_not_mapped(&self, iova: u64, last: u64, addresses: u64) -> Rule {
        let Ok(info) = self.iommu_info() else {
            return Rule::IommuOrder;
        };
        if let Some(page) = info.smallest_page()
            && !(iova | addresses).is_multiple_of(page)
        {
            return Rule::Misaligned { page };
        }
        match info.iova_ranges {
            Some(usable)
                if !usable
                    .iter()
                    .any(|range| range.contains(&iova) && range.contains(&last)) =>
            {
                Rule::Reserved { usable }
            }
            _ => Rule::Other,
        }
    }

    fn usable(&self) -> Vec<std::ops::RangeInclusive<u64>> {
        self.iommu_info()
            .ok()
            .and_then(|info| info.iova_ranges)
            .unwrap_or_default()
    }

    /// Unmaps; `flags` and the range as in `struct vfio_iommu_type1_dma_unmap`.
    fn unmap_request(&self, flags: u32, iova: u64, size: u64, about: String) -> Result<u64> {
        let mut argument = Argument::of::<sys::vfio_iommu_type1_dma_unmap>()
            .set_u32(offset_of!(sys::vfio_iommu_type1_dma_unmap, flags), flags)
            .set_u64(offset_of!(sys::vfio_iommu_type1_dma_unmap, iova), iova)
            .set_u64(offset_of!(sys::vfio_iommu_type1_dma_unmap, size), size);
        match request::by_argument(&self.file, request::IOMMU_UNMAP_DMA, &mut argument) {
            Ok(_) => Ok(u64_at(
                argument.bytes(),
                offset_of!(sys::vfio_iommu_type1_dma_unmap, size),
            )),
            Err(errno) => {
                let page = self.iommu_info().ok().and_then(|info| info.smallest_page());
                let rule = match (errno, page) {
                    (Errno::INVAL, Some(page)) if !(iova | size).is_multiple_of(page) => {
                        Rule::Misaligned { page }
                    }
                    (Errno::INVAL, Some(_)) => Rule::CutsMapping,
                    (Errno::INVAL | Errno::NOTTY, None) => Rule::IommuOrder,
                    _ => Rule::Other,
                };
                Err(Asked::new(request::IOMMU_UNMAP_DMA.name, about).refused(rule, errno))
            }
        }
    }
}

impl AddressSpace for Container {
    fn map(&self, iova: u64, memory: &SharedMemory, offset: u64, size: u64, access: Access) -> Result<()> {
        let about = || {
            Asked::new(
                request::IOMMU_MAP_DMA.name,
                format!("{size:#x} bytes at IOVA {iova:#x}"),
            )
        };
        if offset.checked_add(size).is_none_or(|end| end > memory.bytes()) {
            return Err(about().invalid(format!(
                "bytes {offset:#x} and {size:#x} on, of memory that has {:#x}",
                memory.bytes()
            )));
        }
        let pieces = pieces(iova, size).ok_or_else(|| about().invalid(NO_RANGE))?;
        // What takes seconds and then fails is better refused at once.
        if size > PIECE
            && let Some(rule) = self.locked.too_much(size)
        {
            return Err(about().refused(rule, Errno::NOMEM));
        }
        map_each(
            pieces,
            |at, bytes| self.map_piece(at, memory, offset + (at - iova), bytes, access),
            |done| self.unmap(iova, done).map(drop),
        )
    }

    fn unmap(&self, iova: u64, size: u64) -> Result<u64> {
        if pieces(iova, size).is_none() {
            let asked = Asked::new(
                request::IOMMU_UNMAP_DMA.name,
                format!("{size:#x} bytes at IOVA {iova:#x}"),
            );
            return Err(asked.invalid(NO_RANGE));
        }
        let last = iova.saturating_add(size.saturating_sub(1));
        self.unmap_request(0, iova, size, format!("IOVA {iova:#x}..={last:#x}"))
    }

    fn unmap_all(&self) -> Result<u64> {
        let about = || "the whole address space".to_owned();
        if self.has(Extension::UnmapAll)? {
            return self.unmap_request(sys::VFIO_DMA_UNMAP_FLAG_ALL, 0, 0, about());
        }
        // A size of 2^64 cannot be written down, so it takes two requests.
        let half = 1 << 63;
        Ok(self.unmap_request(0, 0, half, about())? + self.unmap_request(0, half, half, about())?)
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn asked(request: Request) -> Asked {
    Asked::new(request.name, "the container")
}

impl From<Container> for OwnedFd {
    fn from(container: Container) -> Self {
        container.file
    }
}
