//! A driver over a server that is not ours: that of the crate `vfio_user`, with a small device behind it. What that
//! server can't do stands in the last test, and in the book ("vfio-user and its clients").

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uvfio_driver::tables::{header, msix};
use uvfio_driver::{DriverError, Function, IrqKind};
use uvfio_proto::message::{FeatureFlags, feature_number};
use uvfio_proto::{Client, ClientError};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

const CONFIG: u32 = 7;
const COMMAND: usize = 4;
/// BAR 0: registers. BAR 2: memory that can be mapped.
const BAR0: usize = 0x1000;
const BAR2: u64 = 0x4000;
const VECTORS: u32 = 4;

/// Registers of BAR 0: where to write, how much, and which vector then tells; a write of the last starts it.
const ADDRESS: u64 = 0x00;
const COUNT: u64 = 0x08;
const GO: u64 = 0x0c;

/// The device: writes `0xa5` to its user's memory and sends an interrupt.
struct Device {
    config: Vec<u8>,
    registers: Vec<u8>,
    maps: BTreeMap<u64, (u64, u64, File)>,
    events: BTreeMap<(u32, u32), File>,
    intx_masked: bool,
    resets: u32,
}

/// Configuration space by hand: a type 0 header with two BARs, and MSI-X.
fn config() -> Vec<u8> {
    let mut config = vec![0; 256];
    config[..4].copy_from_slice(&[0x34, 0x12, 0x0e, 0x0b]);
    config[6] = 0x10; // Status: there are capabilities.
    config[8..12].copy_from_slice(&[3, 0, 0, 0xff]);
    config[0x34] = 0x40;
    config[0x3d] = 1;
    config[0x40..0x44].copy_from_slice(&[0x11, 0, VECTORS as u8 - 1, 0]);
    // Its table and pending bits, in BAR 0.
    config[0x44..0x4c].copy_from_slice(&[0, 8, 0, 0, 0, 0xc, 0, 0]);
    config
}

fn invalid() -> io::Error {
    rustix::io::Errno::INVAL.into()
}

impl Device {
    fn new() -> Self {
        Self {
            config: config(),
            registers: vec![0; BAR0],
            maps: BTreeMap::new(),
            events: BTreeMap::new(),
            intx_masked: false,
            resets: 0,
        }
    }

    fn window(&mut self, region: u32, offset: u64, count: usize) -> io::Result<&mut [u8]> {
        let all = match region {
            0 => &mut self.registers,
            CONFIG => &mut self.config,
            _ => return Err(invalid()),
        };
        let start = usize::try_from(offset).map_err(|_| invalid())?;
        all.get_mut(start..start + count).ok_or_else(invalid)
    }

    /// What a write to configuration space leaves: identity, capabilities and sizes are read-only.
    fn keep_config(&mut self, written: Vec<u8>, at: usize) {
        for (byte, value) in (at..).zip(written) {
            let mask = match byte {
                COMMAND => 7,
                0x05 => 4,
                0x11 => !((BAR0 - 1) >> 8) as u8,
                0x19 => !((BAR2 as usize - 1) >> 8) as u8,
                0x12 | 0x13 | 0x1a | 0x1b => 0xff,
                0x43 => 0xc0,
                _ => 0,
            };
            self.config[byte] = self.config[byte] & !mask | value & mask;
        }
    }

    fn register<const N: usize>(&self, at: u64) -> [u8; N] {
        self.registers[at as usize..at as usize + N].try_into().unwrap()
    }

    /// A write of GO: memory first, then the interrupt of this vector.
    fn go(&mut self, vector: u32) -> io::Result<()> {
        let address = u64::from_le_bytes(self.register(ADDRESS));
        let count = u64::from(u32::from_le_bytes(self.register(COUNT)));
        if self.config[COMMAND] & 4 != 0
            && let Some((&base, (bytes, offset, file))) = self.maps.range(..=address).next_back()
            && address + count <= base + bytes
        {
            file.write_all_at(&vec![0xa5; count as usize], offset + (address - base))?;
        }
        for (index, vector) in [(2, vector), (0, 0)] {
            if let Some(mut event) = self.events.get(&(index, vector)) {
                if index == 0 && std::mem::replace(&mut self.intx_masked, true) {
                    continue;
                }
                event.write_all(&1_u64.to_ne_bytes())?;
            }
        }
        Ok(())
    }
}

struct Shared(Arc<Mutex<Device>>);

impl ServerBackend for Shared {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let count = data.len();
        data.copy_from_slice(self.0.lock().unwrap().window(region, offset, count)?);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        let window = device.window(region, offset, data.len())?;
        if region == CONFIG {
            device.keep_config(data.to_vec(), offset as usize);
            return Ok(());
        }
        window.copy_from_slice(data);
        if offset == GO {
            let vector = u32::from_le_bytes(data.try_into().map_err(|_| invalid())?);
            device.go(vector)?;
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let file = file.ok_or_else(invalid)?;
        self.0.lock().unwrap().maps.insert(address, (size, offset, file));
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, _size: u64) -> io::Result<()> {
        match self.0.lock().unwrap().maps.remove(&address) {
            Some(_) => Ok(()),
            None => Err(invalid()),
        }
    }

    fn reset(&mut self) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        // As the hardware leaves it: configuration is forgotten.
        (device.config, device.registers) = (config(), vec![0; BAR0]);
        device.resets += 1;
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, flags: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        match (flags, count) {
            (0x24, _) => {
                let attached = (start..).zip(fds).map(|(vector, event)| ((index, vector), event));
                device.events.extend(attached);
            }
            (0x21, 0) => device.events.retain(|&(of, _), _| of != index),
            (0x09 | 0x11, 1) if index == 0 => device.intx_masked = flags == 0x09,
            _ => return Err(invalid()),
        }
        Ok(())
    }
}

fn region(index: u32, bytes: u64, memory: Option<&OwnedFd>) -> ServerRegion {
    let mut region = ServerRegion {
        region_info: Default::default(),
        sparse_areas: Vec::new(),
        mmap_fd: memory.map(AsRawFd::as_raw_fd),
    };
    region.region_info.argsz = 32;
    region.region_info.index = index;
    region.region_info.size = bytes;
    region.region_info.flags = match (bytes, memory) {
        (0, _) => 0,
        (_, None) => 3,
        (_, Some(_)) => 7,
    };
    if memory.is_some() {
        let mut area = SparseArea {
            area: Default::default(),
        };
        area.area.size = bytes;
        region.sparse_areas.push(area);
    }
    region
}

/// Their server, with the device behind it, for one client.
struct Theirs {
    path: PathBuf,
    device: Arc<Mutex<Device>>,
    bar2: OwnedFd,
    _dir: tempfile::TempDir,
}

impl Theirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let device = Arc::new(Mutex::new(Device::new()));
        let bar2 = memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&bar2, BAR2).unwrap();
        fcntl_add_seals(&bar2, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let regions = (0..9)
            .map(|index| match index {
                0 => region(0, BAR0 as u64, None),
                2 => region(2, BAR2, Some(&bar2)),
                CONFIG => region(CONFIG, 256, None),
                index => region(index, 0, None),
            })
            .collect();
        let irqs = [1, 0, VECTORS, 0, 0];
        let irqs = (0..)
            .zip(irqs)
            .map(|(index, count)| IrqInfo {
                index,
                flags: if index == 0 { 7 } else { 1 },
                count,
            })
            .collect();
        let server = vfio_user::Server::new(&path, true, irqs, regions).unwrap();
        let mut shared = Shared(Arc::clone(&device));
        // It ends with its client; how, is its own business.
        std::thread::spawn(move || server.run(&mut shared).map_err(|error| error.to_string()));
        Self {
            path,
            device,
            bar2,
            _dir: dir,
        }
    }

    fn function(&self) -> Function {
        Function::connect(&self.path).unwrap()
    }
}

#[test]
fn a_driver_finds_its_way_about() {
    let theirs = Theirs::new();
    let function = theirs.function();
    let identity = function.identity().unwrap();
    assert_eq!((identity.vendor, identity.device), (0x1234, 0x0b0e));
    assert_eq!((identity.revision, identity.class), (3, [0xff, 0, 0]));
    assert_eq!(function.config().bytes(), 256);
    let capabilities: Vec<_> = function.config().capabilities().iter().map(|at| at.id).collect();
    assert_eq!(capabilities, [0x11]);
    assert!(function.config().find(&msix::MSIX).is_some());

    // A BAR's size: by region information, and by what is left of ones that are written.
    let config = function.config();
    for (index, bytes) in [(0_u8, BAR0 as u64), (2, BAR2)] {
        let at = 0x10 + 4 * u16::from(index);
        assert_eq!(function.bar(index).unwrap().bytes(), bytes, "BAR {index}");
        config.write::<u32>(at, u32::MAX).unwrap();
        let size = !(config.read::<u32>(at).unwrap() & !0xf) + 1;
        assert_eq!(u64::from(size), bytes, "BAR {index} by its register");
    }
    assert!(
        matches!(function.bar(1), Err(DriverError::NoBar(..))),
        "there is no BAR 1"
    );

    // Registers by message, memory by mapping.
    let bar = function.bar(0).unwrap();
    bar.write::<u32>(0x20, 0x1122_3344).unwrap();
    assert_eq!(bar.read::<u16>(0x22).unwrap(), 0x1122);
    let memory = function.bar(2).unwrap();
    assert!(memory.is_mapped(0, BAR2) && !bar.is_mapped(0, 4));
    memory.write::<u64>(0x3ff8, 0x0102_0304_0506_0708).unwrap();
    let mut there = [0; 8];
    rustix::io::pread(&theirs.bar2, &mut there, 0x3ff8).unwrap();
    assert_eq!(u64::from_le_bytes(there), 0x0102_0304_0506_0708);
}

#[test]
fn a_device_writes_memory_and_interrupts() {
    let theirs = Theirs::new();
    let function = theirs.function();
    function.set_bus_master(true).unwrap();
    let bar = function.bar(0).unwrap();
    let buffer = function.dma_buffer(8192).unwrap();
    let start = |vector: u32, at: u64| {
        bar.write::<u64>(ADDRESS, buffer.iova() + at).unwrap();
        bar.write::<u32>(COUNT, 16).unwrap();
        bar.write::<u32>(GO, vector).unwrap();
    };

    assert_eq!(function.vectors(IrqKind::MsiX).unwrap(), VECTORS);
    let vectors = function.best_interrupts(VECTORS).unwrap();
    assert_eq!((vectors.kind(), vectors.count()), (IrqKind::MsiX, VECTORS));
    for vector in 0..VECTORS {
        start(vector, 0x1000 + u64::from(vector) * 16);
        assert_eq!(vectors.wait(vector, PATIENCE).unwrap(), 1, "vector {vector}");
        assert_eq!(vectors.wait_any(Some(Duration::ZERO)).unwrap(), None, "no other");
    }
    let mut written = [0; 96];
    buffer.read_bytes(0xff0, &mut written).unwrap();
    assert_eq!(written[..16], [0; 16], "before it");
    assert_eq!(written[16..80], [0xa5; 64]);
    assert_eq!(written[80..], [0; 16], "after it");

    // One kind at a time; INTx masks itself until it is armed again.
    drop(vectors);
    let intx = function.interrupts(IrqKind::Intx, 1).unwrap();
    start(0, 0);
    assert_eq!(intx.wait(0, PATIENCE).unwrap(), 1);
    start(0, 0);
    assert_eq!(intx.poll(0).unwrap(), 0, "it is masked");
    intx.rearm().unwrap();
    start(0, 0);
    assert_eq!(intx.wait(0, PATIENCE).unwrap(), 1);
    drop(intx);

    drop(buffer);
    // A request after it comes after it.
    function.identity().unwrap();
    assert!(
        theirs.device.lock().unwrap().maps.is_empty(),
        "the buffer is unmapped"
    );
}

#[test]
fn what_the_server_forgets_at_a_reset_is_written_again() {
    let theirs = Theirs::new();
    let function = theirs.function();
    function.set_bus_master(true).unwrap();
    let bar = function.bar(0).unwrap();
    bar.write::<u32>(0x20, 5).unwrap();
    assert!(function.resettable().unwrap());
    function.reset().unwrap();
    assert_eq!(theirs.device.lock().unwrap().resets, 1);
    assert_eq!(bar.read::<u32>(0x20).unwrap(), 0, "its registers are reset");
    let command = function.config().need(&header::HEADER).unwrap();
    for field in [&header::MEMORY, &header::BUS_MASTER] {
        assert_eq!(command.get(field).unwrap(), 1, "{field:?}");
    }
    // And it works on.
    let buffer = function.dma_buffer(4096).unwrap();
    let vectors = function.interrupts(IrqKind::MsiX, 1).unwrap();
    bar.write::<u64>(ADDRESS, buffer.iova()).unwrap();
    bar.write::<u32>(COUNT, 4).unwrap();
    bar.write::<u32>(GO, 0).unwrap();
    assert_eq!(vectors.wait(0, PATIENCE).unwrap(), 1);
    assert_eq!(buffer.read::<u32>(0).unwrap(), 0xa5a5_a5a5);
}

/// What it can't, and what a driver has instead. As soon as it can, this fails, and the book is to be changed.
#[test]
fn what_the_other_server_has_not() {
    // One descriptor a message: four vectors are four requests. REGION_WRITE_MULTI is not offered.
    let theirs = Theirs::new();
    let mut client = Client::connect(&theirs.path).unwrap();
    assert_eq!(client.server_capabilities().max_msg_fds, Some(1));
    assert_ne!(client.server_capabilities().write_multiple, Some(true));
    // The crate's server sends neither DMA_READ nor DMA_WRITE, and leaves it to the device to refuse memory without a
    // descriptor; this one does.
    let flags = uvfio_proto::message::DmaMapFlags::READ;
    let mapped = client.dma_map(0x1000, 0x1000, flags, None);
    assert!(matches!(mapped, Err(ClientError::Refused { .. })), "{mapped:?}");
    assert_eq!(client.info().unwrap().regions, 9, "the stream is in step");
    drop(client);

    // What it does not know it refuses, and then takes the rest of that message for the next one: so our client asks
    // for no feature that the server has not told of.
    type Ask = fn(&mut Client) -> Result<(), ClientError>;
    let unknown: [(&str, Ask); 2] = [
        ("DEVICE_FEATURE", |client| {
            let number = feature_number::IOVA_RANGES;
            client.feature(number, FeatureFlags::GET, &[]).map(|_| ())
        }),
        ("GET_REGION_IO_FDS", |client| client.region_io_fds(0).map(|_| ())),
    ];
    for (name, ask) in unknown {
        let theirs = Theirs::new();
        let mut client = Client::connect(&theirs.path).unwrap();
        assert!(client.iova_ranges().unwrap().is_none(), "not asked for");
        assert_eq!(client.info().unwrap().regions, 9, "the stream is in step");
        let refused = ask(&mut client);
        assert!(
            matches!(refused, Err(ClientError::Refused { .. })),
            "{name}: {refused:?}"
        );
        let after = client.info();
        assert!(after.is_err(), "{name}: the stream is in step now: {after:?}");
    }

    // Errors and requests to give the device back: nothing tells of them.
    let theirs = Theirs::new();
    let function = theirs.function();
    let usable = function.usable_iova();
    assert_eq!(usable, [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)]);
    for kind in [IrqKind::Error, IrqKind::Request] {
        assert_eq!(function.vectors(kind).unwrap(), 0, "{kind}");
    }
}
