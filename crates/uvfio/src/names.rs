//! Names of vendors, devices and classes, from the PCI ID database.

/// Vendors and classes a line each, and below each its devices or subclasses, indented; see `build.rs`.
const DATABASE: &str = include_str!(concat!(env!("OUT_DIR"), "/pci.ids"));

/// `Vendor Device`, as far as they are known.
pub(crate) fn device(vendor: u16, device: u16) -> String {
    let (vendor_name, device_name) = look_up(&format!("{vendor:04x}"), &format!("{device:04x}"));
    let vendor_name = vendor_name.map_or_else(|| format!("Vendor {vendor:04x}"), ToOwned::to_owned);
    let device_name = device_name.map_or_else(|| format!("Device {device:04x}"), ToOwned::to_owned);
    format!("{vendor_name} {device_name}")
}

/// The subclass's name, else the class's.
pub(crate) fn class(base: u8, subclass: u8) -> String {
    let (class_name, subclass_name) = look_up(&format!("C {base:02x}"), &format!("{subclass:02x}"));
    let name = subclass_name.or(class_name).map(ToOwned::to_owned);
    name.unwrap_or_else(|| format!("Class {base:02x}{subclass:02x}"))
}

/// The name at `outer`, and the name at `inner` below it.
fn look_up(outer: &str, inner: &str) -> (Option<&'static str>, Option<&'static str>) {
    let named = |line: &'static str, id: &str| line.strip_prefix(id)?.strip_prefix("  ");
    let mut lines = DATABASE.lines();
    let Some(name) = lines.find_map(|line| named(line, outer)) else {
        return (None, None);
    };
    let mut below = lines.map_while(|line| line.strip_prefix('\t'));
    (Some(name), below.find_map(|line| named(line, inner)))
}

/// Units of bytes, each by its power of two, the largest first.
const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];

/// A number of bytes, in the largest unit that leaves no rest.
pub(crate) fn bytes(bytes: u64) -> String {
    let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match UNITS.into_iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// A number of bytes, rounded where that is shorter: in the largest unit of which it is at least one.
pub(crate) fn about(number: u64) -> String {
    match UNITS.into_iter().find(|(shift, _)| number >> shift > 0) {
        Some((shift, unit)) if number.trailing_zeros() < shift => {
            format!("{:.1} {unit}", number as f64 / (1_u64 << shift) as f64)
        }
        _ => bytes(number),
    }
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
        assert_eq!(super::class(0xff, 0x77), "Unassigned class");
        assert_eq!(super::class(0xee, 0x01), "Class ee01");
        assert_eq!(super::device(0xeffe, 0x0001), "Vendor effe Device 0001");
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
        for (bytes, text) in [
            (3 << 40, "3 TiB"),
            (1536 << 20, "1.5 GiB"),
            (1025, "1.0 KiB"),
            (1023, "1023 bytes"),
            (0, "0 bytes"),
        ] {
            assert_eq!(super::about(bytes), text, "{bytes}");
        }
    }
}
