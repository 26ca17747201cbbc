//! Accesses to regions, from the one check of their bounds to the device or the model.

use uvfio_pci::access::each;
use uvfio_pci::{Input, Window};

use super::VirtualDevice;
use super::route::Hop;
use crate::front_end::FrontEnd;
use crate::{AccessError, Doorbell, Mapped, RegionInfo, Width, region_index};

/// A range that lies within a region.
enum Target {
    Bar(u8),
    Rom,
    Config,
}

impl VirtualDevice {
    /// What region `region` is.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    pub fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError> {
        let bytes = self.region_bytes(region)?;
        let there = bytes > 0;
        let mut info = RegionInfo {
            bytes,
            read: there,
            write: there && region != region_index::ROM,
            mappable: Vec::new(),
            memory: None,
            memory_at: 0,
        };
        if there && region < region_index::ROM {
            for part in self.core.device.mappable(region as u8) {
                // Who has lost a device is not given its registers.
                if part.kind == Mapped::Registers && self.is_gone() {
                    continue;
                }
                if info.memory.is_none() {
                    info.memory = part.file.try_clone().ok();
                    info.memory_at = part.bar_at;
                }
                info.mappable.push((part.offset, part.bytes));
            }
            if info.memory.is_none() {
                info.mappable.clear();
                info.memory_at = 0;
            }
        }
        Ok(info)
    }

    /// The registers of region `region` whose stores may come by eventfd; a device that is gone has none.
    ///
    /// # Errors
    /// For an index that a PCI function hasn't.
    pub fn doorbells(&self, region: u32) -> Result<Vec<Doorbell>, AccessError> {
        let there = self.region_bytes(region)? > 0;
        if !there || region >= region_index::ROM || self.is_gone() {
            return Ok(Vec::new());
        }
        Ok(self.core.device.doorbells(region as u8))
    }

    /// Reads a region: any offset, any length. Never waits, never allocates.
    ///
    /// # Errors
    /// Only where the access does not lie within the region.
    pub fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let target = self.target(region, offset, data.len())?;
        let _inside = FrontEnd::enter();
        if self.is_gone() {
            data.fill(0xff);
            return Ok(());
        }
        match target {
            Target::Config => self.core.read_config(offset as u32, data),
            Target::Bar(bar) if self.core.lines.decodes(bar) => self.read_bar(bar, offset, data),
            Target::Rom if self.rom_decodes() => {
                data.fill(0xff);
                let rom = self.core.device.rom().get(offset as usize..).unwrap_or_default();
                data.iter_mut().zip(rom).for_each(|(to, from)| *to = *from);
            }
            Target::Bar(_) | Target::Rom => data.fill(0xff),
        }
        Ok(())
    }

    /// Writes a region: any offset, any length. Effects that take time run on another thread. Never waits, never
    /// allocates.
    ///
    /// # Errors
    /// Only where the access does not lie within the region; nothing is changed then.
    pub fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let target = self.target(region, offset, data.len())?;
        let _inside = FrontEnd::enter();
        match target {
            _ if self.is_gone() => {}
            Target::Config => self.write_window(Window::Config, offset as u32, data),
            Target::Bar(bar) if self.core.lines.decodes(bar) => self.write_bar(bar, offset, data),
            Target::Bar(_) | Target::Rom => {}
        }
        Ok(())
    }

    /// Whether a region answers accesses now: memory (of an I/O BAR: I/O) is on in COMMAND, the function is in D0, and
    /// no reset is under way. A region that does not reads all ones and drops writes; so does a gone device, which
    /// answers always.
    #[must_use]
    pub fn answers(&self, region: u32) -> bool {
        match region {
            _ if self.is_gone() => true,
            0..region_index::ROM => self.core.lines.decodes(region as u8),
            region_index::ROM => self.rom_decodes(),
            region_index::CONFIG => true,
            _ => false,
        }
    }

    fn region_bytes(&self, region: u32) -> Result<u64, AccessError> {
        Ok(match region {
            0..region_index::ROM => self.core.bars.get(region as usize).map_or(0, |bar| bar.bytes),
            region_index::ROM => self.core.rom_bytes,
            region_index::CONFIG => self.layout().config_bytes().into(),
            region_index::VGA => 0,
            _ => return Err(AccessError::NoSuchRegion(region)),
        })
    }

    /// The one place where an access is checked against its region.
    fn target(&self, region: u32, offset: u64, len: usize) -> Result<Target, AccessError> {
        let have = self.region_bytes(region)?;
        let bytes = len as u64;
        if offset.checked_add(bytes).is_none_or(|end| end > have) {
            return Err(AccessError::OutOfRange {
                region,
                offset,
                bytes,
                have,
            });
        }
        Ok(match region {
            region_index::CONFIG => Target::Config,
            region_index::ROM => Target::Rom,
            bar => Target::Bar(bar as u8),
        })
    }

    /// A read of the ROM's region needs no ROM enable bit, as with the kernel's VFIO: clients read it to give the
    /// ROM to their guest, who then has a ROM BAR of their making. Memory decoding it needs, where there is any.
    fn rom_decodes(&self) -> bool {
        let memory_bars = self.core.memory_bars;
        memory_bars == 0
            || (0..7).any(|bar| (bar == 6 || memory_bars >> bar & 1 != 0) && self.core.lines.decodes(bar))
    }

    fn read_bar(&self, bar: u8, mut offset: u64, mut data: &mut [u8]) {
        let Some(route) = self.core.bars.get(usize::from(bar)) else {
            return;
        };
        while !data.is_empty() {
            let n = match route.hop(offset, data.len()) {
                Hop::Device(n) => {
                    let value = self.core.device.read(bar, offset, width(n)).to_le_bytes();
                    put(data, n, value);
                    n
                }
                Hop::Window(window, at, n) => {
                    self.core
                        .lines
                        .read(window, at, data.get_mut(..n).unwrap_or_default());
                    n
                }
            };
            data = data.get_mut(n..).unwrap_or_default();
            offset += n as u64;
        }
    }

    fn write_bar(&self, bar: u8, mut offset: u64, mut data: &[u8]) {
        let Some(route) = self.core.bars.get(usize::from(bar)) else {
            return;
        };
        while !data.is_empty() {
            let n = match route.hop(offset, data.len()) {
                Hop::Device(n) => {
                    self.core.device.write(bar, offset, width(n), get(data, n));
                    n
                }
                Hop::Window(window, at, n) => {
                    self.write_window(window, at, data.get(..n).unwrap_or_default());
                    n
                }
            };
            data = data.get(n..).unwrap_or_default();
            offset += n as u64;
        }
    }

    #[inline]
    fn write_window(&self, window: Window, offset: u32, data: &[u8]) {
        each(offset, data.len(), |piece| {
            self.core.step(Input::Write {
                window,
                register: piece.register,
                value: piece.gather(data),
                enables: piece.enables,
            });
        });
    }
}

/// Puts the first `n` bytes of a register's value before others; nearly always four, which is a store.
#[inline]
fn put(data: &mut [u8], n: usize, value: [u8; 8]) {
    if n == 4
        && let (Some(data), Some(value)) = (data.first_chunk_mut::<4>(), value.first_chunk())
    {
        *data = *value;
        return;
    }
    data.iter_mut()
        .zip(value)
        .take(n)
        .for_each(|(to, from)| *to = from);
}

/// The first `n` bytes as a register's value; nearly always four, which is a load.
#[inline]
fn get(data: &[u8], n: usize) -> u64 {
    if n == 4
        && let Some(four) = data.first_chunk()
    {
        return u32::from_le_bytes(*four).into();
    }
    let mut value = [0; 8];
    value
        .iter_mut()
        .zip(data)
        .take(n)
        .for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(value)
}

/// The width of an access of 1, 2, 4 or 8 bytes.
fn width(bytes: usize) -> Width {
    match bytes {
        1 => Width::B1,
        2 => Width::B2,
        4 => Width::B4,
        _ => Width::B8,
    }
}
