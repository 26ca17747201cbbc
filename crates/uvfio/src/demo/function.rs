//! The function as the user's driver sees it: configuration space by the specification's own numbers (PCI Local Bus
//! 3.0, sections 6.1, 6.2, 6.8; PCI Express Base 5.0, section 7.5), not by the server's tables.

use uvfio_core::region_index::CONFIG;

use super::link::{Link, Refused};

pub(super) const COMMAND: u64 = 0x04;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub(super) const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;

pub(super) const CAP_POWER: u8 = 0x01;
pub(super) const CAP_MSI: u8 = 0x05;
pub(super) const CAP_EXPRESS: u8 = 0x10;

/// In MSI's message control: enable, multiple message capable, multiple message enable.
pub(super) const MSI_ENABLE: u16 = 1;
pub(super) const MSI_CAPABLE_SHIFT: u16 = 1;
pub(super) const MSI_GRANTED_SHIFT: u16 = 4;
/// In PCI Express' device capabilities: function level reset capable.
pub(super) const EXPRESS_FLR_CAPABLE: u32 = 1 << 28;
/// In PCI Express' device control: initiate function level reset.
pub(super) const EXPRESS_FLR: u16 = 1 << 15;

pub(super) fn config_u8(link: &mut Link, offset: u64) -> Result<u8, Refused> {
    let mut data = [0; 1];
    link.read(CONFIG, offset, &mut data)?;
    Ok(data[0])
}

pub(super) fn config_u16(link: &mut Link, offset: u64) -> Result<u16, Refused> {
    let mut data = [0; 2];
    link.read(CONFIG, offset, &mut data)?;
    Ok(u16::from_le_bytes(data))
}

pub(super) fn config_u32(link: &mut Link, offset: u64) -> Result<u32, Refused> {
    let mut data = [0; 4];
    link.read(CONFIG, offset, &mut data)?;
    Ok(u32::from_le_bytes(data))
}

pub(super) fn set_config_u16(link: &mut Link, offset: u64, value: u16) -> Result<(), Refused> {
    link.write(CONFIG, offset, &value.to_le_bytes())
}

pub(super) fn set_config_u32(link: &mut Link, offset: u64, value: u32) -> Result<(), Refused> {
    link.write(CONFIG, offset, &value.to_le_bytes())
}

/// Switches bits of COMMAND on or off.
pub(super) fn command(link: &mut Link, bits: u16, on: bool) -> Result<(), Refused> {
    let before = config_u16(link, COMMAND)?;
    set_config_u16(link, COMMAND, if on { before | bits } else { before & !bits })
}

/// The capabilities in the order of the chain: offset and ID. A chain that goes on for ever is cut.
pub(super) fn capabilities(link: &mut Link) -> Result<Vec<(u64, u8)>, Refused> {
    let mut found = Vec::new();
    let mut at = u64::from(config_u8(link, CAPABILITIES)?) & !3;
    while at >= 0x40 && found.len() < 48 {
        found.push((at, config_u8(link, at)?));
        at = u64::from(config_u8(link, at + 1)?) & !3;
    }
    Ok(found)
}

/// Where capability `id` lies.
pub(super) fn capability(link: &mut Link, id: u8) -> Result<u64, Refused> {
    capabilities(link)?
        .into_iter()
        .find(|(_, found)| *found == id)
        .map(|(at, _)| at)
        .ok_or_else(|| Refused::absent(format!("capability {id:#04x} is not in the chain")))
}
