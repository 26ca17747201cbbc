//! The user's process: attaches to the server's socket, tries everything, and prints what it saw as JSON.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use uvfio_core::Device;
use uvfio_worker::DeviceSpec;

use super::checks;
use super::link::{Counters, Link, Refused};
use super::page::Section;
use crate::exit::Failure;
use crate::namespace;

/// The hidden subcommand that is this process.
pub(crate) const VERB: &str = "demo-user";

/// The user of `uvfio demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server's socket. Its log is standard input.
    socket: PathBuf,
}

/// What this process tells the one that prints.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) process: u32,
    pub(super) uid: u32,
    pub(super) namespace: String,
    /// Why there is no user namespace of its own, where there is none.
    pub(super) shared_because: Option<String>,
    /// What the server logged when this process attached.
    pub(super) announced: Option<String>,
    pub(super) sections: Vec<Section>,
}

/// Bytes of memory that the device may reach.
pub(super) const MEMORY_BYTES: u64 = 1 << 20;
/// Where that memory lies for the device.
pub(super) const MEMORY_IOVA: u64 = 0x10_0000;

/// How long the server may take to log a reason.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// A driver in user space, with one function and some memory.
pub(super) struct User {
    pub(super) link: Link,
    /// The memory; the device sees it from [`MEMORY_IOVA`] on once it is mapped.
    pub(super) memory: File,
    /// The eventfds of the messages, once these are enabled.
    pub(super) messages: Option<Counters>,
    log: Receiver<String>,
    socket: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // Before any thread is started: the kernel moves only single-threaded processes.
    let shared_because = namespace::leave_for_new_user_namespace()
        .err()
        .map(|errno| errno.to_string());
    let user = User::attach(&args.socket).map_err(Failure::running)?;
    // What the device declares is what its user should find.
    let edu = "edu"
        .parse::<DeviceSpec>()
        .map_err(Failure::running)?
        .build()
        .map_err(Failure::running)?;
    let announced = user.reason();
    let told = Told {
        process: std::process::id(),
        uid: rustix::process::getuid().as_raw(),
        namespace: namespace::user_namespace("self"),
        shared_because,
        announced,
        sections: user.try_everything(edu.as_ref()),
    };
    println!("{}", serde_json::to_string(&told).map_err(Failure::running)?);
    Ok(())
}

/// One section of the page.
type Check = fn(&mut User, &dyn Device, &mut Section) -> Result<(), Refused>;

impl User {
    fn attach(socket: &Path) -> Result<Self, String> {
        let memory = rustix::fs::memfd_create("uvfio-demo", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .and_then(|memory| {
                rustix::fs::ftruncate(&memory, MEMORY_BYTES)?;
                rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK)?;
                Ok(memory)
            })
            .map_err(|errno| format!("no memory to share could be made: {errno}"))?;
        let (send, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(std::io::stdin()).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let link =
            Link::connect(socket).map_err(|e| format!("the user could not attach to {socket:?}: {e}"))?;
        Ok(Self {
            link,
            memory: memory.into(),
            messages: None,
            log,
            socket: socket.into(),
        })
    }

    fn try_everything(mut self, edu: &dyn Device) -> Vec<Section> {
        let checks: [(&str, Check); 6] = [
            ("Configuration space, read through the socket", checks::config),
            ("BARs, sized by writing ones", checks::bars),
            ("MSI", checks::msi),
            ("DMA", checks::dma),
            ("Function level reset", checks::flr),
            ("Refused, with the server's reason", checks::refused),
        ];
        let mut sections: Vec<Section> = checks
            .into_iter()
            .map(|(title, check)| self.section(title, edu, check))
            .collect();
        let title = "The next user, once this one has left";
        sections.push(match self.succeed() {
            Ok(mut next) => next.section(title, edu, checks::next_user),
            Err(refused) => {
                let mut section = Section::new(title);
                section.check("attaches", refused.to_string(), false, "to be granted");
                section
            }
        });
        sections
    }

    fn section(&mut self, title: &str, edu: &dyn Device, check: Check) -> Section {
        let mut section = Section::new(title);
        if let Err(refused) = check(self, edu, &mut section) {
            section.check("the rest of this", refused.to_string(), false, "to be granted");
        }
        section
    }

    /// Leaves, and comes back as another user.
    fn succeed(self) -> Result<Self, Refused> {
        let Self {
            link,
            memory,
            messages,
            log,
            socket,
        } = self;
        // A server has one user at a time: the next is answered once this one has left.
        drop((link, messages));
        Ok(Self {
            link: Link::connect(&socket)?,
            memory,
            messages: None,
            log,
            socket,
        })
    }

    /// Forgets what the server has logged until now.
    pub(super) fn skip_log(&self) {
        while self.log.try_recv().is_ok() {}
    }

    /// The next reason that the server logs; none if it logs none soon.
    pub(super) fn reason(&self) -> Option<String> {
        loop {
            match self.log.recv_timeout(LOG_PATIENCE) {
                Ok(line) => {
                    if let Some((_, logged)) = line.split_once("audit: ") {
                        // What follows the sentence is for machines: ` device="edu" ..`.
                        let sentence = logged.split(" device=").next().unwrap_or(logged);
                        return Some(sentence.trim_start_matches("refused: ").to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}
