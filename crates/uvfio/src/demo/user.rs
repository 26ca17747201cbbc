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
    /// The socket of edu's server. Its log is standard input.
    edu: PathBuf,
    /// The socket of the NVMe controller's server.
    nvme: PathBuf,
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
    let user = User::attach(&args.edu).map_err(Failure::running)?;
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
        sections: user.try_everything(edu.as_ref(), &args.nvme),
    };
    println!("{}", serde_json::to_string(&told).map_err(Failure::running)?);
    Ok(())
}

/// Some lines of the page.
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

    fn try_everything(mut self, edu: &dyn Device, nvme: &Path) -> Vec<Section> {
        let groups: [(&str, &[Check]); 3] = [
            ("edu, through the socket", &[checks::config]),
            (
                "edu: interrupts, DMA, function level reset",
                &[checks::msi, checks::dma, checks::flr],
            ),
            ("Refused, with the server's reason", &[checks::refused]),
        ];
        let mut sections: Vec<Section> = groups
            .into_iter()
            .map(|(title, checks)| {
                let mut section = Section::new(title);
                for check in checks {
                    let done = check(&mut self, edu, &mut section);
                    finish(&mut section, done);
                }
                section
            })
            .collect();

        let mut speed = Section::new("Speed for drivers in user space, as just measured");
        // A server has one user at a time: the driver is answered once this one has left.
        let left = self.leave();
        let done = checks::edu_speed(&left.socket, &mut speed);
        finish(&mut speed, done);
        let done = checks::nvme_speed(nvme, &mut speed);
        finish(&mut speed, done);
        sections.push(speed);

        let mut after = Section::new("Afterwards");
        let done = left
            .come_back()
            .and_then(|mut next| checks::next_user(&mut next, edu, &mut after));
        finish(&mut after, done);
        sections.push(after);
        sections
    }

    /// Gives the device back.
    fn leave(self) -> Left {
        let Self {
            memory, log, socket, ..
        } = self;
        Left { memory, log, socket }
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

/// A user who has left.
struct Left {
    memory: File,
    log: Receiver<String>,
    socket: PathBuf,
}

impl Left {
    /// Comes back as another.
    fn come_back(self) -> Result<User, Refused> {
        Ok(User {
            link: Link::connect(&self.socket)?,
            memory: self.memory,
            messages: None,
            log: self.log,
            socket: self.socket,
        })
    }
}

/// Where something that every user may do was not granted, the page is wrong.
fn finish<E: std::fmt::Display>(section: &mut Section, done: Result<(), E>) {
    if let Err(error) = done {
        section.check("the rest of this", error.to_string(), false, "to be granted");
    }
}
