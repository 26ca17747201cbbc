//! A small device that records what it is told, and a user of it.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's helpers may

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use uvfio_core::{
    Device, DeviceError, Host, IrqAction, IrqData, IrqError, Mappable, Mapped, Policy, Routes, SetIrqs,
    VirtualDevice, Width,
};
use uvfio_pci::{
    Bar, BarSpan, Blueprint, ByteEnables, Capability, Identity, InterruptMode, PowerState, ResetKind, View,
};

/// What the device was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Attach,
    Detach,
    Read(u8, u64, usize),
    Write(u8, u64, usize, u64),
    Reset(ResetKind),
    Power(PowerState, PowerState),
    Mode(InterruptMode),
    BusMaster(bool),
    Routes,
    IntxMasked(bool),
    WriteVpd(u16, u32),
    ConfigRead(u16, u8),
    ConfigWrite(u16, u8, u32, u32),
}

/// What a register write does, given the offset and the value.
pub type Answer = Box<dyn Fn(&Host, u64, u64) + Send + Sync>;

/// What is done when bus mastering is switched on or off.
pub type OnBusMaster = Box<dyn Fn(bool) + Send + Sync>;

#[derive(Default)]
pub struct Inner {
    told: Vec<Told>,
    host: Option<Host>,
    hold: bool,
    resetting: bool,
    fail: bool,
}

/// BAR 0: 4 KiB of memory whose registers read their own offset; BAR 1: I/O, 32 bytes; BAR 2: MSI-X table at 0x800
/// and pending bits at 0xc00 of 4 KiB; BAR 4: 64 bits.
#[derive(Default)]
pub struct Recorder {
    pub inner: Mutex<Inner>,
    pub changed: Condvar,
    /// Memory of BAR 4 that the user may map.
    pub mappable: Option<OwnedFd>,
    /// Registers of BAR 4 that the user may map, and where the BAR begins in their file.
    pub registers: Option<(OwnedFd, u64)>,
    /// Each change of memory in COMMAND.
    pub memory: Mutex<Vec<bool>>,
    /// Told of bus mastering, it does this.
    pub on_bus_master: Mutex<Option<OnBusMaster>>,
    /// A register write here is answered by this.
    pub on_write: Option<Answer>,
    /// In front of it.
    pub iommu: Option<Arc<dyn uvfio_core::Iommu>>,
    /// There is no way to reset it.
    pub unresettable: bool,
    /// It takes its interrupts to the user itself.
    pub direct: bool,
    /// Where they go.
    pub routes: Mutex<Routes>,
    /// Configuration space of hardware, which reads as it is here.
    pub page: Option<Vec<u8>>,
    /// What that reads now, where it is not the same.
    pub left: Option<Vec<u8>>,
}

pub const ROM: &[u8] = b"\x55\xaaa small option ROM";
pub const VPD: &[u8] = b"\x82\x04\0test\x78";
pub const VECTORS: u16 = 200;

const CAPABILITIES: &[Capability<'static>] = &[
    Capability::PowerManagement { no_soft_reset: false },
    Capability::Msi {
        messages: 16,
        wide: true,
        maskable: true,
    },
    Capability::MsiX {
        vectors: VECTORS,
        table: BarSpan {
            bar: 2,
            offset: 0x1000,
        },
        pba: BarSpan {
            bar: 2,
            offset: 0xc00,
        },
    },
    Capability::Express {
        flr: true,
        integrated: false,
    },
    Capability::Vpd { writable: true },
];

impl Recorder {
    pub fn told(&self) -> Vec<Told> {
        self.inner.lock().unwrap().told.clone()
    }

    /// What it was told since this was asked last.
    pub fn news(&self) -> Vec<Told> {
        std::mem::take(&mut self.inner.lock().unwrap().told)
    }

    pub fn host(&self) -> Host {
        self.inner
            .lock()
            .unwrap()
            .host
            .clone()
            .expect("no user is attached")
    }

    /// Resets hang until [`release`](Self::release).
    pub fn hold(&self) {
        self.inner.lock().unwrap().hold = true;
    }

    pub fn release(&self) {
        self.inner.lock().unwrap().hold = false;
        self.changed.notify_all();
    }

    pub fn fail_resets(&self) {
        self.inner.lock().unwrap().fail = true;
    }

    pub fn wait_until_resetting(&self) {
        let mut inner = self.inner.lock().unwrap();
        while !inner.resetting {
            inner = self.changed.wait(inner).unwrap();
        }
    }

    fn tell(&self, told: Told) {
        self.inner.lock().unwrap().told.push(told);
    }
}

impl Device for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0xabcd,
                revision: 1,
                class: [0xff, 0, 0],
                subsystem_vendor: 0x1234,
                subsystem: 1,
                interrupt_pin: 1,
            },
            bars: [
                Bar::Memory32 {
                    bytes: 0x1000,
                    prefetchable: false,
                },
                Bar::Io { bytes: 32 },
                Bar::Memory32 {
                    bytes: 0x2000,
                    prefetchable: false,
                },
                Bar::None,
                Bar::Memory64 {
                    bytes: 0x2000,
                    prefetchable: true,
                },
                Bar::None,
            ],
            rom_bytes: 2048,
            capabilities: CAPABILITIES,
            extended: &[],
        }
    }

    fn config_page(&self) -> Option<&[u8]> {
        self.page.as_deref()
    }

    fn config_read(&self, register: u16, enables: ByteEnables) -> u32 {
        self.tell(Told::ConfigRead(register, enables.0));
        let at = usize::from(register) * 4;
        let page = self.left.as_deref().or(self.page.as_deref()).unwrap();
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    fn config_write(&self, register: u16, enables: ByteEnables, value: u32, keep: u32) {
        self.tell(Told::ConfigWrite(register, enables.0, value, keep));
    }

    fn attach(&self, host: Host) {
        self.inner.lock().unwrap().host = Some(host);
        self.tell(Told::Attach);
    }

    fn detach(&self) {
        self.inner.lock().unwrap().host = None;
        self.tell(Told::Detach);
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        self.tell(Told::Read(bar, offset, width as usize));
        let bytes: [u8; 8] = std::array::from_fn(|i| (offset as u8).wrapping_add(i as u8));
        u64::from_le_bytes(bytes)
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        self.tell(Told::Write(bar, offset, width as usize, value));
        if let Some(answer) = &self.on_write {
            answer(&self.host(), offset, value);
        }
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let part = |file: &OwnedFd, bar_at, kind| Mappable {
            offset: 0x1000,
            bytes: 0x1000,
            file: Arc::new(file.try_clone().unwrap()),
            bar_at,
            kind,
        };
        match (&self.mappable, &self.registers) {
            (Some(memory), _) if bar == 4 => vec![part(memory, 0, Mapped::Memory)],
            (_, Some((file, at))) if bar == 4 => vec![part(file, *at, Mapped::Registers)],
            _ => Vec::new(),
        }
    }

    fn memory_changed(&self, on: bool) {
        self.memory.lock().unwrap().push(on);
    }

    fn rom(&self) -> &[u8] {
        ROM
    }

    fn resettable(&self) -> bool {
        !self.unresettable
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        self.tell(Told::Reset(kind));
        let mut inner = self.inner.lock().unwrap();
        inner.resetting = true;
        self.changed.notify_all();
        while inner.hold {
            inner = self.changed.wait(inner).unwrap();
        }
        inner.resetting = false;
        match inner.fail {
            true => Err(DeviceError {
                device: "recorder",
                what: "it burnt down".into(),
            }),
            false => Ok(()),
        }
    }

    fn power(&self, from: PowerState, to: PowerState) -> Result<(), DeviceError> {
        self.tell(Told::Power(from, to));
        Ok(())
    }

    fn interrupts_changed(&self, mode: InterruptMode) {
        self.tell(Told::Mode(mode));
    }

    fn bus_master_changed(&self, on: bool) {
        self.tell(Told::BusMaster(on));
        if let Some(then) = &*self.on_bus_master.lock().unwrap() {
            then(on);
        }
    }

    fn direct_interrupts(&self) -> bool {
        self.direct
    }

    fn routes_changed(&self, routes: &Routes) {
        *self.routes.lock().unwrap() = routes.clone();
        self.tell(Told::Routes);
    }

    fn intx_masked(&self, masked: bool) {
        self.tell(Told::IntxMasked(masked));
    }

    fn iommu(&self) -> Option<Arc<dyn uvfio_core::Iommu>> {
        self.iommu.clone()
    }

    fn vpd(&self) -> &[u8] {
        VPD
    }

    fn write_vpd(&self, address: u16, value: u32) -> bool {
        self.tell(Told::WriteVpd(address, value));
        true
    }
}

/// A user of a recorder.
pub struct User {
    pub device: Arc<Recorder>,
    pub virt: Arc<VirtualDevice>,
}

pub const CONFIG: u32 = 7;
pub const COMMAND: u64 = 4;
/// COMMAND's bits.
pub const IO: u16 = 1;
pub const MEMORY: u16 = 2;
pub const MASTER: u16 = 4;
pub const INTX_DISABLE: u16 = 0x400;

impl User {
    pub fn new() -> Self {
        Self::of(Recorder::default())
    }

    pub fn of(device: Recorder) -> Self {
        Self::seeing(device, View::Virtual)
    }

    pub fn seeing(device: Recorder, view: View) -> Self {
        let device = Arc::new(device);
        let policy = Policy {
            view,
            ..Policy::default()
        };
        let virt = VirtualDevice::new(device.clone(), &policy).unwrap();
        virt.attach(None);
        assert_eq!(device.news(), [Told::Attach]);
        Self { device, virt }
    }

    /// As [`new`](Self::new), with memory, I/O and bus mastering on.
    pub fn awake() -> Self {
        let user = Self::new();
        user.command(IO | MEMORY | MASTER);
        assert_eq!(user.device.news(), [Told::BusMaster(true)]);
        user
    }

    pub fn command(&self, value: u16) {
        self.write(CONFIG, COMMAND, &value.to_le_bytes());
    }

    pub fn read<const N: usize>(&self, region: u32, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.virt.read(region, offset, &mut data).unwrap();
        data
    }

    pub fn read16(&self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(CONFIG, offset))
    }

    pub fn read32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(CONFIG, offset))
    }

    pub fn write(&self, region: u32, offset: u64, data: &[u8]) {
        self.virt.write(region, offset, data).unwrap();
    }

    /// Where a capability is.
    pub fn capability(&self, id: u8) -> u64 {
        let mut at = u64::from(self.read::<1>(CONFIG, 0x34)[0]);
        while at != 0 {
            let [found, next] = self.read(CONFIG, at);
            if found == id {
                return at;
            }
            at = next.into();
        }
        panic!("there is no capability {id:#x}")
    }

    pub fn set_irqs(
        &self,
        index: u32,
        start: u32,
        count: u32,
        action: IrqAction,
        data: IrqData,
    ) -> Result<(), IrqError> {
        self.virt.set_irqs(SetIrqs {
            index,
            start,
            count,
            action,
            data,
        })
    }

    /// Attaches eventfds to vectors from `start`.
    pub fn trigger(&self, index: u32, start: u32, files: &[&OwnedFd]) -> Result<(), IrqError> {
        let data = IrqData::EventFd(files.iter().map(|file| Some(file.try_clone().unwrap())).collect());
        self.set_irqs(index, start, files.len() as u32, IrqAction::Trigger, data)
    }

    pub fn disable(&self, index: u32) -> Result<(), IrqError> {
        self.set_irqs(index, 0, 0, IrqAction::Trigger, IrqData::None)
    }
}

pub fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Waits until an eventfd is signalled (at most ten seconds) and gives its count.
pub fn signalled(file: &OwnedFd) -> u64 {
    let mut ready = [PollFd::new(file, PollFlags::IN)];
    poll(
        &mut ready,
        Some(&Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        }),
    )
    .unwrap();
    count(file)
}

/// What is in an eventfd now; 0 where nothing is.
pub fn count(file: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(file, &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "not within ten seconds: {what}"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}
