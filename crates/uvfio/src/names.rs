//! Names of vendors, devices and classes, from the PCI ID database.

use pci_ids::{Classes, Device, FromId, Subclass, Vendor};

/// `Vendor Device`, as far as they are known.
pub(crate) fn device(vendor: u16, device: u16) -> String {
    let vendor_name =
        Vendor::from_id(vendor).map_or_else(|| format!("Vendor {vendor:04x}"), |v| v.name().to_owned());
    let device_name = Device::from_vid_pid(vendor, device)
        .map_or_else(|| format!("Device {device:04x}"), |d| d.name().to_owned());
    format!("{vendor_name} {device_name}")
}

/// The subclass's name, else the class's.
pub(crate) fn class(base: u8, subclass: u8) -> String {
    if let Some(subclass) = Subclass::from_cid_sid(base, subclass) {
        return subclass.name().to_owned();
    }
    match Classes::iter().find(|class| class.id() == base) {
        Some(class) => class.name().to_owned(),
        None => format!("Class {base:02x}{subclass:02x}"),
    }
}

/// A number of bytes, in the largest unit that leaves no rest.
pub(crate) fn bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_come_from_the_database_or_are_numbers() {
        assert_eq!(
            super::device(0x8086, 0x10c9),
            "Intel Corporation 82576 Gigabit Network Connection"
        );
        assert_eq!(super::device(0x1234, 0xfffe), "Vendor 1234 Device fffe");
        assert_eq!(super::class(0x01, 0x08), "Non-Volatile memory controller");
        assert_eq!(super::class(0x00, 0xff), "Unclassified device");
    }

    #[test]
    fn sizes_are_shown_in_their_largest_whole_unit() {
        for (bytes, text) in [
            (1 << 20, "1 MiB"),
            (16 << 10, "16 KiB"),
            (256, "256 bytes"),
            (1536, "1536 bytes"),
        ] {
            assert_eq!(super::bytes(bytes), text);
        }
    }
}
