//! Who holds a group or a device of VFIO: found in the descriptors of every process that may be looked into.
//!
//! A process may have anything at a path that looks like VFIO's, in a mount namespace of its own. So where the kernel
//! tells the numbers of VFIO's character devices, these count and not the path.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::tree::{is_absent, printable, unreadable};
use super::{Address, Error, Function, Host};

/// What a link of a device's descriptor says.
const DEVICE: &str = "anon_inode:[vfio-device]";
/// The line of a device's descriptor in `/proc/PID/fdinfo` that names the device; older kernels have none.
const DEVICE_PATH: &str = "vfio-device-syspath:";

/// A process that holds a function, or its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id
    pub pid: u32,
    /// Its name, with `?` for what is not printable
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Descriptors of VFIO's that processes have open.
#[derive(Clone, Debug, Default)]
pub struct OpenVfio {
    descriptors: Vec<Descriptor>,
    /// How many processes could not be looked into; for an ordinary user those of others
    pub unseen: usize,
}

#[derive(Clone, Debug)]
struct Descriptor {
    holder: Holder,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Group(u32),
    Node(String),
    Device { address: Address, group: Option<u32> },
}

/// VFIO's character devices by their numbers, as `510:2`; empty where the kernel does not tell.
type Nodes = BTreeMap<String, What>;

impl OpenVfio {
    /// The processes that hold a function: by its own descriptor, or by its group, which opens for one user at a time.
    #[must_use]
    pub fn holders(&self, function: &Function) -> Vec<Holder> {
        let is_its = |what: &What| match what {
            What::Group(group) => function.group == Some(*group),
            What::Node(node) => function.vfio_device.as_ref() == Some(node),
            What::Device { address, group } => {
                *address == function.address || (group.is_some() && *group == function.group)
            }
        };
        let mut holders: Vec<Holder> = Vec::new();
        for descriptor in self
            .descriptors
            .iter()
            .filter(|descriptor| is_its(&descriptor.what))
        {
            if !holders.contains(&descriptor.holder) {
                holders.push(descriptor.holder.clone());
            }
        }
        holders
    }
}

impl Host {
    /// Looks through the descriptors of all processes.
    ///
    /// # Errors
    /// Where the list of processes can't be read.
    pub fn open_vfio(&self) -> Result<OpenVfio, Error> {
        let mut open = OpenVfio::default();
        let nodes = self.vfio_nodes()?;
        for pid in self.processes()? {
            let folder = self.proc.path(format!("{pid}/fd"));
            match fs::read_dir(&folder) {
                Ok(entries) => {
                    for entry in entries.flatten() {
                        if let Some(what) = self.what(&entry.path(), pid, &nodes) {
                            let holder = self.holder(pid)?;
                            open.descriptors.push(Descriptor { holder, what });
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open.unseen += 1,
                // It has ended.
                Err(error) if is_absent(&error) => {}
                Err(source) => return Err(unreadable(&folder, source)),
            }
        }
        Ok(open)
    }

    /// The ids of all processes, in order.
    pub(super) fn processes(&self) -> Result<Vec<u32>, Error> {
        let names = self.proc.names(self.proc.root())?.unwrap_or_default();
        let mut pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    fn holder(&self, pid: u32) -> Result<Holder, Error> {
        // A process chooses its own name.
        let name = self.proc.attribute(&self.proc.path(format!("{pid}/comm")))?;
        Ok(Holder {
            pid,
            name: printable(name.as_deref().unwrap_or("a process that has just ended")),
        })
    }

    fn vfio_nodes(&self) -> Result<Nodes, Error> {
        let tree = &self.sysfs.tree;
        let mut nodes = Nodes::new();
        for class in ["class/vfio", "class/vfio-dev"] {
            let folder = tree.path(class);
            for name in tree.names(&folder)?.unwrap_or_default() {
                let number = tree.attribute(&folder.join(&name).join("dev"))?;
                nodes.extend(number.zip(what_is_named(&name)));
            }
        }
        Ok(nodes)
    }

    /// What a descriptor is, if VFIO's.
    fn what(&self, link: &Path, pid: u32, nodes: &Nodes) -> Option<What> {
        let to = fs::read_link(link).ok()?;
        let to = to.to_str()?.trim_end_matches(" (deleted)");
        if to == DEVICE {
            return self.device(link.file_name()?.to_str()?, pid);
        }
        // To look at each descriptor's file would cost more, and nobody renames these.
        let (folder, name) = to.rsplit_once('/')?;
        if !folder.contains("vfio") {
            return None;
        }
        if nodes.is_empty() {
            return what_is_named(name).filter(|_| folder.starts_with("/dev/vfio"));
        }
        let file = fs::metadata(link)
            .ok()
            .filter(|file| file.file_type().is_char_device())?;
        let (major, minor) = (rustix::fs::major(file.rdev()), rustix::fs::minor(file.rdev()));
        nodes.get(&format!("{major}:{minor}")).cloned()
    }

    /// The device that a descriptor of an open device belongs to.
    fn device(&self, descriptor: &str, pid: u32) -> Option<What> {
        let path = self.proc.path(format!("{pid}/fdinfo/{descriptor}"));
        let text = self.proc.attribute(&path).ok()??;
        let path = text.lines().find_map(|line| line.strip_prefix(DEVICE_PATH))?;
        let address = Address::of_name(path.trim().rsplit('/').next()?)?;
        let link = self
            .sysfs
            .tree
            .path(format!("bus/pci/devices/{address}/iommu_group"));
        let group = self.sysfs.tree.link_name(&link).ok().flatten();
        Some(What::Device {
            address,
            group: group.and_then(|group| group.parse().ok()),
        })
    }
}

/// What a name in `/dev/vfio`, or in its folder `devices`, stands for: a group by its number, or a device.
fn what_is_named(name: &str) -> Option<What> {
    if name.starts_with("vfio") && name != "vfio" {
        return Some(What::Node(name.to_owned()));
    }
    name.trim_start_matches("noiommu-").parse().ok().map(What::Group)
}
