//! `/dev/vfio/vfio`: a container, whose groups share an address space of IOMMU type 1.

mod dirty;
mod type1;

use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use self::type1::{Map, Unmap};
use crate::argument::{Argument, Chain, field};
use crate::refusal::{Outcome, Refusal};
use crate::requests::container as request;
use crate::space::{PAGE, PAGE_SIZES, Space, USABLE};
use crate::{Answer, Caller};

use self::type1::MAX_MAPPINGS;
pub(crate) use self::type1::take;

/// A container. It lives as long as it has descriptors or groups.
#[derive(Debug, Default)]
pub(crate) struct Container {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    groups: usize,
    iommu: Option<Iommu>,
}

/// What VFIO_SET_IOMMU makes.
#[derive(Debug)]
struct Iommu {
    /// Type 1 version 2, whose mappings are not cut.
    v2: bool,
    space: Arc<Space>,
    /// Dirty pages are tracked.
    tracking: bool,
}

impl Container {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more group is in it.
    pub(crate) fn attach_group(&self) {
        self.lock().groups += 1;
    }

    /// A group has left. With the last one go the IOMMU and everything mapped.
    pub(crate) fn detach_group(&self) {
        let mut inner = self.lock();
        inner.groups = inner.groups.saturating_sub(1);
        if inner.groups == 0
            && let Some(iommu) = inner.iommu.take()
        {
            iommu.space.change().clear();
            iommu.space.unmapped(0, u64::MAX);
        }
    }

    /// What its devices reach; none before VFIO_SET_IOMMU.
    pub(crate) fn space(&self) -> Option<Arc<Space>> {
        self.lock().iommu.as_ref().map(|iommu| Arc::clone(&iommu.space))
    }

    /// An ioctl.
    pub(crate) fn ioctl(&self, number: u32, argument: u64, caller: &dyn Caller) -> Outcome<Answer> {
        let mut inner = self.lock();
        match number {
            request::GET_API_VERSION => return Ok(Answer::Value(sys::VFIO_API_VERSION as i32)),
            request::CHECK_EXTENSION => return Ok(Answer::Value(inner.has_extension(argument).into())),
            request::SET_IOMMU => return inner.set_iommu(argument),
            _ => {}
        }
        let iommu = inner.iommu.as_mut().ok_or_else(|| {
            Refusal::invalid(format!(
                "request {number:#x} needs an IOMMU: put a group into the container, and send VFIO_SET_IOMMU first"
            ))
        })?;
        match number {
            request::IOMMU_GET_INFO => iommu.info(argument, caller),
            request::IOMMU_MAP_DMA => iommu.map(argument, caller),
            request::IOMMU_UNMAP_DMA => iommu.unmap(argument, caller),
            request::IOMMU_DIRTY_PAGES => iommu.dirty_pages(argument, caller),
            _ => return Err(Refusal::unknown(number)),
        }?;
        Ok(Answer::Value(0))
    }
}

/// VFIO_IOMMU_GET_INFO, of a container and of a file of `/dev/iommu` that plays one: `begin` adds the capabilities that
/// come before those that both have, and says how many mappings are left.
pub(crate) fn iommu_info(
    address: u64,
    caller: &dyn Caller,
    begin: impl FnOnce(&mut Chain) -> Outcome<u32>,
) -> Outcome<()> {
    let least = field!(vfio_iommu_type1_info.cap_offset);
    let mut argument = Argument::new(caller, address, least)?;
    let mut chain = Chain::default();
    let available = begin(&mut chain)?;
    chain.add(sys::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, &available.to_ne_bytes());
    chain.add(sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, &iova_ranges());
    argument.set_u32(
        field!(vfio_iommu_type1_info.flags),
        sys::VFIO_IOMMU_INFO_PGSIZES | sys::VFIO_IOMMU_INFO_CAPS,
    );
    argument.set_u64(field!(vfio_iommu_type1_info.iova_pgsizes), PAGE_SIZES);
    argument.answer_with(
        &chain,
        least,
        size_of::<sys::vfio_iommu_type1_info>(),
        field!(vfio_iommu_type1_info.cap_offset),
    )
}

/// The body of the capability that tells where memory may be mapped.
fn iova_ranges() -> Vec<u8> {
    let mut body = Vec::from((USABLE.len() as u32).to_ne_bytes());
    body.extend([0; 4]);
    for (first, last) in USABLE {
        body.extend(first.to_ne_bytes());
        body.extend(last.to_ne_bytes());
    }
    body
}

impl Inner {
    /// VFIO_CHECK_EXTENSION.
    fn has_extension(&self, extension: u64) -> bool {
        match u32::try_from(extension) {
            Ok(
                sys::VFIO_TYPE1_IOMMU
                | sys::VFIO_TYPE1v2_IOMMU
                | sys::VFIO_DMA_CC_IOMMU
                | sys::VFIO_UNMAP_ALL,
            ) => true,
            // Which depends on what is in the container, so that the kernel does not say before.
            Ok(sys::VFIO_UPDATE_VADDR) => self.iommu.is_some(),
            _ => false,
        }
    }

    fn set_iommu(&mut self, kind: u64) -> Outcome<Answer> {
        if self.groups == 0 {
            return Err(Refusal::invalid(
                "the container has no group; put one into it by VFIO_GROUP_SET_CONTAINER first",
            ));
        }
        if self.iommu.is_some() {
            return Err(Refusal::invalid("the container has its IOMMU already"));
        }
        let v2 = match u32::try_from(kind) {
            Ok(sys::VFIO_TYPE1_IOMMU) => false,
            Ok(sys::VFIO_TYPE1v2_IOMMU) => true,
            // What it has besides is no kind of IOMMU.
            _ if self.has_extension(kind) => {
                return Err(Refusal::invalid(format!(
                    "extension {kind} is no kind of IOMMU; there are 1 (type 1) and 3 (type 1 version 2)"
                )));
            }
            _ => {
                return Err(Refusal::new(
                    Errno::NODEV,
                    format!(
                        "there is no IOMMU of kind {kind}; there are 1 (type 1) and 3 (type 1 version 2)"
                    ),
                ));
            }
        };
        self.iommu = Some(Iommu {
            v2,
            space: Arc::default(),
            tracking: false,
        });
        Ok(Answer::Value(0))
    }
}

impl Iommu {
    fn info(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        iommu_info(address, caller, |chain| {
            let mut migration = vec![0; 8];
            migration.extend(PAGE.to_ne_bytes());
            migration.extend(dirty::MAX_BITMAP_BYTES.to_ne_bytes());
            chain.add(sys::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, &migration);
            Ok(MAX_MAPPINGS.saturating_sub(self.space.ranges().len()) as u32)
        })
    }

    fn map(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let argument = Argument::new(caller, address, size_of::<sys::vfio_iommu_type1_dma_map>())?;
        let map = Map {
            flags: argument.u32(field!(vfio_iommu_type1_dma_map.flags)),
            address: argument.u64(field!(vfio_iommu_type1_dma_map.vaddr)),
            iova: argument.u64(field!(vfio_iommu_type1_dma_map.iova)),
            bytes: argument.u64(field!(vfio_iommu_type1_dma_map.size)),
            memory: caller.memory(),
        };
        map.check()?;
        let (first, last, moves) = (map.iova, map.last(), map.moves());
        map.apply(&mut self.space.change())?;
        if moves {
            self.space.moved(first, last)
        } else {
            self.space.mapped(first, last)
        }
    }

    fn unmap(&mut self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_iommu_type1_dma_unmap.data);
        let mut argument = Argument::new(caller, address, least)?;
        let unmap = Unmap {
            flags: argument.u32(field!(vfio_iommu_type1_dma_unmap.flags)),
            iova: argument.u64(field!(vfio_iommu_type1_dma_unmap.iova)),
            bytes: argument.u64(field!(vfio_iommu_type1_dma_unmap.size)),
            v2: self.v2,
        };
        unmap.check_flags()?;
        let bitmap = if unmap.wants_bitmap() {
            if argument.argsz() < least + size_of::<sys::vfio_bitmap>() {
                return Err(Refusal::invalid(
                    "argsz leaves no room for the bitmap of dirty pages",
                ));
            }
            let bitmap = dirty::Bitmap::of(&mut argument, least)?;
            bitmap.check(unmap.bytes)?;
            Some(bitmap)
        } else {
            None
        };
        let last = unmap.last()?;
        if let Some(bitmap) = &bitmap {
            self.check_tracking(bitmap)?;
        }
        let mut ranges = self.space.change();
        let found = unmap.find(&ranges, last)?;
        if let Some(bitmap) = &bitmap {
            bitmap.report(
                caller,
                unmap.iova,
                found.iter().map(|&(first, last)| (first, last)),
            )?;
        }
        let bytes = unmap.apply(&mut ranges, &found);
        drop(ranges);
        self.space.unmapped(unmap.iova, last);
        argument.set_u64(field!(vfio_iommu_type1_dma_unmap.size), bytes);
        argument.answer(least)
    }

    /// Bitmaps are of the smallest pages only, and while pages are tracked.
    fn check_tracking(&self, bitmap: &dirty::Bitmap) -> Outcome<()> {
        if !self.tracking {
            return Err(Refusal::invalid(
                "dirty pages are not tracked; send VFIO_IOMMU_DIRTY_PAGES with START first",
            ));
        }
        if bitmap.page != PAGE {
            return Err(Refusal::invalid(format!(
                "dirty pages are tracked by {PAGE} bytes, not by {}",
                bitmap.page
            )));
        }
        Ok(())
    }
}
