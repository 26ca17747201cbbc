//! Configuration space: what the device says that it is, and its BARs.

use uvfio_core::Device;
use uvfio_core::region_index::CONFIG;
use uvfio_pci::{Bar, Capability};

use crate::demo::function::{
    self, BAR0, CAP_EXPRESS, CAP_MSI, CAP_POWER, COMMAND_BUS_MASTER, COMMAND_MEMORY, EXPRESS_FLR_CAPABLE,
    MSI_CAPABLE_SHIFT, config_u8, config_u16, config_u32, set_config_u32,
};
use crate::demo::link::Refused;
use crate::demo::page::Section;
use crate::demo::user::User;
use crate::names;

/// Where the demo puts BAR 0 in the end.
const BAR0_ADDRESS: u32 = 0xfea0_0000;

pub(in crate::demo) fn config(user: &mut User, edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    let declared = edu.blueprint().identity;

    let (vendor, device) = (config_u16(link, 0)?, config_u16(link, 2)?);
    let name = names::device(vendor, device);
    let ok = (vendor, device) == (declared.vendor, declared.device);
    page.check(
        "vendor, device",
        format!("{vendor:04x}:{device:04x} ({name})"),
        ok,
        "as the device declares",
    );

    let [revision, interface, subclass, base] = config_u32(link, 8)?.to_le_bytes();
    let class = names::class(base, subclass);
    let ok = [base, subclass, interface] == declared.class && revision == declared.revision;
    let seen = format!("{base:02x}{subclass:02x}{interface:02x} ({class}), revision {revision:02x}");
    page.check("class, revision", seen, ok, "as the device declares");

    let (subvendor, subdevice) = (config_u16(link, 0x2c)?, config_u16(link, 0x2e)?);
    let pin = config_u8(link, 0x3d)?;
    let ok = (subvendor, subdevice) == (declared.subsystem_vendor, declared.subsystem)
        && pin == declared.interrupt_pin;
    let line = char::from(b'@'.saturating_add(pin.min(4)));
    page.check(
        "subsystem, interrupt pin",
        format!("{subvendor:04x}:{subdevice:04x}, INT{line}"),
        ok,
        "as declared",
    );

    let mut found = 0;
    for (at, id) in function::capabilities(link)? {
        found += 1;
        let (name, seen) = match id {
            CAP_POWER => {
                let version = config_u16(link, at + 2)? & 7;
                let state = config_u16(link, at + 4)? & 3;
                ("power management", format!("version {version}, in D{state}"))
            }
            CAP_MSI => {
                let control = config_u16(link, at + 2)?;
                let messages = 1 << ((control >> MSI_CAPABLE_SHIFT) & 7);
                let wide = if control & 0x80 == 0 { 32 } else { 64 };
                ("MSI", format!("{messages} messages, {wide}-bit addresses"))
            }
            CAP_EXPRESS => {
                let flr = config_u32(link, at + 4)? & EXPRESS_FLR_CAPABLE != 0;
                let version = config_u16(link, at + 2)? & 15;
                (
                    "PCI Express",
                    format!("version {version}, FLR{}", if flr { "+" } else { "-" }),
                )
            }
            _ => ("unknown", format!("ID {id:#04x}")),
        };
        let ok = edu
            .blueprint()
            .capabilities
            .iter()
            .any(|capability| is(capability, id));
        page.check(
            format!("capability at {at:#04x}"),
            format!("{name}: {seen}"),
            ok,
            "one that the device declares",
        );
    }
    let declared = edu.blueprint().capabilities.len();
    page.check(
        "capabilities in the chain",
        found.to_string(),
        found == declared,
        declared.to_string(),
    );
    Ok(())
}

fn is(capability: &Capability<'_>, id: u8) -> bool {
    match capability {
        Capability::PowerManagement { .. } => id == CAP_POWER,
        Capability::Msi { .. } => id == CAP_MSI,
        Capability::Express { .. } => id == CAP_EXPRESS,
        _ => false,
    }
}

pub(in crate::demo) fn bars(user: &mut User, edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    for (number, declared) in edu.blueprint().bars.iter().enumerate() {
        let at = BAR0 + 4 * number as u64;
        set_config_u32(link, at, u32::MAX)?;
        let ones = config_u32(link, at)?;
        set_config_u32(link, at, 0)?;
        let region = link.region_bytes(number as u32)?;
        match *declared {
            Bar::None if ones == 0 && region == 0 => {}
            Bar::None => page.check(
                format!("BAR {number}"),
                format!("{ones:#x}, {region} bytes"),
                false,
                "absent",
            ),
            Bar::Memory32 { bytes, .. } => {
                let sized = (!(ones & !15)).wrapping_add(1);
                let seen = format!(
                    "{ones:#010x} reads back: {}; as a region {region} bytes",
                    names::bytes(sized.into())
                );
                page.check(
                    format!("BAR {number}"),
                    seen,
                    sized == bytes && region == u64::from(bytes),
                    names::bytes(bytes.into()),
                );
            }
            Bar::Memory64 { .. } | Bar::Io { .. } => page.tell(format!("BAR {number}"), format!("{ones:#x}")),
        }
    }
    set_config_u32(link, BAR0, BAR0_ADDRESS)?;
    function::command(link, COMMAND_MEMORY | COMMAND_BUS_MASTER, true)?;
    let (address, command) = (config_u32(link, BAR0)?, config_u16(link, function::COMMAND)?);
    let seen = format!("BAR 0 {address:#010x}, COMMAND {command:#06x}");
    let ok = address == BAR0_ADDRESS
        && command & (COMMAND_MEMORY | COMMAND_BUS_MASTER) == COMMAND_MEMORY | COMMAND_BUS_MASTER;
    page.check(
        "placed and switched on",
        seen,
        ok,
        format!("BAR 0 {BAR0_ADDRESS:#010x}, memory and bus master on"),
    );
    let config = link.region_bytes(CONFIG)?;
    page.check(
        "configuration space as a region",
        format!("{config} bytes"),
        config == 4096,
        "4096 bytes (PCI Express)",
    );
    Ok(())
}
