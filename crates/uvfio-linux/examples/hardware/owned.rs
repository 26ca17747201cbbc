//! A function that this program owns, alone in its container, and what sysfs says about it.

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use uvfio_linux::vfio::{Container, DeviceFile, Group, Irq, Window, Word};

/// How long a device may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long is waited for what must not come.
const QUIET: Duration = Duration::from_millis(100);

/// PCI's register for what a function may do.
pub(crate) const COMMAND: u64 = 0x04;
/// Memory space and bus master on.
pub(crate) const MEMORY_AND_MASTER: u16 = 0x6;

pub(crate) struct Owned {
    pub(crate) device: DeviceFile,
    pub(crate) container: Container,
    pub(crate) group: Group,
    pub(crate) function: Function,
}

/// A function as sysfs knows it.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) address: String,
}

impl Function {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
        }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        PathBuf::from("/sys/bus/pci/devices")
            .join(&self.address)
            .join(file)
    }

    pub(crate) fn text(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The number of its IOMMU group.
    pub(crate) fn group(&self) -> Result<u32> {
        let link = fs::read_link(self.path("iommu_group"))?;
        let name = link
            .file_name()
            .context("a group has a name")?
            .to_string_lossy()
            .into_owned();
        Ok(name.parse()?)
    }

    /// How many vectors by message the kernel has for it at this moment.
    pub(crate) fn vectors(&self) -> usize {
        fs::read_dir(self.path("msi_irqs")).map_or(0, Iterator::count)
    }
}

impl Owned {
    /// Opens a function that vfio-pci has.
    pub(crate) fn open(address: &str) -> Result<Self> {
        let function = Function::new(address);
        let container = Container::open()?;
        let group = Group::open(function.group()?)?;
        group.set_container(&container)?;
        container.set_iommu()?;
        let device = group.device(address)?;
        Ok(Self {
            device,
            container,
            group,
            function,
        })
    }

    /// The same, with memory and bus master on.
    pub(crate) fn enabled(address: &str) -> Result<Self> {
        let owned = Self::open(address)?;
        owned.enable()?;
        Ok(owned)
    }

    /// Turns memory and bus master on.
    pub(crate) fn enable(&self) -> Result<()> {
        let config = self.device.config()?;
        let command: u16 = config.read_word(COMMAND)?;
        Ok(config.write_word(COMMAND, command | MEMORY_AND_MASTER)?)
    }

    /// All of configuration space, as the device's user sees it.
    pub(crate) fn configuration(&self) -> Result<Vec<u8>> {
        let config = self.device.config()?;
        let mut bytes = vec![0; usize::try_from(config.info().size)?];
        config.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A device's registers in BAR 0, whichever way they are reached.
pub(crate) trait Registers {
    fn read<W: Word>(&self, register: u64) -> Result<W>;
    fn write<W: Word>(&self, register: u64, value: W) -> Result<()>;
}

impl<R: Registers> Registers for &R {
    fn read<W: Word>(&self, register: u64) -> Result<W> {
        R::read(self, register)
    }

    fn write<W: Word>(&self, register: u64, value: W) -> Result<()> {
        R::write(self, register, value)
    }
}

/// A function that vfio-pci has, with BAR 0 mapped.
pub(crate) struct Mapped {
    pub(crate) owned: Owned,
    window: Window,
}

impl Mapped {
    pub(crate) fn new(owned: Owned) -> Result<Self> {
        let bar = owned.device.region(0)?;
        let window = bar.window(0, bar.info().size)?;
        Ok(Self { owned, window })
    }
}

impl Registers for Mapped {
    fn read<W: Word>(&self, register: u64) -> Result<W> {
        self.window
            .read(register)
            .context("a register outside the window")
    }

    fn write<W: Word>(&self, register: u64, value: W) -> Result<()> {
        self.window
            .write(register, value)
            .context("a register outside the window")
    }
}

/// Some eventfds, and which of them were signalled.
pub(crate) struct Eventfds(Vec<OwnedFd>);

impl Eventfds {
    pub(crate) fn new(count: usize) -> Result<Self> {
        let new = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self((0..count).map(new).collect::<Result<_, _>>()?))
    }

    /// As [`DeviceFile::set_eventfds`] takes them.
    pub(crate) fn all(&self) -> Vec<Option<BorrowedFd<'_>>> {
        self.0.iter().map(|file| Some(file.as_fd())).collect()
    }

    pub(crate) fn get(&self, number: usize) -> Result<BorrowedFd<'_>> {
        Ok(self.0.get(number).context("an eventfd")?.as_fd())
    }

    /// Those that are signalled, with how often: waits for `number` to be, and then a moment for what must not come.
    pub(crate) fn after(&self, number: usize) -> Result<Vec<(usize, u64)>> {
        let patience = Timespec::try_from(PATIENCE)?;
        poll(
            &mut [PollFd::new(&self.get(number)?, PollFlags::IN)],
            Some(&patience),
        )?;
        self.quiet()
    }

    /// Waits for one, and gives how often it was signalled.
    pub(crate) fn next(&self, number: usize) -> Result<u64> {
        let patience = Timespec::try_from(PATIENCE)?;
        let file = self.get(number)?;
        if poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&patience))? == 0 {
            bail!("eventfd {number} was not signalled in {PATIENCE:?}");
        }
        let mut count = [0; 8];
        rustix::io::read(file, &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Adds to one.
    pub(crate) fn write(&self, number: usize, count: u64) -> Result<()> {
        rustix::io::write(self.get(number)?, &count.to_ne_bytes())?;
        Ok(())
    }

    /// Those that are signalled after a moment.
    pub(crate) fn quiet(&self) -> Result<Vec<(usize, u64)>> {
        std::thread::sleep(QUIET);
        let mut signalled = Vec::new();
        for (number, file) in self.0.iter().enumerate() {
            let mut count = [0; 8];
            match rustix::io::read(file, &mut count) {
                Ok(_) => signalled.push((number, u64::from_ne_bytes(count))),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(signalled)
    }
}

/// Has all eventfds signalled by an interrupt's vectors, from the first on.
pub(crate) fn signal(device: &DeviceFile, irq: Irq, eventfds: &Eventfds) -> Result<()> {
    Ok(device.set_eventfds(irq, 0, &eventfds.all())?)
}

/// How often this process's threads of these names have been put to sleep or off the processor: (name, times) each. One
/// that sleeps and has not been since has made no system call.
pub(crate) fn switches(names: &[&str]) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).context("a line of a thread's status")
        };
        let name = value("Name:")?;
        if names.contains(&name) {
            let times = |key| anyhow::Ok(value(key)?.parse::<u64>()?);
            let times = times("voluntary_ctxt_switches:")? + times("nonvoluntary_ctxt_switches:")?;
            found.push((name.to_owned(), times));
        }
    }
    if found.len() < names.len() {
        bail!("of the threads {names:?} there are only {found:?}");
    }
    Ok(found)
}

/// Waits until something is done.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            bail!("{what} did not end in {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
