//! What the system needs a function for: mounted file systems, swap, and the way to the network.
//!
//! Found from the other end: each file system's block device, each interface, is followed down through what it is made
//! of (partitions, device mapper, RAID, loop devices, multipath; bridges, bonds, VLANs) to its folder in
//! `/sys/devices`, whose path names every PCI function on the way. Not found: what a file system of a kind that keeps
//! its devices to itself (ZFS) lies on, and files on the network, where no route shows the way.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::tree::{self, malformed, printable};
use super::{Address, Error, Host};

/// Flags of a route (`include/uapi/linux/route.h`): it is in use; it says that there is no way.
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;
/// Flag of an interface that is switched on (`include/uapi/linux/if.h`).
const INTERFACE_UP: u64 = 0x1;

/// Something that ends when a function is taken away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The root file system
    Root,
    /// Another file system
    FileSystem {
        /// Where it is mounted
        mount: String,
        /// A process that sees it there, where that is in another mount namespace than ours and the first process's
        process: Option<u32>,
    },
    /// Swap space
    Swap {
        /// Its device or file
        name: String,
    },
    /// The interface of a default route
    DefaultRoute {
        /// The interface
        interface: String,
    },
    /// The only interface of hardware that is up
    OnlyInterface {
        /// The interface
        interface: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "it carries the root file system"),
            Self::FileSystem { mount, process: None } => write!(f, "it carries the file system on {mount}"),
            Self::FileSystem {
                mount,
                process: Some(pid),
            } => {
                write!(f, "it carries the file system that process {pid} has on {mount}")
            }
            Self::Swap { name } => write!(f, "it carries swap space ({name})"),
            Self::DefaultRoute { interface } => write!(f, "the default route leads over it ({interface})"),
            Self::OnlyInterface { interface } => {
                write!(f, "it is the only network interface that is up ({interface})")
            }
        }
    }
}

/// What each function is needed for.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    found: BTreeSet<(Address, Use)>,
}

impl Uses {
    /// What a function is needed for, the root file system first. What other mount namespaces see is told only where
    /// ours and the first process's see nothing: each service may have its own, with the same file systems.
    #[must_use]
    pub fn of(&self, address: Address) -> Vec<Use> {
        let its = self.found.iter().filter(|(whose, _)| *whose == address);
        let (others, ours): (Vec<Use>, Vec<Use>) = its
            .map(|(_, what)| what.clone())
            .partition(|what| matches!(what, Use::FileSystem { process: Some(_), .. }));
        if ours.is_empty() { others } else { ours }
    }

    fn add(&mut self, functions: BTreeSet<Address>, what: &Use) {
        self.found
            .extend(functions.into_iter().map(|address| (address, what.clone())));
    }
}

impl Host {
    /// Finds out what the system needs its PCI functions for.
    ///
    /// # Errors
    /// Where mounts, swap or routes can't be read or understood: then it is not known.
    pub fn uses(&self) -> Result<Uses, Error> {
        let mut uses = Uses::default();
        self.file_systems(&mut uses)?;
        self.btrfs(&mut uses)?;
        self.swap(&mut uses)?;
        self.network(&mut uses)?;
        Ok(uses)
    }

    fn file_systems(&self, uses: &mut Uses) -> Result<(), Error> {
        let mut namespaces = BTreeSet::new();
        let mut any = false;
        let others = self
            .processes()?
            .into_iter()
            .filter(|pid| *pid != 1)
            .map(|pid| pid.to_string());
        for process in ["1".to_owned(), "self".to_owned()].into_iter().chain(others) {
            let folder = self.proc.path(&process);
            let namespace = std::fs::read_link(folder.join("ns/mnt")).ok();
            let known = namespace.is_some_and(|namespace| !namespaces.insert(namespace));
            // One namespace's mounts are the same for every process in it.
            if known {
                continue;
            }
            let path = folder.join("mountinfo");
            let text = match self.proc.list(&path) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(Error::Read { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied
                        // A process without mounts of its own, which has just ended.
                        || source.kind() == io::ErrorKind::InvalidInput =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            any = true;
            let process = process.parse().ok().filter(|pid| *pid != 1);
            for line in text.lines() {
                let mount = parse_mount(line)
                    .ok_or_else(|| malformed(&path, line, "a mount as proc(5) describes it"))?;
                let what = match (mount.point, process) {
                    ("/", None) => Use::Root,
                    (point, process) => Use::FileSystem {
                        mount: printable(point),
                        process,
                    },
                };
                let mut folders = self.block_of_number(mount.device)?;
                // Some file systems have a number of their own, and name their devices.
                for source in unescape(mount.source).split(':') {
                    folders.extend(self.block_of_path(Path::new(source))?);
                }
                uses.add(self.below_blocks(folders)?, &what);
            }
        }
        if any {
            return Ok(());
        }
        Err(Error::Missing {
            path: self.proc.path("self/mountinfo"),
            why: "and without it nobody knows which devices carry file systems",
        })
    }

    /// btrfs tells all its devices, of which a mount names one.
    fn btrfs(&self, uses: &mut Uses) -> Result<(), Error> {
        let tree = &self.sysfs.tree;
        let folder = tree.path("fs/btrfs");
        for system in tree.names(&folder)?.unwrap_or_default() {
            let devices = folder.join(&system).join("devices");
            for device in tree.names(&devices)?.unwrap_or_default() {
                let what = Use::FileSystem {
                    mount: format!("btrfs {}", printable(&system)),
                    process: None,
                };
                let folder = tree.resolve(&devices.join(device))?;
                uses.add(self.below_blocks(folder.into_iter().collect())?, &what);
            }
        }
        Ok(())
    }

    fn swap(&self, uses: &mut Uses) -> Result<(), Error> {
        let text = self.proc.list(&self.proc.path("swaps"))?.unwrap_or_default();
        for line in text.lines().skip(1) {
            // A swap file lies in a file system, which is mounted.
            let name = unescape(line.split_ascii_whitespace().next().unwrap_or_default());
            let blocks = self.block_of_path(Path::new(&name))?;
            let what = Use::Swap {
                name: printable(&name),
            };
            uses.add(self.below_blocks(blocks.into_iter().collect())?, &what);
        }
        Ok(())
    }

    /// The folder in `/sys` of a block device by its number, as `8:1`.
    fn block_of_number(&self, device: &str) -> Result<Vec<PathBuf>, Error> {
        let folder = self
            .sysfs
            .tree
            .resolve(&self.sysfs.tree.path("dev/block").join(device))?;
        Ok(folder.into_iter().collect())
    }

    /// The folder in `/sys` of a block device by its path, as `/dev/mapper/root`; none where it is no such path.
    fn block_of_path(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let Ok(inside) = path.strip_prefix("/dev") else {
            return Ok(None);
        };
        // A source of a mount is any text that somebody chose.
        let Ok(Some(node)) = self.dev.resolve(&self.dev.path(inside)) else {
            return Ok(None);
        };
        let tree = &self.sysfs.tree;
        if let Some(name) = node.file_name()
            && let Some(folder) = tree.resolve(&tree.path("class/block").join(name))?
        {
            return Ok(Some(folder));
        }
        let number = std::fs::metadata(&node)
            .ok()
            .filter(|node| node.file_type().is_block_device());
        let Some(number) = number.map(|node| node.rdev()) else {
            return Ok(None);
        };
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        tree.resolve(&tree.path(format!("dev/block/{major}:{minor}")))
    }

    /// The PCI functions below block devices, through everything that these are made of.
    fn below_blocks(&self, mut open: Vec<PathBuf>) -> Result<BTreeSet<Address>, Error> {
        let tree = &self.sysfs.tree;
        let mut functions = BTreeSet::new();
        let mut seen = BTreeSet::new();
        while let Some(folder) = open.pop() {
            if !seen.insert(folder.clone()) {
                continue;
            }
            self.add_path(&folder, &mut functions)?;
            let slaves = folder.join("slaves");
            for slave in tree.names(&slaves)?.unwrap_or_default() {
                open.extend(tree.resolve(&slaves.join(slave))?);
            }
            if folder.join("partition").exists() {
                open.extend(folder.parent().map(Path::to_owned));
            }
            if let Some(file) = tree.attribute(&folder.join("loop/backing_file"))? {
                open.extend(self.block_of_path(Path::new(&file))?);
            }
            // The disk that several NVMe controllers share lies beside them, not below one.
            let subsystem = folder.ancestors().find(|above| is_named(above, "nvme-subsys"));
            for name in subsystem
                .map_or(Ok(None), |above| tree.names(above))?
                .unwrap_or_default()
            {
                if let Some(above) = subsystem
                    && name.starts_with("nvme")
                {
                    open.extend(tree.resolve(&above.join(name))?);
                }
            }
        }
        Ok(functions)
    }

    /// Adds the functions that a path names, and the physical functions of the virtual ones among them.
    fn add_path(&self, folder: &Path, to: &mut BTreeSet<Address>) -> Result<(), Error> {
        let names = folder.iter().filter_map(|name| name.to_str());
        for address in names.filter_map(Address::of_name) {
            to.insert(address);
            let link = self.sysfs.tree.path(format!("bus/pci/devices/{address}/physfn"));
            let physical = self.sysfs.tree.link_name(&link)?;
            to.extend(physical.as_deref().and_then(Address::of_name));
        }
        Ok(())
    }

    fn network(&self, uses: &mut Uses) -> Result<(), Error> {
        let mut routed = BTreeSet::new();
        for (file, interface_of) in [
            ("net/route", default_route_4 as fn(&str) -> Option<&str>),
            ("net/ipv6_route", default_route_6),
        ] {
            let text = self.proc.list(&self.proc.path(file))?.unwrap_or_default();
            routed.extend(text.lines().filter_map(interface_of).map(str::to_owned));
        }
        for interface in &routed {
            let what = Use::DefaultRoute {
                interface: printable(interface),
            };
            uses.add(self.below_interface(interface)?, &what);
        }
        let tree = &self.sysfs.tree;
        let mut up = Vec::new();
        for interface in tree.names(&tree.path("class/net"))?.unwrap_or_default() {
            let mut functions = BTreeSet::new();
            if let Some(folder) = tree.resolve(&tree.path("class/net").join(&interface))?
                && self.is_up(&folder)?
            {
                self.add_path(&folder, &mut functions)?;
            }
            if !functions.is_empty() {
                up.push((interface, functions));
            }
        }
        if let [(interface, functions)] = &mut up[..]
            && !routed.contains(interface)
        {
            let what = Use::OnlyInterface {
                interface: printable(interface),
            };
            uses.add(std::mem::take(functions), &what);
        }
        Ok(())
    }

    /// Whether an interface is switched on, and has a link as far as its driver knows.
    fn is_up(&self, folder: &Path) -> Result<bool, Error> {
        let flags = self
            .sysfs
            .tree
            .attribute(&folder.join("flags"))?
            .unwrap_or_default();
        let state = self.sysfs.tree.attribute(&folder.join("operstate"))?;
        let on = tree::hexadecimal(&flags).is_some_and(|flags| flags & INTERFACE_UP != 0);
        Ok(on && matches!(state.as_deref(), Some("up" | "unknown")))
    }

    /// The PCI functions below an interface, through what it is made of.
    fn below_interface(&self, interface: &str) -> Result<BTreeSet<Address>, Error> {
        let tree = &self.sysfs.tree;
        let mut functions = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<String> = vec![interface.to_owned()];
        while let Some(interface) = open.pop() {
            let plain = !interface.contains('/') && !interface.starts_with('.');
            if !plain || !seen.insert(interface.clone()) {
                continue;
            }
            let Some(folder) = tree.resolve(&tree.path("class/net").join(&interface))? else {
                continue;
            };
            self.add_path(&folder, &mut functions)?;
            let names = tree.names(&folder)?.unwrap_or_default();
            open.extend(
                names
                    .iter()
                    .filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)),
            );
        }
        Ok(functions)
    }
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(start))
}

/// What we need of a line of mountinfo.
struct Mount<'a> {
    device: &'a str,
    point: &'a str,
    source: &'a str,
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (fixed, rest) = line.split_once(" - ")?;
    let mut fixed = fixed.split(' ').skip(2);
    let (device, _, point) = (fixed.next()?, fixed.next()?, fixed.next()?);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (major, minor) = device.split_once(':')?;
    let source = rest.split(' ').nth(1)?;
    (is_number(major) && is_number(minor)).then_some(Mount {
        device,
        point,
        source,
    })
}

/// Undoes how the kernel writes white space and backslashes in paths: `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, after) {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn leads_on(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (ROUTE_UP | ROUTE_REJECT) == ROUTE_UP)
}

/// The interface, if a line of `/proc/net/route` is a default route. The columns are interface, destination, gateway,
/// flags, three counts, and mask.
fn default_route_4(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let [interface, "00000000", _, flags, _, _, _, "00000000", ..] = columns[..] else {
        return None;
    };
    leads_on(flags).then_some(interface)
}

/// The same for `/proc/net/ipv6_route`: destination and its length, source and its length, next hop, three counts,
/// flags, and interface.
fn default_route_6(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let [destination, "00", _, _, _, _, _, _, flags, interface] = columns[..] else {
        return None;
    };
    let everywhere = destination.bytes().all(|byte| byte == b'0');
    (everywhere && leads_on(flags) && interface != "lo").then_some(interface)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let route = |text| default_route_4(text);
        assert_eq!(
            route("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"),
            Some("eth0")
        );
        assert_eq!(
            route("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"),
            None
        );
        assert_eq!(
            route("eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0"),
            None
        );
        assert_eq!(
            route("*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0"),
            None
        );
        let zeros = "0".repeat(32);
        let six = |length, flags, interface| {
            let line =
                format!("{zeros} {length} {zeros} 00 {zeros} 00000400 00000001 00000000 {flags} {interface}");
            default_route_6(&line).map(str::to_owned)
        };
        assert_eq!(six("00", "00000003", "eth1"), Some("eth1".into()));
        assert_eq!(six("40", "00000003", "eth1"), None);
        assert_eq!(six("00", "00200200", "lo"), None);
        assert_eq!(six("00", "00000001", "lo"), None);
    }

    #[test]
    fn spaces_in_paths_are_written_in_octal() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        for text in [r"\", r"\04", r"\400", r"\08x", "é"] {
            assert_eq!(unescape(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_fall_over(text in "\\PC*|[-0-9a-f:/ \\\\]{0,120}") {
            let _ = (parse_mount(&text), default_route_4(&text), default_route_6(&text), unescape(&text));
        }

        #[test]
        fn a_mount_is_read_however_many_optional_fields_it_has(optional in "( [a-z]{1,9}:[0-9])*", minor: u8) {
            let line = format!("36 35 98:{minor} / /mnt rw,noatime{optional} - ext3 /dev/sdb1 rw");
            let mount = parse_mount(&line).expect("the kernel's own form");
            let device = format!("98:{minor}");
            prop_assert_eq!((mount.device, mount.point, mount.source), (device.as_str(), "/mnt", "/dev/sdb1"));
        }
    }
}
