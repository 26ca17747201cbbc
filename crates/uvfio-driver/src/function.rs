//! One function, opened.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uvfio_core::Device;
use uvfio_linux::sysfs::Address;
use uvfio_pci::chain::{self, Item};
use uvfio_pci::tables::{self, express, header, msi, msix, power};
use uvfio_pci::{Field, Layout, PowerState, Table};

use crate::answering::Answering;
use crate::iova::Allocator;
use crate::transport::CONFIG_REGION;
use crate::{
    Bar, CapabilityAt, Config, DmaBuffer, DriverError, Events, InProcess, Interrupts, IrqKind, Result,
    Socket, Structure, Transport, Vfio,
};

/// What is taken for usable where the other side does not tell: 39 address bits, which every IOMMU has, without the
/// window at 0xfee00000 in which x86 takes writes for interrupts.
const ASSUMED_USABLE: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];

/// How long a function may take from D3hot to D0 (PCI Bus Power Management 1.2, 5.6.1).
const RECOVERY: Duration = Duration::from_millis(10);

/// How long a reset may go on behind its answer; the longest that Linux waits for a device.
const SETTLING: Duration = Duration::from_secs(60);

/// Which memory of the other side's is mapped for BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MapBars {
    /// None: every access is a message, or a call of the kernel.
    Never,
    /// Memory of tmpfs (a memfd) that is sealed against shrinking: whatever the server does, an access to it succeeds.
    /// And what the kernel lets be mapped of a real function, whether the kernel itself gave it
    /// ([`Vfio`]) or a server that owns it: see [`Bar`] for what ends the program then.
    #[default]
    Sealed,
    /// Any memory. A server that cuts its file short ends this program by SIGBUS; for servers that you trust.
    Always,
}

/// How a function is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Which memory of the other side's is mapped for BARs.
    pub map_bars: MapBars,
}

/// Which function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface.
    pub class: [u8; 3],
}

/// A PCI function, in the hands of its driver.
///
/// Its parts (BARs, buffers, interrupts) stay usable for as long as they live, also when this is dropped before them;
/// the function is given back when the last has gone.
#[derive(Clone)]
pub struct Function {
    shared: Arc<Shared>,
}

/// What the parts of a function have in common.
pub(crate) struct Shared {
    transport: Mutex<Box<dyn Transport>>,
    iovas: Mutex<Allocator>,
    pub(crate) layout: Box<Layout>,
    pub(crate) capabilities: Vec<CapabilityAt>,
    pub(crate) config_bytes: u64,
    pub(crate) interrupts_in_use: AtomicBool,
    /// What is to be written again when the function comes back from D3hot.
    asleep: Mutex<Vec<(Register, u32)>>,
    pub(crate) answering: Answering,
    options: Options,
}

/// A register that loses its value in D3hot, by its table and field.
type Register = (&'static Table, Field);

/// Registers that are the driver's, and that a function may forget. In this order they are written again.
const FORGOTTEN: [Register; 6] = [
    (&header::HEADER, header::IO),
    (&header::HEADER, header::MEMORY),
    (&header::HEADER, header::BUS_MASTER),
    (&msi::MSI, msi::GRANTED),
    (&msi::MSI, msi::ENABLE),
    (&msix::MSIX, msix::ENABLE),
];

impl Shared {
    pub(crate) fn transport(&self) -> MutexGuard<'_, Box<dyn Transport>> {
        // A panic while it was held has left a request unanswered at worst; that shows at the next one.
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn iovas(&self) -> MutexGuard<'_, Allocator> {
        self.iovas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function {
    /// Opens the function behind a vfio-user socket.
    ///
    /// # Errors
    /// Where there is no server, or it has no function with a type 0 header.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(Socket::connect(path)?)
    }

    /// Opens a function of this machine's through the kernel's VFIO, by its address, such as `0000:01:00.0`. See
    /// [`Vfio::open`] for what it takes.
    ///
    /// # Errors
    /// Where there is no such function, it is not to be had, or it has no type 0 header.
    pub fn open_vfio(address: &str) -> Result<Self> {
        Self::open(Vfio::open(address)?)
    }

    /// Opens the function that a user of a program has named: by a PCI address the machine's own
    /// ([`open_vfio`](Self::open_vfio)), by anything else the one behind the socket of that path
    /// ([`connect`](Self::connect)). A socket whose name looks like an address is `./00:03.0`.
    ///
    /// # Errors
    /// As those two.
    pub fn open_target(target: impl AsRef<OsStr>) -> Result<Self> {
        let target = target.as_ref();
        match target.to_str() {
            Some(text) if text.parse::<Address>().is_ok() => Self::open_vfio(text),
            _ => Self::connect(target),
        }
    }

    /// Makes a device virtual in this process, and opens it.
    ///
    /// # Errors
    /// Where the device can't be made virtual.
    pub fn in_process(device: Arc<dyn Device>) -> Result<Self> {
        Self::open(InProcess::over(device)?)
    }

    /// Opens the function at the other end of a transport: it is in D0 then, and its BARs answer. Bus mastering is as
    /// it was (off, for a function that nobody has used).
    ///
    /// # Errors
    /// Where it has no type 0 header, or does not answer.
    pub fn open(transport: impl Transport + 'static) -> Result<Self> {
        Self::open_with(transport, Options::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(transport: impl Transport + 'static, options: Options) -> Result<Self> {
        let mut transport: Box<dyn Transport> = Box::new(transport);
        let bytes = transport.region(CONFIG_REGION)?.bytes;
        let length = usize::try_from(bytes)
            .ok()
            .filter(|bytes| matches!(bytes, 256 | 4096));
        let Some(length) = length else {
            let why = format!("it has {bytes} bytes; 256 or 4096 are possible");
            return Err(DriverError::Config(why));
        };
        let mut page = vec![0; length];
        transport.read(CONFIG_REGION, 0, &mut page)?;
        let (layout, findings) =
            Layout::from_dump(&page).map_err(|error| DriverError::Config(error.to_string()))?;
        for finding in findings.iter() {
            tracing::debug!(%finding, "configuration space");
        }
        let layout = Box::new(layout);
        let capabilities = capabilities(&page, &layout);
        let usable = transport
            .usable_iova()?
            .unwrap_or_else(|| ASSUMED_USABLE.to_vec());
        let function = Self {
            shared: Arc::new(Shared {
                transport: Mutex::new(transport),
                iovas: Mutex::new(Allocator::new(usable)),
                layout,
                capabilities,
                config_bytes: bytes,
                interrupts_in_use: AtomicBool::new(false),
                asleep: Mutex::default(),
                answering: Answering::default(),
                options,
            }),
        };
        if function.power_state()? != PowerState::D0 {
            function.set_power_state(PowerState::D0)?;
        }
        let header = function.header()?;
        header.set(&header::MEMORY, 1)?;
        header.set(&header::IO, 1)?;
        Ok(function)
    }

    /// Configuration space.
    #[must_use]
    pub fn config(&self) -> Config {
        Config::new(Arc::clone(&self.shared))
    }

    fn header(&self) -> Result<Structure> {
        self.config().need(&header::HEADER)
    }

    /// Which function it is.
    ///
    /// # Errors
    /// Where the other side did not answer; so for all that follow.
    pub fn identity(&self) -> Result<Identity> {
        let header = self.header()?;
        Ok(Identity {
            vendor: header.get(&header::VENDOR)? as u16,
            device: header.get(&header::DEVICE)? as u16,
            revision: header.get(&header::REVISION)? as u8,
            class: [
                header.get(&header::BASE_CLASS)? as u8,
                header.get(&header::SUBCLASS)? as u8,
                header.get(&header::INTERFACE)? as u8,
            ],
        })
    }

    /// BAR 0 to 5.
    ///
    /// # Errors
    /// Where the function has it not.
    pub fn bar(&self, index: u8) -> Result<Bar> {
        Bar::open(&self.shared, index, self.shared.options.map_bars)
    }

    /// Lets the device reach memory and send interrupts as messages, or stops it from both.
    ///
    /// # Errors
    /// See [`identity`](Self::identity).
    pub fn set_bus_master(&self, on: bool) -> Result<()> {
        self.header()?.set(&header::BUS_MASTER, on.into())
    }

    /// The last address that the device can reach, for devices that drive fewer than 64 address bits: buffers made
    /// from now on lie below or at it.
    pub fn set_dma_limit(&self, last: u64) {
        self.shared.iovas().set_limit(last);
    }

    /// Where buffers may lie, (first address, last address). The kernel tells it, and servers of this project by a device
    /// feature; of others 39 address bits are assumed, without the x86's window for interrupts.
    #[must_use]
    pub fn usable_iova(&self) -> Vec<(u64, u64)> {
        self.shared.iovas().usable().to_vec()
    }

    /// Memory of `bytes` bytes that the device reaches; zeros. It lies at a multiple of 4096, whose pages follow each
    /// other for the device.
    ///
    /// # Errors
    /// Where there is no memory, no IOVA, or no quota left.
    pub fn dma_buffer(&self, bytes: u64) -> Result<DmaBuffer> {
        DmaBuffer::new(&self.shared, bytes)
    }

    /// How many interrupts of a kind there are.
    ///
    /// # Errors
    /// See [`identity`](Self::identity).
    pub fn vectors(&self, kind: IrqKind) -> Result<u32> {
        self.shared.transport().vectors(kind)
    }

    /// Enables `count` interrupts of a kind, from the first on. One kind at a time. Messages need bus mastering.
    ///
    /// # Errors
    /// Where there are fewer, or interrupts are enabled already.
    pub fn interrupts(&self, kind: IrqKind, count: u32) -> Result<Interrupts> {
        Interrupts::enable(&self.shared, kind, count)
    }

    /// Enables interrupts of the best kind there is: MSI-X, else MSI, else INTx; `most` or as many as there are.
    ///
    /// # Errors
    /// Where there are none, or interrupts are enabled already.
    pub fn best_interrupts(&self, most: u32) -> Result<Interrupts> {
        for kind in [IrqKind::MsiX, IrqKind::Msi] {
            let have = self.vectors(kind)?;
            if have > 0 {
                return self.interrupts(kind, most.min(have));
            }
        }
        self.interrupts(IrqKind::Intx, 1)
    }

    /// What the device has to say outside its interrupts.
    ///
    /// # Errors
    /// See [`identity`](Self::identity).
    pub fn events(&self) -> Result<Events> {
        Events::enable(&self.shared)
    }

    /// Whether the function can be reset.
    ///
    /// # Errors
    /// See [`identity`](Self::identity).
    pub fn resettable(&self) -> Result<bool> {
        self.shared.transport().resettable()
    }

    /// Resets the function. When it returns, the device does nothing that was asked of it before; its registers are as
    /// at power-on. Memory stays mapped, and configuration space (with interrupts and bus mastering) stays as it was;
    /// where a server forgets that, it is written again.
    ///
    /// # Errors
    /// Where the device did not come back, or can't be reset.
    pub fn reset(&self) -> Result<()> {
        let before = self.remember()?;
        self.shared.transport().reset()?;
        self.settle()?;
        self.restore(&before)
    }

    /// The power state; D0 where the function can't tell.
    ///
    /// # Errors
    /// See [`identity`](Self::identity).
    pub fn power_state(&self) -> Result<PowerState> {
        let Some(power) = self.config().find(&power::POWER) else {
            return Ok(PowerState::D0);
        };
        Ok(PowerState::from_number(power.get(&power::STATE)?))
    }

    /// Goes to a power state. A function that comes back to D0 may have forgotten everything: its configuration is
    /// written again here, its registers are the driver's to set up anew.
    ///
    /// # Errors
    /// Where the function has no power management, or does not enter the state.
    pub fn set_power_state(&self, state: PowerState) -> Result<()> {
        let power = self.config().need(&power::POWER)?;
        let mut asleep = self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        if state != PowerState::D0 && asleep.is_empty() {
            *asleep = self.remember()?;
        }
        let number = state.number();
        power.set(&power::STATE, number)?;
        let now = power.get(&power::STATE)?;
        if now != number {
            return Err(DriverError::Power(now));
        }
        if state == PowerState::D0 {
            std::thread::sleep(RECOVERY);
            self.settle()?;
            self.restore(&std::mem::take(&mut *asleep))?;
        }
        Ok(())
    }

    /// Waits until nothing of before a reset is under way: a server may answer earlier. A function without PCI Express
    /// can't tell.
    fn settle(&self) -> Result<()> {
        let Some(express) = self.config().find(&express::EXPRESS) else {
            return Ok(());
        };
        let start = Instant::now();
        while express.get(&express::TRANSACTIONS_PENDING)? != 0 {
            if start.elapsed() > SETTLING {
                return Err(DriverError::TimedOut {
                    what: "the end of a reset",
                    patience: SETTLING,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The registers of [`FORGOTTEN`] that the function has.
    fn remember(&self) -> Result<Vec<(Register, u32)>> {
        let config = self.config();
        FORGOTTEN
            .into_iter()
            .filter_map(|register| Some((register, config.find(register.0)?)))
            .map(|(register, structure)| Ok((register, structure.get(&register.1)?)))
            .collect()
    }

    /// Writes those again that have changed.
    fn restore(&self, before: &[(Register, u32)]) -> Result<()> {
        let config = self.config();
        for ((table, field), value) in before {
            let structure = config.need(table)?;
            if structure.get(field)? != *value {
                structure.set(field, *value)?;
            }
        }
        Ok(())
    }
}

/// The capabilities of a page, each with its table.
fn capabilities(page: &[u8], layout: &Layout) -> Vec<CapabilityAt> {
    let table = |offset, extended| {
        layout.placed().find(|placed| placed.offset == offset).map_or(
            if extended {
                &tables::UNKNOWN_EXTENDED
            } else {
                &tables::UNKNOWN
            },
            |placed| placed.table,
        )
    };
    chain::walk(page)
        .filter_map(|item| match item {
            Item::Capability(found) => Some(CapabilityAt {
                offset: found.offset,
                id: found.id,
                extended: found.extended,
                table: table(found.offset, found.extended),
            }),
            Item::Finding(_) => None,
        })
        .collect()
}
