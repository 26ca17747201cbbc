//! What `show` and `explain` look at: a device by specification, one behind a socket, a dump, or a PCI function of
//! this machine.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use uvfio_core::region_index::CONFIG;
use uvfio_linux::sysfs::{Address, Host};
use uvfio_pci::{Bar, Layout, State, View, Window};
use uvfio_proto::message::Command;
use uvfio_proto::{Client, ClientError};
use uvfio_worker::DeviceSpec;

use crate::dump;
use crate::exit::Failure;
use crate::list;

/// How long a server may take to answer; one that has a user does not answer at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// A function whose configuration space can be decoded.
pub(crate) struct Target {
    /// As on the command line.
    pub(crate) name: String,
    /// What it is looked at by, where the user did not say.
    pub(crate) natural_view: View,
    source: Source,
    /// Sizes of its BARs in bytes, as far as they are known.
    pub(crate) bar_bytes: [Option<u64>; 6],
    /// What is wrong with its capability chains, and what could not be read, as sentences.
    pub(crate) findings: Vec<String>,
    /// How many bytes of configuration space there are, where this user may read only a part of them.
    pub(crate) whole: Option<usize>,
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
    /// Finds out what `text` is: a socket or a file if there is one, else the address of a PCI function of `host`, else
    /// a device specification.
    pub(crate) fn open(text: &str, host: &Host) -> Result<Self, Failure> {
        let path = Path::new(text);
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => Self::behind_socket(text, path),
            Ok(metadata) if metadata.is_file() => {
                Self::given(text, dump::read(path).map_err(Failure::usage)?, [None; 6])
            }
            Ok(_) => Err(Failure::usage(format_args!(
                "{text:?} is neither a socket nor a file"
            ))),
            Err(_) => match text.parse() {
                Ok(address) => Self::function(address, host),
                Err(_) => Self::specified(text),
            },
        }
    }

    /// A PCI function, as `/sys` lets this user read it.
    fn function(address: Address, host: &Host) -> Result<Self, Failure> {
        let function = host.sysfs().function(address).map_err(list::failure)?;
        let config = host.sysfs().config(address).map_err(list::failure)?;
        let (whole, read) = (config.whole, config.bytes.len());
        let is_part = config.is_part();
        let mut bar_bytes = [None; 6];
        for resource in &function.resources {
            if let Some(known) = bar_bytes.get_mut(resource.index) {
                *known = Some(resource.bytes);
            }
        }
        let mut target = Self::given(&address.to_string(), config.bytes, bar_bytes)?;
        if is_part {
            let only = format!(
                "only the first {read} of {whole} bytes of its configuration space may be read by this user; root \
                 sees all"
            );
            target.findings.insert(0, only);
            target.whole = Some(whole);
        }
        Ok(target)
    }

    fn specified(text: &str) -> Result<Self, Failure> {
        let spec: DeviceSpec = text.parse().map_err(|e| {
            // What looks like a path is more likely a file that isn't there.
            if text.starts_with(['/', '.']) {
                Failure::usage(format_args!("{text:?} does not exist"))
            } else {
                Failure::usage(e)
            }
        })?;
        let device = spec.build().map_err(Failure::usage)?;
        let bar_bytes = device.blueprint().bars.map(|bar| match bar {
            Bar::None => None,
            Bar::Memory32 { bytes, .. } | Bar::Io { bytes } => Some(bytes.into()),
            Bar::Memory64 { bytes, .. } => Some(bytes),
        });
        Ok(Self {
            name: text.into(),
            natural_view: View::Virtual,
            source: Source::Device(device),
            bar_bytes,
            findings: Vec::new(),
            whole: None,
        })
    }

    /// A device behind a socket, as its user reads it.
    fn behind_socket(text: &str, path: &Path) -> Result<Self, Failure> {
        let failed = |error: ClientError| {
            if let ClientError::TimedOut {
                command: Command::Version,
                ..
            } = error
            {
                return Failure::running(format_args!(
                    "{text:?} can't be shown now: it serves another user; look again when that has left"
                ));
            }
            Failure::running(format_args!("{text:?} could not be read as a device: {error}"))
        };
        let mut client = Client::connect_within(path, PATIENCE).map_err(failed)?;
        let bytes = client.region_info(CONFIG).map_err(failed)?.bytes;
        let mut config = vec![0; bytes.min(4096) as usize];
        client.read(CONFIG, 0, &mut config).map_err(failed)?;
        let mut bar_bytes = [None; 6];
        for (region, known) in (0..).zip(&mut bar_bytes) {
            *known = Some(client.region_info(region).map_err(failed)?.bytes).filter(|bytes| *bytes != 0);
        }
        Self::given(text, config, bar_bytes)
    }

    fn given(text: &str, config: Vec<u8>, bar_bytes: [Option<u64>; 6]) -> Result<Self, Failure> {
        let findings = from_bytes(&config, View::Raw)?.1;
        let source = Source::Bytes(config);
        Ok(Self {
            name: text.into(),
            natural_view: View::Raw,
            source,
            bar_bytes,
            findings,
            whole: None,
        })
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
    let (layout, findings) = Layout::from_dump_in(bytes, view).map_err(Failure::usage)?;
    let mut sentences: Vec<String> = findings.iter().map(|finding| finding.to_string()).collect();
    if findings.left_out() > 0 {
        sentences.push(format!("and {} more", findings.left_out()));
    }
    Ok((layout, sentences))
}
