//! What `show` and `explain` look at: a device by specification, one behind a socket, or a dump.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use uvfio_core::region_index::CONFIG;
use uvfio_pci::{Layout, State, View, Window};
use uvfio_proto::{Client, ClientError};
use uvfio_worker::DeviceSpec;

use crate::dump;
use crate::exit::Failure;

/// A function whose configuration space can be decoded.
pub(crate) struct Target {
    /// As on the command line.
    pub(crate) name: String,
    /// What it is looked at by, where the user did not say.
    pub(crate) natural_view: View,
    source: Source,
    /// What is wrong with its capability chains, as sentences.
    pub(crate) findings: Vec<String>,
}

enum Source {
    Device(std::sync::Arc<dyn uvfio_core::Device>),
    Bytes(Vec<u8>),
}

/// A function in one view.
pub(crate) struct Seen {
    pub(crate) layout: Box<Layout>,
    pub(crate) state: Box<State>,
}

impl Target {
    /// Finds out what `text` is: a socket or a file if there is one, else a device specification.
    pub(crate) fn open(text: &str) -> Result<Self, Failure> {
        let path = Path::new(text);
        let (source, natural_view) = match std::fs::metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                (Source::Bytes(over_socket(path)?), View::Raw)
            }
            Ok(metadata) if metadata.is_file() => (
                Source::Bytes(dump::read(path).map_err(Failure::usage)?),
                View::Raw,
            ),
            Ok(_) => {
                return Err(Failure::usage(format_args!(
                    "{text:?} is neither a socket nor a file"
                )));
            }
            Err(_) => (Source::Device(device(text)?), View::Virtual),
        };
        let mut target = Self {
            name: text.into(),
            natural_view,
            source,
            findings: Vec::new(),
        };
        if let Source::Bytes(bytes) = &target.source {
            target.findings = from_bytes(bytes, View::Raw)?.1;
        }
        Ok(target)
    }

    /// The function as it is at power-on, or as the dump holds it, in one view.
    pub(crate) fn seen(&self, view: View) -> Result<Seen, Failure> {
        let layout = match &self.source {
            Source::Device(device) => Layout::compile(&device.blueprint(), view).map_err(|e| {
                Failure::running(format_args!("{} declares an impossible function: {e}", self.name))
            })?,
            Source::Bytes(bytes) => from_bytes(bytes, view)?.0,
        };
        let state = Box::new(State::new(&layout));
        Ok(Seen {
            layout: Box::new(layout),
            state,
        })
    }
}

impl Seen {
    /// A dword of configuration space as this view reads it.
    pub(crate) fn dword(&self, number: u16) -> u32 {
        uvfio_pci::read(&self.layout, &self.state, Window::Config, number)
    }

    /// Up to 4 bytes at `offset`, none of them past the next multiple of 4.
    pub(crate) fn register(&self, offset: u16, bytes: u8) -> u32 {
        let value = self.dword(offset / 4) >> (u32::from(offset % 4) * 8);
        if bytes >= 4 {
            value
        } else {
            value & ((1 << (u32::from(bytes) * 8)) - 1)
        }
    }
}

/// Lays out a configuration space that a device gave, and says what is wrong with it.
fn from_bytes(bytes: &[u8], view: View) -> Result<(Layout, Vec<String>), Failure> {
    let _ = view;
    Err(Failure::running(format_args!(
        "{} bytes given can't be decoded yet",
        bytes.len()
    )))
}

fn device(text: &str) -> Result<std::sync::Arc<dyn uvfio_core::Device>, Failure> {
    let spec: DeviceSpec = text.parse().map_err(|e| {
        // What looks like a path is more likely a file that isn't there.
        if text.contains('/') {
            Failure::usage(format_args!("{text:?} does not exist"))
        } else {
            Failure::usage(e)
        }
    })?;
    spec.build().map_err(Failure::usage)
}

/// Configuration space of a device behind a socket, as its user reads it.
fn over_socket(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |e: ClientError| Failure::running(format_args!("{path:?} could not be read as a device: {e}"));
    let mut client = Client::connect(path).map_err(failed)?;
    let bytes = client.region_info(CONFIG).map_err(failed)?.bytes;
    let mut config = vec![0; bytes.min(4096) as usize];
    client.read(CONFIG, 0, &mut config).map_err(failed)?;
    Ok(config)
}
