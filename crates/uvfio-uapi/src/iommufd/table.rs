//! Page tables as objects, and what there is to know of the IOMMU. Software has neither: a page table is a name for its
//! address space by which devices can be attached to it, and the IOMMU can do nothing that is optional.

use std::mem::offset_of;

use iommufd_bindings::iommufd as sys;
use rustix::io::Errno;

use super::{Inner, Object, missing, unsupported};
use crate::argument::Argument;
use crate::refusal::{Outcome, Refusal};

/// What the kernel wants of the two structures, in bytes: their fields up to the reserved one.
pub(super) const LEAST_OF_ALLOC: usize = offset_of!(sys::iommu_hwpt_alloc, data_type);
pub(super) const LEAST_OF_HARDWARE: usize = offset_of!(sys::iommu_hw_info, out_capabilities);

impl Inner {
    /// Whether a number is a device's that is bound.
    fn device(&self, id: u32) -> Outcome<()> {
        match self.objects.get(&id) {
            Some(Object::Device) => Ok(()),
            _ => Err(Refusal::new(
                Errno::NOENT,
                format!("there is no device {id}; VFIO_DEVICE_BIND_IOMMUFD says a device's number"),
            )),
        }
    }

    /// IOMMU_HWPT_ALLOC.
    pub(super) fn alloc_table(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        if command.u32(offset_of!(sys::iommu_hwpt_alloc, __reserved)) != 0 {
            return Err(unsupported("a reserved field that is not 0"));
        }
        let kind = command.u32(offset_of!(sys::iommu_hwpt_alloc, data_type));
        let bytes = command.u32(offset_of!(sys::iommu_hwpt_alloc, data_len));
        let none = kind == sys::iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE;
        if none != (bytes == 0) {
            return Err(Refusal::invalid(format!(
                "data of type {kind} has {bytes} bytes; type 0 has none, and any other has some"
            )));
        }
        self.device(command.u32(offset_of!(sys::iommu_hwpt_alloc, dev_id)))?;
        let ioas = command.u32(offset_of!(sys::iommu_hwpt_alloc, pt_id));
        match self.objects.get(&ioas) {
            Some(Object::Ioas(_)) => {}
            Some(_) => {
                return Err(Refusal::invalid(format!(
                    "object {ioas} is no address space (IOAS), and no page table is nested here"
                )));
            }
            None => return Err(missing(ioas)),
        }
        let flags = command.u32(offset_of!(sys::iommu_hwpt_alloc, flags));
        if flags != 0 || !none {
            return Err(unsupported("a page table with flags or data of its own"));
        }
        let id = self.add(Object::Table {
            ioas,
            devices: 0,
            asked_for: true,
        })?;
        command.set_u32(offset_of!(sys::iommu_hwpt_alloc, out_hwpt_id), id);
        let known = command.argsz().min(size_of::<sys::iommu_hwpt_alloc>());
        command.answer(known).inspect_err(|_| {
            self.objects.remove(&id);
        })
    }

    /// IOMMU_GET_HW_INFO.
    pub(super) fn hardware(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        // Whoever asks for data of a type is given what there is: none.
        let reserved = offset_of!(sys::iommu_hw_info, __reserved);
        let flags = command.u32(offset_of!(sys::iommu_hw_info, flags));
        if flags & !TYPE_IS_GIVEN != 0 || command.bytes(reserved..LEAST_OF_HARDWARE) != [0; 3] {
            return Err(unsupported(
                "a flag but INPUT_TYPE, or a reserved field that is not 0,",
            ));
        }
        self.device(command.u32(offset_of!(sys::iommu_hw_info, dev_id)))?;
        let room = command.u32(offset_of!(sys::iommu_hw_info, data_len));
        zero(
            &command,
            command.u64(offset_of!(sys::iommu_hw_info, data_uptr)),
            room,
        )?;
        command.set_u32(offset_of!(sys::iommu_hw_info, data_len), 0);
        command.set_u32(
            offset_of!(sys::iommu_hw_info, __bindgen_anon_1),
            sys::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE,
        );
        command.set_u32(offset_of!(sys::iommu_hw_info, out_max_pasid_log2), 0);
        let known = command.argsz().min(size_of::<sys::iommu_hw_info>());
        if known == size_of::<sys::iommu_hw_info>() {
            command.set_u64(offset_of!(sys::iommu_hw_info, out_capabilities), 0);
        }
        command.answer(known)
    }
}

/// IOMMU_HW_INFO_FLAG_INPUT_TYPE, which is newer than the header that is used here.
const TYPE_IS_GIVEN: u32 = 1;

/// Fills a caller's buffer with zeros.
fn zero(command: &Argument<'_>, mut address: u64, mut bytes: u32) -> Outcome<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while bytes > 0 {
        let piece = bytes.min(ZEROS.len() as u32);
        let data = ZEROS.get(..piece as usize).unwrap_or_default();
        command
            .caller()
            .write(address, data)
            .map_err(|errno| Refusal::new(errno, format!("there is no room for data at {address:#x}")))?;
        address = address.wrapping_add(piece.into());
        bytes -= piece;
    }
    Ok(())
}
