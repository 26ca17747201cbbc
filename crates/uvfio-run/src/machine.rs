//! The machine that the program sees: the functions, as the kernel's sysfs would describe them while vfio-pci has them,
//! and the nodes in `/dev`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uvfio_calls::SOCKET;
use uvfio_core::region_index;
use uvfio_pci::tables::header;
use uvfio_pci::{Bar, Field, Layout, chain};
use uvfio_uapi::{Backend, Uapi};

use crate::tree::{Node, Tree};

/// The bus that they are on, a root bus of its own: nothing of this machine's first one is in the way.
const BUS: &str = "pci0000:01";
/// Functions on one bus, one a slot.
pub(crate) const MOST: usize = 32;

/// Flags of a resource, as the kernel's `ioport.h` numbers them.
mod flag {
    pub(super) const IO: u64 = 0x100;
    pub(super) const MEMORY: u64 = 0x200;
    pub(super) const PREFETCH: u64 = 0x2000;
    pub(super) const READ_ONLY: u64 = 0x4000;
    pub(super) const SIZE_ALIGN: u64 = 0x4_0000;
    pub(super) const MEMORY_64: u64 = 0x10_0000;
}

/// A function of the machine.
pub(crate) struct Function {
    /// As `0000:01:00.0`
    pub(crate) address: String,
    /// Its IOMMU group
    pub(crate) group: u32,
    /// The N of its node `vfioN`
    pub(crate) number: u32,
    pub(crate) device: Arc<dyn Backend>,
}

impl Function {
    /// Gives a device its place: the `number`th, from 0.
    pub(crate) fn new(number: u32, device: Arc<dyn Backend>) -> Self {
        Self {
            address: format!("0000:01:{number:02x}.0"),
            // Group 0 is what a program takes for none that looks at a number it has not read.
            group: number + 1,
            number,
            device,
        }
    }

    /// The same for who answers calls.
    pub(crate) fn for_uapi(&self) -> uvfio_uapi::Function {
        uvfio_uapi::Function {
            address: self.address.clone(),
            group: self.group,
            device: self.device.clone(),
        }
    }
}

/// Everything that the program sees of them.
pub(crate) fn tree(functions: &[Function], uapi: &Uapi) -> Tree {
    let mut tree = Tree::default();
    tree.root("/dev/vfio");
    tree.socket(SOCKET);
    tree.node("/dev/vfio/vfio", Node::Container);
    tree.node("/dev/iommu", Node::Iommu);
    tree.folder("/dev/vfio/devices");
    for (root, text) in [
        ("/sys/module/vfio", None),
        ("/sys/module/vfio_iommu_type1", None),
        ("/sys/module/vfio_pci_core", None),
        ("/sys/module/vfio_pci", Some("disable_idle_d3")),
    ] {
        tree.root(root);
        if let Some(parameter) = text {
            tree.text(Path::new(root).join("parameters").join(parameter), "N\n");
        }
    }
    tree.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    tree.text(
        "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
        "65535\n",
    );
    for root in [
        "/sys/bus/pci/devices",
        "/sys/bus/pci/drivers/vfio-pci",
        "/sys/kernel/iommu_groups",
        "/sys/class/vfio-dev",
        "/sys/class/iommu",
    ] {
        tree.root(root);
    }
    tree.root(Path::new("/sys/devices").join(BUS));
    tree.link("/sys/bus/pci/drivers/vfio-pci/module", "/sys/module/vfio_pci");
    for function in functions {
        add(&mut tree, function, &uapi.bar_addresses(function.number));
    }
    tree
}

fn add(tree: &mut Tree, function: &Function, addresses: &Addresses) {
    let Function {
        address,
        group,
        number,
        ..
    } = function;
    let folder = Path::new("/sys/devices").join(BUS).join(address);
    let node = format!("vfio{number}");
    tree.node(format!("/dev/vfio/{group}"), Node::Group(*group));
    tree.node(format!("/dev/vfio/devices/{node}"), Node::Device(*number));

    describe(tree, &folder, function, addresses);
    tree.link(folder.join("subsystem"), "/sys/bus/pci");
    tree.link(Path::new("/sys/bus/pci/devices").join(address), &folder);
    tree.link(folder.join("driver"), "/sys/bus/pci/drivers/vfio-pci");
    tree.link(Path::new("/sys/bus/pci/drivers/vfio-pci").join(address), &folder);
    tree.text(folder.join("driver_override"), "vfio-pci\n");

    let group = PathBuf::from(format!("/sys/kernel/iommu_groups/{group}"));
    tree.link(folder.join("iommu_group"), &group);
    tree.link(group.join("devices").join(address), &folder);
    tree.text(group.join("type"), "DMA\n");
    tree.text(group.join("reserved_regions"), "");
    tree.link(folder.join("iommu"), "/sys/class/iommu/uvfio");
    tree.link(Path::new("/sys/class/iommu/uvfio/devices").join(address), &folder);

    // Character devices have no numbers here.
    tree.text(folder.join("vfio-dev").join(&node).join("dev"), "0:0\n");
    tree.link(
        Path::new("/sys/class/vfio-dev").join(&node),
        folder.join("vfio-dev").join(&node),
    );
}

/// What the function itself is.
fn describe(tree: &mut Tree, folder: &Path, function: &Function, addresses: &Addresses) {
    let device = &function.device;
    let config = config(function, addresses);
    // A field of a header that is there.
    let value = |field: &Field| chain::value(&config, 0, field).unwrap_or_default();
    let [vendor, id] = [&header::VENDOR, &header::DEVICE].map(value);
    let [subsystem_vendor, subsystem] = [&header::SUBSYSTEM_VENDOR, &header::SUBSYSTEM].map(value);
    let [base, sub, interface] = [&header::BASE_CLASS, &header::SUBCLASS, &header::INTERFACE].map(value);
    let class = base << 16 | sub << 8 | interface;
    for (name, number) in [
        ("vendor", vendor),
        ("device", id),
        ("subsystem_vendor", subsystem_vendor),
        ("subsystem_device", subsystem),
    ] {
        tree.text(folder.join(name), format!("{number:#06x}\n"));
    }
    tree.text(folder.join("class"), format!("{class:#08x}\n"));
    tree.text(
        folder.join("revision"),
        format!("{:#04x}\n", value(&header::REVISION)),
    );
    let modalias = format!(
        "pci:v{vendor:08X}d{id:08X}sv{subsystem_vendor:08X}sd{subsystem:08X}bc{base:02X}sc{sub:02X}i{interface:02X}"
    );
    let uevent = format!(
        "DRIVER=vfio-pci\nPCI_CLASS={class:X}\nPCI_ID={vendor:04X}:{id:04X}\n\
         PCI_SUBSYS_ID={subsystem_vendor:04X}:{subsystem:04X}\nPCI_SLOT_NAME={}\nMODALIAS={modalias}\n",
        function.address,
    );
    for (name, text) in [
        ("modalias", modalias + "\n"),
        ("uevent", uevent),
        ("irq", "0\n".into()),
        ("enable", "0\n".into()),
        ("numa_node", "-1\n".into()),
        ("power_state", "D0\n".into()),
    ] {
        tree.text(folder.join(name), text);
    }
    if device.resettable() {
        tree.text(folder.join("reset_method"), "flr\n");
        tree.file(folder.join("reset"), Vec::new(), 0, 0o200);
    }
    tree.file(folder.join("config"), config, 0, 0o444);
    resources(tree, folder, device.layout(), addresses);
}

/// Where BARs 0 to 5 and the ROM are, as the machine's firmware would have placed them.
type Addresses = [u64; 7];

/// Configuration space of a function that nobody has opened.
fn config(function: &Function, addresses: &Addresses) -> Vec<u8> {
    let device = &function.device;
    for (bar, address) in (0_u8..6).zip(addresses) {
        let address = address.to_le_bytes();
        let bytes = match device.layout().bar(bar) {
            _ if device.is_placed() => 0,
            Bar::None => 0,
            Bar::Memory32 { .. } | Bar::Io { .. } => 4,
            Bar::Memory64 { .. } => 8,
        };
        let register = header::BAR0 + u16::from(bar) * 4;
        // What can't be written there has no address, which is then what is shown.
        let _ = device.write(
            region_index::CONFIG,
            register.into(),
            address.get(..bytes).unwrap_or_default(),
        );
    }
    let bytes = device
        .region_info(region_index::CONFIG)
        .map_or(0, |info| info.bytes);
    let mut config = vec![0; bytes as usize];
    // Of a region that is there, and whole: it can't be refused.
    let _ = device.read(region_index::CONFIG, 0, &mut config);
    config
}

/// `resource`, and the files by which BARs could be mapped, which can't be here: a program that has VFIO needs none.
fn resources(tree: &mut Tree, folder: &Path, layout: &Layout, addresses: &Addresses) {
    let memory = |prefetchable| flag::MEMORY | if prefetchable { flag::PREFETCH } else { 0 };
    let bars = (0..6).map(|bar| match layout.bar(bar) {
        Bar::None => (0, 0),
        Bar::Memory32 { bytes, prefetchable } => (u64::from(bytes), memory(prefetchable)),
        Bar::Memory64 { bytes, prefetchable } => (bytes, memory(prefetchable) | flag::MEMORY_64),
        Bar::Io { bytes } => (u64::from(bytes), flag::IO),
    });
    let rom = (u64::from(layout.rom_bytes()), memory(true) | flag::READ_ONLY);
    let mut text = String::new();
    for (index, ((bytes, kind), address)) in bars.chain([rom]).zip(addresses).enumerate() {
        let (mut first, mut last, mut flags) = (0, 0, 0);
        if bytes != 0 {
            first = *address;
            last = first.saturating_add(bytes - 1);
            // The low bits are those of the BAR itself.
            let register = match kind {
                flag::IO => 1,
                kind => (kind & flag::MEMORY_64) >> 18 | (kind & flag::PREFETCH) >> 10,
            };
            flags = kind | flag::SIZE_ALIGN | register;
            let name = if index == 6 {
                "rom".to_owned()
            } else {
                format!("resource{index}")
            };
            tree.file(folder.join(name), Vec::new(), bytes, 0o400);
        }
        // Into a string: can't fail.
        let _ = writeln!(text, "{first:#018x} {last:#018x} {flags:#018x}");
    }
    // What follows belongs to SR-IOV and bridges.
    text += &format!("{0:#018x} {0:#018x} {0:#018x}\n", 0).repeat(6);
    tree.text(folder.join("resource"), text);
}
