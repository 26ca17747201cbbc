//! The kernel's VFIO: a function of this machine's that is bound to vfio-pci.
//!
//! Each function is opened with its group and a container of its own. A group opens once, so that of the functions of
//! one group this opens one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use uvfio_linux::sysfs::{self, Address, AddressError, Sysfs};
use uvfio_linux::vfio::{
    Access, AddressSpace, Container, DeviceFile, Group, Irq, Region as Opened, Rule, SharedMemory, VfioError,
};

use super::{IrqKind, Owner, Region, Transport};
use crate::{DriverError, Result};

const OPENING: &str = "opening the function";

/// A function of this machine's, opened through the kernel's VFIO.
///
/// Dropping it gives the function back: the kernel turns off its interrupts and bus mastering, undoes its mappings and
/// resets it.
pub struct Vfio {
    /// Those that were asked for, by their numbers.
    regions: BTreeMap<u32, Opened>,
    device: DeviceFile,
    container: Container,
}

impl Vfio {
    /// Opens the function at an address such as `0000:01:00.0`. It must be bound to vfio-pci (`uvfio bind` does that),
    /// and this user must be allowed to open its group's file, `/dev/vfio/NUMBER`; no other privilege is needed.
    ///
    /// The kernel resets the function where it can, and turns off bus mastering.
    ///
    /// # Errors
    /// Where there is no such function, or it is not to be had; the sentence says what to do.
    pub fn open(address: &str) -> Result<Self> {
        Self::open_in(&Sysfs::default(), address)
    }

    fn open_in(sysfs: &Sysfs, address: &str) -> Result<Self> {
        let (address, number) = group_of(sysfs, address)?;
        let explained = |error: VfioError| {
            let blockers = match error.rule() {
                Some(Rule::NotViable) => blockers(sysfs, number),
                _ => String::new(),
            };
            match because(OPENING)(error) {
                DriverError::Refused { what, why, errno } => DriverError::Refused {
                    what,
                    why: why + &blockers,
                    errno,
                },
                other => other,
            }
        };
        let container = Container::open().map_err(explained)?;
        let group = Group::open(number).map_err(explained)?;
        group.set_container(&container).map_err(explained)?;
        container.set_iommu().map_err(explained)?;
        let device = group.device(&address.to_string()).map_err(explained)?;
        // From here on the device keeps its group.
        Ok(Self {
            regions: BTreeMap::new(),
            device,
            container,
        })
    }

    fn opened(&mut self, index: u32) -> Result<&Opened> {
        let region = match self.regions.entry(index) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert(self.device.region(index).map_err(because("a region"))?)
            }
        };
        Ok(region)
    }
}

/// The address, and the number of the function's IOMMU group, where a driver of VFIO's has it.
fn group_of(sysfs: &Sysfs, address: &str) -> Result<(Address, u32)> {
    let refused = |why: String, errno: Errno| DriverError::Refused {
        what: OPENING,
        why,
        errno: errno.raw_os_error(),
    };
    let address: Address = address
        .parse()
        .map_err(|error: AddressError| refused(error.to_string(), Errno::INVAL))?;
    let function = sysfs
        .function(address)
        .map_err(|error| refused(error.to_string(), Errno::NODEV))?;
    if !function.has_vfio_driver() {
        let driver = function
            .driver
            .map_or_else(|| "no driver".to_owned(), |driver| format!("driver {driver}"));
        let why = format!("{address} has {driver}, not vfio-pci; `uvfio bind {address}` gives it to that");
        return Err(refused(why, Errno::BUSY));
    }
    let number = function
        .group
        .ok_or_else(|| refused(sysfs::Error::NoGroup { address }.to_string(), Errno::NODEV))?;
    Ok((address, number))
}

/// Who keeps a group from being given away, as the end of a sentence.
fn blockers(sysfs: &Sysfs, number: u32) -> String {
    let Ok(group) = sysfs.group(number) else {
        return String::new();
    };
    let blockers: Vec<_> = group
        .blockers()
        .map(|member| {
            let driver = member.driver.as_deref().unwrap_or("a driver");
            format!("{} ({driver})", member.name)
        })
        .collect();
    if blockers.is_empty() {
        String::new()
    } else {
        format!("; in the way: {}", blockers.join(", "))
    }
}

fn because(what: &'static str) -> impl Fn(VfioError) -> DriverError {
    move |error| {
        let errno = match &error {
            VfioError::Refused { errno, .. } => *errno,
            VfioError::Invalid { .. } => Errno::INVAL,
            VfioError::FewerVectors { .. } => Errno::NOSPC,
            VfioError::Partial { .. } => Errno::IO,
            VfioError::LeftMapped { .. } => error.errno().unwrap_or(Errno::INVAL),
            VfioError::Malformed { .. } => {
                return DriverError::Protocol {
                    what,
                    why: error.to_string(),
                };
            }
        };
        DriverError::Refused {
            what,
            why: error.to_string(),
            errno: errno.raw_os_error(),
        }
    }
}

const fn irq(kind: IrqKind) -> Irq {
    match kind {
        IrqKind::Intx => Irq::Intx,
        IrqKind::Msi => Irq::Msi,
        IrqKind::MsiX => Irq::Msix,
        IrqKind::Error => Irq::Error,
        IrqKind::Request => Irq::Request,
    }
}

impl Transport for Vfio {
    fn resettable(&mut self) -> Result<bool> {
        let info = self.device.info().map_err(because("what the device is"))?;
        Ok(info.reset)
    }

    fn region(&mut self, index: u32) -> Result<Region> {
        let info = self.opened(index)?.info().clone();
        let mappable = match info.areas {
            // A part that is only read or only written is left to the kernel, which knows which.
            _ if !(info.mappable && info.readable && info.writable) => Vec::new(),
            None => vec![(0, info.size)],
            Some(areas) => areas,
        };
        let memory = if mappable.is_empty() {
            None
        } else {
            let file = self.device.as_fd().try_clone_to_owned();
            Some(file.map_err(|source| DriverError::System {
                what: "another descriptor for the device",
                source,
            })?)
        };
        Ok(Region {
            bytes: info.size,
            mappable,
            memory,
            owner: Owner::Kernel,
            file_offset: info.offset,
        })
    }

    fn vectors(&mut self, kind: IrqKind) -> Result<u32> {
        let info = self.device.irq(irq(kind));
        Ok(info.map_err(because("a kind of interrupt"))?.count)
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        let region = self.opened(region)?;
        region.read(offset, data).map_err(because("a read"))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let region = self.opened(region)?;
        region.write(offset, data).map_err(because("a write"))
    }

    fn enable_vectors(&mut self, kind: IrqKind, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        let eventfds: Vec<_> = eventfds.iter().copied().map(Some).collect();
        self.device
            .set_eventfds(irq(kind), 0, &eventfds)
            .map_err(because("interrupts"))
    }

    fn disable_vectors(&mut self, kind: IrqKind) -> Result<()> {
        self.device
            .disable(irq(kind))
            .map_err(because("disabling interrupts"))
    }

    fn mask_intx(&mut self, masked: bool) -> Result<()> {
        let done = if masked {
            self.device.mask_intx()
        } else {
            self.device.unmask_intx()
        };
        done.map_err(because("masking INTx"))
    }

    fn map(&mut self, iova: u64, bytes: u64, file: BorrowedFd<'_>) -> Result<()> {
        let refused = because("a DMA mapping");
        // Only for as long as the kernel looks the pages up: it keeps them by itself.
        let memory = SharedMemory::of_file(file, 0, bytes).map_err(&refused)?;
        self.container
            .map(iova, &memory, 0, bytes, Access::ReadWrite)
            .map_err(refused)
    }

    fn unmap(&mut self, iova: u64, bytes: u64) -> Result<()> {
        let refused = because("a DMA unmapping");
        let undone = self.container.unmap(iova, bytes).map_err(refused)?;
        if undone != bytes {
            return Err(DriverError::Protocol {
                what: "a DMA unmapping",
                why: format!("the kernel has undone {undone:#x} of {bytes:#x} bytes at IOVA {iova:#x}"),
            });
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        self.device.reset().map_err(because("a reset"))
    }

    fn usable_iova(&mut self) -> Result<Option<Vec<(u64, u64)>>> {
        let info = self
            .container
            .iommu_info()
            .map_err(because("the usable ranges of IOVAs"))?;
        let ranges = info.iova_ranges;
        Ok(ranges.map(|ranges| {
            ranges
                .iter()
                .map(|range| (*range.start(), *range.end()))
                .collect()
        }))
    }
}

#[cfg(test)]
mod tests;
