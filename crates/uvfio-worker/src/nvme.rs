//! `nvme` and its options.

use std::path::PathBuf;

use crate::devices::Constructor;
use crate::image;
use crate::spec::{BuildError, Opt, SpecError, bytes, number, switch};

pub(crate) const USAGE: &str = "file=PATH or mem=SIZE, each followed by its size=SIZE, block=512|4096, ro; msix=on|off, queues=N, serial=TEXT";

const DEVICE: &str = "nvme";

/// One namespace as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Namespace {
    storage: Storage,
    block: u32,
    read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Storage {
    File { path: PathBuf, size: Option<u64> },
    Memory { bytes: u64 },
}

/// A controller as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Controller {
    namespaces: Vec<Namespace>,
    msix: bool,
    queues: u16,
    serial: Option<String>,
}

pub(crate) fn parse(options: &[Opt]) -> Result<Constructor, SpecError> {
    let controller = controller(options)?;
    Ok(Box::new(move || {
        for namespace in &controller.namespaces {
            if let Storage::File { path, size } = &namespace.storage {
                image::open(path, *size, namespace.block, namespace.read_only)?;
            }
        }
        let why = format!("not there yet ({controller:?})");
        Err(BuildError::Config { device: DEVICE, why })
    }))
}

fn controller(options: &[Opt]) -> Result<Controller, SpecError> {
    const SIZE: &str = "a size in bytes such as 64M, at least 1M";
    const ORDER: SpecError = SpecError::Rule {
        device: DEVICE,
        rule: "size, block and ro describe the file= or mem= before them; give that first",
    };
    let size = |text: &str| bytes(text).filter(|size| *size >= 1 << 20);
    let mut all = Controller {
        namespaces: Vec::new(),
        msix: true,
        queues: 16,
        serial: None,
    };
    for option in options {
        let namespace = all.namespaces.last_mut();
        match option.key.as_str() {
            "file" => {
                let path = option.value(DEVICE, "file", "the path of an image", |text| {
                    Some(PathBuf::from(text))
                })?;
                all.namespaces
                    .push(Namespace::new(Storage::File { path, size: None }));
            }
            "mem" => {
                let bytes = option.value(DEVICE, "mem", SIZE, size)?;
                all.namespaces.push(Namespace::new(Storage::Memory { bytes }));
            }
            "size" => match &mut namespace.ok_or(ORDER)?.storage {
                Storage::File { size: wanted, .. } => {
                    *wanted = Some(option.value(DEVICE, "size", SIZE, size)?);
                }
                Storage::Memory { .. } => {
                    return Err(SpecError::Rule {
                        device: DEVICE,
                        rule: "mem=SIZE says the size; leave size= away",
                    });
                }
            },
            "block" => {
                let block = |text: &str| number(text).filter(|n| matches!(n, 512 | 4096)).map(|n| n as u32);
                namespace.ok_or(ORDER)?.block = option.value(DEVICE, "block", "512 or 4096", block)?;
            }
            "ro" if option.value.is_none() => namespace.ok_or(ORDER)?.read_only = true,
            "msix" => all.msix = option.value(DEVICE, "msix", "on or off", switch)?,
            "queues" => {
                let queues = |text: &str| number(text).filter(|n| (1..=64).contains(n)).map(|n| n as u16);
                all.queues = option.value(DEVICE, "queues", "a number from 1 to 64", queues)?;
            }
            "serial" => {
                let printable = |c: char| c == ' ' || c.is_ascii_graphic();
                let serial =
                    |text: &str| (text.len() <= 20 && text.chars().all(printable)).then(|| text.to_owned());
                all.serial =
                    Some(option.value(DEVICE, "serial", "1 to 20 printable ASCII characters", serial)?);
            }
            _ => {
                let option = option.key.clone();
                return Err(SpecError::UnknownOption {
                    device: DEVICE,
                    option,
                    allowed: USAGE,
                });
            }
        }
    }
    if all.namespaces.is_empty() {
        return Err(SpecError::Rule {
            device: DEVICE,
            rule: "needs storage: give file=PATH or mem=SIZE",
        });
    }
    Ok(all)
}

impl Namespace {
    fn new(storage: Storage) -> Self {
        Self {
            storage,
            block: 512,
            read_only: false,
        }
    }
}
