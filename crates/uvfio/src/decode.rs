//! Configuration space taken apart by the model's tables: structures, registers, fields, with their values.

use serde::Serialize;
use uvfio_pci::tables::header;
use uvfio_pci::{Field, Placed};

use crate::names;
use crate::target::Seen;

/// A function, decoded.
#[derive(Debug, Serialize)]
pub(crate) struct Function {
    pub(crate) identity: Identity,
    pub(crate) config_bytes: u16,
    pub(crate) bars: Vec<BarSeen>,
    pub(crate) structures: Vec<Structure>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) name: String,
    pub(crate) class: u32,
    pub(crate) class_name: String,
    pub(crate) revision: u8,
}

#[derive(Debug, Serialize)]
pub(crate) struct BarSeen {
    pub(crate) number: u8,
    pub(crate) kind: &'static str,
    /// None where it can't be known (a dump doesn't tell).
    pub(crate) bytes: Option<u64>,
    pub(crate) address: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Structure {
    pub(crate) offset: u16,
    pub(crate) name: &'static str,
    pub(crate) section: &'static str,
    pub(crate) registers: Vec<Register>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Register {
    pub(crate) offset: u16,
    pub(crate) bytes: u8,
    pub(crate) value: u32,
    pub(crate) fields: Vec<FieldValue>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FieldValue {
    pub(crate) name: &'static str,
    pub(crate) msb: u8,
    pub(crate) lsb: u8,
    pub(crate) value: u32,
}

/// Decodes a function; `sizes` are those of its BARs, as far as they are known.
pub(crate) fn function(seen: &Seen, sizes: [Option<u64>; 6]) -> Function {
    let mut structures: Vec<Structure> = Vec::new();
    for placed in seen.layout.placed() {
        let at = match structures.iter().position(|s| s.offset == placed.structure) {
            Some(at) => at,
            None => {
                let Placed {
                    structure: offset,
                    table,
                    ..
                } = placed;
                structures.push(Structure {
                    offset,
                    name: table.name,
                    section: table.section,
                    registers: Vec::new(),
                });
                structures.len() - 1
            }
        };
        if let Some(structure) = structures.get_mut(at) {
            for copy in 0..placed.copies {
                let offset = placed.offset + copy * placed.table.bytes();
                registers(seen, &Placed { offset, ..placed }, &mut structure.registers);
            }
        }
    }
    for structure in &mut structures {
        structure.registers.sort_by_key(|register| register.offset);
    }
    structures.sort_by_key(|structure| structure.offset);
    Function {
        identity: identity(seen),
        config_bytes: seen.layout.config_bytes(),
        bars: bars(seen, sizes),
        structures,
    }
}

fn registers(seen: &Seen, placed: &Placed, into: &mut Vec<Register>) {
    // A BAR that isn't implemented is a register all the same, but there is nothing to say about it.
    if std::ptr::eq(placed.table, &header::BAR_NONE) {
        return;
    }
    for field in placed.table.fields {
        let (offset, bytes) = (placed.offset + field.register, field.bytes);
        let value = FieldValue {
            name: field.name,
            msb: field.msb,
            lsb: field.lsb,
            value: seen.layout.value(&seen.state, placed, field),
        };
        match into
            .iter_mut()
            .find(|register| register.offset == offset && register.bytes == bytes)
        {
            Some(register) => register.fields.push(value),
            None => into.push(Register {
                offset,
                bytes,
                value: seen.register(offset, bytes),
                fields: vec![value],
            }),
        }
    }
}

fn identity(seen: &Seen) -> Identity {
    // The first three dwords of any header (PCI Local Bus 3.0, 6.2.1).
    let [vendor_low, vendor_high, device_low, device_high] = seen.dword(0).to_le_bytes();
    let [revision, interface, subclass, base] = seen.dword(2).to_le_bytes();
    let vendor = u16::from_le_bytes([vendor_low, vendor_high]);
    let device = u16::from_le_bytes([device_low, device_high]);
    Identity {
        vendor,
        device,
        name: names::device(vendor, device),
        class: u32::from_le_bytes([interface, subclass, base, 0]),
        class_name: names::class(base, subclass),
        revision,
    }
}

/// The BARs by the tables that are placed for them; `sizes` by BAR number, as far as they are known.
fn bars(seen: &Seen, sizes: [Option<u64>; 6]) -> Vec<BarSeen> {
    let mut bars: Vec<BarSeen> = Vec::new();
    for placed in seen.layout.placed() {
        let is = |table| std::ptr::eq(placed.table, table);
        let value = |field: &Field| seen.layout.value(&seen.state, &placed, field);
        let prefetchable = |plain, prefetchable| {
            if value(&header::PREFETCHABLE) == 0 {
                plain
            } else {
                prefetchable
            }
        };
        let memory = u64::from(value(&header::MEMORY_BASE)) << header::MEMORY_BASE.lsb;
        let (kind, address) = if is(&header::BAR_MEMORY32) {
            (
                prefetchable("32-bit memory", "32-bit prefetchable memory"),
                memory,
            )
        } else if is(&header::BAR_MEMORY64) {
            (
                prefetchable("64-bit memory", "64-bit prefetchable memory"),
                memory,
            )
        } else if is(&header::BAR_IO) {
            (
                "I/O ports",
                u64::from(value(&header::IO_BASE)) << header::IO_BASE.lsb,
            )
        } else if is(&header::BAR_MEMORY64_HIGH) {
            if let Some(low) = bars.last_mut() {
                low.address |= u64::from(value(&header::MEMORY_BASE_HIGH)) << 32;
            }
            continue;
        } else {
            continue;
        };
        let number = (placed.offset.saturating_sub(header::BAR0) / 4) as u8;
        let bytes = sizes.get(usize::from(number)).copied().flatten();
        bars.push(BarSeen {
            number,
            kind,
            bytes,
            address,
        });
    }
    bars
}
