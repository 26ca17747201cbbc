//! VFIO's own requests to `/dev/iommu`, as the kernel answers them there: no dirty pages, no new addresses.

use rustix::io::Errno;
use uvfio_core::DmaAccess;
use vfio_bindings::bindings::vfio as sys;

use super::Inner;
use super::ioas::Map;
use crate::argument::{Argument, field};
use crate::container::iommu_info;
use crate::refusal::{Outcome, Refusal};
use crate::requests::container as request;
use crate::{Answer, Caller};

impl Inner {
    pub(super) fn compat_ioctl(
        &mut self,
        number: u32,
        argument: u64,
        caller: &dyn Caller,
    ) -> Outcome<Answer> {
        match number {
            request::GET_API_VERSION => return Ok(Answer::Value(sys::VFIO_API_VERSION as i32)),
            request::CHECK_EXTENSION => return self.check_extension(argument),
            request::SET_IOMMU => self.set_iommu(argument),
            request::IOMMU_GET_INFO => self.info(argument, caller),
            request::IOMMU_MAP_DMA => self.map_dma(argument, caller),
            request::IOMMU_UNMAP_DMA => self.unmap_dma(argument, caller),
            _ => Err(Refusal::unknown(number)),
        }?;
        Ok(Answer::Value(0))
    }

    fn check_extension(&mut self, extension: u64) -> Outcome<Answer> {
        let has = match u32::try_from(extension) {
            Ok(sys::VFIO_TYPE1_IOMMU | sys::VFIO_TYPE1v2_IOMMU | sys::VFIO_UNMAP_ALL) => true,
            Ok(sys::VFIO_DMA_CC_IOMMU) => {
                self.compat()?;
                true
            }
            _ => false,
        };
        Ok(Answer::Value(has.into()))
    }

    fn set_iommu(&mut self, kind: u64) -> Outcome<()> {
        let v1 = match u32::try_from(kind) {
            Ok(sys::VFIO_TYPE1_IOMMU) => true,
            Ok(sys::VFIO_TYPE1v2_IOMMU) => false,
            _ => {
                return Err(Refusal::invalid(format!(
                    "there is no IOMMU of kind {kind}; there are 1 (type 1) and 3 (type 1 version 2)"
                )));
            }
        };
        let ioas = self.compat()?;
        if v1 {
            ioas.large_pages = false;
        }
        Ok(())
    }

    fn info(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        // As many as there is memory for.
        iommu_info(address, caller, |_| self.compat().map(|_| u32::MAX))
    }

    fn map_dma(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let argument = Argument::new(caller, address, size_of::<sys::vfio_iommu_type1_dma_map>())?;
        let flags = argument.u32(field!(vfio_iommu_type1_dma_map.flags));
        if flags & !(sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE) != 0 {
            return Err(Refusal::invalid(format!(
                "flags {flags:#x} are not READ and WRITE alone"
            )));
        }
        let mut access = DmaAccess::empty();
        access.set(DmaAccess::READ, flags & sys::VFIO_DMA_MAP_FLAG_READ != 0);
        access.set(DmaAccess::WRITE, flags & sys::VFIO_DMA_MAP_FLAG_WRITE != 0);
        let map = Map {
            iova: Some(argument.u64(field!(vfio_iommu_type1_dma_map.iova))),
            bytes: argument.u64(field!(vfio_iommu_type1_dma_map.size)),
            address: argument.u64(field!(vfio_iommu_type1_dma_map.vaddr)),
            access,
            memory: caller.memory(),
        };
        self.compat()?.map(map)?;
        Ok(())
    }

    fn unmap_dma(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_iommu_type1_dma_unmap.data);
        let mut argument = Argument::new(caller, address, least)?;
        let flags = argument.u32(field!(vfio_iommu_type1_dma_unmap.flags));
        let iova = argument.u64(field!(vfio_iommu_type1_dma_unmap.iova));
        let bytes = argument.u64(field!(vfio_iommu_type1_dma_unmap.size));
        let ioas = match flags {
            0 | sys::VFIO_DMA_UNMAP_FLAG_ALL => self.compat()?,
            _ => return Err(Refusal::invalid(format!("flags {flags:#x} are not ALL alone"))),
        };
        let unmapped = match (flags, iova, bytes) {
            (0, ..) => ioas.unmap(iova, bytes),
            (_, 0, 0) => Ok(ioas.unmap_all()),
            _ => return Err(Refusal::invalid("with ALL, iova and size must be 0")),
        };
        // The size is told also where nothing was unmapped.
        let size = unmapped.as_ref().copied().unwrap_or(0);
        argument.set_u64(field!(vfio_iommu_type1_dma_unmap.size), size);
        match unmapped {
            Err(refusal) if refusal.errno != Errno::NOENT => Err(refusal),
            unmapped => {
                argument.answer(least)?;
                unmapped.map(|_| ())
            }
        }
    }
}
