//! The table of devices. A new software device is one row here.

use std::sync::Arc;

use uvfio_core::Device;
use uvfio_soft::{edu, ioat, notify};

use crate::image::Image;
use crate::nvme;
use crate::spec::{BuildError, Opt, SpecError, number};

/// A device that can be made: in two steps, since the process that opens files is not the one that serves.
pub(crate) trait Plan: Send + Sync {
    /// Opens the files that it needs.
    fn open(&self) -> Result<Vec<Image>, BuildError> {
        Ok(Vec::new())
    }

    /// The longest file that it makes for itself, bytes.
    fn own_file_bytes(&self) -> u64 {
        0
    }

    /// The most memory that its user can make it take beyond what it has when it is made, bytes; none of it shared.
    fn memory_bytes(&self) -> u64 {
        1 << 20
    }

    /// Makes the device over the files that [`open`](Self::open) gave, in their order; opens none itself.
    fn build(&self, images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError>;
}

/// Reads a device's options.
pub(crate) type Parse = fn(&[Opt]) -> Result<Box<dyn Plan>, SpecError>;

/// One kind of device.
pub struct Kind {
    /// As on the command line.
    pub name: &'static str,
    /// One line for the help.
    pub summary: &'static str,
    /// Its options, for the help.
    pub usage: &'static str,
    /// A specification that always works.
    pub example: &'static str,
    pub(crate) parse: Parse,
}

/// All devices.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "edu",
        summary: "the educational device: liveness check, factorial, eight MSI messages, DMA buffer",
        usage: EDU_USAGE,
        example: "edu",
        parse: parse_edu,
    },
    Kind {
        name: "ioat",
        summary: "Intel's DMA engine (8086:2021): copies and fills by chains of descriptors",
        usage: IOAT_USAGE,
        example: "ioat",
        parse: parse_ioat,
    },
    Kind {
        name: "nvme",
        summary: "an NVMe controller over image files or memory",
        usage: nvme::USAGE,
        example: "nvme,mem=1M",
        parse: nvme::parse,
    },
    Kind {
        name: "notify",
        summary: "one doorbell, by message or by eventfd, that is answered with an MSI-X message",
        usage: "no options",
        example: "notify",
        parse: parse_notify,
    },
];

const EDU_USAGE: &str = "dma_mask=MASK";
const IOAT_USAGE: &str = "channels=N";

impl Plan for edu::Config {
    fn build(&self, _images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError> {
        Ok(edu::Edu::new(*self)?)
    }
}

struct NotifyPlan;

impl Plan for NotifyPlan {
    fn build(&self, _images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError> {
        Ok(notify::Notify::new())
    }
}

fn parse_notify(options: &[Opt]) -> Result<Box<dyn Plan>, SpecError> {
    match options.first() {
        None => Ok(Box::new(NotifyPlan)),
        Some(option) => Err(SpecError::UnknownOption {
            device: "notify",
            option: option.key.clone(),
            allowed: "none",
        }),
    }
}

fn parse_edu(options: &[Opt]) -> Result<Box<dyn Plan>, SpecError> {
    let mut config = edu::Config::default();
    for option in options {
        match option.key.as_str() {
            "dma_mask" => {
                let mask = |text: &str| number(text).filter(|mask| *mask != 0);
                config.dma_mask =
                    option.value("edu", "dma_mask", "a number such as 0xffffffff, not 0", mask)?;
            }
            _ => {
                return Err(SpecError::UnknownOption {
                    device: "edu",
                    option: option.key.clone(),
                    allowed: EDU_USAGE,
                });
            }
        }
    }
    Ok(Box::new(config))
}

impl Plan for ioat::Config {
    fn build(&self, _images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError> {
        Ok(ioat::Ioat::new(*self)?)
    }
}

fn parse_ioat(options: &[Opt]) -> Result<Box<dyn Plan>, SpecError> {
    let mut config = ioat::Config::default();
    for option in options {
        match option.key.as_str() {
            "channels" => {
                let channels =
                    |text: &str| text.parse().ok().filter(|n| (1..=ioat::MAX_CHANNELS).contains(n));
                config.channels = option.value("ioat", "channels", "a number from 1 to 8", channels)?;
            }
            _ => {
                return Err(SpecError::UnknownOption {
                    device: "ioat",
                    option: option.key.clone(),
                    allowed: IOAT_USAGE,
                });
            }
        }
    }
    Ok(Box::new(config))
}
