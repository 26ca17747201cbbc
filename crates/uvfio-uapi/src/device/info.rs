//! What a device tells of itself.

use uvfio_core::{IrqIndex, region_index};
use uvfio_pci::{Bar, Window};
use vfio_bindings::bindings::vfio as sys;

use super::Device;
use super::regions::offset_of_region;
use crate::Caller;
use crate::argument::{Argument, Chain, field};
use crate::refusal::{Outcome, Refusal};
use crate::space::PAGE;

impl Device {
    /// VFIO_DEVICE_GET_INFO.
    pub(super) fn info(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_device_info.cap_offset);
        let mut argument = Argument::new(caller, address, least)?;
        let mut flags = sys::VFIO_DEVICE_FLAGS_PCI;
        if self.device.resettable() {
            flags |= sys::VFIO_DEVICE_FLAGS_RESET;
        }
        argument.set_u32(field!(vfio_device_info.flags), flags);
        argument.set_u32(field!(vfio_device_info.num_regions), region_index::COUNT);
        argument.set_u32(field!(vfio_device_info.num_irqs), IrqIndex::COUNT);
        argument.answer_with(
            &Chain::default(),
            least,
            size_of::<sys::vfio_device_info>(),
            field!(vfio_device_info.cap_offset),
        )
    }

    /// VFIO_DEVICE_GET_REGION_INFO.
    pub(super) fn region_info(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let size = size_of::<sys::vfio_region_info>();
        let mut argument = Argument::new(caller, address, size)?;
        let region = argument.u32(field!(vfio_region_info.index));
        if region == region_index::VGA {
            return Err(Refusal::invalid(format!("{} has no VGA ranges", self.address)));
        }
        let info = self
            .device
            .region_info(region)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let mut flags = 0;
        if info.read {
            flags |= sys::VFIO_REGION_INFO_FLAG_READ;
        }
        if info.write {
            flags |= sys::VFIO_REGION_INFO_FLAG_WRITE;
        }
        let mut chain = Chain::default();
        if region < region_index::ROM && caller.can_map() && self.may_be_mapped(region) {
            let traps = caller.can_trap();
            let whole = traps || info.mappable.as_slice() == [(0, info.bytes)];
            if whole || !info.mappable.is_empty() {
                flags |= sys::VFIO_REGION_INFO_FLAG_MMAP;
            }
            if !whole && !info.mappable.is_empty() {
                chain.add(sys::VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, &sparse(&info.mappable));
            }
            if whole && self.has_msix_table(region) {
                chain.add(sys::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, &[]);
            }
        }
        if !chain.is_empty() {
            flags |= sys::VFIO_REGION_INFO_FLAG_CAPS;
        }
        argument.set_u32(field!(vfio_region_info.flags), flags);
        argument.set_u64(field!(vfio_region_info.size), info.bytes);
        argument.set_u64(field!(vfio_region_info.offset), offset_of_region(region));
        argument.answer_with(&chain, size, size, field!(vfio_region_info.cap_offset))
    }

    /// Whether a BAR is memory of whole pages.
    pub(super) fn may_be_mapped(&self, bar: u32) -> bool {
        let bytes = match u8::try_from(bar).map(|bar| self.device.layout().bar(bar)) {
            Ok(Bar::Memory32 { bytes, .. }) => bytes.into(),
            Ok(Bar::Memory64 { bytes, .. }) => bytes,
            _ => 0,
        };
        bytes >= PAGE
    }

    fn has_msix_table(&self, bar: u32) -> bool {
        let span = self.device.layout().window_span(Window::MsixTable);
        span.is_some_and(|span| u32::from(span.bar) == bar)
    }

    /// VFIO_DEVICE_GET_IRQ_INFO.
    pub(super) fn irq_info(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let size = size_of::<sys::vfio_irq_info>();
        let mut argument = Argument::new(caller, address, size)?;
        let number = argument.u32(field!(vfio_irq_info.index));
        let Some(index) = IrqIndex::from_number(number) else {
            return Err(Refusal::invalid(format!(
                "there is no interrupt index {number}; a PCI function has 0 (INTx) to 4 (REQ)"
            )));
        };
        if index == IrqIndex::Err && !self.is_express() {
            return Err(Refusal::invalid(format!(
                "{} is not PCI Express, so it reports no errors",
                self.address
            )));
        }
        let mut flags = sys::VFIO_IRQ_INFO_EVENTFD;
        flags |= match index {
            IrqIndex::Intx => sys::VFIO_IRQ_INFO_MASKABLE | sys::VFIO_IRQ_INFO_AUTOMASKED,
            // Vectors can be added while it is enabled, where there are any.
            IrqIndex::MsiX if self.vectors(number) > 0 => 0,
            IrqIndex::MsiX | IrqIndex::Msi | IrqIndex::Err | IrqIndex::Req => sys::VFIO_IRQ_INFO_NORESIZE,
        };
        argument.set_u32(field!(vfio_irq_info.flags), flags);
        argument.set_u32(field!(vfio_irq_info.count), self.vectors(number));
        argument.answer(size)
    }

    /// How many interrupts an index has; 0 for one that is not there.
    pub(super) fn vectors(&self, index: u32) -> u32 {
        if index == IrqIndex::Err as u32 && !self.is_express() {
            return 0;
        }
        self.device.vectors(index)
    }
}

/// The body of a capability that names the parts of a region that can be mapped.
fn sparse(parts: &[(u64, u64)]) -> Vec<u8> {
    let mut body = Vec::from((parts.len() as u32).to_ne_bytes());
    body.extend([0; 4]);
    for (offset, bytes) in parts {
        body.extend(offset.to_ne_bytes());
        body.extend(bytes.to_ne_bytes());
    }
    body
}
