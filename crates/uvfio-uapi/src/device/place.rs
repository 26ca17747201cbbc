//! Where a device's BARs lie, as its host's firmware would have placed them, and what the kernel does to a function when
//! it is opened: memory and I/O on, bus master off.

use uvfio_core::region_index;
use uvfio_pci::tables::header;
use uvfio_pci::{Bar, Layout};

use crate::backend::Backend;

/// Addresses of BAR 0 to 5, and of the ROM; 0 where there is none, or no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) addresses: [u64; 7],
}

/// What is left of an address space: the next address, and its end.
struct Room {
    next: u64,
    end: u64,
}

impl Room {
    /// Takes `bytes` bytes, a power of two, aligned to themselves; 0 if they don't fit.
    fn take(&mut self, bytes: u64) -> u64 {
        let start = self.next.checked_next_multiple_of(bytes);
        let range = start.and_then(|start| Some((start, start.checked_add(bytes)?)));
        match range {
            Some((start, end)) if end <= self.end => {
                self.next = end;
                start
            }
            _ => 0,
        }
    }
}

/// Places the BARs of functions, none over another.
pub(crate) fn place<'a>(layouts: impl Iterator<Item = &'a Layout>) -> Vec<Placement> {
    let mut ports = Room {
        next: 0x1000,
        end: 0x1_0000,
    };
    let mut low = Room {
        next: 0xc000_0000,
        end: 0xfe00_0000,
    };
    let mut high = Room {
        next: 0x80_0000_0000,
        end: 1 << 46,
    };
    let mut placed = Vec::new();
    for layout in layouts {
        let mut placement = Placement::default();
        for (bar, address) in (0..).zip(&mut placement.addresses) {
            *address = match layout.bar(bar) {
                Bar::None => 0,
                // No two functions share a page of memory.
                Bar::Memory32 { bytes, .. } => low.take(u64::from(bytes).max(4096)),
                Bar::Memory64 { bytes, .. } => high.take(bytes.max(4096)),
                Bar::Io { bytes } => ports.take(bytes.into()),
            };
        }
        if layout.rom_bytes() > 0
            && let [.., rom] = &mut placement.addresses
        {
            *rom = low.take(u64::from(layout.rom_bytes()).max(4096));
        }
        placed.push(placement);
    }
    placed
}

impl Placement {
    /// Writes the addresses, and has the BARs answer.
    pub(super) fn apply(&self, device: &dyn Backend) {
        let layout = device.layout();
        let mut command = 0;
        let place = |register, data: &[u8]| {
            if !device.is_placed() {
                write(device, register, data);
            }
        };
        for (bar, address) in (0_u8..).zip(self.addresses) {
            let register = header::BAR0 + u16::from(bar) * 4;
            let low = (address as u32).to_le_bytes();
            match layout.bar(bar) {
                _ if bar == 6 => place(header::ROM_BAR, &low),
                Bar::None => {}
                Bar::Io { .. } => {
                    command |= 1 << header::IO.lsb;
                    place(register, &low);
                }
                Bar::Memory32 { .. } => {
                    command |= 1 << header::MEMORY.lsb;
                    place(register, &low);
                }
                Bar::Memory64 { .. } => {
                    command |= 1 << header::MEMORY.lsb;
                    place(register, &address.to_le_bytes());
                }
            }
        }
        if layout.rom_bytes() > 0 {
            command |= 1 << header::MEMORY.lsb;
        }
        write(device, header::MEMORY.register, &u16::to_le_bytes(command));
    }
}

/// Writes configuration space.
fn write(device: &dyn Backend, register: u16, data: &[u8]) {
    if let Err(error) = device.write(region_index::CONFIG, register.into(), data) {
        tracing::error!(target: "uapi", %error, "a register of the header can't be written");
    }
}

#[cfg(test)]
mod tests {
    use uvfio_pci::{Blueprint, Identity, View};

    use super::*;

    const SMALL: Bar = Bar::Memory32 {
        bytes: 256,
        prefetchable: false,
    };
    const LARGE: Bar = Bar::Memory64 {
        bytes: 1 << 30,
        prefetchable: true,
    };

    fn layout(bars: [Bar; 6], rom_bytes: u32) -> Layout {
        let blueprint = Blueprint {
            identity: Identity {
                vendor: 1,
                device: 1,
                revision: 0,
                class: [0; 3],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 0,
            },
            bars,
            rom_bytes,
            capabilities: &[],
            extended: &[],
        };
        Layout::compile(&blueprint, View::Virtual).unwrap()
    }

    #[test]
    fn each_bar_has_pages_of_its_own_and_is_aligned_to_its_size() {
        let io = Bar::Io { bytes: 32 };
        let one = layout([SMALL, SMALL, LARGE, Bar::None, io, io], 2048);
        let two = layout([SMALL, LARGE, Bar::None, LARGE, Bar::None, io], 0);
        let placed = place([&one, &two].into_iter());
        let [a, b] = placed.as_slice() else {
            panic!("two placements");
        };
        assert_eq!(
            a.addresses,
            [
                0xc000_0000,
                0xc000_1000,
                0x80_0000_0000,
                0,
                0x1000,
                0x1020,
                0xc000_2000
            ]
        );
        assert_eq!(
            b.addresses,
            [0xc000_3000, 0x80_4000_0000, 0, 0x80_8000_0000, 0, 0x1040, 0]
        );
    }

    #[test]
    fn what_finds_no_room_has_no_address() {
        let huge = Bar::Memory32 {
            bytes: 1 << 31,
            prefetchable: false,
        };
        let layout = layout([huge, SMALL, Bar::None, Bar::None, Bar::None, Bar::None], 0);
        let placed = place(std::iter::once(&layout));
        assert_eq!(placed[0].addresses, [0, 0xc000_0000, 0, 0, 0, 0, 0]);
    }
}
