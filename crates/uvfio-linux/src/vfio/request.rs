//! The requests to the kernel, and the only calls of `ioctl`.
//!
//! Most of VFIO's requests take a structure whose first word, `argsz`, says how long it is; the kernel reads and
//! writes within that length only. `by_argument` sets that word itself, so it is safe with any bytes. What does not
//! fit that form has a function of its own here: requests by value, requests that give a descriptor, and the one that
//! takes an address of this process (`map`). Requests of the same form whose *data* hold addresses (reports of DMA
//! logging, bitmaps of dirty pages) are not made by this crate; see `feature`.
//!
//! Numbers of requests mean different things for containers, groups and devices. So a descriptor that comes from
//! elsewhere is asked first for something that only its kind can answer.
#![allow(unsafe_code)] // ioctl

use std::ffi::{CStr, c_void};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use vfio_bindings::bindings::vfio as sys;

use super::argument::Argument;
use uvfio_core::SharedMapping;

/// A request to the kernel's VFIO: for who must know them all, such as the filter of a confined process.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub(super) name: &'static str,
    /// Beyond `VFIO_BASE`.
    number: u8,
}

const fn request(name: &'static str, number: u8) -> Request {
    Request { name, number }
}

impl Request {
    /// Its name in vfio.h.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What `ioctl` is given for it: VFIO's requests have neither size nor direction in their numbers.
    #[must_use]
    pub const fn opcode(self) -> u32 {
        ((sys::VFIO_TYPE as u32) << 8) | (sys::VFIO_BASE + self.number as u32)
    }
}

pub(super) const GET_API_VERSION: Request = request("VFIO_GET_API_VERSION", 0);
/// To a container: what it can do.
pub const CHECK_EXTENSION: Request = request("VFIO_CHECK_EXTENSION", 1);
pub(super) const SET_IOMMU: Request = request("VFIO_SET_IOMMU", 2);
pub(super) const GROUP_GET_STATUS: Request = request("VFIO_GROUP_GET_STATUS", 3);
pub(super) const GROUP_SET_CONTAINER: Request = request("VFIO_GROUP_SET_CONTAINER", 4);
pub(super) const GROUP_UNSET_CONTAINER: Request = request("VFIO_GROUP_UNSET_CONTAINER", 5);
pub(super) const GROUP_GET_DEVICE_FD: Request = request("VFIO_GROUP_GET_DEVICE_FD", 6);
/// To a device: what it is.
pub const DEVICE_GET_INFO: Request = request("VFIO_DEVICE_GET_INFO", 7);
/// To a device: how large a region is, and where it lies.
pub const DEVICE_GET_REGION_INFO: Request = request("VFIO_DEVICE_GET_REGION_INFO", 8);
/// To a device: how many vectors an interrupt has.
pub const DEVICE_GET_IRQ_INFO: Request = request("VFIO_DEVICE_GET_IRQ_INFO", 9);
/// To a device: where its interrupts go.
pub const DEVICE_SET_IRQS: Request = request("VFIO_DEVICE_SET_IRQS", 10);
/// To a device: its reset.
pub const DEVICE_RESET: Request = request("VFIO_DEVICE_RESET", 11);
pub(super) const GET_HOT_RESET_INFO: Request = request("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 12);
pub(super) const HOT_RESET: Request = request("VFIO_DEVICE_PCI_HOT_RESET", 13);
pub(super) const DEVICE_FEATURE: Request = request("VFIO_DEVICE_FEATURE", 17);
/// To a container: what its IOMMU can translate.
pub const IOMMU_GET_INFO: Request = request("VFIO_IOMMU_GET_INFO", 12);
/// To a container: memory that its devices reach.
pub const IOMMU_MAP_DMA: Request = request("VFIO_IOMMU_MAP_DMA", 13);
/// To a container: memory that they no longer reach.
pub const IOMMU_UNMAP_DMA: Request = request("VFIO_IOMMU_UNMAP_DMA", 14);

/// How a request's argument is passed.
struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

impl Call {
    fn new(request: Request, argument: *mut c_void) -> Self {
        Self {
            opcode: opcode::none(sys::VFIO_TYPE, sys::VFIO_BASE as u8 + request.number),
            argument,
        }
    }
}

// SAFETY: the opcode is the one of the request, without a size, as VFIO defines all of its; the output is the
// kernel's status, from which nothing is read through a pointer.
unsafe impl Ioctl for Call {
    type Output = i32;

    // The kernel may write to the argument.
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

/// Sends a request whose argument is a number, or nothing.
pub(super) fn by_value(file: impl AsFd, request: Request, value: u32) -> rustix::io::Result<i32> {
    let call = Call::new(request, std::ptr::without_provenance_mut(value as usize));
    // SAFETY: the requests that callers send so (version, extension, IOMMU, reset, unset) take the number as such.
    unsafe { rustix::ioctl::ioctl(file, call) }
}

/// Sends a request whose argument begins with `argsz`; the answer stands in the same bytes.
pub(super) fn by_argument(
    file: impl AsFd,
    request: Request,
    argument: &mut Argument,
) -> rustix::io::Result<i32> {
    let call = Call::new(request, argument.sealed().as_mut_ptr().cast());
    // SAFETY: `sealed` has put the length of the bytes into `argsz`, within which the kernel writes; it reads within
    // them too, where lists are as long as their counts say, which the callers in this folder take from the lists. They
    // are ours alone until the call returns. No other address is among them: see the module's head.
    unsafe { rustix::ioctl::ioctl(file, call) }
}

/// As [`by_argument`], for a request that answers with a new descriptor.
pub(super) fn descriptor_by_argument(
    file: impl AsFd,
    request: Request,
    argument: &mut Argument,
) -> rustix::io::Result<OwnedFd> {
    owned(by_argument(file, request, argument)?)
}

/// Puts a group into a container.
pub(super) fn set_container(group: impl AsFd, container: BorrowedFd<'_>) -> rustix::io::Result<i32> {
    use std::os::fd::AsRawFd as _;
    let mut number = container.as_raw_fd();
    let call = Call::new(GROUP_SET_CONTAINER, std::ptr::from_mut(&mut number).cast());
    // SAFETY: the request reads one `int`, which lives until the call returns.
    unsafe { rustix::ioctl::ioctl(group, call) }
}

/// The descriptor of a device of a group.
pub(super) fn device(group: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let call = Call::new(GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast());
    // SAFETY: the request reads a string up to its NUL, which lives until the call returns, and writes nothing.
    owned(unsafe { rustix::ioctl::ioctl(group, call) }?)
}

/// Has a device reach `size` bytes of a mapping of this process at `iova`; `flags` as in vfio.h, without
/// `VFIO_DMA_MAP_FLAG_VADDR`.
///
/// The kernel pins the memory, so it stays the device's even when this process unmaps it: the device writes into pages
/// of a file that Rust never owns ([`SharedMapping`]), not into memory that is used again for something else.
pub(super) fn map(
    container: impl AsFd,
    iova: u64,
    memory: &SharedMapping,
    offset: u64,
    size: u64,
    flags: u32,
) -> rustix::io::Result<()> {
    let address = memory.address(offset, size).ok_or(Errno::FAULT)?;
    let mut argument = Argument::of::<sys::vfio_iommu_type1_dma_map>()
        .set_u32(
            offset_of!(sys::vfio_iommu_type1_dma_map, flags),
            flags & !sys::VFIO_DMA_MAP_FLAG_VADDR,
        )
        .set_u64(offset_of!(sys::vfio_iommu_type1_dma_map, vaddr), address)
        .set_u64(offset_of!(sys::vfio_iommu_type1_dma_map, iova), iova)
        .set_u64(offset_of!(sys::vfio_iommu_type1_dma_map, size), size);
    let call = Call::new(IOMMU_MAP_DMA, argument.sealed().as_mut_ptr().cast());
    // SAFETY: as in `by_argument`; the address in it is that of `size` bytes of a mapping that is alive, and that is
    // only accessed as memory that others change (see above).
    unsafe { rustix::ioctl::ioctl(container, call) }?;
    Ok(())
}

/// Takes a descriptor that the kernel has just made for us.
fn owned(number: i32) -> rustix::io::Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the request has just answered with this number, of a descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
