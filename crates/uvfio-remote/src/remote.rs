//! The function as the interface knows it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{AccessError, DeviceError, DmaAccess, DmaMessages, RegionInfo, ResetProgress, SetIrqs};
use uvfio_pci::Layout;
use uvfio_pci::tables::power;
use uvfio_proto::message::{Command, DmaMapFlags};
use uvfio_proto::{Client, ClientError};
use uvfio_uapi::{Backend, DmaRange, Refusal};

use crate::declared::{Declared, Undeclared};
use crate::error::RemoteError;
use crate::irqs::Irqs;
use crate::link::{Link, Unanswered};
use crate::reach::{Memory, Reach};

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For any answer but that to a reset. Not zero.
    pub answer: Duration,
    /// For a reset. Not zero.
    pub reset: Duration,
}

impl Default for Patience {
    /// Five seconds, as QEMU has it; and thirty.
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(5),
            reset: Duration::from_secs(30),
        }
    }
}

/// What the function does at this moment, by COMMAND and its power state.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    pub(crate) memory: AtomicBool,
    pub(crate) io: AtomicBool,
    pub(crate) awake: AtomicBool,
}

/// A function behind a vfio-user server, for one user after another.
///
/// A server serves one client at a time: this one, from the first to the last.
pub struct Remote {
    pub(crate) name: &'static str,
    pub(crate) link: Arc<Link>,
    pub(crate) declared: Declared,
    pub(crate) reach: Arc<Reach>,
    pub(crate) switches: Switches,
    pub(crate) irqs: Irqs,
    /// Descriptors that the server takes in one message.
    pub(crate) msg_fds: usize,
    pub(crate) power_at: Option<u16>,
    pub(crate) patience: Patience,
    /// A refused access has been noted in the log.
    pub(crate) noted: AtomicBool,
}

impl Remote {
    /// Connects to the server at `path`, and finds out what it has. For the life of the process it keeps a copy of the
    /// path.
    ///
    /// # Errors
    /// Where there is no server, it does not answer as it should, or what it says of its function can't be true.
    pub fn connect(path: &Path, patience: Patience) -> Result<Arc<Self>, RemoteError> {
        let protocol = |why: ClientError| {
            let path = path.to_owned();
            let patience = patience.answer;
            match why {
                ClientError::TimedOut { .. } => RemoteError::NoAnswer { path, patience },
                // It does not read, either.
                ClientError::Io(why) if why.kind() == ErrorKind::TimedOut => {
                    RemoteError::NoAnswer { path, patience }
                }
                why => RemoteError::Protocol { path, why },
            }
        };
        let mut client = Client::connect_within(path, patience.answer).map_err(|why| match why {
            ClientError::Io(why) if why.kind() != ErrorKind::TimedOut => RemoteError::NotThere {
                path: path.to_owned(),
                why,
            },
            why => protocol(why),
        })?;
        let reach = Arc::new(Reach::default());
        client.set_memory(Box::new(Memory(Arc::clone(&reach))));
        let declared = Declared::ask(&mut client).map_err(|undeclared| match undeclared {
            Undeclared::Client(why) => protocol(why),
            Undeclared::Lie(lie) => RemoteError::Lie {
                path: path.to_owned(),
                lie,
            },
        })?;
        let msg_fds = client.server_capabilities().msg_fds().max(1);
        let power_at = declared
            .layout
            .placed()
            .find(|placed| std::ptr::eq(placed.table, &raw const power::POWER))
            .map(|placed| placed.offset);
        let itself: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let told = Arc::clone(&itself);
        let farewell = move || {
            if let Some(remote) = told.get().and_then(Weak::upgrade) {
                remote.farewell();
            }
        };
        let link = Link::start(path, client, patience.answer, Box::new(farewell)).map_err(|why| {
            RemoteError::System {
                path: path.to_owned(),
                what: "a thread, or a descriptor, for its connection",
                why,
            }
        })?;
        let remote = Arc::new(Self {
            name: path.display().to_string().leak(),
            link,
            declared,
            reach,
            switches: Switches::default(),
            irqs: Irqs::default(),
            msg_fds,
            power_at,
            patience,
            noted: AtomicBool::new(false),
        });
        let _ = itself.set(Arc::downgrade(&remote));
        remote.look_at_switches();
        // The server may have gone before there was anybody to tell.
        if remote.link.is_gone() {
            return Err(protocol(ClientError::Closed));
        }
        Ok(remote)
    }

    /// There is no server any more.
    fn farewell(&self) {
        self.reach.lead(None);
        for region in &self.declared.regions {
            region.fill_with_ones();
        }
        self.irqs.tell_gone();
    }

    fn gone(&self) -> DeviceError {
        self.failure("its server is gone")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.link.end();
    }
}

impl Backend for Remote {
    fn attach(&self, memory: Arc<dyn DmaMessages>) -> Result<(), Refusal> {
        self.reach.lead(Some(memory));
        self.noted.store(false, Ordering::Relaxed);
        self.look_at_switches();
        if self.is_gone() {
            return Err(Refusal::new(Errno::NODEV, format!("{} is gone", self.name)));
        }
        Ok(())
    }

    fn detach(&self) -> Result<(), DeviceError> {
        self.disable_all();
        self.reach.set_bus_master(false);
        self.reach.lead(None);
        if self.is_gone() {
            return Ok(());
        }
        if self.declared.resettable {
            self.reset_function(self.patience.reset)?;
        }
        self.put_back_first();
        if self.is_gone() { Err(self.gone()) } else { Ok(()) }
    }

    fn layout(&self) -> &Layout {
        &self.declared.layout
    }

    fn resettable(&self) -> bool {
        self.declared.resettable
    }

    fn region_info(&self, region: u32) -> Result<RegionInfo, AccessError> {
        Ok(self.declared.region(region)?.info())
    }

    fn vectors(&self, index: u32) -> u32 {
        self.vectors_of(index)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.read_region(region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.write_region(region, offset, data)
    }

    fn answers(&self, region: u32) -> bool {
        self.is_gone() || self.region_answers(region)
    }

    fn set_irqs(&self, request: SetIrqs) -> Result<(), Refusal> {
        self.set(&request)
    }

    fn reset(&self, patience: Duration) -> Result<ResetProgress, DeviceError> {
        self.reset_function(patience.min(self.patience.reset))
    }

    fn request_removal(&self) {
        self.irqs.tell_wanted();
    }

    fn revoke(&self) {
        self.irqs.forget_notices();
        self.link.revoke();
    }

    fn is_gone(&self) -> bool {
        self.link.is_gone()
    }

    fn follows_mappings(&self) -> bool {
        true
    }

    fn map(&self, range: &DmaRange<'_>) -> Result<(), Refusal> {
        let mut flags = DmaMapFlags::empty();
        flags.set(DmaMapFlags::READ, range.access.contains(DmaAccess::READ));
        flags.set(DmaMapFlags::WRITE, range.access.contains(DmaAccess::WRITE));
        let mapped = self
            .link
            .ask(|client| client.dma_map(range.iova, range.bytes, flags, range.file));
        match mapped {
            Ok(()) | Err(Unanswered::Gone) => Ok(()),
            Err(Unanswered::Refused(errno)) => {
                let how = match range.file {
                    Some(_) => "with a descriptor of it",
                    None => {
                        "to be reached by message: it may want memory that is shared (a memfd, mapped MAP_SHARED)"
                    }
                };
                let (iova, bytes) = (range.iova, range.bytes);
                let why = format!(
                    "the server of {} does not take {bytes:#x} bytes of memory at {iova:#x}, {how}",
                    self.name
                );
                tracing::warn!(%errno, "{why}");
                Err(Refusal::new(errno, why))
            }
        }
    }

    fn unmap(&self, iova: u64, bytes: u64) {
        if let Err(Unanswered::Refused(errno)) = self.link.ask(|client| client.dma_unmap(iova, bytes)) {
            tracing::error!(
                "the server of {} keeps memory at {iova:#x} that the program has unmapped ({errno})",
                self.name
            );
            self.link
                .give_up(Command::DmaUnmap, "it does not let go of memory");
        }
    }
}
