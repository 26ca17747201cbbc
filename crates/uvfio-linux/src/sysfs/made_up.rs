//! A made-up machine for tests: a tree with the files and links that the kernel makes, and something that plays the
//! kernel where a value is written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::host::Kernel;
use super::{Address, Error, Host, Sysfs};

/// A machine in a folder of its own, removed when dropped.
pub(super) struct MadeUp {
    folder: tempfile::TempDir,
}

impl MadeUp {
    /// A machine with a root file system in memory, no PCI functions, and no network.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Self { folder };
        for name in [
            "bus/pci/devices",
            "bus/pci/drivers",
            "class/block",
            "class/net",
            "dev/block",
            "devices",
        ] {
            fs::create_dir_all(machine.path("sys").join(name)).expect("made");
        }
        machine.write("sys/bus/pci/drivers_probe", "");
        machine.write("proc/1/mountinfo", "1 0 0:1 / / rw - rootfs none rw\n");
        machine.write("proc/1/comm", "init\n");
        machine.write("proc/self/mountinfo", "1 0 0:1 / / rw - rootfs none rw\n");
        machine.write("proc/swaps", "Filename Type Size Used Priority\n");
        machine.write(
            "proc/net/route",
            "Iface Destination Gateway Flags RefCnt Use Metric Mask\n",
        );
        machine.write("dev/null", "");
        machine
    }

    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Makes a file, and the folders above it.
    pub(super) fn write(&self, inside: &str, text: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Adds a line to a file.
    pub(super) fn add_line(&self, inside: &str, line: &str) {
        let text = fs::read_to_string(self.path(inside)).expect("read");
        self.write(inside, format!("{text}{line}\n"));
    }

    /// Makes a link, and the folders above it. `to` is seen from the machine's root.
    pub(super) fn link(&self, inside: &str, to: &str) {
        let path = self.path(inside);
        let up = "../".repeat(inside.matches('/').count());
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        symlink(format!("{up}{to}"), path).expect("linked");
    }

    /// A function at a path below `/sys/devices`, an Ethernet controller unless `attributes` say otherwise.
    pub(super) fn function(&self, path: &str, attributes: &[(&str, &str)]) -> Address {
        let name = path.rsplit('/').next().expect("a name");
        let folder = format!("sys/devices/{path}");
        let zeros = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".repeat(7);
        for (attribute, text) in [
            ("vendor", "0x8086\n"),
            ("device", "0x10c9\n"),
            ("class", "0x020000\n"),
            ("revision", "0x01\n"),
            ("subsystem_vendor", "0x8086\n"),
            ("subsystem_device", "0x0000\n"),
            ("resource", zeros.as_str()),
            ("driver_override", "(null)\n"),
            ("numa_node", "-1\n"),
            ("uevent", "\n"),
        ]
        .iter()
        .chain(attributes)
        {
            self.write(&format!("{folder}/{attribute}"), text);
        }
        self.link(&format!("sys/bus/pci/devices/{name}"), &folder);
        name.parse().expect("an address")
    }

    /// A driver, and the functions that it has.
    pub(super) fn driver(&self, name: &str, functions: &[Address]) {
        for file in ["bind", "unbind"] {
            self.write(&format!("sys/bus/pci/drivers/{name}/{file}"), "");
        }
        for address in functions {
            attach(&self.path("sys"), *address, name);
        }
    }

    /// An IOMMU group of functions.
    pub(super) fn group(&self, number: u32, functions: &[Address]) {
        let group = format!("sys/kernel/iommu_groups/{number}");
        fs::create_dir_all(self.path(&format!("{group}/devices"))).expect("made");
        for address in functions {
            let function = format!("sys/bus/pci/devices/{address}");
            self.link(&format!("{group}/devices/{address}"), &function);
            let folder = self.path(&function).canonicalize().expect("the function");
            symlink(self.path(&group), folder.join("iommu_group")).expect("linked");
        }
    }

    /// A block device at a path below `/sys/devices`, with its number.
    pub(super) fn block(&self, path: &str, number: &str) {
        let name = path.rsplit('/').next().expect("a name");
        let folder = format!("sys/devices/{path}");
        self.write(&format!("{folder}/dev"), format!("{number}\n"));
        self.link(&format!("sys/class/block/{name}"), &folder);
        self.link(&format!("sys/dev/block/{number}"), &folder);
        self.write(&format!("dev/{name}"), "");
    }

    /// Mounts a file system, as the first process sees it.
    pub(super) fn mount(&self, number: &str, point: &str, source: &str) {
        self.add_line(
            "proc/1/mountinfo",
            &format!("2 1 {number} / {point} rw - ext4 {source} rw"),
        );
    }

    /// A network interface at a path below `/sys/devices`.
    pub(super) fn interface(&self, path: &str, state: &str) {
        let name = path.rsplit('/').next().expect("a name");
        let folder = format!("sys/devices/{path}");
        self.write(&format!("{folder}/operstate"), format!("{state}\n"));
        self.write(&format!("{folder}/flags"), "0x1003\n");
        self.link(&format!("sys/class/net/{name}"), &folder);
    }

    pub(super) fn default_route(&self, interface: &str) {
        self.add_line(
            "proc/net/route",
            &format!("{interface} 00000000 010200C0 0003 0 0 0 00000000 0 0 0"),
        );
    }

    /// A process with descriptors, as their links say.
    pub(super) fn process(&self, pid: u32, name: &str, descriptors: &[&str]) {
        self.write(&format!("proc/{pid}/comm"), format!("{name}\n"));
        fs::create_dir_all(self.path(&format!("proc/{pid}/fd"))).expect("made");
        for (number, link) in descriptors.iter().enumerate() {
            symlink(link, self.path(&format!("proc/{pid}/fd/{number}"))).expect("linked");
        }
    }

    /// The machine as what is tested sees it; writes end in files.
    pub(super) fn host(&self) -> Host {
        Host::at(self.folder.path())
    }

    /// The machine with a kernel, whose drivers take these functions by themselves.
    pub(super) fn with_kernel(&self, natural: &[(Address, &str)]) -> (Host, Arc<Played>) {
        let natural = natural
            .iter()
            .map(|(address, driver)| (*address, (*driver).to_owned()));
        let kernel = Arc::new(Played {
            natural: natural.collect(),
            ..Played::default()
        });
        let mut host = self.host();
        host.kernel = kernel.clone();
        (host, kernel)
    }
}

/// What a kernel does when a value is written to an attribute.
#[derive(Debug, Default)]
pub(super) struct Played {
    natural: BTreeMap<Address, String>,
    /// Drivers whose probe fails
    pub(super) refuses: Mutex<Vec<&'static str>>,
    /// Every write: what and where
    pub(super) writes: Mutex<Vec<(String, String)>>,
}

impl Kernel for Played {
    fn write(&self, sysfs: &Sysfs, path: &Path, value: &str) -> Result<(), Error> {
        // What the kernel has no file for can't be written.
        sysfs.tree.write(path, value)?;
        let inside = path
            .strip_prefix(sysfs.root())
            .expect("inside")
            .display()
            .to_string();
        self.writes
            .lock()
            .expect("no panic")
            .push((inside.clone(), value.to_owned()));
        let names: Vec<&str> = inside.split('/').collect();
        match names[..] {
            ["bus", "pci", "devices", _, "driver_override"] => {
                let shown = if value.is_empty() { "(null)" } else { value };
                fs::write(path, format!("{shown}\n")).expect("written");
            }
            ["bus", "pci", "drivers", driver, "unbind"] => {
                let address = value.parse().expect("an address");
                assert_eq!(
                    sysfs.function(address)?.driver.as_deref(),
                    Some(driver),
                    "not its driver"
                );
                fs::remove_file(folder(sysfs.root(), address).join("driver")).expect("removed");
            }
            ["bus", "pci", "drivers_probe"] => {
                let function = sysfs.function(value.parse().expect("an address"))?;
                let wanted = function.driver_override.filter(|name| !name.is_empty());
                let wanted = wanted.or_else(|| self.natural.get(&function.address).cloned());
                self.probe(sysfs, function.address, wanted.as_deref().unwrap_or("none"));
            }
            ["bus", "pci", "drivers", driver, "bind"] => {
                self.probe(sysfs, value.parse().expect("an address"), driver);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Played {
    fn probe(&self, sysfs: &Sysfs, address: Address, driver: &str) {
        let is_there = sysfs.root().join("bus/pci/drivers").join(driver).exists();
        let free = !folder(sysfs.root(), address).join("driver").exists();
        let refuses = self.refuses.lock().expect("no panic").contains(&driver);
        if is_there && free && !refuses {
            attach(sysfs.root(), address, driver);
        }
    }
}

fn folder(sys: &Path, address: Address) -> PathBuf {
    let link = sys.join(format!("bus/pci/devices/{address}"));
    link.canonicalize().expect("the function")
}

fn attach(sys: &Path, address: Address, driver: &str) {
    let link = folder(sys, address).join("driver");
    symlink(sys.join("bus/pci/drivers").join(driver), link).expect("linked");
}
