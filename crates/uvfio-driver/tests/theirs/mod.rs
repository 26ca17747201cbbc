//! A server that is not ours, that of the crate `vfio_user`, with a small device behind it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea};

pub(crate) const CONFIG: u32 = 7;
pub(crate) const COMMAND: usize = 4;
/// BAR 0: registers. BAR 2: memory that can be mapped.
pub(crate) const BAR0: usize = 0x1000;
pub(crate) const BAR2: u64 = 0x4000;
pub(crate) const VECTORS: u32 = 4;

/// Registers of BAR 0: where to write, how much, and which vector then tells; a write of the last starts it.
pub(crate) const ADDRESS: u64 = 0x00;
pub(crate) const COUNT: u64 = 0x08;
pub(crate) const GO: u64 = 0x0c;

/// The device: writes `0xa5` to its user's memory and sends an interrupt.
pub(crate) struct Device {
    config: Vec<u8>,
    registers: Vec<u8>,
    pub(crate) maps: BTreeMap<u64, (u64, u64, File)>,
    events: BTreeMap<(u32, u32), File>,
    intx_masked: bool,
    pub(crate) resets: u32,
}

/// Configuration space by hand: a type 0 header with two BARs, and MSI-X.
pub(crate) fn config() -> Vec<u8> {
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

pub(crate) fn invalid() -> io::Error {
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

pub(crate) struct Shared(Arc<Mutex<Device>>);

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

pub(crate) fn region(index: u32, bytes: u64, memory: Option<&OwnedFd>) -> ServerRegion {
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
pub(crate) struct Theirs {
    pub(crate) path: PathBuf,
    pub(crate) device: Arc<Mutex<Device>>,
    pub(crate) bar2: OwnedFd,
    _dir: tempfile::TempDir,
}

impl Theirs {
    pub(crate) fn new() -> Self {
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
}
