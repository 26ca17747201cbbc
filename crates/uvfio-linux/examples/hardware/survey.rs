//! What the kernel's VFIO says about a function, against what sysfs says about it.

use std::fs;

use anyhow::{Context as _, Result};
use uvfio_linux::vfio::{Extension, Feature, Irq, Region, Use};

use crate::owned::{COMMAND, MEMORY_AND_MASTER, Owned};
use crate::report::Report;

// Configuration space, PCI Local Bus 3.0, 6.1 and 6.8.
const VENDOR: u64 = 0x00;
const CLASS: u64 = 0x08;
const CAPABILITIES: usize = 0x34;
const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;
/// Where a capability's control register lies, for MSI and MSI-X.
const CONTROL: usize = 2;

/// Flags of a resource in sysfs: I/O ports, memory.
const RESOURCE_IO: u64 = 0x100;
const RESOURCE_MEMORY: u64 = 0x200;

/// A line of sysfs's `resource`: size and flags.
struct Resource {
    bytes: u64,
    flags: u64,
}

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let info = owned.device.info()?;
    report.same("it is a PCI device", &true, &info.pci)?;
    let methods = owned.function.text("reset_method").unwrap_or_default();
    report.same(
        &format!("it can be reset if sysfs names a method ({methods:?})"),
        &!methods.is_empty(),
        &info.reset,
    )?;
    regions(&owned, report)?;
    configuration(&owned, report)?;
    irqs(&owned, report)?;
    iommu(&owned, report)?;
    features(&owned, report)
}

fn regions(owned: &Owned, report: &mut Report) -> Result<()> {
    let table = owned.function.text("resource")?;
    for (index, line) in (0..Region::CONFIG).zip(table.lines()) {
        let resource = resource(line)?;
        let region = owned.device.region(index)?;
        let info = region.info();
        if index == Region::ROM {
            // VFIO shows a ROM only where one can be read.
            let fits = info.size == 0 || info.size == resource.bytes;
            report.same("the ROM is as large as sysfs says, or not shown", &true, &fits)?;
            report.same("the ROM cannot be written", &false, &info.writable)?;
            continue;
        }
        let what = format!(
            "BAR {index} is as large as sysfs says ({:#x} bytes)",
            resource.bytes
        );
        report.same(&what, &resource.bytes, &info.size)?;
        if resource.bytes == 0 {
            continue;
        }
        let memory = resource.flags & RESOURCE_MEMORY != 0;
        let is_io = resource.flags & RESOURCE_IO != 0;
        report.same(&format!("BAR {index} is memory or I/O ports"), &memory, &!is_io)?;
        let pages = resource.bytes.is_multiple_of(4096);
        let what = format!("BAR {index} can be read and written, and mapped if it is memory in whole pages");
        report.same(
            &what,
            &(true, true, memory && pages),
            &(info.readable, info.writable, info.mappable),
        )?;
    }
    let whole = owned.device.config()?.info().size;
    let file = fs::metadata(owned.function.path("config"))?.len();
    report.same("configuration space is as large as sysfs says", &file, &whole)?;
    let beyond = owned.device.region(owned.device.info()?.regions).is_err();
    report.same("there is no region beyond the last", &true, &beyond)
}

fn resource(line: &str) -> Result<Resource> {
    let mut numbers = line
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let mut next = || numbers.next().context("a resource has three numbers");
    let (first, last, flags) = (next()??, next()??, next()??);
    let bytes = if flags == 0 { 0 } else { last - first + 1 };
    Ok(Resource { bytes, flags })
}

fn configuration(owned: &Owned, report: &mut Report) -> Result<()> {
    let config = owned.device.config()?;
    let number = |file: &str| -> Result<u32> {
        Ok(u32::from_str_radix(
            owned.function.text(file)?.trim_start_matches("0x"),
            16,
        )?)
    };
    let ids: u32 = config.read_word(VENDOR)?;
    report.same(
        "vendor and device are as sysfs says",
        &(number("vendor")? | number("device")? << 16),
        &ids,
    )?;
    let class: u32 = config.read_word(CLASS)?;
    report.same("the class is as sysfs says", &number("class")?, &(class >> 8))?;
    owned.enable()?;
    let command: u16 = config.read_word(COMMAND)?;
    report.same(
        "memory and bus master can be turned on",
        &MEMORY_AND_MASTER,
        &(command & MEMORY_AND_MASTER),
    )
}

/// The vectors that a function's own registers offer, as the hardware shows them in sysfs.
fn offered(owned: &Owned) -> Result<(u32, u32)> {
    let bytes = fs::read(owned.function.path("config"))?;
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let (mut msi, mut msix) = (0, 0);
    let mut at = usize::from(byte(CAPABILITIES));
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        let control = u16::from_le_bytes([byte(at + CONTROL), byte(at + CONTROL + 1)]);
        match byte(at) {
            MSI => msi = 1 << (control >> 1 & 7),
            MSIX => msix = u32::from(control & 0x7ff) + 1,
            _ => {}
        }
        at = usize::from(byte(at + 1));
    }
    Ok((msi, msix))
}

fn irqs(owned: &Owned, report: &mut Report) -> Result<()> {
    let device = &owned.device;
    let (msi, msix) = offered(owned)?;
    report.same(
        "MSI has as many messages as its register says",
        &msi,
        &device.irq(Irq::Msi)?.count,
    )?;
    report.same(
        "MSI-X has as many vectors as its register says",
        &msix,
        &device.irq(Irq::Msix)?.count,
    )?;
    report.same(
        "MSI cannot grow while it is enabled",
        &false,
        &device.irq(Irq::Msi)?.resizable,
    )?;
    for irq in [Irq::Error, Irq::Request] {
        let info = device.irq(irq)?;
        report.same(
            &format!("{irq:?} has one eventfd"),
            &(1, true),
            &(info.count, info.eventfd),
        )?;
    }
    Ok(())
}

/// What the IOMMU says about addresses, against the group's reserved regions.
fn iommu(owned: &Owned, report: &mut Report) -> Result<()> {
    let has = |extension| owned.container.has(extension);
    let known = (
        has(Extension::Type1v2)?,
        has(Extension::UnmapAll)?,
        has(Extension::NoIommu)?,
    );
    report.same(
        "version 2 is there, and unmap of all; a mode without IOMMU is not",
        &(true, true, false),
        &known,
    )?;
    let info = owned.container.iommu_info()?;
    report.same(
        "the IOMMU's smallest page has 4096 bytes",
        &Some(4096),
        &info.smallest_page(),
    )?;
    report.same(
        "the container may have 65535 mappings",
        &Some(65535),
        &info.mappings_left,
    )?;
    let usable = info.iova_ranges.context("the kernel tells address ranges")?;
    let group = owned.function.group()?;
    let reserved = fs::read_to_string(format!("/sys/kernel/iommu_groups/{group}/reserved_regions"))?;
    let mut seen = 0;
    for line in reserved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, last, kind] = words.as_slice() else {
            continue;
        };
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        let (first, last) = (number(first)?, number(last)?);
        let open = usable
            .iter()
            .find(|range| *range.start() <= last && *range.end() >= first);
        report.same(
            &format!("no usable address is reserved: {kind} {first:#x}..={last:#x}"),
            &None,
            &open,
        )?;
        seen += 1;
    }
    report.same("there is a reserved range, for interrupts", &true, &(seen > 0))
}

fn features(owned: &Owned, report: &mut Report) -> Result<()> {
    let device = &owned.device;
    // Numbers of vfio.h: a dma-buf of a BAR; migration, which only drivers of single devices have.
    report.same(
        "a BAR can be given away as dma-buf",
        &true,
        &device.feature_probe(11, Use::Get)?,
    )?;
    report.same(
        "vfio-pci cannot migrate",
        &false,
        &device.feature_probe(1, Use::Get)?,
    )?;
    let sleep = Feature::LowPowerEntry.number();
    report.same(
        "low power can be set",
        &true,
        &device.feature_probe(sleep, Use::Set)?,
    )?;
    report.same(
        "low power cannot be read",
        &false,
        &device.feature_probe(sleep, Use::Get)?,
    )?;
    report.same(
        "no feature has the highest number",
        &false,
        &device.feature_probe(u16::MAX, Use::Get)?,
    )
}
