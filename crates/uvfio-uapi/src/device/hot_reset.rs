//! Reset of a whole bus: which functions that takes, and who must agree.

use std::sync::Arc;

use rustix::io::Errno;
use uvfio_core::Address;
use vfio_bindings::bindings::vfio as sys;

use super::Device;
use crate::Caller;
use crate::argument::{Argument, field};
use crate::descriptor;
use crate::refusal::{Outcome, Refusal};
use crate::uapi::{File, Open, Uapi};

impl Device {
    /// Where it is; none where its address is not one of PCI's.
    fn place(&self) -> Option<Address> {
        self.address.parse().ok()
    }

    /// The functions of its bus, in the order of the run. ENODEV on a root bus, which can't be reset.
    fn bus<'u>(&self, uapi: &'u Uapi) -> Outcome<Vec<(Address, &'u Device)>> {
        let own = self.place().filter(|place| place.bus() != 0).ok_or_else(|| {
            Refusal::new(
                Errno::NODEV,
                format!("{} is on a root bus, which can't be reset", self.address),
            )
        })?;
        let on_it = uapi
            .devices()
            .filter_map(|device| Some((device.place()?, device)));
        Ok(on_it
            .filter(|(place, _)| (place.domain(), place.bus()) == (own.domain(), own.bus()))
            .collect())
    }

    /// VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.
    pub(super) fn hot_reset_info(&self, uapi: &Uapi, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_pci_hot_reset_info.devices);
        let mut argument = Argument::new(caller, address, least)?;
        let bus = self.bus(uapi)?;
        let each = size_of::<sys::vfio_pci_dependent_device>();
        let by_file = self.is_bound_by_file();
        let mut flags = 0;
        if by_file {
            flags |= sys::VFIO_PCI_HOT_RESET_FLAG_DEV_ID;
            if bus.iter().all(|(_, device)| self.owns(uapi, device)) {
                flags |= sys::VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
            }
        }
        argument.set_u32(field!(vfio_pci_hot_reset_info.flags), flags);
        argument.set_u32(field!(vfio_pci_hot_reset_info.count), bus.len() as u32);
        argument.answer(least)?;
        if argument.argsz() < least + bus.len() * each {
            return Err(Refusal::new(
                Errno::NOSPC,
                format!("argsz leaves no room for {} functions", bus.len()),
            ));
        }
        let mut list = Vec::new();
        for (place, device) in bus {
            let id = if by_file {
                self.id_of(uapi, device)
            } else {
                device.group
            };
            list.extend(id.to_ne_bytes());
            // The structure has 16 bits for it.
            list.extend((place.domain() as u16).to_ne_bytes());
            list.extend([place.bus(), place.device() << 3 | place.function()]);
        }
        argument.put(least, &list)
    }

    /// VFIO_DEVICE_PCI_HOT_RESET.
    pub(super) fn hot_reset(
        &self,
        uapi: &Uapi,
        address: u64,
        caller: &dyn Caller,
        named: &mut Vec<Arc<Open>>,
    ) -> Outcome<()> {
        let least = field!(vfio_pci_hot_reset.group_fds);
        let mut argument = Argument::new(caller, address, least)?;
        if argument.u32(field!(vfio_pci_hot_reset.flags)) != 0 {
            return Err(Refusal::invalid("flags must be 0"));
        }
        let bus = self.bus(uapi)?;
        let count = argument.u32(field!(vfio_pci_hot_reset.count)) as usize;
        if self.is_bound_by_file() {
            return self.reset_owned(uapi, count, bus);
        }
        if count == 0 || count > bus.len() {
            return Err(Refusal::invalid(format!(
                "it takes 1 to {} group descriptors, and {count} are given",
                bus.len()
            )));
        }
        argument.extend(least, count * size_of::<i32>())?;
        let mut groups = Vec::new();
        for at in 0..count {
            let number = argument.descriptor(least + at * size_of::<i32>());
            let given = uapi.given(descriptor::given(caller, number)?)?;
            let group = given.as_ref().and_then(|open| match &open.file {
                File::Group(group) => Some(group.number),
                _ => None,
            });
            // It stays open as long as the reset takes.
            named.extend(given);
            groups.push(
                group
                    .ok_or_else(|| Refusal::invalid(format!("descriptor {number} is not one of a group")))?,
            );
        }
        for (_, device) in &bus {
            if !groups.contains(&device.group) {
                return Err(Refusal::invalid(format!(
                    "{} is reset too, and group {} is not among those given",
                    device.address, device.group
                )));
            }
        }
        reset_all(bus)
    }

    /// For a device that is bound by a file of its own: all of the bus must be the file's of `/dev/iommu`.
    fn reset_owned(&self, uapi: &Uapi, count: usize, bus: Vec<(Address, &Device)>) -> Outcome<()> {
        if count != 0 {
            return Err(Refusal::invalid(
                "the device is bound by a file of its own, so no groups are to be given",
            ));
        }
        if let Some((_, other)) = bus.iter().find(|(_, device)| !self.owns(uapi, device)) {
            return Err(Refusal::invalid(format!(
                "{} is reset too, and neither it nor a device of its group is bound to the same file",
                other.address
            )));
        }
        reset_all(bus)
    }

    fn is_bound_by_file(&self) -> bool {
        self.tie().as_ref().is_some_and(|tie| tie.by_file)
    }

    /// How `device` is known to the file that this one is bound to: by its number there; 0, nobody else's since a device
    /// of its group is bound there; -1, none of its.
    fn id_of(&self, uapi: &Uapi, device: &Device) -> u32 {
        if let Some(id) = self.bound_with(device) {
            return id;
        }
        let free = device.tie().is_none();
        let mut group = uapi.devices().filter(|other| other.group == device.group);
        if free && group.any(|other| self.bound_with(other).is_some()) {
            sys::VFIO_PCI_DEVID_OWNED
        } else {
            sys::VFIO_PCI_DEVID_NOT_OWNED as u32
        }
    }

    fn owns(&self, uapi: &Uapi, device: &Device) -> bool {
        self.id_of(uapi, device) != sys::VFIO_PCI_DEVID_NOT_OWNED as u32
    }

    /// The number of `other`, if both are bound to one file of `/dev/iommu`.
    fn bound_with(&self, other: &Device) -> Option<u32> {
        if std::ptr::eq(self, other) {
            return self.tie().as_ref().map(|tie| tie.bound.id());
        }
        // One at a time: two threads may ask for each other's.
        let file = self.tie().as_ref().map(|tie| tie.bound.file())?;
        let other = other.tie();
        let bound = &other.as_ref()?.bound;
        bound.is_of(&file).then(|| bound.id())
    }
}

fn reset_all(bus: Vec<(Address, &Device)>) -> Outcome<()> {
    for (_, device) in bus {
        device.reset()?;
    }
    Ok(())
}
