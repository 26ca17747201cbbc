//! A device whose BAR can be mapped in part, and every transport to it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that can't be set up has failed.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Device, DeviceError, Host, Mappable, Mapped, Policy, VirtualDevice, Width};
use uvfio_driver::{Function, InProcess, MapBars, Options, testing};
use uvfio_pci::{Bar, Blueprint, Capability, Identity, ResetKind};

/// Size of the device's BAR 2.
pub(crate) const BAR_BYTES: u64 = 0x8000;
/// The part of it that can be mapped: offset and length.
pub(crate) const AREA: (u64, u64) = (0x4000, 0x2000);
/// Where the BAR begins in the file of that area.
const BAR_AT: u64 = 0x3000;

/// BAR 2: every access is noted and answered; part of it is memory.
pub(crate) struct Board {
    memory: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    host: Option<Host>,
    accesses: Vec<Access>,
    value: u64,
}

/// An access that reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read(u64, usize),
    Write(u64, usize, u64),
}

impl Board {
    pub(crate) fn new(seals: SealFlags) -> Arc<Self> {
        let memory =
            rustix::fs::memfd_create("board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memory, BAR_AT + BAR_BYTES).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        Arc::new(Self {
            memory,
            state: Mutex::default(),
        })
    }

    pub(crate) fn accesses(&self) -> Vec<Access> {
        std::mem::take(&mut self.state.lock().unwrap().accesses)
    }

    /// What the device itself finds in its memory.
    pub(crate) fn in_memory(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        rustix::io::pread(&self.memory, &mut data, BAR_AT + offset).unwrap();
        data
    }

    pub(crate) fn set_in_memory(&self, offset: u64, data: &[u8]) {
        rustix::io::pwrite(&self.memory, data, BAR_AT + offset).unwrap();
    }

    pub(crate) fn host(&self) -> Host {
        self.state
            .lock()
            .unwrap()
            .host
            .clone()
            .expect("a user is attached")
    }
}

impl Device for Board {
    fn name(&self) -> &'static str {
        "board"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[2] = Bar::Memory32 {
            bytes: BAR_BYTES as u32,
            prefetchable: false,
        };
        Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0x0b0b,
                revision: 7,
                class: [0x00, 0xff, 0x00],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &[
                Capability::PowerManagement { no_soft_reset: false },
                Capability::Msi {
                    messages: 32,
                    wide: true,
                    maskable: true,
                },
                Capability::Express {
                    flr: true,
                    integrated: false,
                },
            ],
            extended: &[],
        }
    }

    fn attach(&self, host: Host) {
        self.state.lock().unwrap().host = Some(host);
    }

    fn detach(&self) {
        self.state.lock().unwrap().host = None;
    }

    fn read(&self, _bar: u8, offset: u64, width: Width) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.accesses.push(Access::Read(offset, width as usize));
        state.value
    }

    fn write(&self, _bar: u8, offset: u64, width: Width, value: u64) {
        let mut state = self.state.lock().unwrap();
        state.accesses.push(Access::Write(offset, width as usize, value));
        state.value = value;
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let part = Mappable {
            offset: AREA.0,
            bytes: AREA.1,
            file: Arc::new(self.memory.try_clone().unwrap()),
            bar_at: BAR_AT,
            kind: Mapped::Memory,
        };
        if bar == 2 { vec![part] } else { Vec::new() }
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        self.state.lock().unwrap().value = 0;
        Ok(())
    }
}

/// What a test is given.
pub(crate) struct Case {
    /// The transport's name.
    pub(crate) over: &'static str,
    pub(crate) function: Function,
    pub(crate) board: Arc<Board>,
    pub(crate) device: Arc<VirtualDevice>,
}

/// Runs a test over every transport, each with a device of its own.
pub(crate) fn over_each(test: impl Fn(Case)) {
    over_each_with(SealFlags::SHRINK, Options::default(), test);
}

/// As [`over_each`]: the BAR's memory is sealed so, and the function is opened so.
pub(crate) fn over_each_with(seals: SealFlags, options: Options, test: impl Fn(Case)) {
    let make = || {
        let board = Board::new(seals);
        let device: Arc<dyn Device> = board.clone();
        (board, VirtualDevice::new(device, &Policy::default()).unwrap())
    };
    let (board, device) = make();
    test(Case {
        over: "in process",
        function: Function::open_with(InProcess::attach(device.clone()), options).unwrap(),
        board,
        device,
    });
    let (board, device) = make();
    let (socket, serving) = testing::serve_virtual(device.clone()).unwrap();
    test(Case {
        over: "socket",
        function: Function::open_with(socket, options).unwrap(),
        board,
        device,
    });
    serving.wait().unwrap();
}

/// Every way of mapping BARs.
pub(crate) fn options(map_bars: MapBars) -> Options {
    Options { map_bars }
}
