//! A small device, and a server for it on a socket pair.
//!
//! BAR 0 is plain registers by message, two of which are doorbells too. BAR 1 can be mapped whole, BAR 2 (64 bits wide) in two parts. BAR 4 holds the
//! MSI-X table. The tests' threads are its threads: they take its [`Host`].

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uvfio_core::{Bell, Device, DeviceError, Doorbell, Host, Mappable, Mapped, Policy, VirtualDevice, Width};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, InterruptMode, ResetKind};
use uvfio_proto::{End, Limits, ServeError, Server, ServerHandle};

use super::raw::Raw;

/// BAR 0's size, bytes.
pub(crate) const BAR0: u64 = 0x1_0000;
/// BAR 1's size, bytes.
pub(crate) const BAR1: u64 = 0x1000;
/// BAR 2's size, bytes.
pub(crate) const BAR2: u64 = 0x1_0000;
/// BAR 2's mappable parts.
pub(crate) const PARTS: [(u64, u64); 2] = [(0x1000, 0x1000), (0x4000, 0x8000)];
/// Where BAR 2 begins in the file that its parts are mapped from.
pub(crate) const BAR2_AT: u64 = 0x3000;
/// Where BAR 0's doorbells lie.
pub(crate) const BELLS: [u64; 2] = [0x10, 0x20];
/// MSI-X vectors.
pub(crate) const VECTORS: u16 = 64;
/// Configuration space is a region too.
pub(crate) const CONFIG: u32 = 7;

const CAPABILITIES: &[Capability<'static>] = &[
    Capability::PowerManagement { no_soft_reset: true },
    Capability::MsiX {
        vectors: VECTORS,
        table: BarSpan { bar: 4, offset: 0 },
        pba: BarSpan {
            bar: 4,
            offset: 0x800,
        },
    },
    Capability::Express {
        flr: true,
        integrated: true,
    },
];

pub(crate) struct TestDevice {
    registers: Mutex<Vec<u8>>,
    memory: [OwnedFd; 2],
    /// Of BAR 0's doorbells: stores of any width at [`BELLS`]' first offset, stores of a dword 7 at its second.
    pub(crate) bells: [Bell; 2],
    host: Mutex<Option<Host>>,
    /// While set, a reset does not come back.
    stuck: Mutex<bool>,
    unstuck: Condvar,
    pub(crate) resets: Mutex<u32>,
}

fn memory(bytes: u64) -> OwnedFd {
    let memory = memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    ftruncate(&memory, bytes).expect("its size");
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).expect("its seals");
    memory
}

impl TestDevice {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            registers: Mutex::new(vec![0; BAR0 as usize]),
            memory: [memory(BAR1), memory(BAR2_AT + BAR2)],
            bells: [(); 2].map(|()| Bell::new().expect("a bell")),
            host: Mutex::default(),
            stuck: Mutex::default(),
            unstuck: Condvar::new(),
            resets: Mutex::default(),
        })
    }

    /// The way to the user's memory.
    pub(crate) fn host(&self) -> Host {
        self.host.lock().unwrap().clone().expect("a user is there")
    }

    pub(crate) fn has_user(&self) -> bool {
        self.host.lock().unwrap().is_some()
    }

    pub(crate) fn set_stuck(&self, stuck: bool) {
        *self.stuck.lock().unwrap() = stuck;
        self.unstuck.notify_all();
    }
}

impl Device for TestDevice {
    fn name(&self) -> &'static str {
        "test"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        Blueprint {
            identity: Identity {
                vendor: 0x1234,
                device: 0x5678,
                revision: 1,
                class: [0xff, 0, 0],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 1,
            },
            bars: [
                Bar::Memory32 {
                    bytes: BAR0 as u32,
                    prefetchable: false,
                },
                Bar::Memory32 {
                    bytes: BAR1 as u32,
                    prefetchable: false,
                },
                Bar::Memory64 {
                    bytes: BAR2,
                    prefetchable: true,
                },
                Bar::None,
                Bar::Memory32 {
                    bytes: 0x1000,
                    prefetchable: false,
                },
                Bar::None,
            ],
            rom_bytes: 0,
            capabilities: CAPABILITIES,
            extended: &[],
        }
    }

    fn attach(&self, host: Host) {
        *self.host.lock().unwrap() = Some(host);
    }

    fn detach(&self) {
        *self.host.lock().unwrap() = None;
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        if bar != 0 {
            return 0;
        }
        let registers = self.registers.lock().unwrap();
        let mut bytes = [0; 8];
        let width = width as usize;
        bytes[..width].copy_from_slice(&registers[offset as usize..offset as usize + width]);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        if bar == 0 {
            let width = width as usize;
            let at = offset as usize;
            self.registers.lock().unwrap()[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }

    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let (parts, bar_at): (&[(u64, u64)], _) = match bar {
            1 => (&[(0, BAR1)], 0),
            2 => (&PARTS, BAR2_AT),
            _ => return Vec::new(),
        };
        let memory = self.memory[usize::from(bar) - 1].try_clone().unwrap();
        let memory = Arc::new(memory);
        parts
            .iter()
            .map(|&(offset, bytes)| Mappable {
                offset,
                bytes,
                file: Arc::clone(&memory),
                bar_at,
                kind: Mapped::Memory,
            })
            .collect()
    }

    fn doorbells(&self, bar: u8) -> Vec<Doorbell> {
        let rows = [(None, None), (Some(Width::B4), Some(7))];
        let all = BELLS.into_iter().zip(rows).zip(&self.bells);
        let all = all.map(|((offset, (width, value)), bell)| Doorbell {
            offset,
            width,
            value,
            eventfd: bell.eventfd(),
        });
        all.filter(|_| bar == 0).collect()
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        let stuck = self.stuck.lock().unwrap();
        drop(self.unstuck.wait_while(stuck, |stuck| *stuck).unwrap());
        *self.resets.lock().unwrap() += 1;
        self.registers.lock().unwrap().fill(0);
        Ok(())
    }

    fn interrupts_changed(&self, _mode: InterruptMode) {}
}

/// A server that runs, and the client's end of its socket.
pub(crate) struct Served {
    pub(crate) device: Arc<TestDevice>,
    pub(crate) virtual_device: Arc<VirtualDevice>,
    pub(crate) handle: ServerHandle,
    pub(crate) thread: Option<JoinHandle<Result<End, ServeError>>>,
}

/// Limits that let a test fail soon.
pub(crate) fn limits() -> Limits {
    Limits {
        dma_timeout: Duration::from_secs(10),
        ..Limits::default()
    }
}

pub(crate) fn serve_stream(limits: Limits) -> (Served, UnixStream) {
    serve_by(|stream, device| Server::new(stream, device, limits))
}

/// Has the server that is made of a stream and a virtual device run.
pub(crate) fn serve_by(
    server: impl FnOnce(UnixStream, Arc<VirtualDevice>) -> Server,
) -> (Served, UnixStream) {
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(Arc::clone(&device) as _, &Policy::default()).expect("a device");
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut server = server(theirs, Arc::clone(&virtual_device));
    let handle = server.handle();
    let thread = Some(std::thread::spawn(move || server.serve()));
    (
        Served {
            device,
            virtual_device,
            handle,
            thread,
        },
        ours,
    )
}

/// A server and a raw peer that has agreed on a version.
pub(crate) fn serve() -> (Served, Raw) {
    let (served, raw) = serve_unnegotiated();
    raw.negotiate();
    (served, raw)
}

pub(crate) fn serve_unnegotiated() -> (Served, Raw) {
    let (served, stream) = serve_stream(limits());
    (served, Raw::new(stream))
}

impl Served {
    /// Waits for the server's end.
    pub(crate) fn end(&mut self) -> Result<End, ServeError> {
        self.thread
            .take()
            .expect("not ended before")
            .join()
            .expect("it did not panic")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.device.set_stuck(false);
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.virtual_device.detach();
    }
}

/// Eventually: for what another thread does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it did not come true: {what}");
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}
