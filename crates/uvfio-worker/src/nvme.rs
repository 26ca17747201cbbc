//! `nvme` and its options.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uvfio_core::Device;
use uvfio_nvme::{BackendConfig, Config, InterruptConfig, NamespaceConfig, Nvme, PollConfig};

use crate::devices::Plan;
use crate::image::{self, Image};
use crate::spec::{BuildError, Opt, SpecError, bytes, number, switch};

pub(crate) const USAGE: &str = "file=PATH or mem=SIZE, each followed by its size=SIZE, block=512|4096, ro; msix=on|off, queues=N, serial=TEXT, poll=adaptive|never|always, poll-us=N";

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
    poll: PollConfig,
}

pub(crate) fn parse(options: &[Opt]) -> Result<Box<dyn Plan>, SpecError> {
    Ok(Box::new(controller(options)?))
}

impl Plan for Controller {
    fn open(&self) -> Result<Vec<Image>, BuildError> {
        self.namespaces
            .iter()
            .filter_map(|namespace| match &namespace.storage {
                Storage::File { path, size } => {
                    let opened = image::open(path, *size, namespace.block, namespace.read_only);
                    Some(opened.map_err(BuildError::from))
                }
                Storage::Memory { .. } => None,
            })
            .collect()
    }

    fn own_file_bytes(&self) -> u64 {
        let bytes = |namespace: &Namespace| match namespace.storage {
            Storage::File { .. } => 0,
            Storage::Memory { bytes } => bytes,
        };
        self.namespaces.iter().map(bytes).max().unwrap_or_default()
    }

    fn memory_bytes(&self) -> u64 {
        // A thread's buffer, and an answer by message that is as long; no queue has more threads.
        const COMMAND: u64 = 2 * (32 << 10);
        const THREADS_OF_A_QUEUE: u64 = 4;
        // The queues, and as many threads again for the controller as a whole.
        let threads = (u64::from(self.queues) + 1) * THREADS_OF_A_QUEUE;
        2 * threads * COMMAND
    }

    fn build(&self, images: Vec<Image>) -> Result<Arc<dyn Device>, BuildError> {
        let mut images = images.into_iter();
        let namespaces = self
            .namespaces
            .iter()
            .map(|namespace| namespace.over(&mut images))
            .collect::<Result<_, _>>()?;
        let serial = self.serial.clone().unwrap_or_else(|| self.own_serial());
        let mut config = Config::new(serial, namespaces);
        config.queues = self.queues;
        config.poll = self.poll;
        if !self.msix {
            // A message for the admin queue and one for each pair, as far as MSI goes.
            let messages = (self.queues + 1).next_power_of_two().min(32) as u8;
            config.interrupts = InterruptConfig::Msi { messages };
        }
        let why = |e: uvfio_nvme::NvmeError| BuildError::Config {
            device: DEVICE,
            why: e.to_string(),
        };
        Ok(Nvme::new(config).map_err(why)?)
    }
}

impl Controller {
    /// A serial number where none was given: the same whenever the same image is served, another for every controller
    /// over memory.
    fn own_serial(&self) -> String {
        let hash = match self.namespaces.first().map(|namespace| &namespace.storage) {
            Some(Storage::File { path, .. }) => fnv1a(
                path.canonicalize()
                    .unwrap_or_else(|_| path.clone())
                    .as_os_str()
                    .as_bytes(),
            ),
            _ => fnv1a(format!("{} {:?}", std::process::id(), SystemTime::now()).as_bytes()),
        };
        format!("UV{hash:016X}")
    }
}

/// A hash that stays the same from one version of this program to the next.
fn fnv1a(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes
        .iter()
        .fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl Namespace {
    fn new(storage: Storage) -> Self {
        Self {
            storage,
            block: 512,
            read_only: false,
        }
    }

    /// Over the next of the files that were opened for it.
    fn over(&self, images: &mut impl Iterator<Item = Image>) -> Result<NamespaceConfig, BuildError> {
        let backend = match &self.storage {
            Storage::File { path, .. } => {
                let Image { file, bytes } = images.next().ok_or_else(|| BuildError::Config {
                    device: DEVICE,
                    why: format!("image {path:?} was not handed over"),
                })?;
                BackendConfig::File(file, bytes)
            }
            Storage::Memory { bytes } => BackendConfig::Memory(*bytes),
        };
        Ok(NamespaceConfig {
            backend,
            block: self.block,
            read_only: self.read_only,
        })
    }
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
        poll: PollConfig::default(),
    };
    let mut poll_most = None;
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
            "poll" => all.poll = option.value(DEVICE, "poll", "adaptive, never or always", poll)?,
            "poll-us" => {
                const RANGE: &str = "a number of microseconds from 1 to 10000";
                let micros = |text: &str| number(text).filter(|n| (1..=10_000).contains(n));
                let most = option.value(DEVICE, "poll-us", RANGE, micros)?;
                poll_most = Some(Duration::from_micros(most));
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
    match (&mut all.poll, poll_most) {
        (_, None) => {}
        (PollConfig::Adaptive { most }, Some(wanted)) => *most = wanted,
        (PollConfig::Never | PollConfig::Always, Some(_)) => {
            return Err(SpecError::Rule {
                device: DEVICE,
                rule: "poll-us is how long poll=adaptive polls at most; leave it away with poll=never and poll=always",
            });
        }
    }
    Ok(all)
}

/// How doorbells are learnt of.
fn poll(text: &str) -> Option<PollConfig> {
    match text {
        "adaptive" => Some(PollConfig::default()),
        "never" => Some(PollConfig::Never),
        "always" => Some(PollConfig::Always),
        _ => None,
    }
}
