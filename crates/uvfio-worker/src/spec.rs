//! Devices by name and options, as on the command line: `edu`, `nvme,file=disk.img,size=64M`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uvfio_core::{Device, DeviceError, Policy};
use uvfio_linux::device::{BarGrant, Hardware, HardwareError};
use uvfio_linux::sysfs::{Address, AddressError, Host};
use uvfio_linux::vfio::VfioError;
use uvfio_pci::View;

use crate::devices::{KINDS, Plan};
use crate::image::ImageError;
use crate::opened::Opened;
use crate::owned::{OwnError, Owned, Terms};

/// The most functions that one worker serves; it has threads for each.
const MOST_TOGETHER: usize = 64;

/// What is wrong with a device specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name is not in the table.
    #[error("there is no device {name:?}; the devices are: {known}")]
    UnknownDevice {
        /// As given.
        name: String,
        /// All there are.
        known: String,
    },
    /// The device has no such option.
    #[error("{device} has no option {option:?}; its options are: {allowed}")]
    UnknownOption {
        /// Which device.
        device: &'static str,
        /// As given.
        option: String,
        /// All there are.
        allowed: &'static str,
    },
    /// An option's value is not possible.
    #[error("{device}: {option}={value} is not possible; {option} is {allowed}")]
    Value {
        /// Which device.
        device: &'static str,
        /// Which option.
        option: &'static str,
        /// As given; empty where none was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// What looks like the address of a PCI function is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Options after an address.
    #[error("a PCI function that exists has no options, and {option:?} follows {address}")]
    NoOptions {
        /// The function.
        address: Address,
        /// As given.
        option: String,
    },
    /// More than one device, and not all of them functions that exist.
    #[error(
        "{device} is no PCI function of this machine; only functions of one IOMMU group are served together"
    )]
    NotTogether {
        /// As given.
        device: String,
    },
    /// More functions than a worker takes.
    #[error("{count} functions are too many: at most {MOST_TOGETHER} are served together")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// A function is named twice.
    #[error("{address} is named twice")]
    Twice {
        /// The function.
        address: Address,
    },
    /// Options that don't go together, or one that is missing.
    #[error("{device}: {rule}")]
    Rule {
        /// Which device.
        device: &'static str,
        /// What must be.
        rule: &'static str,
    },
}

/// Why a device could not be made from a well-formed specification.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An image can't be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A function that exists can't be owned.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// The kernel says nothing of the address space of a function that exists.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// A function that exists can't be presented.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// The device's configuration is not possible.
    #[error("{device}: {why}")]
    Config {
        /// Which device.
        device: &'static str,
        /// What is wrong, as a sentence.
        why: String,
    },
}

/// One option of a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opt {
    pub(crate) key: String,
    /// None for an option without `=`.
    pub(crate) value: Option<String>,
}

impl Opt {
    fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self {
                key: key.into(),
                value: Some(value.into()),
            },
            None => Self {
                key: text.into(),
                value: None,
            },
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// The value as `parse` has it, or the error that says what it may be.
    pub(crate) fn value<T>(
        &self,
        device: &'static str,
        option: &'static str,
        allowed: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SpecError> {
        let wrong = || SpecError::Value {
            device,
            option,
            value: self.text().into(),
            allowed,
        };
        self.value
            .as_deref()
            .filter(|v| !v.is_empty())
            .and_then(parse)
            .ok_or_else(wrong)
    }
}

/// A device as it was asked for, checked as far as that goes without making it.
///
/// The syntax is `NAME[,OPTION[=VALUE]]...`, where a comma in a value is written twice, or the address of a PCI
/// function of this machine. Several such functions, of one IOMMU group, are one device to be served:
/// [`together`](Self::together).
pub struct DeviceSpec {
    text: String,
    kind: Wanted,
}

/// What is asked for.
enum Wanted {
    /// A device in software.
    Software(Box<dyn Plan>),
    /// Functions that exist; at least one.
    Functions(Vec<Address>),
}

impl DeviceSpec {
    /// Makes the device.
    ///
    /// # Errors
    /// Where what it needs (an image, memory, threads) is not to be had.
    pub fn build(&self) -> Result<Arc<dyn Device>, BuildError> {
        let devices = self.build_over(self.open(Terms::of(View::Virtual))?, BarGrant::default())?;
        devices.into_iter().next().ok_or_else(not_handed_over)
    }

    /// Of several specifications the one that stands for them all; they are functions of this machine.
    ///
    /// # Errors
    /// Where one is not, or is named twice.
    pub fn together(specs: &[Self]) -> Result<Self, SpecError> {
        let count = specs.len();
        if count > MOST_TOGETHER {
            return Err(SpecError::TooMany { count });
        }
        let mut addresses: Vec<Address> = Vec::new();
        for spec in specs {
            let &[address] = spec.addresses() else {
                let device = spec.to_string();
                return Err(SpecError::NotTogether { device });
            };
            if addresses.contains(&address) {
                return Err(SpecError::Twice { address });
            }
            addresses.push(address);
        }
        Ok(Self::of_functions(addresses))
    }

    fn of_functions(addresses: Vec<Address>) -> Self {
        let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Self {
            text: words.join(" "),
            kind: Wanted::Functions(addresses),
        }
    }

    /// From what [`Display`](fmt::Display) wrote, which may be several functions.
    pub(crate) fn from_words(text: &str) -> Result<Self, SpecError> {
        let addresses: Result<Vec<Address>, _> = text.split(' ').map(str::parse).collect();
        match addresses {
            Ok(addresses) => Ok(Self::of_functions(addresses)),
            Err(_) => text.parse(),
        }
    }

    /// Opens what the device needs of the system, a function on these terms.
    ///
    /// # Errors
    /// Where something of it can't be used.
    pub fn open(&self, terms: Terms) -> Result<Opened, BuildError> {
        Ok(match &self.kind {
            Wanted::Software(plan) => Opened {
                images: plan.open()?,
                functions: Vec::new(),
            },
            Wanted::Functions(addresses) => Opened {
                images: Vec::new(),
                functions: Owned::open_all(&Host::default(), addresses, terms)?,
            },
        })
    }

    /// Makes the device over what [`open`](Self::open) gave, of functions that exist one device each; opens nothing
    /// itself. `bars` is for functions that exist.
    ///
    /// # Errors
    /// Where what it needs (memory, threads) is not to be had.
    pub fn build_over(&self, opened: Opened, bars: BarGrant) -> Result<Vec<Arc<dyn Device>>, BuildError> {
        match &self.kind {
            Wanted::Software(plan) => Ok(vec![plan.build(opened.images)?]),
            Wanted::Functions(addresses) if addresses.len() == opened.functions.len() => {
                let mut devices: Vec<Arc<dyn Device>> = Vec::new();
                for parts in Owned::into_parts(opened.functions, bars)? {
                    devices.push(Hardware::new(parts)?);
                }
                Ok(devices)
            }
            Wanted::Functions(_) => Err(not_handed_over()),
        }
    }

    /// The addresses of the functions that exist, where the device is one or several; else none.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        match &self.kind {
            Wanted::Software(_) => &[],
            Wanted::Functions(addresses) => addresses,
        }
    }

    /// The longest file that the device makes for itself, bytes.
    pub(crate) fn own_file_bytes(&self) -> u64 {
        match &self.kind {
            Wanted::Software(plan) => plan.own_file_bytes(),
            Wanted::Functions(_) => 0,
        }
    }

    /// The most memory that a user can make the device take beyond what it has when it is made, bytes; of several
    /// functions each.
    pub(crate) fn memory_bytes(&self) -> u64 {
        // Of a function: what its ioctls carry for a moment, and sentences about refusals.
        const FUNCTION: u64 = 1 << 20;
        // A mapping's place in the address space of its group: twice what trees of the least filling take.
        const PLACE: u64 = 256;
        match &self.kind {
            Wanted::Software(plan) => plan.memory_bytes(),
            Wanted::Functions(_) => FUNCTION + u64::from(Policy::default().max_mappings) * PLACE,
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut parts = split(text).into_iter();
        let name = parts.next().unwrap_or_default();
        // No device's name has a colon in it, and every address has.
        if name.contains(':') {
            let address: Address = name.parse()?;
            if let Some(option) = parts.next() {
                return Err(SpecError::NoOptions { address, option });
            }
            return Ok(Self::of_functions(vec![address]));
        }
        let kind = KINDS
            .iter()
            .find(|kind| kind.name == name)
            .ok_or_else(|| SpecError::UnknownDevice {
                name,
                known: KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", "),
            })?;
        let options: Vec<Opt> = parts.map(|part| Opt::parse(&part)).collect();
        Ok(Self {
            text: text.into(),
            kind: Wanted::Software((kind.parse)(&options)?),
        })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceSpec").field(&self.text).finish()
    }
}

fn not_handed_over() -> BuildError {
    BuildError::Config {
        device: "a PCI function",
        why: "its descriptors were not handed over".into(),
    }
}

/// Splits at single commas; two stand for one that is part of the text.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

/// A number of bytes: `4096`, `64K`, `64M`, `1G`, `2T`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A number, decimal or hexadecimal with `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `on` or `off`.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_builds_from_its_example() {
        for kind in KINDS {
            let spec: DeviceSpec = kind.example.parse().expect(kind.example);
            let device = spec.build().unwrap_or_else(|e| panic!("{}: {e}", kind.example));
            assert_eq!(
                device.name(),
                kind.name,
                "name of the device made from {:?}",
                kind.example
            );
        }
    }

    #[test]
    fn a_wrong_specification_is_one_sentence_that_names_the_option_and_what_is_allowed() {
        for (text, sentence) in [
            (
                "",
                r#"there is no device ""; the devices are: edu, ioat, nvme, notify"#,
            ),
            (
                "floppy",
                r#"there is no device "floppy"; the devices are: edu, ioat, nvme, notify"#,
            ),
            (
                "edu,colour=red",
                r#"edu has no option "colour"; its options are: dma_mask=MASK"#,
            ),
            (
                "edu,dma_mask=wide",
                "edu: dma_mask=wide is not possible; dma_mask is a number such as 0xffffffff, not 0",
            ),
            (
                "ioat,channels=9",
                "ioat: channels=9 is not possible; channels is a number from 1 to 8",
            ),
            (
                "ioat,queues=1",
                r#"ioat has no option "queues"; its options are: channels=N"#,
            ),
            ("nvme", "nvme: needs storage: give file=PATH or mem=SIZE"),
            (
                "nvme,mem=64X",
                "nvme: mem=64X is not possible; mem is a size in bytes such as 64M, at least 1M",
            ),
            (
                "nvme,mem=1M,block=100",
                "nvme: block=100 is not possible; block is 512 or 4096",
            ),
            (
                "nvme,block=512",
                "nvme: size, block and ro describe the file= or mem= before them; give that first",
            ),
            (
                "nvme,file=",
                "nvme: file= is not possible; file is the path of an image",
            ),
            (
                "nvme,mem=1M,queues=0",
                "nvme: queues=0 is not possible; queues is a number from 1 to 64",
            ),
            (
                "nvme,mem=1M,msix=maybe",
                "nvme: msix=maybe is not possible; msix is on or off",
            ),
            (
                "nvme,mem=1M,poll=sometimes",
                "nvme: poll=sometimes is not possible; poll is adaptive, never or always",
            ),
            (
                "nvme,mem=1M,poll-us=0",
                "nvme: poll-us=0 is not possible; poll-us is a number of microseconds from 1 to 10000",
            ),
            (
                "nvme,mem=1M,poll-us=50,poll=never",
                "nvme: poll-us is how long poll=adaptive polls at most; leave it away with poll=never and poll=always",
            ),
            (
                "nvme,mem=1M,serial=0123456789012345678901",
                "nvme: serial=0123456789012345678901 is not possible; serial is 1 to 20 printable ASCII characters",
            ),
        ] {
            let error = text.parse::<DeviceSpec>().expect_err(text).to_string();
            assert_eq!(error, sentence, "for {text:?}");
        }
    }

    #[test]
    fn an_address_is_a_function_that_exists_and_takes_no_options() {
        for text in ["0000:01:00.0", "01:00.0"] {
            let spec: DeviceSpec = text.parse().expect(text);
            let address = spec.addresses().first().map(ToString::to_string);
            assert_eq!(address.as_deref(), Some("0000:01:00.0"), "of {text:?}");
            assert_eq!(spec.to_string(), "0000:01:00.0", "{text:?} in full");
        }
        let edu: DeviceSpec = "edu".parse().expect("edu");
        assert!(edu.addresses().is_empty());
        for (text, part) in [
            ("01:00.0,ro", r#"has no options, and "ro" follows 0000:01:00.0"#),
            ("01:00", "01:00"),
            ("0000:01:20.0", "0000:01:20.0"),
        ] {
            let error = text.parse::<DeviceSpec>().expect_err(text).to_string();
            assert!(error.contains(part), "of {text:?}: {error}");
        }
    }

    #[test]
    fn only_functions_that_exist_are_served_together_each_once() {
        let together = |words: &[&str]| {
            let specs: Result<Vec<DeviceSpec>, _> = words.iter().map(|word| word.parse()).collect();
            DeviceSpec::together(&specs.expect("each is well-formed"))
        };
        let both = together(&["02:01.0", "0000:02:02.0"]).expect("two functions");
        assert_eq!(both.to_string(), "0000:02:01.0 0000:02:02.0");
        // What the worker is told.
        for text in [
            both.to_string().as_str(),
            "0000:02:01.0",
            "nvme,file=a b:c 02:01.0,ro",
        ] {
            let heard = DeviceSpec::from_words(text).expect(text);
            assert_eq!(heard.to_string(), text);
            let functions = text.matches("0000:").count();
            assert_eq!(heard.addresses().len(), functions, "functions in {text:?}");
        }
        for (words, sentence) in [
            (
                &["02:01.0", "edu"][..],
                "edu is no PCI function of this machine; only functions of one IOMMU group are served together",
            ),
            (&["02:01.0", "0000:02:01.0"], "0000:02:01.0 is named twice"),
            (
                &["02:01.0"; 65],
                "65 functions are too many: at most 64 are served together",
            ),
        ] {
            let error = together(words).expect_err("no such device").to_string();
            assert_eq!(error, sentence);
        }
    }

    #[test]
    fn a_doubled_comma_is_part_of_a_value() {
        assert_eq!(split("nvme,file=a,,b.img,ro"), ["nvme", "file=a,b.img", "ro"]);
        assert_eq!(split("edu"), ["edu"]);
    }

    #[test]
    fn sizes_are_read_with_binary_suffixes_and_do_not_overflow() {
        for (text, value) in [
            ("4096", Some(4096)),
            ("64K", Some(64 << 10)),
            ("64m", Some(64 << 20)),
            ("2T", Some(2 << 40)),
            ("M", None),
            ("", None),
            ("-1", None),
            ("99999999999T", None),
        ] {
            assert_eq!(bytes(text), value, "{text:?}");
        }
    }
}
