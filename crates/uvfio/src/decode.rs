//! Configuration space taken apart by the model's tables: structures, registers, fields, with their values.

use serde::Serialize;
use uvfio_pci::{Bar, Placed, tables};

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

pub(crate) fn function(seen: &Seen) -> Function {
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
        bars: bars(seen),
        structures,
    }
}

fn registers(seen: &Seen, placed: &Placed, into: &mut Vec<Register>) {
    // A BAR that isn't implemented is a register all the same, but there is nothing to say about it.
    if std::ptr::eq(placed.table, &tables::header::BAR_NONE) {
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

fn bars(seen: &Seen) -> Vec<BarSeen> {
    let mut bars = Vec::new();
    for number in 0..6 {
        let (kind, bytes) = match seen.layout.bar(number) {
            Bar::None => continue,
            Bar::Memory32 {
                bytes,
                prefetchable: false,
            } => ("32-bit memory", bytes.into()),
            Bar::Memory32 {
                bytes,
                prefetchable: true,
            } => ("32-bit prefetchable memory", bytes.into()),
            Bar::Memory64 {
                bytes,
                prefetchable: false,
            } => ("64-bit memory", bytes),
            Bar::Memory64 {
                bytes,
                prefetchable: true,
            } => ("64-bit prefetchable memory", bytes),
            Bar::Io { bytes } => ("I/O ports", bytes.into()),
        };
        let address = seen.state.bar_address(&seen.layout, number);
        bars.push(BarSeen {
            number,
            kind,
            bytes: (bytes != 0).then_some(bytes),
            address,
        });
    }
    bars
}
