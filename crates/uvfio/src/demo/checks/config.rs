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
    identity(user, edu, page)?;
    capabilities(user, edu, page)?;
    bars(user, edu, page)
}

fn identity(user: &mut User, edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    let declared = edu.blueprint().identity;
    let (vendor, device) = (config_u16(link, 0)?, config_u16(link, 2)?);
    let [revision, interface, subclass, base] = config_u32(link, 8)?.to_le_bytes();
    let (subvendor, subdevice) = (config_u16(link, 0x2c)?, config_u16(link, 0x2e)?);
    let pin = config_u8(link, 0x3d)?;
    let ok = (vendor, device) == (declared.vendor, declared.device)
        && [base, subclass, interface] == declared.class
        && revision == declared.revision
        && (subvendor, subdevice) == (declared.subsystem_vendor, declared.subsystem)
        && pin == declared.interrupt_pin;
    let line = char::from(b'@'.saturating_add(pin.min(4)));
    let class = names::class(base, subclass);
    page.check(
        "device, class, subsystem, interrupt",
        format!(
            "{vendor:04x}:{device:04x} revision {revision:02x}, {base:02x}{subclass:02x}{interface:02x} ({class}), \
             {subvendor:04x}:{subdevice:04x}, INT{line}"
        ),
        ok,
        "as the device declares",
    )
    .number("vendor", vendor)
    .number("device", device)
    .number("revision", revision)
    .number("class", u32::from_be_bytes([0, base, subclass, interface]))
    .number("subsystem_vendor", subvendor)
    .number("subsystem", subdevice)
    .number("interrupt_pin", pin);
    Ok(())
}

fn capabilities(user: &mut User, edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    let blueprint = edu.blueprint();
    let (mut seen, mut offsets, mut known) = (Vec::new(), Vec::new(), true);
    for (at, id) in function::capabilities(link)? {
        known &= blueprint.capabilities.iter().any(|capability| is(capability, id));
        offsets.push(at);
        let what = match id {
            CAP_POWER => {
                let version = config_u16(link, at + 2)? & 7;
                let state = config_u16(link, at + 4)? & 3;
                format!("power management version {version} in D{state}")
            }
            CAP_MSI => {
                let control = config_u16(link, at + 2)?;
                let messages = 1 << ((control >> MSI_CAPABLE_SHIFT) & 7);
                let wide = if control & 0x80 == 0 { 32 } else { 64 };
                format!("MSI with {messages} messages, {wide}-bit addresses")
            }
            CAP_EXPRESS => {
                let version = config_u16(link, at + 2)? & 15;
                let flr = config_u32(link, at + 4)? & EXPRESS_FLR_CAPABLE != 0;
                format!(
                    "PCI Express version {version} with{} FLR",
                    if flr { "" } else { "out" }
                )
            }
            _ => format!("unknown ID {id:#04x}"),
        };
        seen.push(format!("{at:#04x} {what}"));
    }
    let declared = blueprint.capabilities.len();
    page.check(
        "capabilities in the chain",
        seen.join("; "),
        known && offsets.len() == declared,
        format!("the {declared} that the device declares"),
    )
    .number("offsets", offsets);
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

fn bars(user: &mut User, edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    for (number, declared) in edu.blueprint().bars.iter().enumerate() {
        let at = BAR0 + 4 * number as u64;
        set_config_u32(link, at, u32::MAX)?;
        let ones = config_u32(link, at)?;
        set_config_u32(link, at, 0)?;
        let region = link.region_bytes(number as u32)?;
        match *declared {
            Bar::None if ones == 0 && region == 0 => {}
            Bar::None => {
                let seen = format!("{ones:#x}, {region} bytes");
                page.check(format!("BAR {number}"), seen, false, "absent");
            }
            Bar::Memory32 { bytes, .. } => {
                let sized = (!(ones & !15)).wrapping_add(1);
                let seen = format!(
                    "{ones:#010x} reads back: {}; as a region {region} bytes",
                    names::bytes(sized.into())
                );
                page.check(
                    format!("BAR {number}, sized by writing ones"),
                    seen,
                    sized == bytes && region == u64::from(bytes),
                    names::bytes(bytes.into()),
                )
                .number("bytes", sized)
                .number("region_bytes", region);
            }
            Bar::Memory64 { .. } | Bar::Io { .. } => {
                page.tell(format!("BAR {number}"), format!("{ones:#x}"));
            }
        }
    }
    set_config_u32(link, BAR0, BAR0_ADDRESS)?;
    function::command(link, COMMAND_MEMORY | COMMAND_BUS_MASTER, true)?;
    let (address, command) = (config_u32(link, BAR0)?, config_u16(link, function::COMMAND)?);
    let config = link.region_bytes(CONFIG)?;
    let on = COMMAND_MEMORY | COMMAND_BUS_MASTER;
    page.check(
        "BAR 0 placed, COMMAND switched on",
        format!("{address:#010x}, {command:#06x}; {config} bytes of configuration space"),
        address == BAR0_ADDRESS && command & on == on && config == 4096,
        format!("{BAR0_ADDRESS:#010x}, memory and bus master on; 4096 bytes (PCI Express)"),
    )
    .number("address", address)
    .number("command", command)
    .number("config_bytes", config);
    Ok(())
}
