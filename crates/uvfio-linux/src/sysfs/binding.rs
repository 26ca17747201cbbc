//! Gives functions to vfio-pci, and back to their drivers.
//!
//! By `driver_override`, which concerns one function alone, not by `new_id`, which concerns every one of its kind. Each
//! step may be done twice, and what a run leaves half done the next one finishes.

use super::former::Former;
use super::{Address, Error, Function, Host, Member, is_vfio_driver};

/// The kernel's driver that gives a function to user space.
pub(super) const VFIO_PCI: &str = "vfio-pci";

/// What [`Host::bind`] did.
#[derive(Debug)]
pub struct Bound {
    /// Whether anything had to be done
    pub changed: bool,
    /// The driver that has the function now: vfio-pci, or the one of VFIO's that had it already
    pub driver: String,
    /// The driver that had it, if one did; where nothing had to be done, the one that is noted
    pub former: Option<String>,
    /// Why the former driver could not be noted; then `unbind` leaves the choice to the kernel
    pub not_noted: Option<Error>,
    /// The function's IOMMU group, which is the name of its node in `/dev/vfio`
    pub group: u32,
    /// What is still in the way of giving the group to a user
    pub blockers: Vec<Member>,
}

/// What [`Host::unbind`] did.
#[derive(Debug)]
pub struct Unbound {
    /// Whether anything had to be done
    pub changed: bool,
    /// The driver that has the function now
    pub driver: Option<String>,
    /// The driver that it had before vfio-pci, and that did not take it back
    pub missed: Option<String>,
}

impl Host {
    /// Gives a function to vfio-pci. Where a driver of VFIO's has it already, nothing is done.
    ///
    /// With `force`, also one that the system [needs](Host::uses), or that has virtual functions.
    ///
    /// # Errors
    /// Before anything is changed: [`Error::NoFunction`], [`Error::Bridge`], [`Error::NoGroup`], [`Error::NoVfioPci`],
    /// [`Error::InUse`], [`Error::VirtualFunctions`]. Later: [`Error::Write`], and [`Error::NotTaken`] where vfio-pci
    /// refused; the function is then given back to its driver.
    pub fn bind(&self, address: Address, force: bool) -> Result<Bound, Error> {
        let function = self.sysfs.function(address)?;
        if function.is_bridge() {
            return Err(Error::Bridge { address });
        }
        let group = function.group.ok_or(Error::NoGroup { address })?;
        if let Some(driver) = function.driver.clone().filter(|_| function.has_vfio_driver()) {
            return Ok(Bound {
                changed: false,
                driver,
                former: self.former(address).and_then(|former| former.driver),
                not_noted: None,
                group,
                blockers: self.blockers(group)?,
            });
        }
        if self
            .sysfs
            .tree
            .resolve(&self.sysfs.tree.path("bus/pci/drivers/vfio-pci"))?
            .is_none()
        {
            return Err(Error::NoVfioPci);
        }
        if !force {
            self.is_free(&function)?;
        }
        // A function that only vfio-pci may have, and nobody has, is what a former run left half done; its note is the
        // better one.
        let half_done = function.driver.is_none() && function.driver_override.as_deref() == Some(VFIO_PCI);
        let noted = self.former(address).filter(|_| half_done);
        let former = noted.unwrap_or_else(|| Former {
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone().filter(|name| name != VFIO_PCI),
        });
        let not_noted = self.note_former(address, &former).err();
        self.write_function(address, "driver_override", VFIO_PCI)?;
        if let Err(error) = self.move_to(&function, VFIO_PCI) {
            self.give_back(address, &former);
            return Err(error);
        }
        Ok(Bound {
            changed: true,
            driver: VFIO_PCI.to_owned(),
            former: former.driver,
            not_noted,
            group,
            blockers: self.blockers(group)?,
        })
    }

    /// Takes a function from vfio-pci and gives it back to the driver that it had. Without a note of that, the kernel
    /// chooses, as it does when a device appears. Where no driver of VFIO's has it, and none is meant to, nothing is
    /// done.
    ///
    /// A function that a process holds is refused, since the kernel would wait for that process without end; with
    /// `wait` it is asked to let go, and waited for.
    ///
    /// # Errors
    /// [`Error::NoFunction`], [`Error::Held`], [`Error::Write`], and [`Error::Again`] where vfio-pci takes every function
    /// of this kind.
    pub fn unbind(&self, address: Address, wait: bool) -> Result<Unbound, Error> {
        let function = self.sysfs.function(address)?;
        let former = self.former(address);
        let overridden = function.driver_override.as_deref() == Some(VFIO_PCI);
        if !function.has_vfio_driver() && !overridden {
            self.forget_former(address)?;
            return Ok(Unbound {
                changed: false,
                driver: function.driver,
                missed: None,
            });
        }
        let holders = self.open_vfio()?.holders(&function);
        if function.has_vfio_driver() && !holders.is_empty() && !wait {
            return Err(Error::Held {
                address,
                holders,
                instead: ", or use --wait, which asks for it and waits until it is given",
            });
        }
        let noted = former.clone().unwrap_or_default();
        if overridden {
            self.write_function(
                address,
                "driver_override",
                noted.driver_override.as_deref().unwrap_or(""),
            )?;
        }
        if let Some(driver) = function.driver.as_ref().filter(|_| function.has_vfio_driver()) {
            self.write(&format!("bus/pci/drivers/{driver}/unbind"), &address.to_string())?;
        }
        let had_none = former.is_some() && noted.driver.is_none();
        let probed = if had_none {
            Ok(())
        } else {
            self.write("bus/pci/drivers_probe", &address.to_string())
        };
        let mut driver = self.sysfs.function(address)?.driver;
        if driver.is_none() {
            probed?;
        }
        if let Some(wanted) = noted
            .driver
            .as_ref()
            .filter(|wanted| driver.as_ref() != Some(wanted))
        {
            // A driver that had been told of the function by hand. Where another one has it by now, that keeps it.
            let _ = self.write(&format!("bus/pci/drivers/{wanted}/bind"), &address.to_string());
            driver = self.sysfs.function(address)?.driver;
        }
        if let Some(driver) = driver.clone().filter(|driver| is_vfio_driver(driver)) {
            let (vendor, device) = (function.vendor, function.device);
            return Err(Error::Again {
                address,
                driver,
                ids: format!("{vendor:04x} {device:04x}"),
            });
        }
        self.forget_former(address)?;
        Ok(Unbound {
            changed: true,
            missed: noted.driver.filter(|wanted| driver.as_ref() != Some(wanted)),
            driver,
        })
    }

    fn blockers(&self, group: u32) -> Result<Vec<Member>, Error> {
        Ok(self.sysfs.group(group)?.blockers().cloned().collect())
    }

    /// Whether a function may be taken from the system.
    fn is_free(&self, function: &Function) -> Result<(), Error> {
        let address = function.address;
        let uses = self.uses()?.of(address);
        if !uses.is_empty() {
            return Err(Error::InUse { address, uses });
        }
        match function.sriov.enabled {
            0 => Ok(()),
            count => Err(Error::VirtualFunctions { address, count }),
        }
    }

    /// Takes a function from its driver and offers it to the one that its override names.
    fn move_to(&self, function: &Function, wanted: &str) -> Result<(), Error> {
        let address = function.address;
        if let Some(driver) = &function.driver {
            self.write(&format!("bus/pci/drivers/{driver}/unbind"), &address.to_string())?;
        }
        let probed = self.write("bus/pci/drivers_probe", &address.to_string());
        let got = self.sysfs.function(address)?.driver;
        if got.as_deref() == Some(wanted) {
            return Ok(());
        }
        probed?;
        Err(Error::NotTaken {
            address,
            wanted: wanted.to_owned(),
            got,
        })
    }

    /// Undoes what `bind` did, as far as that works; what went wrong first is what the user has to know.
    fn give_back(&self, address: Address, former: &Former) {
        let _ = self.write_function(
            address,
            "driver_override",
            former.driver_override.as_deref().unwrap_or(""),
        );
        if former.driver.is_some() {
            let _ = self.write("bus/pci/drivers_probe", &address.to_string());
        }
        let _ = self.forget_former(address);
    }
}
