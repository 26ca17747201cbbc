//! The device that a client under test drives: configuration space, a BAR of 4 KiB of memory, INTx.

use std::os::fd::OwnedFd;

use uvfio_proto::message::{
    Command, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, IrqInfo, MultiWrite, RegionAccess, RegionInfo,
};
use zerocopy::FromBytes;

use crate::facts::CONFIG;
use crate::payload::{bytes_of, version_json};

const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const ENOTTY: u32 = 25;
const ENOSYS: u32 = 38;

pub(super) const REGIONS: u32 = 9;
pub(super) const IRQS: u32 = 5;
/// Most data in one access, bytes.
pub(super) const MAX_DATA: u32 = 1 << 20;
/// BAR 0's size, bytes.
const BAR: usize = 4096;

/// Smaller mappings are not tried by message, bytes.
const PAGE: u64 = 4096;

/// Offset of BAR 0 in configuration space (PCI 3.0, 6.2.5).
const BAR0_AT: usize = 0x10;

/// The device's state.
#[derive(Debug)]
pub(super) struct Device {
    config: Vec<u8>,
    bar: Vec<u8>,
    pub(super) maps: Vec<DmaMap>,
    /// Those that came with a file.
    files: Vec<(DmaMap, OwnedFd)>,
}

impl Device {
    pub(super) fn new() -> Self {
        let mut config = vec![0; 256];
        let identity = [0x34, 0x12, 0x0d, 0xf0, 0, 0, 0, 0, 1, 0, 0, 0xff];
        for (byte, value) in config.iter_mut().zip(identity) {
            *byte = value;
        }
        // INTA.
        if let Some(pin) = config.get_mut(0x3d) {
            *pin = 1;
        }
        Self {
            config,
            bar: vec![0; BAR],
            maps: Vec::new(),
            files: Vec::new(),
        }
    }

    /// A region's size, bytes.
    pub(super) fn bytes(&self, region: u32) -> u64 {
        match region {
            0 => self.bar.len() as u64,
            CONFIG => self.config.len() as u64,
            _ => 0,
        }
    }

    /// How many interrupts an index has.
    pub(super) fn vectors(index: u32) -> u32 {
        u32::from(index == 0)
    }

    /// Keeps the file of the mapping that was made last.
    pub(super) fn keep_file(&mut self, file: &OwnedFd) {
        if let (Some(map), Ok(file)) = (self.maps.last(), file.try_clone()) {
            self.files.push((*map, file));
        }
    }

    /// Mappings long enough to be tried, that end within 64 bits.
    fn usable(&self) -> impl Iterator<Item = &DmaMap> {
        self.maps
            .iter()
            .filter(|map| map.bytes >= PAGE && map.iova.checked_add(map.bytes - 1).is_some())
    }

    /// A mapping that can be accessed so.
    pub(super) fn mapping(&self, access: DmaMapFlags) -> Option<&DmaMap> {
        let bits = access.bits();
        self.usable().find(|map| map.flags & bits == bits)
    }

    /// A mapping that can be read and not be written.
    pub(super) fn read_only(&self) -> Option<&DmaMap> {
        self.usable()
            .find(|map| map.flags & 3 == DmaMapFlags::READ.bits())
    }

    /// Whether one mapping allows this.
    pub(super) fn allows(&self, iova: u64, bytes: u64, access: DmaMapFlags) -> bool {
        let (first, end) = span(iova, bytes);
        self.maps.iter().any(|map| {
            let (from, to) = span(map.iova, map.bytes);
            from <= first && end <= to && map.flags & access.bits() == access.bits()
        })
    }

    /// The first address after a mapping that belongs to none, nor do the next 8.
    pub(super) fn free(&self) -> Option<u64> {
        self.usable()
            .filter_map(|map| map.iova.checked_add(map.bytes))
            .find(|&end| end.checked_add(8).is_some() && !self.overlaps(end, 8))
    }

    /// Where a mapping begins whose file can be read here, and what it has there.
    pub(super) fn mapping_of_file(&self, count: usize) -> Option<(u64, Vec<u8>)> {
        let read = |(map, _): &(DmaMap, OwnedFd)| Some((map.iova, self.file_bytes(map.iova, count)?));
        self.files.iter().find_map(read)
    }

    /// What a mapping's file has at an address.
    pub(super) fn file_bytes(&self, iova: u64, count: usize) -> Option<Vec<u8>> {
        if !self.allows(iova, count as u64, DmaMapFlags::READ) {
            return None;
        }
        let holds = |map: &DmaMap| iova >= map.iova && iova - map.iova < map.bytes;
        let (map, file) = self.files.iter().rev().find(|(map, _)| holds(map))?;
        let mut bytes = vec![0; count];
        let at = map.offset.checked_add(iova - map.iova)?;
        let got = rustix::io::pread(file, &mut *bytes, at).ok()?;
        (got == count).then_some(bytes)
    }

    /// Answers a command, or gives the error number.
    pub(super) fn carry_out(&mut self, command: u16, payload: &[u8]) -> Result<Vec<u8>, u32> {
        let command = Command::from_number(command).ok_or(ENOSYS)?;
        match command {
            Command::Version => Ok(version_json(
                "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}",
            )),
            Command::GetInfo => Ok(bytes_of(&DeviceInfo {
                argsz: size_of::<DeviceInfo>() as u32,
                flags: 3,
                regions: REGIONS,
                irqs: IRQS,
            })),
            Command::GetRegionInfo => self.region_info(&read::<RegionInfo>(payload)?),
            Command::GetIrqInfo => {
                let asked: IrqInfo = read(payload)?;
                if asked.index >= IRQS {
                    return Err(EINVAL);
                }
                Ok(bytes_of(&IrqInfo {
                    argsz: size_of::<IrqInfo>() as u32,
                    // Eventfd; INTx can be masked, and masks itself.
                    flags: if asked.index == 0 { 7 } else { 1 },
                    index: asked.index,
                    count: Self::vectors(asked.index),
                }))
            }
            Command::RegionRead => {
                let access: RegionAccess = read(payload)?;
                let data = self.window(&access)?.to_vec();
                Ok([bytes_of(&access), data].concat())
            }
            Command::RegionWrite => {
                let access: RegionAccess = read(payload)?;
                let data = payload.get(size_of::<RegionAccess>()..).unwrap_or_default();
                self.write(&access, data)?;
                Ok(bytes_of(&access))
            }
            Command::RegionWriteMulti => {
                let count: u64 = read(payload)?;
                let writes = payload.get(8..).unwrap_or_default();
                for one in writes.chunks_exact(size_of::<MultiWrite>()) {
                    let one: MultiWrite = read(one)?;
                    let access = RegionAccess {
                        offset: one.offset,
                        region: one.region,
                        count: one.count,
                    };
                    self.write(&access, one.data.get(..one.count as usize).ok_or(EINVAL)?)?;
                }
                Ok(bytes_of(&count))
            }
            Command::SetIrqs | Command::Reset => Ok(Vec::new()),
            Command::DmaMap => {
                let map: DmaMap = read(payload)?;
                if self.overlaps(map.iova, map.bytes) {
                    return Err(EEXIST);
                }
                self.maps.push(map);
                Ok(Vec::new())
            }
            Command::DmaUnmap => {
                let unmap: DmaUnmap = read(payload)?;
                let all = unmap.flags & 2 != 0;
                let (first, end) = span(unmap.iova, unmap.bytes);
                let stays = |map: &DmaMap| {
                    let (from, to) = span(map.iova, map.bytes);
                    !(all || first <= from && to <= end)
                };
                self.maps.retain(stays);
                self.files.retain(|(map, _)| stays(map));
                Ok(bytes_of(&unmap))
            }
            Command::Feature => Err(ENOTTY),
            _ => Err(ENOSYS),
        }
    }

    /// Whether a range meets a mapping.
    pub(super) fn overlaps(&self, iova: u64, bytes: u64) -> bool {
        let (first, end) = span(iova, bytes);
        self.maps.iter().any(|map| {
            let (from, to) = span(map.iova, map.bytes);
            from < end && first < to
        })
    }

    fn region_info(&self, asked: &RegionInfo) -> Result<Vec<u8>, u32> {
        if asked.index >= REGIONS {
            return Err(EINVAL);
        }
        let bytes = self.bytes(asked.index);
        Ok(bytes_of(&RegionInfo {
            argsz: size_of::<RegionInfo>() as u32,
            flags: if bytes > 0 { 3 } else { 0 },
            index: asked.index,
            cap_offset: 0,
            bytes,
            offset: 0,
        }))
    }

    fn window(&mut self, access: &RegionAccess) -> Result<&mut [u8], u32> {
        let region = match access.region {
            0 => &mut self.bar,
            CONFIG => &mut self.config,
            _ => return Err(EINVAL),
        };
        let start = usize::try_from(access.offset).map_err(|_| EINVAL)?;
        let end = start.checked_add(access.count as usize).ok_or(EINVAL)?;
        region.get_mut(start..end).ok_or(EINVAL)
    }

    fn write(&mut self, access: &RegionAccess, data: &[u8]) -> Result<(), u32> {
        let window = self.window(access)?;
        if window.len() != data.len() {
            return Err(EINVAL);
        }
        window.copy_from_slice(data);
        if access.region == CONFIG {
            self.keep_read_only();
        }
        Ok(())
    }

    /// Identity stays as it was, BAR 0 is 4 KiB long, and the other BARs are none.
    fn keep_read_only(&mut self) {
        let fresh = Self::new().config;
        for (at, (byte, fresh)) in self.config.iter_mut().zip(fresh).enumerate() {
            let writable =
                matches!(at, 4 | 5 | 0x3c) || (BAR0_AT + 1..BAR0_AT + 4).contains(&at) || at >= 0x40;
            if !writable {
                *byte = fresh;
            } else if at == BAR0_AT + 1 {
                *byte &= 0xf0;
            }
        }
    }
}

/// A range in 128 bits, where nothing overflows.
fn span(iova: u64, bytes: u64) -> (u128, u128) {
    (iova.into(), u128::from(iova) + u128::from(bytes))
}

fn read<T: FromBytes>(payload: &[u8]) -> Result<T, u32> {
    T::read_from_prefix(payload)
        .map(|(value, _)| value)
        .map_err(|_| EINVAL)
}
