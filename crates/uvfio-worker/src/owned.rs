//! A PCI function that exists: opened through the kernel's VFIO for the worker that will own it, and taken back from
//! one that can no longer be asked to let go.

mod error;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uvfio_linux::device::{BarGrant, Baseline, GroupSpace, HardwareError, Parts};
use uvfio_linux::sysfs::{self, Address, ConfigFile, Host};
use uvfio_linux::vfio::{AddressSpace as _, Container, DeviceFile, Group, Irq, Region, Rule, VfioError};
use uvfio_pci::View;
use uvfio_pci::tables::header;

pub use self::error::{NotBack, OwnError};

/// How a function is to be opened: the part of the policy that is not its user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What its user sees.
    pub view: View,
    /// It may be owned where nothing keeps it from raising any interrupt of the machine. That alone is allowed by this:
    /// the kernel still has to be willing.
    pub unsafe_interrupts: bool,
}

impl Terms {
    /// The usual ones, for users of this view.
    #[must_use]
    pub const fn of(view: View) -> Self {
        Self {
            view,
            unsafe_interrupts: false,
        }
    }
}

/// A function, with the group that it is in and the address space of that group, all open.
#[derive(Debug)]
pub struct Owned {
    address: Address,
    container: Container,
    group: Group,
    group_number: u32,
    device: DeviceFile,
    config: Option<ConfigFile>,
    view: View,
}

/// What is handed to the worker.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) container: OwnedFd,
    pub(crate) group: OwnedFd,
    pub(crate) group_number: u32,
    pub(crate) device: OwnedFd,
    pub(crate) config: Option<OwnedFd>,
}

impl Owned {
    /// Opens functions of one group, the first one as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As [`open`](Self::open), of any of them; and where they are not all of one group.
    pub fn open_all(host: &Host, addresses: &[Address], terms: Terms) -> Result<Vec<Self>, OwnError> {
        let mut owned: Vec<Self> = Vec::new();
        for &address in addresses {
            let next = match owned.first() {
                None => Self::open(host, address, terms)?,
                Some(first) => first.open_beside(host, address, terms)?,
            };
            owned.push(next);
        }
        Ok(owned)
    }

    /// Opens another function of its group.
    fn open_beside(&self, host: &Host, address: Address, terms: Terms) -> Result<Self, OwnError> {
        let function = host.sysfs().function(address)?;
        let number = function.group.ok_or(sysfs::Error::NoGroup { address })?;
        if number != self.group_number {
            return Err(OwnError::OtherGroup {
                address,
                group: number,
                first: self.address,
            });
        }
        // The group is viable without it, too.
        if !function.has_vfio_driver() {
            let driver = function.driver;
            return Err(OwnError::NotBound { address, driver });
        }
        let copy = |descriptor: BorrowedFd<'_>| {
            let copied = descriptor.try_clone_to_owned();
            copied.map_err(|why| OwnError::NoDescriptor { address, why })
        };
        Ok(Self {
            address,
            container: Container::from_descriptor(copy(self.container.as_fd())?)?,
            group: Group::from_descriptor(copy(self.group.as_fd())?, number)?,
            group_number: number,
            device: self.group.device(&address.to_string())?,
            config: config_file(host, address, terms.view)?,
            view: terms.view,
        })
    }

    /// Opens a function and its group.
    ///
    /// Its configuration space in `/sys` is opened too: to be written only under the `raw` view, whose user is trusted
    /// with that, and where this user may. By it a BAR could be moved onto another device's memory.
    ///
    /// # Errors
    /// Where it is not there, not free, or not this user's.
    pub fn open(host: &Host, address: Address, terms: Terms) -> Result<Self, OwnError> {
        let function = host.sysfs().function(address)?;
        if !function.has_vfio_driver() {
            let driver = function.driver;
            return Err(OwnError::NotBound { address, driver });
        }
        let number = function.group.ok_or(sysfs::Error::NoGroup { address })?;
        let known = host.sysfs().group(number)?;
        if !known.isolated {
            return Err(OwnError::NotIsolated {
                address,
                group: number,
            });
        }
        let blockers: Vec<String> = known.blockers().map(ToString::to_string).collect();
        if !blockers.is_empty() {
            return Err(OwnError::NotViable {
                address,
                group: number,
                blockers: blockers.join("; "),
            });
        }
        let group = Group::open(number).map_err(|error| match error.rule() {
            Some(Rule::Held) => OwnError::InUse {
                address,
                group: number,
                holders: holders(host, &function),
            },
            Some(Rule::NoPermission) => OwnError::NotAllowed {
                address,
                group: number,
                uid: rustix::process::geteuid().as_raw(),
            },
            _ => error.into(),
        })?;
        // Not before the group is open: who waits for it tries again and again, and the log says it once a lease.
        check_interrupts(host, address, terms)?;
        let container = Container::open()?;
        group.set_container(&container)?;
        container.set_iommu()?;
        let device = group.device(&address.to_string())?;
        let config = config_file(host, address, terms.view)?;
        Ok(Self {
            address,
            container,
            group,
            group_number: number,
            device,
            config,
            view: terms.view,
        })
    }

    /// Takes what [`descriptors`](Self::descriptors) gave.
    pub(crate) fn from_descriptors(
        address: Address,
        view: View,
        given: Descriptors,
    ) -> Result<Self, VfioError> {
        // A function that no longer answers shows that by its other descriptors.
        let config = given.config.map(ConfigFile::from_descriptor);
        Ok(Self {
            address,
            container: Container::from_descriptor(given.container)?,
            group: Group::from_descriptor(given.group, given.group_number)?,
            group_number: given.group_number,
            device: DeviceFile::from_descriptor(given.device, &address.to_string())?,
            config: config.and_then(Result::ok),
            view,
        })
    }

    /// Duplicates of all descriptors.
    pub(crate) fn descriptors(&self) -> io::Result<Descriptors> {
        let config = self
            .config
            .as_ref()
            .map(|config| config.as_fd().try_clone_to_owned());
        Ok(Descriptors {
            config: config.transpose()?,
            container: self.container.as_fd().try_clone_to_owned()?,
            group: self.group.as_fd().try_clone_to_owned()?,
            group_number: self.group_number,
            device: self.device.as_fd().try_clone_to_owned()?,
        })
    }

    /// What the devices are made of: functions of one group, which have its address space between them.
    pub(crate) fn into_parts(functions: Vec<Self>, bars: BarGrant) -> Result<Vec<Parts>, VfioError> {
        let mut parts: Vec<Parts> = Vec::new();
        for function in functions {
            let space = match parts.first() {
                Some(first) => Arc::clone(&first.space),
                None => GroupSpace::new(function.container)?,
            };
            parts.push(Parts {
                name: function.address.to_string(),
                space,
                group: function.group,
                device: function.device,
                config: function.config,
                view: function.view,
                bars,
            });
        }
        Ok(parts)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// A descriptor of its own of configuration space in `/sys`, where there is one.
    pub(crate) fn config(&self) -> io::Result<Option<ConfigFile>> {
        let copy = |file: &ConfigFile| ConfigFile::from_descriptor(file.as_fd().try_clone_to_owned()?);
        self.config.as_ref().map(copy).transpose()
    }

    /// Has the kernel signal an eventfd for an interrupt of one vector, where it has that interrupt.
    pub(crate) fn listen(&self, irq: Irq, eventfd: BorrowedFd<'_>) -> Result<(), VfioError> {
        match self.device.irq_count(irq)? {
            0 => Ok(()),
            _ => self.device.set_eventfds(irq, 0, &[Some(eventfd)]),
        }
    }

    /// Device and vendor ID.
    pub(crate) fn identity(&self) -> Result<u32, VfioError> {
        let at = header::VENDOR_AND_DEVICE.register.into();
        self.device.config()?.read_word(at)
    }

    /// Whether the kernel can reset it: it has when it was opened.
    pub(crate) fn resets(&self) -> Result<bool, VfioError> {
        Ok(self.device.info()?.reset)
    }

    /// Stops it, whatever state its worker has left it in: it reaches no memory, sends no interrupt, has no memory of
    /// the user's any more, and answers no mapping of its BARs. Takes no longer than undoing the mappings does.
    ///
    /// # Errors
    /// Where it does not stop; the rest is done all the same.
    pub(crate) fn quieten(&self) -> Result<(), VfioError> {
        let stopped = self.stop_answering();
        for irq in [Irq::Msix, Irq::Msi, Irq::Intx] {
            // Refused where it is not the kind that is enabled.
            if let Err(error) = self.device.disable(irq) {
                tracing::debug!("{}: {error}", self.address);
            }
        }
        let unmapped = self.container.unmap_all();
        stopped.and(unmapped.map(|_| ()))
    }

    /// Takes bus mastering and memory from the function.
    fn stop_answering(&self) -> Result<(), VfioError> {
        let at = header::BUS_MASTER.register.into();
        let config: Region = self.device.config()?;
        let command: u16 = config.read_word(at)?;
        let both = (header::BUS_MASTER.mask() | header::MEMORY.mask()) as u16;
        config.write_word(at, command & !both)
    }

    /// Resets it, as [`quieten`](Self::quieten) leaves it. May wait a second for others who are at it.
    ///
    /// # Errors
    /// Where it can't be reset.
    pub(crate) fn reset(&self) -> Result<(), VfioError> {
        self.device.reset_once_free()
    }

    /// What it is, before it has had a user.
    ///
    /// # Errors
    /// As [`Baseline::of`].
    pub(crate) fn baseline(&self) -> Result<Baseline, HardwareError> {
        Baseline::of(&self.device, self.config_to_verify()?)
    }

    /// That it is what it was, after its reset; with memory off then, as [`quieten`](Self::quieten) leaves it.
    ///
    /// # Errors
    /// As [`Baseline::verify`]; and where memory could not be switched off.
    pub(crate) fn verify(&self, was: &Baseline) -> Result<(), NotBack> {
        let verified = was.verify(&self.device, self.config_to_verify()?);
        // It was switched on, whereupon the kernel puts back BARs that are lost.
        let stopped = self.stop_answering();
        verified?;
        Ok(stopped?)
    }

    fn config_to_verify(&self) -> Result<Option<ConfigFile>, HardwareError> {
        self.config().map_err(|why| HardwareError::System {
            device: self.address.to_string(),
            what: "another descriptor of its configuration space",
            why: why.to_string(),
        })
    }
}

/// That a function can raise its own interrupts only, or that this is allowed. Where the kernel itself refuses, it does
/// so later and says so.
fn check_interrupts(host: &Host, address: Address, terms: Terms) -> Result<(), OwnError> {
    let remapping = host.remapping();
    if !remapping.is_missing_and_allowed() {
        return Ok(());
    }
    let because = remapping.because;
    if !terms.unsafe_interrupts {
        return Err(OwnError::UnsafeInterrupts {
            address,
            because,
            modules: remapping.unsafe_allowed.join(" and "),
        });
    }
    tracing::warn!(
        target: "audit",
        "{address}: its user can raise any interrupt of this machine ({because}), by this server's command line \
         (--unsafe-interrupts)"
    );
    Ok(())
}

/// A function's configuration space in `/sys`, as far as this user may have it; under the `raw` view such that it can
/// be written.
fn config_file(host: &Host, address: Address, view: View) -> Result<Option<ConfigFile>, OwnError> {
    let sysfs = host.sysfs();
    if view == View::Raw {
        let no_raw = |why: String| OwnError::NoRaw { address, why };
        let file = sysfs
            .open_config(address, true)
            .map_err(|error| no_raw(error.to_string()))?;
        // A kernel that is locked down refuses each write, not the opening. This byte is for software's notes.
        let at = header::INTERRUPT_LINE.register.into();
        let mut line = [0];
        let tried = file.read(at, &mut line).and_then(|()| file.write(at, &line));
        tried.map_err(|error| no_raw(format!("the kernel refuses writes ({error}); it is locked down")))?;
        return Ok(Some(file));
    }
    let opened = sysfs.open_config(address, false);
    Ok(opened
        .inspect_err(|error| tracing::warn!("{address}: {error}"))
        .ok())
}

/// Who holds a function, as far as this user may see.
pub(crate) fn holders(host: &Host, function: &sysfs::Function) -> String {
    let open = host.open_vfio().unwrap_or_default();
    let holders = open.holders(function);
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Lets this process, and the workers that it starts, lock as much memory as it may: what a function can reach is
/// locked, and counts against the worker that maps it.
pub(crate) fn raise_locked_memory() {
    let limit = getrlimit(Resource::Memlock);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(errno @ (Errno::PERM | Errno::INVAL)) = setrlimit(Resource::Memlock, raised)
    {
        tracing::warn!(
            "the limit of locked memory stays at {:?} bytes: {errno}",
            limit.current
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const ADDRESS: &str = "0000:00:03.0";

    /// A machine with two functions in IOMMU group 5; each has the driver of its name, or none.
    fn machine(root: &Path, drivers: [Option<&str>; 2]) {
        let write = |path: &str, text: &str| fs::write(root.join(path), text).expect(path);
        let folder = |path: &str| fs::create_dir_all(root.join(path)).expect(path);
        let link = |path: &str, to: &str| symlink(to, root.join(path)).expect(path);
        for path in [
            "sys/bus/pci/devices",
            "sys/kernel/iommu_groups/5/devices",
            "proc",
            "dev",
        ] {
            folder(path);
        }
        for (name, driver) in [ADDRESS, "0000:00:04.0"].into_iter().zip(drivers) {
            let device = format!("sys/devices/pci0000:00/{name}");
            folder(&device);
            for (attribute, text) in [("vendor", "0x1234"), ("device", "0x11e8"), ("class", "0x00ff00")] {
                write(&format!("{device}/{attribute}"), text);
            }
            link(
                &format!("sys/bus/pci/devices/{name}"),
                &format!("../../../devices/pci0000:00/{name}"),
            );
            link(
                &format!("sys/kernel/iommu_groups/5/devices/{name}"),
                &format!("../../../../devices/pci0000:00/{name}"),
            );
            link(&format!("{device}/iommu_group"), "../../../kernel/iommu_groups/5");
            if let Some(driver) = driver {
                folder(&format!("sys/bus/pci/drivers/{driver}"));
                link(
                    &format!("{device}/driver"),
                    &format!("../../../bus/pci/drivers/{driver}"),
                );
            }
        }
    }

    fn refusal(drivers: [Option<&str>; 2]) -> String {
        let root = tempfile::tempdir().expect("a folder");
        machine(root.path(), drivers);
        let address = ADDRESS.parse().expect("an address");
        let refused = Owned::open(&Host::at(root.path()), address, Terms::of(View::Virtual));
        refused.expect_err("no such machine").to_string()
    }

    #[test]
    fn what_is_not_with_vfio_pci_is_refused_with_the_command_that_brings_it_there() {
        assert_eq!(
            refusal([Some("nvme"), None]),
            "0000:00:03.0 is with the driver nvme; give it to vfio-pci first, as root: uvfio bind 0000:00:03.0"
        );
        assert_eq!(
            refusal([None, None]),
            "0000:00:03.0 has no driver; give it to vfio-pci first, as root: uvfio bind 0000:00:03.0"
        );
    }

    #[test]
    fn a_group_in_which_another_driver_is_is_refused_and_the_function_named_that_has_it() {
        assert_eq!(
            refusal([Some("vfio-pci"), Some("igb")]),
            "0000:00:03.0 can't be owned, since its IOMMU group 5 is given away as a whole or not at all: 0000:00:04.0 \
             is driven by igb (`uvfio bind 0000:00:04.0` takes it from there)"
        );
    }

    #[test]
    fn where_interrupts_are_not_isolated_a_function_is_refused_unless_that_is_allowed() {
        let root = tempfile::tempdir().expect("a folder");
        machine(root.path(), [Some("vfio-pci"), None]);
        let module = root.path().join("sys/module/vfio_iommu_type1/parameters");
        fs::create_dir_all(&module).expect("a folder");
        fs::write(module.join("allow_unsafe_interrupts"), "Y\n").expect("written");
        fs::write(root.path().join("proc/interrupts"), "9: 0 IO-APIC acpi\n").expect("written");
        let (host, address) = (Host::at(root.path()), ADDRESS.parse().expect("an address"));
        let asked = Terms::of(View::Virtual);
        let refused = check_interrupts(&host, address, asked).expect_err("not allowed");
        assert_eq!(
            refused.to_string(),
            "0000:00:03.0 can't be owned: the kernel would give it away though this machine is not known to remap \
             interrupts (/proc/interrupts has IO-APIC without IR-; vfio_iommu_type1 may do without), and its user could \
             raise any interrupt of the machine; switch remapping on in the firmware, or, where the user is trusted with \
             that, serve it with --unsafe-interrupts"
        );
        let allowed = Terms {
            unsafe_interrupts: true,
            ..asked
        };
        assert!(check_interrupts(&host, address, allowed).is_ok());
        fs::write(root.path().join("proc/interrupts"), "9: 0 IR-IO-APIC acpi\n").expect("written");
        assert!(check_interrupts(&host, address, asked).is_ok(), "remapping is on");
    }

    #[test]
    fn there_is_no_raw_view_without_configuration_space_that_can_be_written() {
        let root = tempfile::tempdir().expect("a folder");
        machine(root.path(), [Some("vfio-pci"), None]);
        let (host, address) = (Host::at(root.path()), ADDRESS.parse().expect("an address"));
        let refused = config_file(&host, address, View::Raw).expect_err("there is none");
        assert!(
            refused.to_string().starts_with(
                "0000:00:03.0 has no raw view for its user: config in its folder in /sys can't be written"
            ),
            "{refused}"
        );
        assert!(
            config_file(&host, address, View::Filtered)
                .expect("none")
                .is_none()
        );
        let path = root
            .path()
            .join(format!("sys/devices/pci0000:00/{ADDRESS}/config"));
        let page: Vec<u8> = (0..=255).collect();
        fs::write(&path, &page).expect("written");
        for (view, writable) in [(View::Virtual, false), (View::Filtered, false), (View::Raw, true)] {
            let file = config_file(&host, address, view).expect("opened").expect("there");
            assert_eq!(file.is_writable(), writable, "{view:?}");
        }
        assert_eq!(fs::read(&path).expect("read"), page, "the trial leaves no trace");
    }

    #[test]
    fn who_holds_a_function_is_named_where_that_can_be_seen() {
        let in_use = |holders: &str| {
            let address = ADDRESS.parse().expect("an address");
            OwnError::InUse {
                address,
                group: 5,
                holders: holders.into(),
            }
            .to_string()
        };
        assert!(
            in_use("dpdk (process 7)")
                .starts_with("0000:00:03.0 is in use: dpdk (process 7) has its IOMMU group 5")
        );
        assert!(in_use("").contains("a process that this user can't see"));
    }
}
