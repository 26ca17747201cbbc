//! Devices by name and options, as on the command line: `edu`, `nvme,file=disk.img,size=64M`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uvfio_core::{Device, DeviceError};

use crate::devices::{KINDS, Plan};
use crate::image::{Image, ImageError};

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
/// The syntax is `NAME[,OPTION[=VALUE]]...`; a comma in a value is written twice.
pub struct DeviceSpec {
    text: String,
    plan: Box<dyn Plan>,
}

impl DeviceSpec {
    /// Makes the device.
    ///
    /// # Errors
    /// Where what it needs (an image, memory, threads) is not to be had.
    pub fn build(&self) -> Result<Arc<dyn Device>, BuildError> {
        self.build_over(self.open()?)
    }

    /// Opens the files that the device needs, in an order of its own.
    ///
    /// # Errors
    /// Where one can't be used.
    pub fn open(&self) -> Result<Vec<Image>, BuildError> {
        self.plan.open()
    }

    /// Makes the device over files that [`open`](Self::open) gave; opens none itself.
    ///
    /// # Errors
    /// Where what it needs (memory, threads) is not to be had.
    pub fn build_over(&self, images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError> {
        self.plan.build(images)
    }

    /// The longest file that the device makes for itself, bytes.
    pub(crate) fn own_file_bytes(&self) -> u64 {
        self.plan.own_file_bytes()
    }

    /// The most memory that a user can make the device take beyond what it has when it is made, bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.plan.memory_bytes()
    }
}

impl FromStr for DeviceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut parts = split(text).into_iter();
        let name = parts.next().unwrap_or_default();
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
            plan: (kind.parse)(&options)?,
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
            ("", r#"there is no device ""; the devices are: edu, nvme"#),
            (
                "floppy",
                r#"there is no device "floppy"; the devices are: edu, nvme"#,
            ),
            (
                "edu,colour=red",
                r#"edu has no option "colour"; its options are: dma_mask=MASK"#,
            ),
            (
                "edu,dma_mask=wide",
                "edu: dma_mask=wide is not possible; dma_mask is a number such as 0xffffffff, not 0",
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
