//! One PCI function, as `/sys/bus/pci/devices` describes it.

use std::path::{Path, PathBuf};

use uvfio_pci::chain;
use uvfio_pci::tables::header;

use super::aer::{self, ErrorCounters};
use super::resource::{self, Resource, Space};
use super::tree::{Tree, malformed, number};
use super::{Address, Error, is_vfio_driver};

/// The base class and subclass of a bridge from PCI to PCI (PCI Code and ID Assignment 1.11, 1.7).
const PCI_BRIDGE: u32 = 0x0604;

/// A PCI function. What could not be read or understood is absent, and stands in [`findings`](Self::findings).
#[derive(Debug)]
pub struct Function {
    /// Where it is
    pub address: Address,
    /// Its folder in `/sys/devices`, which names the bridges above it
    pub folder: PathBuf,
    /// Vendor ID; of a virtual function that of its physical function
    pub vendor: u16,
    /// Device ID
    pub device: u16,
    /// Class code: base class in bits 23:16, subclass, programming interface
    pub class: u32,
    /// Revision ID
    pub revision: Option<u8>,
    /// Subsystem vendor ID
    pub subsystem_vendor: Option<u16>,
    /// Subsystem ID
    pub subsystem_device: Option<u16>,
    /// Its BARs that are in use, and its expansion ROM
    pub resources: Vec<Resource>,
    /// The driver that has it
    pub driver: Option<String>,
    /// The only driver that may have it, where that is fixed
    pub driver_override: Option<String>,
    /// Its node for VFIO, such as `vfio0`, while a driver of VFIO has it and the kernel has such nodes
    pub vfio_device: Option<String>,
    /// The number of its IOMMU group
    pub group: Option<u32>,
    /// How it can be reset
    pub reset: ResetMethods,
    /// Its power state as the kernel calls it: `D0` to `D3hot`, `D3cold`, `unknown`, `error`
    pub power_state: Option<String>,
    /// Its part in SR-IOV
    pub sriov: Sriov,
    /// The NUMA node that it is near to
    pub numa_node: Option<u32>,
    /// Whether the machine's firmware and console use it as their display
    pub boot_vga: bool,
    /// `fixed`, `removable` or `unknown`, where the firmware says
    pub removable: Option<String>,
    /// Errors reported so far, where the kernel counts them
    pub errors: Option<ErrorCounters>,
    /// What is odd about its folder
    pub findings: Vec<Error>,
}

/// A BAR that has lost its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "BAR {bar} has lost its address {address:#x}: {function} was reset behind the kernel's back; VFIO puts it back when \
     it opens the function"
)]
pub struct LostBar {
    /// The function
    pub function: Address,
    /// Its number, 0 to 5
    pub bar: usize,
    /// The address that the kernel has given it
    pub address: u64,
}

/// How a function can be reset on its own, as far as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetMethods {
    /// Not at all
    None,
    /// In some way; a kernel before Linux 5.15 does not say which
    Unnamed,
    /// In these ways, tried in this order: `flr`, `af_flr`, `pm`, `bus` and others
    Named(Vec<String>),
}

/// A function's part in SR-IOV (PCI Express Base 5.0, 9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sriov {
    /// How many virtual functions it can have; absent: it can have none
    pub total: Option<u32>,
    /// How many it has
    pub enabled: u32,
    /// Those that it has
    pub virtual_functions: Vec<Address>,
    /// Its physical function, where it is a virtual one
    pub physical_function: Option<Address>,
}

impl Function {
    /// Whether it is a bridge from PCI to PCI, a root port among them.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        is_bridge(self.class)
    }

    /// Whether a driver of VFIO has it.
    #[must_use]
    pub fn has_vfio_driver(&self) -> bool {
        self.vfio_device.is_some() || self.driver.as_deref().is_some_and(is_vfio_driver)
    }

    /// The memory BARs that hold no address in its configuration space, of which `config` has the first bytes, though
    /// the kernel has given them one. None of a virtual function's do: its physical function holds them.
    #[must_use]
    pub fn lost_bars(&self, config: &[u8]) -> Vec<LostBar> {
        let register = |bar: usize| {
            let at = header::BAR0 + 4 * bar as u16;
            chain::value(config, at, &header::BAR_REGISTER)
        };
        let lost = |resource: &Resource| {
            let low = register(resource.index).is_some_and(|value| value & header::MEMORY_BASE.mask() == 0);
            match resource.space {
                Space::Io => false,
                Space::Memory32 => low,
                Space::Memory64 => low && register(resource.index + 1) == Some(0),
            }
        };
        let bars = self.resources.iter().filter(|resource| resource.index < 6);
        bars.filter(|resource| self.sriov.physical_function.is_none() && resource.assigned && lost(resource))
            .map(|resource| LostBar {
                function: self.address,
                bar: resource.index,
                address: resource.address,
            })
            .collect()
    }

    /// Reads a function's folder. None where there is no such function.
    pub(super) fn read(tree: &Tree, address: Address) -> Result<Option<Self>, Error> {
        let link = tree.path(format!("bus/pci/devices/{address}"));
        let Some(folder) = tree.resolve(&link)? else {
            return Ok(None);
        };
        let (Some(vendor), Some(device), Some(class)) = (
            required(tree, &folder, "vendor")?,
            required(tree, &folder, "device")?,
            required(tree, &folder, "class")?,
        ) else {
            // An attribute that was there a moment ago: the function is being removed.
            return match tree.resolve(&folder.join("uevent"))? {
                None => Ok(None),
                Some(_) => Err(Error::Missing {
                    path: folder.join("vendor (or device, or class)"),
                    why: "and every PCI function has it",
                }),
            };
        };
        let mut function = Self {
            address,
            folder,
            vendor,
            device,
            class,
            revision: None,
            subsystem_vendor: None,
            subsystem_device: None,
            resources: Vec::new(),
            driver: None,
            driver_override: None,
            vfio_device: None,
            group: None,
            reset: ResetMethods::None,
            power_state: None,
            sriov: Sriov::default(),
            numa_node: None,
            boot_vga: false,
            removable: None,
            errors: None,
            findings: Vec::new(),
        };
        function.read_more(tree);
        Ok(Some(function))
    }

    fn read_more(&mut self, tree: &Tree) {
        self.revision = self.number(tree, "revision");
        self.subsystem_vendor = self.number(tree, "subsystem_vendor");
        self.subsystem_device = self.number(tree, "subsystem_device");
        self.resources = self.read_resources(tree);
        let driver = tree.link_name(&self.folder.join("driver"));
        self.driver = self.noting(driver).flatten();
        // The kernel prints a null pointer so.
        self.driver_override = self.text(tree, "driver_override").filter(|name| name != "(null)");
        self.vfio_device = self.names(tree, "vfio-dev").into_iter().next();
        self.group = self.read_group(tree);
        self.reset = self.read_reset(tree);
        self.power_state = self.text(tree, "power_state");
        self.sriov = self.read_sriov(tree);
        self.numa_node = self
            .number::<i64>(tree, "numa_node")
            .and_then(|node| u32::try_from(node).ok());
        self.boot_vga = self.number::<u8>(tree, "boot_vga") == Some(1);
        self.removable = self.text(tree, "removable");
        let folder = self.folder.clone();
        self.errors = aer::read(tree, &folder, self);
    }

    fn read_resources(&mut self, tree: &Tree) -> Vec<Resource> {
        let path = self.folder.join("resource");
        let Some(text) = self.text(tree, "resource") else {
            return Vec::new();
        };
        let parsed = resource::parse(&text).map_err(|line| {
            let line = text.lines().nth(line).unwrap_or_default();
            malformed(
                &path,
                line,
                "a first address, a last one and flags, in hexadecimal after 0x",
            )
        });
        self.noting(parsed).unwrap_or_default()
    }

    fn read_group(&mut self, tree: &Tree) -> Option<u32> {
        let path = self.folder.join("iommu_group");
        let name = self.noting(tree.link_name(&path)).flatten()?;
        let group = name
            .parse()
            .map_err(|_| malformed(&path, &name, "a link to a group's number"));
        self.noting(group)
    }

    fn read_reset(&mut self, tree: &Tree) -> ResetMethods {
        match self.text(tree, "reset_method") {
            Some(methods) => {
                ResetMethods::Named(methods.split_ascii_whitespace().map(str::to_owned).collect())
            }
            None if self.folder.join("reset").exists() => ResetMethods::Unnamed,
            None => ResetMethods::None,
        }
    }

    fn read_sriov(&mut self, tree: &Tree) -> Sriov {
        let mut virtual_functions = Vec::new();
        // Only these links tell it: numbers of virtual functions may leave gaps.
        for name in self.names(tree, "") {
            let index = name
                .strip_prefix("virtfn")
                .and_then(|index| index.parse::<u32>().ok());
            if let Some(index) = index
                && let Some(address) = self.linked_function(tree, &name)
            {
                virtual_functions.push((index, address));
            }
        }
        virtual_functions.sort_unstable();
        Sriov {
            total: self.number(tree, "sriov_totalvfs"),
            enabled: self.number(tree, "sriov_numvfs").unwrap_or(0),
            virtual_functions: virtual_functions
                .into_iter()
                .map(|(_, address)| address)
                .collect(),
            physical_function: self.linked_function(tree, "physfn"),
        }
    }

    fn linked_function(&mut self, tree: &Tree, link: &str) -> Option<Address> {
        let path = self.folder.join(link);
        let name = self.noting(tree.link_name(&path)).flatten()?;
        let address = Address::of_name(&name);
        self.noting(address.ok_or_else(|| malformed(&path, &name, "a link to a PCI function")))
    }

    /// The attribute as a number that the field can hold.
    fn number<T: TryFrom<i128>>(&mut self, tree: &Tree, name: &str) -> Option<T> {
        let path = self.folder.join(name);
        let text = self.text(tree, name)?;
        self.noting(in_range(&path, &text))
    }

    fn text(&mut self, tree: &Tree, name: &str) -> Option<String> {
        let text = tree.attribute(&self.folder.join(name));
        self.noting(text).flatten()
    }

    fn names(&mut self, tree: &Tree, folder: &str) -> Vec<String> {
        let names = tree.names(&self.folder.join(folder));
        self.noting(names).flatten().unwrap_or_default()
    }

    /// Keeps an error among the findings; the rest of the function is worth knowing all the same.
    pub(super) fn noting<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.findings.push(error);
                None
            }
        }
    }
}

/// Whether a class code is that of a bridge from PCI to PCI.
pub(super) const fn is_bridge(class: u32) -> bool {
    class >> 8 == PCI_BRIDGE
}

/// A number without which nothing can be said of the function.
fn required<T: TryFrom<i128>>(tree: &Tree, folder: &Path, name: &str) -> Result<Option<T>, Error> {
    let path = folder.join(name);
    match tree.attribute(&path)? {
        Some(text) => in_range(&path, &text).map(Some),
        None => Ok(None),
    }
}

fn in_range<T: TryFrom<i128>>(path: &Path, text: &str) -> Result<T, Error> {
    let value = number(text).and_then(|number| T::try_from(number).ok());
    value.ok_or_else(|| malformed(path, text, "a number in the range that it may have"))
}
