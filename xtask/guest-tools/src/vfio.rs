//! A user of the kernel's VFIO (group and container, type 1 IOMMU version 2), as far as the
//! scenarios need one: Linux, `Documentation/driver-api/vfio.rst` and `include/uapi/linux/vfio.h`.
// The kernel takes requests by ioctl and memory by address; Rust has no safe form of either.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use libc::{c_int, c_ulong};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use vfio_bindings::bindings::vfio as sys;

// Offsets from VFIO_BASE of the requests that are used here.
const SET_IOMMU: u32 = 2;
const GROUP_GET_STATUS: u32 = 3;
const GROUP_SET_CONTAINER: u32 = 4;
const GROUP_GET_DEVICE_FD: u32 = 6;
const DEVICE_GET_INFO: u32 = 7;
const DEVICE_GET_REGION_INFO: u32 = 8;
const DEVICE_GET_IRQ_INFO: u32 = 9;
const DEVICE_SET_IRQS: u32 = 10;
const DEVICE_RESET: u32 = 11;
const IOMMU_MAP_DMA: u32 = 13;

/// Index of the interrupts by MSI.
pub(crate) const MSI: u32 = sys::VFIO_PCI_MSI_IRQ_INDEX;
/// Index of the interrupts by MSI-X.
pub(crate) const MSIX: u32 = sys::VFIO_PCI_MSIX_IRQ_INDEX;
/// SET_IRQS' flags for vectors that signal eventfds.
pub(crate) const TO_EVENTFDS: u32 = sys::VFIO_IRQ_SET_DATA_EVENTFD | sys::VFIO_IRQ_SET_ACTION_TRIGGER;
/// With a count of 0.
pub(crate) const DISABLE: u32 = sys::VFIO_IRQ_SET_DATA_NONE | sys::VFIO_IRQ_SET_ACTION_TRIGGER;
/// Index of the configuration space's region.
pub(crate) const CONFIG: u32 = sys::VFIO_PCI_CONFIG_REGION_INDEX;
/// PCI's register for what a function may do, and its bits for memory and bus master.
pub(crate) const COMMAND: u64 = 0x04;
pub(crate) const COMMAND_MEMORY_AND_MASTER: u16 = 0x6;

/// Whether the kernel would give the IOMMU group of the function at `address` to a user.
pub(crate) fn is_viable(address: &str) -> Result<bool> {
    let group = open(&format!("/dev/vfio/{}", group_of(address)?))?;
    let mut status = sys::vfio_group_status {
        argsz: size::<sys::vfio_group_status>(),
        ..Default::default()
    };
    by_pointer(&group, GROUP_GET_STATUS, &mut status).context("VFIO_GROUP_GET_STATUS")?;
    Ok(status.flags & sys::VFIO_GROUP_FLAGS_VIABLE != 0)
}

fn group_of(address: &str) -> Result<String> {
    let link = format!("/sys/bus/pci/devices/{address}/iommu_group");
    let group = fs::read_link(&link).with_context(|| format!("reading {link}"))?;
    Ok(group
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned())
}

fn open(path: &str) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("opening {path}"))
}

/// A PCI function that vfio-pci owns, opened, alone in its container.
#[derive(Debug)]
pub(crate) struct Device {
    device: File,
    container: File,
    /// Closing it would take the device back.
    _group: File,
}

impl Device {
    /// Opens the function at `address` (such as `0000:00:03.0`).
    pub(crate) fn open(address: &str) -> Result<Self> {
        let name = group_of(address)?;
        let container = open("/dev/vfio/vfio")?;
        let group = open(&format!("/dev/vfio/{name}"))?;
        let mut descriptor: c_int = container.as_raw_fd();
        by_pointer(&group, GROUP_SET_CONTAINER, &mut descriptor).context("VFIO_GROUP_SET_CONTAINER")?;
        by_value(&container, SET_IOMMU, c_ulong::from(sys::VFIO_TYPE1v2_IOMMU)).context("VFIO_SET_IOMMU")?;
        let mut name = [0u8; 32];
        ensure!(address.len() < name.len(), "{address} is no PCI address");
        name[..address.len()].copy_from_slice(address.as_bytes());
        let device =
            by_pointer(&group, GROUP_GET_DEVICE_FD, &mut name).context("VFIO_GROUP_GET_DEVICE_FD")?;
        // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
        let device = File::from(unsafe { OwnedFd::from_raw_fd(device) });
        Ok(Self {
            device,
            container,
            _group: group,
        })
    }

    /// Keeps the device alone: its group and its container are closed.
    pub(crate) fn into_descriptor(self) -> File {
        self.device
    }

    /// The device's flags (`VFIO_DEVICE_FLAGS_*`).
    pub(crate) fn flags(&self) -> Result<u32> {
        let mut info = sys::vfio_device_info {
            argsz: size::<sys::vfio_device_info>(),
            ..Default::default()
        };
        by_pointer(&self.device, DEVICE_GET_INFO, &mut info).context("VFIO_DEVICE_GET_INFO")?;
        Ok(info.flags)
    }

    /// Where in the device's file a region lies.
    fn region(&self, index: u32) -> Result<u64> {
        let argsz = size::<sys::vfio_region_info>();
        let mut info = sys::vfio_region_info {
            argsz,
            index,
            ..Default::default()
        };
        by_pointer(&self.device, DEVICE_GET_REGION_INFO, &mut info).context("VFIO_DEVICE_GET_REGION_INFO")?;
        Ok(info.offset)
    }

    /// Reads `N` bytes, the lowest first, at an offset of a region.
    pub(crate) fn read<const N: usize>(&self, region: u32, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let at = self.region(region)? + offset;
        let read = self.device.read_exact_at(&mut bytes, at);
        read.with_context(|| format!("reading {N} bytes at {offset:#x} of region {region}"))?;
        Ok(bytes)
    }

    /// Writes bytes, the lowest first, at an offset of a region.
    pub(crate) fn write(&self, region: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.region(region)? + offset;
        let written = self.device.write_all_at(bytes, at);
        written.with_context(|| format!("writing {} bytes at {offset:#x} of region {region}", bytes.len()))
    }

    /// How many vectors an interrupt index has.
    pub(crate) fn vectors(&self, index: u32) -> Result<u32> {
        let mut info = sys::vfio_irq_info {
            argsz: size::<sys::vfio_irq_info>(),
            index,
            ..Default::default()
        };
        by_pointer(&self.device, DEVICE_GET_IRQ_INFO, &mut info).context("VFIO_DEVICE_GET_IRQ_INFO")?;
        Ok(info.count)
    }

    /// Enables as many vectors of an index as there are eventfds. An error also when the kernel
    /// could enable fewer only.
    pub(crate) fn enable(&self, index: u32, eventfds: &[OwnedFd]) -> Result<()> {
        let eventfds: Vec<u32> = eventfds.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
        match self.set_irqs(TO_EVENTFDS, index, &eventfds)? {
            0 => Ok(()),
            granted => bail!("the kernel grants {granted} of {} vectors", eventfds.len()),
        }
    }

    /// Disables an interrupt index.
    pub(crate) fn disable(&self, index: u32) -> Result<()> {
        self.set_irqs(DISABLE, index, &[])?;
        Ok(())
    }

    /// Resets the function (`VFIO_DEVICE_RESET`).
    pub(crate) fn reset(&self) -> Result<()> {
        by_value(&self.device, DEVICE_RESET, 0).context("VFIO_DEVICE_RESET")?;
        Ok(())
    }

    /// Makes `size` bytes of memory that the device finds at `iova`.
    pub(crate) fn dma_memory(&self, iova: u64, size: u64) -> Result<DmaMemory> {
        let file = File::from(memfd_create("dma", MemfdFlags::CLOEXEC)?);
        file.set_len(size)?;
        let (access, length) = (ProtFlags::READ | ProtFlags::WRITE, usize::try_from(size)?);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of Rust's.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, &file, 0) };
        let mut map = sys::vfio_iommu_type1_dma_map {
            argsz: self::size::<sys::vfio_iommu_type1_dma_map>(),
            flags: sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE,
            // The mapping stays until this process ends, as the device's access does.
            vaddr: memory.context("mapping memory for the device")?.addr() as u64,
            iova,
            size,
        };
        by_pointer(&self.container, IOMMU_MAP_DMA, &mut map).context("VFIO_IOMMU_MAP_DMA")?;
        Ok(DmaMemory { file })
    }

    /// Sends a `struct vfio_irq_set` whose data are 32-bit words.
    fn set_irqs(&self, flags: u32, index: u32, data: &[u32]) -> Result<i32> {
        let count = u32::try_from(data.len())?;
        let argsz = u32::try_from(20 + size_of_val(data))?;
        let mut message = vec![argsz, flags, index, 0, count];
        message.extend(data);
        by_pointer(&self.device, DEVICE_SET_IRQS, message.as_mut_slice()).context("VFIO_DEVICE_SET_IRQS")
    }
}

/// Memory that a device can reach. It is read and written through its file, so that the device may
/// do the same at any time.
#[derive(Debug)]
pub(crate) struct DmaMemory {
    file: File,
}

impl DmaMemory {
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

fn code(request: u32) -> c_ulong {
    (c_ulong::from(sys::VFIO_TYPE) << 8) | c_ulong::from(sys::VFIO_BASE + request)
}

/// A request that takes a pointer: `argument` is the structure that vfio.h names for it, complete
/// as far as its `argsz` says.
fn by_pointer<T: ?Sized>(file: &impl AsFd, request: u32, argument: &mut T) -> io::Result<i32> {
    let pointer = std::ptr::from_mut(argument).cast::<u8>();
    // SAFETY: each caller in this file passes the structure of its request, which lives and is
    // ours alone until the call returns; the kernel reads and writes no more than it.
    result(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), code(request), pointer) })
}

/// A request that takes a number, or nothing.
fn by_value(file: &impl AsFd, request: u32, argument: c_ulong) -> io::Result<i32> {
    // SAFETY: requests of this kind use no memory of ours.
    result(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), code(request), argument) })
}

fn result(status: c_int) -> io::Result<i32> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}
