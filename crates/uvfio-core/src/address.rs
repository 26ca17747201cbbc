//! The address of a PCI function, as the kernel and lspci write it.

use std::fmt;
use std::str::FromStr;

/// Where a PCI function is: domain, bus, device and function, as `0000:00:1f.2`.
///
/// ```
/// use uvfio_core::Address;
///
/// let address: Address = "00:1f.2".parse()?;
/// assert_eq!(address.to_string(), "0000:00:1f.2");
/// # Ok::<(), uvfio_core::AddressError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    domain: u32,
    bus: u8,
    /// Device number in bits 7:3, function number in bits 2:0 (PCI Local Bus 3.0, 3.2.2.3.2)
    device_and_function: u8,
}

impl Address {
    /// The function at these numbers; none where `device` is above 31 or `function` above 7.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device >= 32 || function >= 8 {
            return None;
        }
        Some(Self {
            domain,
            bus,
            device_and_function: device << 3 | function,
        })
    }

    /// The PCI domain, also called segment group; 0 on most machines.
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device_and_function >> 3
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.device_and_function & 7
    }

    /// The address in a name that the kernel gave: only exactly as it prints addresses.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        name.parse()
            .ok()
            .filter(|address: &Self| address.to_string() == name)
    }
}

impl fmt::Display for Address {
    /// As the kernel prints it: at least four digits of domain, lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, bus) = (self.domain, self.bus);
        write!(
            f,
            "{domain:04x}:{bus:02x}:{:02x}.{}",
            self.device(),
            self.function()
        )
    }
}

/// A text that is no address of a PCI function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no PCI address; they look like 0000:00:1f.2, or 00:1f.2 in domain 0 (`uvfio list` prints them)"
)]
pub struct AddressError {
    text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Takes `DDDD:BB:DD.F` in hexadecimal, of either case; without a domain it is 0.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).ok_or_else(|| AddressError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    if !(4..=8).contains(&domain.len()) {
        return None;
    }
    Address::new(
        digits(domain, domain.len())?,
        u8::try_from(digits(bus, 2)?).ok()?,
        u8::try_from(digits(device, 2)?).ok()?,
        u8::try_from(digits(function, 1)?).ok()?,
    )
}

/// A hexadecimal number of exactly so many digits; `from_str_radix` alone would take a sign.
fn digits(text: &str, count: usize) -> Option<u32> {
    let all_digits = text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_domain() {
        for (text, printed) in [
            ("0000:00:1f.2", "0000:00:1f.2"),
            ("00:1f.2", "0000:00:1f.2"),
            ("ABCD:eF:00.7", "abcd:ef:00.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), printed);
        }
    }

    #[test]
    fn what_is_nearly_an_address_is_refused() {
        for text in [
            "",
            ".",
            ":",
            "0:0.0",
            "00:20.0",
            "00:1f.8",
            "00:1f",
            "00:1f.",
            "00:+f.0",
            "000:00:1f.0",
            "00:1f.00",
            "0000:00:1f.0 ",
            " 00:1f.0",
            "00:1f.0.0",
            "0000:00:00:1f.0",
            "123456789:00:1f.0",
            "00:1é.0",
            "é:1f.0",
        ] {
            assert!(
                text.parse::<Address>().is_err(),
                "{text:?} was taken for an address"
            );
        }
    }

    #[test]
    fn a_name_of_the_kernels_is_taken_only_as_the_kernel_writes_it() {
        assert!(Address::of_name("0000:00:1f.0").is_some());
        for name in ["00:1f.0", "0000:00:1F.0", "00000:00:1f.0"] {
            assert_eq!(Address::of_name(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_is_printed(domain: u32, bus: u8, device in 0_u8..32, function in 0_u8..8) {
            let address = Address::new(domain, bus, device, function).expect("in range");
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(Address::of_name(&address.to_string()), Some(address));
            prop_assert_eq!((address.device(), address.function()), (device, function));
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC*|[0-9a-f:.+ -]{0,16}") {
            if let Ok(address) = text.parse::<Address>() {
                let again: Result<Address, _> = address.to_string().parse();
                prop_assert_eq!(again, Ok(address));
            }
        }
    }
}
