//! What the kernel refuses, and that the error says why.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use uvfio_linux::vfio::{Access, AddressSpace as _, Container, DeviceFile, Group, Irq, Rule, SharedMemory};

use crate::owned::{COMMAND, Eventfds, Function, Owned, signal};
use crate::report::Report;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
/// Where VT-d takes writes for interrupts.
const INTERRUPTS: u64 = 0xfee0_0000;

/// The order of group, container and IOMMU; descriptors of the wrong kind; names.
pub(crate) fn order(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::new(address);
    let number = function.group()?;
    let container = Container::open()?;
    let is = |rule: Rule| move |got: &Rule| *got == rule;
    let early = (Errno::INVAL, &is(Rule::IommuOrder) as &dyn Fn(&Rule) -> bool);
    report.refused(
        "the IOMMU before a group",
        container.set_iommu(),
        early,
        &["after the first group"],
    )?;
    let group = Group::open(number)?;
    let again = (Errno::BUSY, &is(Rule::Held) as &dyn Fn(&Rule) -> bool);
    report.refused(
        "the group a second time",
        Group::open(number),
        again,
        &["/dev/vfio/", "let go"],
    )?;
    group.set_container(&container)?;
    report.refused(
        "a device before the IOMMU",
        group.device(address),
        early,
        &[address],
    )?;
    let placed = (Errno::INVAL, &is(Rule::ContainerOrder) as &dyn Fn(&Rule) -> bool);
    report.refused(
        "a second container",
        group.set_container(&Container::open()?),
        placed,
        &["IOMMU group"],
    )?;
    container.set_iommu()?;
    let nobody = (Errno::NODEV, &is(Rule::NoSuchDevice) as &dyn Fn(&Rule) -> bool);
    report.refused(
        "a function of another group",
        group.device("0000:00:00.0"),
        nobody,
        &["0000:00:00.0"],
    )?;
    let device = group.device(address)?;

    device.config()?.write_word(COMMAND, 0_u16)?;
    let off = |rule: &Rule| *rule == Rule::MemoryOff;
    let result = device.region(0)?.read_word::<u32>(0);
    report.refused(
        "a BAR while memory is off",
        result,
        (Errno::IO, &off),
        &["COMMAND", "region 0"],
    )?;

    let taken: OwnedFd = container.as_fd().try_clone_to_owned()?;
    let kind = (Errno::NOTTY, &is(Rule::WrongKind) as &dyn Fn(&Rule) -> bool);
    report.refused(
        "a container as device",
        DeviceFile::from_descriptor(taken, "x"),
        kind,
        &["another kind"],
    )?;
    let taken = device.as_fd().try_clone_to_owned()?;
    report.refused(
        "a device as group",
        Group::from_descriptor(taken, number),
        kind,
        &["another kind"],
    )?;
    let taken = DeviceFile::from_descriptor(device.as_fd().try_clone_to_owned()?, address)?;
    report.same(
        "a device's descriptor can be passed on",
        &device.info()?,
        &taken.info()?,
    )?;
    irqs(&device, report)
}

fn irqs(device: &DeviceFile, report: &mut Report) -> Result<()> {
    let count = device.irq(Irq::Msi)?.count;
    let vectors = move |got: &Rule| *got == Rule::Vectors { count };
    let too_many = Eventfds::new(count as usize + 1)?;
    let words = [&*format!("has {count} vectors")];
    report.refused(
        "one MSI message too many",
        device.set_eventfds(Irq::Msi, 0, &too_many.all()),
        (Errno::INVAL, &vectors),
        &words,
    )?;
    let order = |got: &Rule| *got == Rule::InterruptOrder;
    report.refused(
        "MSI disabled twice",
        device.disable(Irq::Msi),
        (Errno::INVAL, &order),
        &["at a time"],
    )?;
    let eventfds = Eventfds::new(1)?;
    signal(device, Irq::Msi, &eventfds)?;
    let intx = device.set_eventfds(Irq::Intx, 0, &eventfds.all());
    report.refused(
        "INTx beside MSI",
        intx,
        (Errno::INVAL, &order),
        &["INTx, MSI and MSI-X"],
    )?;
    Ok(device.disable(Irq::Msi)?)
}

/// What can be mapped, and how much.
pub(crate) fn mappings(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let container = &owned.container;
    let memory = SharedMemory::new(64 * PAGE)?;
    let map =
        |iova: u64, offset: u64, size: u64| container.map(iova, &memory, offset, size, Access::ReadWrite);
    let left = || -> Result<u32> {
        container
            .iommu_info()?
            .mappings_left
            .context("how many mappings are left")
    };

    let reserved = |rule: &Rule| matches!(rule, Rule::Reserved { usable } if !usable.is_empty());
    report.refused(
        "a map over interrupts",
        map(INTERRUPTS, 0, PAGE),
        (Errno::INVAL, &reserved),
        &["0xfee"],
    )?;
    let page = |rule: &Rule| *rule == Rule::Misaligned { page: PAGE };
    report.refused(
        "a map of half a page",
        map(0x800, 0, PAGE),
        (Errno::INVAL, &page),
        &["0x1000"],
    )?;
    map(0x10000, 0, 4 * PAGE)?;
    let mapped = |rule: &Rule| *rule == Rule::Mapped;
    report.refused(
        "a map over another",
        map(0x12000, 0, 4 * PAGE),
        (Errno::EXIST, &mapped),
        &["0x12000"],
    )?;
    let cuts = |rule: &Rule| *rule == Rule::CutsMapping;
    report.refused(
        "half an unmap",
        container.unmap(0x10000, PAGE),
        (Errno::INVAL, &cuts),
        &["whole mappings"],
    )?;
    report.same(
        "an unmap over nothing succeeds",
        &0,
        &container.unmap(0x1000_0000, PAGE)?,
    )?;
    report.same(
        "an unmap over more takes what is within",
        &(4 * PAGE),
        &container.unmap(0, 64 * PAGE)?,
    )?;

    let no_range = map(u64::MAX - PAGE + 1, 0, 2 * PAGE).is_err() && container.unmap(0, 0).is_err();
    report.same("a range beyond 2^64 or of no bytes is none", &true, &no_range)?;

    let before = left()?;
    map(GIB - 8 * PAGE, 0, 16 * PAGE)?;
    report.same("a map across a GiB is two mappings", &2, &(before - left()?))?;
    report.same(
        "one unmap takes both",
        &(16 * PAGE),
        &container.unmap(GIB - 8 * PAGE, 16 * PAGE)?,
    )?;
    map(GIB, 0, PAGE)?;
    report.refused(
        "a map whose second half is taken",
        map(GIB - PAGE, 0, 2 * PAGE),
        (Errno::EXIST, &mapped),
        &[],
    )?;
    report.same("it leaves no first half", &1, &(before - left()?))?;
    map(0x10000, 0, 2 * PAGE)?;
    report.same(
        "everything is unmapped at once",
        &(3 * PAGE),
        &container.unmap_all()?,
    )?;
    report.same("and nothing is left", &before, &left()?)?;
    let outside = map(0x10000, 64 * PAGE, PAGE).is_err();
    report.same("what lies beyond the memory is not mapped", &true, &outside)?;

    let file = File::from(rustix::fs::memfd_create("cut", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(4 * PAGE)?;
    let cut = SharedMemory::of_file(file.as_fd(), 0, 4 * PAGE)?;
    file.set_len(PAGE)?;
    let gone = |rule: &Rule| *rule == Rule::NoMemory;
    let result = container.map(0, &cut, 0, 4 * PAGE, Access::ReadWrite);
    report.refused(
        "memory whose file was cut short",
        result,
        (Errno::FAULT, &gone),
        &["file ends"],
    )?;
    locked(container, report)
}

/// The limit of locked memory, which root is exempt from until it gives that right up.
fn locked(container: &Container, report: &mut Report) -> Result<()> {
    const LIMIT: u64 = 64 * 1024;
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets)?;
    setrlimit(
        Resource::Memlock,
        Rlimit {
            current: Some(LIMIT),
            maximum: Some(LIMIT),
        },
    )?;
    let memory = SharedMemory::new(LIMIT)?;
    container.map(0, &memory, 0, LIMIT / 2, Access::ReadWrite)?;
    let numbers = |rule: &Rule| {
        *rule
            == Rule::LockedMemory {
                wanted: LIMIT,
                limit: Some(LIMIT),
                locked: Some(LIMIT / 2),
            }
    };
    let result = container.map(0x10_0000, &memory, 0, LIMIT, Access::ReadWrite);
    report.refused(
        "more memory than may be locked",
        result,
        (Errno::NOMEM, &numbers),
        &["65536", "32768"],
    )?;
    let large = SharedMemory::new(2 * GIB)?;
    let whole = |rule: &Rule| matches!(rule, Rule::LockedMemory { wanted, .. } if *wanted == 2 * GIB);
    let result = container.map(GIB, &large, 0, 2 * GIB, Access::ReadWrite);
    report.refused(
        "far more, before a part of it is locked",
        result,
        (Errno::NOMEM, &whole),
        &["2147483648"],
    )?;
    container.unmap_all()?;
    container.map(0x10_0000, &memory, 0, LIMIT, Access::ReadWrite)?;
    report.ok("as much as may be locked is mapped")
}

/// What a user may close before it is done, and what then still holds the group.
pub(crate) fn held(address: &str, report: &mut Report) -> Result<()> {
    let Owned {
        device,
        container,
        group,
        function,
    } = Owned::enabled(address)?;
    let number = function.group()?;
    let bar = device.region(0)?;
    let window = bar.window(0, PAGE)?;
    let before: Option<u32> = window.read(0);

    drop(group);
    container.map(0, &SharedMemory::new(PAGE)?, 0, PAGE, Access::ReadWrite)?;
    report.same(
        "the device keeps its group, and the container its IOMMU",
        &PAGE,
        &container.unmap(0, PAGE)?,
    )?;
    drop(container);
    report.same(
        "and the device answers without either",
        &before,
        &Some(bar.read_word(0)?),
    )?;
    drop((device, bar));
    let busy = |rule: &Rule| *rule == Rule::Held;
    report.refused(
        "a group of which a mapping lives",
        Group::open(number),
        (Errno::BUSY, &busy),
        &["mapping of a BAR"],
    )?;
    report.same(
        "the mapping still reads the device",
        &before,
        &window.read::<u32>(0),
    )?;
    drop(window);
    let group = Group::open(number)?;
    report.same("without it the group opens", &true, &group.status()?.viable)
}

/// A group of which another driver has a function.
pub(crate) fn not_viable(address: &str, report: &mut Report) -> Result<()> {
    let group = Group::open(Function::new(address).group()?)?;
    report.same(
        "the group says that it is not viable",
        &false,
        &group.status()?.viable,
    )?;
    let rule = |rule: &Rule| *rule == Rule::NotViable;
    let result = group.set_container(&Container::open()?);
    report.refused(
        "a group of which another driver has a function",
        result,
        (Errno::PERM, &rule),
        &["bind the others"],
    )
}

/// The same group, when that function was given to vfio-pci too.
pub(crate) fn viable(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let device = &owned.device;
    report.same("now the group is viable", &true, &owned.group.status()?.viable)?;
    let none = |rule: &Rule| *rule == Rule::NoReset;
    let result = device.reset();
    report.refused(
        "a reset where there is none",
        result,
        (Errno::INVAL, &none),
        &["reset of its bus"],
    )?;
    let group = owned.function.group()?;
    let reached: Vec<u32> = device
        .hot_reset_info()?
        .functions
        .iter()
        .map(|function| function.group)
        .collect();
    report.same(
        "a reset of the bus reaches both functions of the group",
        &vec![group, group],
        &reached,
    )?;
    device.hot_reset(&[&owned.group])?;
    report.ok("and resets them")
}

/// A function on the root bus.
pub(crate) fn no_bus(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let none = |rule: &Rule| *rule == Rule::NoHotReset;
    let words = ["bus or slot"];
    report.refused(
        "a bus that cannot be reset",
        owned.device.hot_reset_info(),
        (Errno::NODEV, &none),
        &words,
    )?;
    let result = owned.device.hot_reset(&[&owned.group]);
    report.refused("its reset", result, (Errno::NODEV, &none), &words)
}

/// An IOMMU that does not remap interrupts.
pub(crate) fn no_remapping(address: &str, report: &mut Report) -> Result<()> {
    let container = Container::open()?;
    let group = Group::open(Function::new(address).group()?)?;
    group.set_container(&container)?;
    let rule = |rule: &Rule| *rule == Rule::NoInterruptRemapping;
    report.refused(
        "an IOMMU without interrupt remapping",
        container.set_iommu(),
        (Errno::PERM, &rule),
        &["remap", "allow_unsafe_interrupts=1"],
    )?;
    report.same("the group is viable all the same", &true, &group.status()?.viable)
}
