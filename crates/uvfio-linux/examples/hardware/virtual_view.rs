//! A user of the virtual view: a function behind [`Hardware`] and a virtual device, as a front end would have it; and what
//! is checked of every function.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{
    Backing, DmaAccess, DmaMap, IrqAction, IrqData, IrqIndex, Policy, SetIrqs, VirtualDevice, region_index,
};
use uvfio_linux::device::{BarGrant, GroupSpace, Hardware, Parts};
use uvfio_linux::sysfs::Sysfs;
use uvfio_linux::vfio::{DeviceFile, Irq, SharedMemory, Word};
use uvfio_pci::View;

use crate::owned::{Eventfds, Function, Owned, Registers};
use crate::report::Report;

// Configuration space (PCI Local Bus 3.0, 6.1).
pub(crate) const COMMAND: u64 = 0x04;
pub(crate) const MEMORY: u16 = 1 << 1;
pub(crate) const BUS_MASTER: u16 = 1 << 2;
const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const INTERRUPT_PIN: u64 = 0x3d;
/// Vendor and device, revision and class, subsystem: (offset, bytes)
const IDENTITY: [(u64, usize); 3] = [(0x00, 4), (0x08, 4), (0x2c, 4)];

// Capabilities.
pub(crate) const POWER: u8 = 0x01;
pub(crate) const MSI: u8 = 0x05;
pub(crate) const MSIX: u8 = 0x11;
pub(crate) const EXPRESS: u8 = 0x10;
/// What may be shown, with the bytes that each has: MSI's with a 64-bit address, whose mask bits are 0 as yet
const SHOWN: [(u8, u64); 5] = [(POWER, 8), (MSI, 14), (MSIX, 12), (EXPRESS, 60), (0x13, 6)];

/// PMCSR in the power management capability (PCI Bus Power Management 1.2, 3.2.4).
const POWER_STATE: u64 = 4;
pub(crate) const D0: u16 = 0;
pub(crate) const D3HOT: u16 = 3;

/// Where MSI-X says that its table is, and its pending bits (PCI Local Bus 3.0, 6.8.2).
pub(crate) const MSIX_TABLE: u64 = 4;
pub(crate) const MSIX_PENDING: u64 = 8;
/// How far into a table entry its mask bit is.
pub(crate) const VECTOR_CONTROL: u64 = 12;

// PCI Express capability (PCI Express Base 5.0, 7.5.3).
const DEVICE_CONTROL: u64 = 0x08;
const INITIATE_FLR: u16 = 1 << 15;
const DEVICE_STATUS: u64 = 0x0a;
const TRANSACTIONS_PENDING: u16 = 1 << 5;

const PATIENCE: Duration = Duration::from_secs(20);

/// A function's user, and the function.
pub(crate) struct User {
    pub(crate) virt: Arc<VirtualDevice>,
    pub(crate) device: DeviceFile,
    /// Configuration space of the hardware, before anybody was there
    hardware: Vec<u8>,
    function: Function,
}

impl User {
    /// Opens a function, makes a virtual device of it, and attaches its first user.
    pub(crate) fn attach(address: &str) -> Result<Self> {
        Self::seeing(address, View::Virtual)
    }

    /// As [`attach`](Self::attach), in another view.
    pub(crate) fn seeing(address: &str, view: View) -> Result<Self> {
        let Owned {
            device,
            container,
            group,
            function,
        } = Owned::open(address)?;
        let config = device.config()?;
        let mut hardware = vec![0; usize::try_from(config.info().size)?];
        config.read(0, &mut hardware)?;
        let parts = Parts {
            name: address.to_owned(),
            space: GroupSpace::new(container)?,
            group,
            device: device.clone(),
            config: Some(Sysfs::default().open_config(address.parse()?, view == View::Raw)?),
            view,
            bars: BarGrant::Trapped,
        };
        let policy = Policy {
            view,
            ..Policy::default()
        };
        let virt = VirtualDevice::new(Hardware::new(parts)?, &policy)?;
        virt.attach(None);
        Ok(Self {
            virt,
            device,
            hardware,
            function,
        })
    }

    /// The user leaves, and the next one comes.
    pub(crate) fn next(&self) -> Result<()> {
        self.virt.detach()?;
        self.virt.attach(None);
        Ok(())
    }

    pub(crate) fn read<W: Word>(&self, region: u32, offset: u64) -> Result<W> {
        let mut bytes = [0; 8];
        self.virt.read(region, offset, &mut bytes[..W::BYTES])?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    pub(crate) fn write<W: Word>(&self, region: u32, offset: u64, value: W) -> Result<()> {
        let bytes = value.to_u64().to_le_bytes();
        Ok(self.virt.write(region, offset, &bytes[..W::BYTES])?)
    }

    pub(crate) fn config<W: Word>(&self, offset: u64) -> Result<W> {
        self.read(region_index::CONFIG, offset)
    }

    pub(crate) fn set_config<W: Word>(&self, offset: u64, value: W) -> Result<()> {
        self.write(region_index::CONFIG, offset, value)
    }

    /// All of configuration space.
    pub(crate) fn configuration(&self) -> Result<Vec<u8>> {
        let bytes = self.virt.region_info(region_index::CONFIG)?.bytes;
        let mut page = vec![0; usize::try_from(bytes)?];
        self.virt.read(region_index::CONFIG, 0, &mut page)?;
        Ok(page)
    }

    /// COMMAND as the hardware has it.
    pub(crate) fn hardware_command(&self) -> Result<u16> {
        Ok(self.device.config()?.read_word(COMMAND)?)
    }

    /// Identity, COMMAND and BARs as the hardware has them, none of it remembered by the kernel.
    pub(crate) fn hardware_header(&self) -> Result<Vec<(usize, u32)>> {
        let mut bytes = [0; 64];
        self.hardware_config()?.read_exact_at(&mut bytes, 0)?;
        let registers = [0x00, 0x08, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x2c];
        let word = |at: usize| Ok((at, u32::from_le_bytes(bytes[at..at + 4].try_into()?)));
        let mut words: Vec<_> = registers.into_iter().map(word).collect::<Result<_>>()?;
        // Without STATUS, and without INTx disable, which the kernel switches with messages.
        words.push((0x04, u32::from(u16::from_le_bytes([bytes[4], bytes[5]])) & !0x400));
        Ok(words)
    }

    /// Configuration space past the kernel's VFIO, as root has it.
    pub(crate) fn hardware_config(&self) -> Result<File> {
        let path = self.function.path("config");
        Ok(OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// Resets the function behind the back of everybody, as nothing restores what it loses by that.
    pub(crate) fn reset_behind_our_back(&self) -> Result<()> {
        let config = self.hardware_config()?;
        let control = self.hardware_capability(EXPRESS)? + DEVICE_CONTROL;
        let mut value = [0; 2];
        config.read_exact_at(&mut value, control)?;
        let value = u16::from_le_bytes(value) | INITIATE_FLR;
        config.write_all_at(&value.to_le_bytes(), control)?;
        // As long as a device may take (PCI Express Base 5.0, 6.6.2).
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    /// Where the hardware has a capability, whether it is shown or not.
    pub(crate) fn hardware_capability(&self, id: u8) -> Result<u64> {
        let byte = |at: u8| self.hardware.get(usize::from(at)).copied().unwrap_or_default();
        let mut at = self
            .hardware
            .get(CAPABILITIES as usize)
            .copied()
            .unwrap_or_default();
        while at != 0 && byte(at) != id {
            at = byte(at + 1);
        }
        match at {
            0 => Err(anyhow!("the hardware has no capability {id:#x}")),
            _ => Ok(at.into()),
        }
    }

    /// The power state that the hardware has (PCI Bus Power Management 1.2, 3.2.4).
    pub(crate) fn hardware_power_state(&self) -> Result<u16> {
        let state = self.hardware_capability(POWER)? + POWER_STATE;
        Ok(self.device.config()?.read_word::<u16>(state)? & 3)
    }

    /// Changes the power state by the virtual view, and waits until the hardware has it.
    pub(crate) fn set_power_state(&self, state: u16) -> Result<()> {
        self.set_config(self.capability(POWER)? + POWER_STATE, state)?;
        crate::owned::eventually("a change of the power state", || {
            self.hardware_power_state().is_ok_and(|has| has == state)
        })
    }

    /// Resets the function by the kernel, as root does.
    pub(crate) fn reset_by_sysfs(&self) -> Result<()> {
        Ok(std::fs::write(self.function.path("reset"), "1")?)
    }

    /// Where a capability is.
    pub(crate) fn capability(&self, id: u8) -> Result<u64> {
        let found = self.capabilities()?.into_iter().find(|(_, found)| *found == id);
        found
            .map(|(at, _)| at)
            .with_context(|| format!("capability {id:#x} is not shown"))
    }

    /// The capabilities that are shown: (offset, ID) each.
    fn capabilities(&self) -> Result<Vec<(u64, u8)>> {
        let mut found = Vec::new();
        let mut at = u64::from(self.config::<u8>(CAPABILITIES)?);
        while at != 0 && found.len() < 48 {
            found.push((at, self.config(at)?));
            at = u64::from(self.config::<u8>(at + 1)?);
        }
        Ok(found)
    }

    /// Reads MSI-X's table or its pending bits.
    pub(crate) fn window<W: Word>(&self, which: u64, offset: u64) -> Result<W> {
        let (bar, at) = self.msix(which)?;
        self.read(bar, at + offset)
    }

    /// Writes there.
    pub(crate) fn set_window<W: Word>(&self, which: u64, offset: u64, value: W) -> Result<()> {
        let (bar, at) = self.msix(which)?;
        self.write(bar, at + offset, value)
    }

    /// The BAR and the offset in it of MSI-X's table or its pending bits.
    fn msix(&self, which: u64) -> Result<(u32, u64)> {
        let place: u32 = self.config(self.capability(MSIX)? + which)?;
        Ok((place & 7, u64::from(place & !7)))
    }

    /// Has an interrupt's vectors, from the first on, signal the user's eventfds.
    pub(crate) fn signal(&self, index: IrqIndex, eventfds: &Eventfds) -> Result<()> {
        self.eventfds(index, 0, IrqAction::Trigger, &eventfds.all())
    }

    /// SET_IRQS with eventfds for vectors from `first` on.
    pub(crate) fn eventfds(
        &self,
        index: IrqIndex,
        first: u32,
        action: IrqAction,
        files: &[Option<BorrowedFd<'_>>],
    ) -> Result<()> {
        let own = |file: &Option<BorrowedFd<'_>>| file.map(|file| file.try_clone_to_owned()).transpose();
        let data = IrqData::EventFd(files.iter().map(own).collect::<Result<_, _>>()?);
        self.interrupts(index, first, u32::try_from(files.len())?, action, data)
    }

    /// SET_IRQS without eventfds: masks or unmasks INTx, or disables an interrupt (trigger 0).
    pub(crate) fn set_interrupt(&self, index: IrqIndex, count: u32, action: IrqAction) -> Result<()> {
        self.interrupts(index, 0, count, action, IrqData::None)
    }

    fn interrupts(
        &self,
        index: IrqIndex,
        start: u32,
        count: u32,
        action: IrqAction,
        data: IrqData,
    ) -> Result<()> {
        Ok(self.virt.set_irqs(SetIrqs {
            index: index as u32,
            start,
            count,
            action,
            data,
        })?)
    }

    /// Sizes each BAR as software does, by writing ones, and compares with what sysfs says of the function.
    pub(crate) fn bars(&self, report: &mut Report) -> Result<()> {
        let resource = self.function.text("resource")?;
        let mut expected = Vec::new();
        for line in resource.lines().take(6) {
            let mut numbers = line.split_whitespace().map(|word| {
                let digits = word.strip_prefix("0x").unwrap_or(word);
                u64::from_str_radix(digits, 16)
            });
            let first = numbers.next().context("a first address")??;
            let last = numbers.next().context("a last address")??;
            expected.push(if last == 0 { 0 } else { last - first + 1 });
        }
        let mut sizes = vec![0; 6];
        let mut bar = 0;
        while bar < 6 {
            let at = BAR0 + 4 * bar;
            self.set_config(at, u32::MAX)?;
            let low: u32 = self.config(at)?;
            self.set_config(at, 0_u32)?;
            let wide = low & 7 == 4;
            let high = if wide {
                self.set_config(at + 4, u32::MAX)?;
                let high: u32 = self.config(at + 4)?;
                self.set_config(at + 4, 0_u32)?;
                high
            } else {
                u32::MAX
            };
            let flags = if low & 1 == 1 { 3 } else { 0xf };
            let mask = u64::from(high) << 32 | u64::from(low & !flags);
            if low != 0 {
                sizes[usize::try_from(bar)?] = (!mask).wrapping_add(1);
            }
            bar += if wide { 2 } else { 1 };
        }
        report.same("BARs sized by ones are as large as sysfs says", &expected, &sizes)
    }

    /// Identity as the hardware's, and nothing shown but what is declared.
    pub(crate) fn page(&self, ids: &[u8], report: &mut Report) -> Result<()> {
        let page = self.configuration()?;
        for (at, bytes) in IDENTITY {
            let at = usize::try_from(at)?;
            let of = |page: &[u8]| page[at..at + bytes].to_vec();
            let what = format!(
                "registers {at:#04x} to {:#04x} are the hardware's",
                at + bytes - 1
            );
            report.same(&what, &of(&self.hardware), &of(&page))?;
        }
        let line = self.device.irq(Irq::Intx)?.count > 0;
        let pin = *self
            .hardware
            .get(usize::try_from(INTERRUPT_PIN)?)
            .context("a pin")?;
        report.same(
            "the interrupt pin is the hardware's, where the kernel has INTx",
            &(if line { pin } else { 0 }),
            &self.config::<u8>(INTERRUPT_PIN)?,
        )?;
        let capabilities = self.capabilities()?;
        let shown: Vec<u8> = capabilities.iter().map(|(_, id)| *id).collect();
        report.same("these capabilities are shown", &ids.to_vec(), &shown)?;
        let covered = |at: u64| {
            capabilities.iter().any(|(start, id)| {
                let bytes = SHOWN
                    .iter()
                    .find(|(shown, _)| shown == id)
                    .map_or(0, |shown| shown.1);
                (*start..start + bytes).contains(&at)
            })
        };
        let not_zero: Vec<(u64, u8)> = (0..)
            .zip(page)
            .skip(0x40)
            .filter(|(at, byte)| *byte != 0 && !covered(*at))
            .collect();
        report.same("every byte outside them is 0", &Vec::new(), &not_zero)
    }

    /// What the kernel asks of the owner comes to the user; signalled as the kernel would.
    pub(crate) fn notices(&self, report: &mut Report) -> Result<()> {
        for (index, irq, what) in [
            (
                IrqIndex::Req,
                Irq::Request,
                "the kernel's wish to have the device back comes to the user",
            ),
            (
                IrqIndex::Err,
                Irq::Error,
                "an error that the device reports comes to the user",
            ),
        ] {
            if self.device.irq(irq)?.count == 0 {
                continue;
            }
            let eventfds = Eventfds::new(1)?;
            self.signal(index, &eventfds)?;
            self.device.trigger(irq, 0..1)?;
            report.same(what, &vec![(0, 1)], &eventfds.after(0)?)?;
        }
        Ok(())
    }

    /// Resets the function by its PCI Express capability, and waits as a driver does.
    pub(crate) fn function_level_reset(&self) -> Result<()> {
        let express = self.capability(EXPRESS)?;
        let control: u16 = self.config(express + DEVICE_CONTROL)?;
        self.set_config(express + DEVICE_CONTROL, control | INITIATE_FLR)?;
        crate::owned::eventually("a function level reset", || {
            self.config::<u16>(express + DEVICE_STATUS)
                .is_ok_and(|status| status & TRANSACTIONS_PENDING == 0)
        })?;
        // Bus mastering comes last, within the time that drivers leave a function alone (PCI Express Base 5.0, 6.6.2).
        self.virt.settle();
        Ok(())
    }

    /// Resets the function by request.
    pub(crate) fn reset(&self) -> Result<()> {
        let progress = self.virt.reset(PATIENCE)?;
        let done = progress == uvfio_core::ResetProgress::Done;
        done.then_some(())
            .ok_or_else(|| anyhow!("a reset takes longer than {PATIENCE:?}"))
    }
}

/// How many MSI messages a function is shown with, all of which can then be enabled.
pub(crate) fn messages(address: &str, count: usize, report: &mut Report) -> Result<()> {
    let user = User::attach(address)?;
    let shown = user.virt.irq_info(IrqIndex::Msi as u32)?.count;
    report.same(
        "as many MSI messages are shown as the kernel grants",
        &count,
        &usize::try_from(shown)?,
    )?;
    user.signal(IrqIndex::Msi, &Eventfds::new(count)?)?;
    report.same("and all of them are had", &count, &user.function.vectors())?;
    user.virt.detach()?;
    report.same(
        "none are left when the user has gone",
        &0,
        &user.function.vectors(),
    )
}

impl Registers for User {
    fn read<W: Word>(&self, register: u64) -> Result<W> {
        self.read(0, register)
    }

    fn write<W: Word>(&self, register: u64, value: W) -> Result<()> {
        self.write(0, register, value)
    }
}

/// A user's memory: a file, and its mapping here.
pub(crate) struct UserMemory {
    file: OwnedFd,
    pub(crate) memory: SharedMemory,
}

impl UserMemory {
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let file = rustix::fs::memfd_create("user", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, bytes)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let memory = SharedMemory::of_file(file.as_fd(), 0, bytes)?;
        Ok(Self { file, memory })
    }

    /// Has the user's device reach all of it.
    pub(crate) fn map(&self, user: &User, iova: u64, access: DmaAccess) -> Result<()> {
        Ok(user.virt.dma_map(DmaMap {
            iova,
            bytes: self.memory.bytes(),
            access,
            backing: Some(Backing {
                file: self.file.try_clone()?,
                offset: 0,
            }),
        })?)
    }
}
