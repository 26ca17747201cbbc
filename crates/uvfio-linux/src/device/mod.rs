//! A PCI function that exists, as a [`uvfio_core::Device`]: what a user of the virtual view reaches through it.
//!
//! ```text
//! Hardware           the calls of the virtual device, and what may happen when
//!   declare          the blueprint, out of bytes that are not believed
//!   registers        the hardware's own COMMAND and power state
//!   verify           whether the hardware is as it was, and BARs that it has lost
//!   baseline         the same for whoever has it when its owner's process has died
//!   reset            resets, power states, and the quiet between users
//!   interrupts       the user's eventfds, which the kernel signals, and latches for what is masked
//!   dma              the container as the user's address space
//!   views            the function's own registers, for filtered and raw
//!   grant            what of the BARs the user may map, and by what
//! ```
//!
//! Configuration space is the model's in the virtual view: of the hardware's registers only COMMAND and the power state
//! are ever written, and only with what the model says. In the views that show the function's own registers the model
//! says which bits are read and written there (`views`). BARs are reached by a call of the kernel for each access, the
//! registers of the MSI-X table not at all; or, by a [`BarGrant`], mapped by the user, whose COMMAND then has them
//! answer in the hardware, too. Memory is reached through the IOMMU, where the user has mapped it, and nowhere else.
//!
//! Once [`Hardware::new`] has returned, nothing is opened any more: there are only reads, writes, mappings of memory
//! that the user gave, `poll`, and requests of VFIO to the descriptors that it was made of. So the process can be
//! confined. The requests are `VFIO_DEVICE_SET_IRQS` and `VFIO_DEVICE_RESET`, after a refusal
//! `VFIO_DEVICE_GET_IRQ_INFO`, and of the container `VFIO_IOMMU_MAP_DMA`, `VFIO_IOMMU_UNMAP_DMA`,
//! `VFIO_CHECK_EXTENSION` and `VFIO_IOMMU_GET_INFO`.

mod baseline;
mod declare;
mod dma;
mod error;
mod grant;
mod interrupts;
#[cfg(test)]
mod made_up;
mod registers;
mod reset;
mod verify;
mod views;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use uvfio_core::{Device, DeviceError, Host, Iommu, Mappable, Routes, Width};
use uvfio_pci::{Blueprint, ByteEnables, PowerState, ResetKind, View};

pub use self::baseline::Baseline;
use self::baseline::Found;
pub use self::declare::Presented;
use self::declare::{Declared, Seen};
pub use self::dma::GroupSpace;
use self::dma::Space;
pub use self::error::{BarRule, HardwareError, Lie};
pub use self::grant::BarGrant;
use self::grant::Mappings;
use self::interrupts::Interrupts;
use self::registers::Registers;
use self::reset::{Looks, Wanted};
use self::verify::Held;
use crate::sysfs::ConfigFile;
use crate::vfio::{DeviceFile, Group, Region, VfioError};

/// What a [`Hardware`] is made of; all of it open, by whomever.
#[derive(Debug)]
pub struct Parts {
    /// The device's name, as on the command line.
    pub name: String,
    /// The address space of its group: all functions of the group that this process has are made of the same one.
    pub space: Arc<GroupSpace>,
    /// The function's IOMMU group.
    pub group: Group,
    /// The function.
    pub device: DeviceFile,
    /// Its configuration space through `/sys`, where there is a `/sys`: what the hardware holds of it, no copy of the
    /// kernel's.
    pub config: Option<ConfigFile>,
    /// What its user will see of it.
    pub view: View,
    /// How its user reaches its BARs.
    pub bars: BarGrant,
}

/// A PCI function that exists, for one user after another.
///
/// What its user is shown, in the virtual view: identity, BARs, power management, INTx where the kernel has it, MSI
/// with as many messages as the kernel granted at a trial, MSI-X with as many vectors (256 at most), PCI Express,
/// advanced features. There is no expansion ROM, and nothing else of its configuration space.
#[derive(Debug)]
pub struct Hardware {
    name: &'static str,
    view: View,
    /// Configuration space when it was quiet, for the views that show it.
    page: Option<Vec<u8>>,
    declared: Declared,
    bars: [Option<Region>; 6],
    grant: BarGrant,
    mappings: Mappings,
    registers: Registers,
    /// What the registers held when it was quiet.
    quiet: Held,
    interrupts: Interrupts,
    /// Held over what is switched by it, so that what the hardware has is what was wanted last: requests about
    /// interrupts, accesses of configuration space, and at the most the second for which a function may be silent whose
    /// BARs are put back. Never over a reset or a change of the power state, nor where something of the user's is
    /// waited for: the thread that answers the user takes it.
    wanted: Mutex<Wanted>,
    looks: Looks,
    resettable: bool,
    /// A failed access has been noted in the log.
    noted: AtomicBool,
    device: DeviceFile,
    iommu: Arc<Space>,
    /// Closed last: without it the device would lose its IOMMU.
    _group: Group,
}

impl Hardware {
    /// Takes a function over: bus mastering off, no interrupts, no mappings, reset where it can be, and compared with
    /// what it was before. Where it can't be reset ([`resettable`](Device::resettable)) that is in the log: whatever
    /// the last user left in it is there.
    ///
    /// It takes as long as the reset, which may be seconds. For the life of the process it keeps a copy of the name.
    ///
    /// # Errors
    /// Where the kernel refuses something, what the device says of itself cannot be true, or the reset changed it.
    pub fn new(parts: Parts) -> Result<Arc<Self>, HardwareError> {
        let Parts {
            name,
            space,
            group,
            device,
            config: hardware_config,
            view,
            bars: grant,
        } = parts;
        let vfio = |source| HardwareError::Vfio {
            device: name.clone(),
            source,
        };
        let lies = |lie| HardwareError::Lie {
            device: name.clone(),
            lie,
        };
        let Found {
            config,
            page,
            hardware: hardware_config,
        } = Found::of(&device, hardware_config)?;
        if view == View::Raw && !hardware_config.as_ref().is_some_and(|config| config.writable) {
            return Err(HardwareError::NotWritable { device: name });
        }
        let config_bytes = config.info().size;
        let resettable = device.info().map_err(vfio)?.reset;
        let bars = bars(&device).map_err(vfio)?;
        let (mut interrupts, granted) = Interrupts::new(&device)?;
        let declared = Declared::new(&Seen {
            page: &page,
            bars: bar_bytes(&bars),
            messages: granted.messages,
            vectors: granted.vectors,
            line: granted.line,
            resettable,
        })
        .map_err(lies)?;
        interrupts.set_maskable(declared.masks_messages());
        let mappings = Mappings::new(grant, &device, &bars, &declared.tables)?;
        for finding in &declared.oddities {
            tracing::warn!(device = name, %finding, "the capability chain is odd, which nobody will see");
        }
        let registers = Registers::new(Box::new(config), hardware_config, &declared);
        tracing::info!(
            device = name,
            "after a reset the first {} bytes of configuration space are verified with the hardware, the rest with the kernel",
            registers.asked_of_hardware()
        );
        let quiet = registers.quieten().map_err(vfio)?;
        let mut hardware = Self {
            name: name.clone().leak(),
            view,
            page: None,
            declared,
            bars,
            grant,
            mappings,
            registers,
            quiet,
            interrupts,
            wanted: Mutex::default(),
            looks: Looks::new(),
            resettable,
            noted: AtomicBool::new(false),
            device,
            iommu: Arc::new(space.part()),
            _group: group,
        };
        if resettable {
            let reset = hardware.reset(ResetKind::Conventional);
            let device = name.clone();
            reset.map_err(|DeviceError { what: why, .. }| HardwareError::Reset { device, why })?;
        } else {
            tracing::warn!(
                device = name,
                "the kernel has no way to reset it: it gets one user, and no second"
            );
        }
        if view != View::Virtual {
            hardware.page = Some(hardware.registers.page(config_bytes).map_err(vfio)?);
        }
        Ok(Arc::new(hardware))
    }

    /// Says once that an access of a BAR failed: a device that is off or gone would fill the log.
    fn note(&self, error: &VfioError) {
        if !self.noted.swap(true, Ordering::Relaxed) {
            tracing::error!(
                device = self.name, %error,
                "an access failed; this one and others that fail read all ones, without another word"
            );
        }
    }

    fn region(&self, bar: u8) -> Option<&Region> {
        self.bars.get(usize::from(bar))?.as_ref()
    }

    fn failure(&self, what: &dyn Display) -> DeviceError {
        DeviceError {
            device: self.name,
            what: what.to_string(),
        }
    }
}

impl Device for Hardware {
    fn name(&self) -> &'static str {
        self.name
    }

    fn blueprint(&self) -> Blueprint<'_> {
        self.declared.blueprint()
    }

    fn attach(&self, host: Host) {
        // It is quiet and reset: `new` or the last user's detach has seen to that, and could wait for it.
        self.noted.store(false, Ordering::Relaxed);
        if self.view != View::Virtual
            && let Err(error) = self.registers.stop_decoding(self.view)
        {
            self.note(&error);
        }
        if self.grant != BarGrant::Trapped {
            let (device, grant) = (self.name, self.grant.name());
            let gets = match self.grant {
                BarGrant::DeviceFd => {
                    "is given the function's descriptor, with which it can do whatever the kernel's VFIO allows"
                }
                BarGrant::DmaBuf | BarGrant::Trapped => "is given parts of BARs to map",
            };
            tracing::warn!(target: "audit", "{device}: its user {gets} (--bars {grant})");
        }
        self.interrupts.attach(host);
    }

    fn detach(&self) {
        self.leave();
        self.interrupts.detach();
    }

    fn config_page(&self) -> Option<&[u8]> {
        self.page.as_deref()
    }

    fn config_read(&self, register: u16, enables: ByteEnables) -> u32 {
        self.read_register(register, enables)
    }

    fn config_write(&self, register: u16, enables: ByteEnables, value: u32, keep: u32) {
        self.write_register(register, enables, value, keep);
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        let mut bytes = [0; 8];
        let wanted = bytes.get_mut(..width as usize).unwrap_or_default();
        let Some(region) = self.region(bar) else {
            return u64::MAX;
        };
        self.look_at_times();
        let read = |wanted: &mut [u8]| match region.read(offset, wanted) {
            Ok(()) => {}
            Err(error) => {
                self.note(&error);
                wanted.fill(0xff);
            }
        };
        read(wanted);
        // A function whose BARs are elsewhere does not answer.
        if wanted.iter().all(|byte| *byte == 0xff) && self.heal() {
            read(wanted);
        }
        u64::from_le_bytes(bytes)
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..width as usize).unwrap_or_default();
        self.look_at_times();
        if let Some(region) = self.region(bar)
            && let Err(error) = region.write(offset, bytes)
        {
            self.note(&error);
        }
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        self.mappings.of(bar)
    }

    /// Whether the kernel can reset it. A function that it can't is no user's after its first one: its
    /// [`reset`](Device::reset) fails.
    fn resettable(&self) -> bool {
        self.resettable
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        self.reset_hardware(kind)
    }

    fn power(&self, _from: PowerState, to: PowerState) -> Result<(), DeviceError> {
        let changed = self.change_power(to);
        // The kernel puts COMMAND back that it saved on the way down.
        if !self.heal() {
            self.again();
        }
        changed
    }

    fn direct_interrupts(&self) -> bool {
        true
    }

    fn routes_changed(&self, routes: &Routes) {
        self.want_interrupts(routes);
    }

    fn intx_masked(&self, masked: bool) {
        self.interrupts.mask_line(masked);
    }

    fn iommu(&self) -> Option<Arc<dyn Iommu>> {
        Some(self.iommu.clone())
    }

    fn memory_changed(&self, on: bool) {
        self.want_memory(on);
    }

    fn bus_master_changed(&self, on: bool) {
        self.want_bus_master(on);
    }
}

/// The regions of the BARs that are there.
fn bars(device: &DeviceFile) -> Result<[Option<Region>; 6], VfioError> {
    let mut bars = [const { None }; 6];
    for (index, bar) in (0..).zip(&mut bars) {
        let region = device.region(index)?;
        *bar = (region.info().size > 0).then_some(region);
    }
    Ok(bars)
}

/// How many bytes each BAR has; 0: there is none.
fn bar_bytes(bars: &[Option<Region>; 6]) -> [u64; 6] {
    bars.each_ref()
        .map(|region| region.as_ref().map_or(0, |region| region.info().size))
}
