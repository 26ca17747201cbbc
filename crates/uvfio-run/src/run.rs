//! The supervisor: has the devices, starts the program, and answers its calls until it ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, getpid, getrlimit, pidfd_getfd, pidfd_open,
    set_child_subreaper,
};
use uvfio_uapi::{Backend, Uapi};

use crate::LockedMemory;
use crate::calls::Calls;
use crate::channel::{Channel, FromInside, Go, ToInside};
use crate::machine::{self, Function, MOST};
use crate::notify::Listener;
use crate::removal::Order;
use crate::{descendants, filter, removal, signals};

/// What is to be run.
pub struct Run<'a> {
    /// The devices that the program finds, at 0000:01:00.0, 0000:01:01.0 and so on, each in an IOMMU group of its own,
    /// from 1.
    pub devices: Vec<Arc<dyn Backend>>,
    /// The program, looked for in PATH, and its arguments.
    pub command: &'a [OsString],
    /// How to start a process that does nothing but call [`inside`](crate::inside()): its last arguments will be the
    /// number of the descriptor of its socket, `--`, and the command.
    pub inside: Command,
    /// How the program's calls are caught.
    pub via: Via<'a>,
    /// How much memory it may map for DMA.
    pub locked_memory: LockedMemory,
    /// How long the program has to give its devices back once the operator wants them, by SIGUSR1 to this process; then
    /// they are gone for it.
    pub release_within: Duration,
    /// By what the operator's order is heard, from before the devices are made.
    pub order: Order,
}

/// How a program's calls are caught.
#[derive(Clone, Copy, Debug)]
pub enum Via<'a> {
    /// By a library that is preloaded to it, `libuvfio_preload.so`: for programs that call the kernel by libc.
    Preload(&'a Path),
    /// By the kernel, which tells of them: for any program. BARs can't be mapped then: nobody sees loads and stores.
    Seccomp,
}

/// Why a program was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Too many devices.
    #[error("{0} devices were asked for, and a bus has room for {MOST}")]
    TooMany(usize),
    /// The library that catches calls can't be used.
    #[error("the library that catches the program's calls, {}: {why}", path.display())]
    Preload {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The program itself could not be started.
    #[error("{0}")]
    NotStarted(String),
    /// What the program is to find could not be put in its place.
    #[error("{0}")]
    Place(String),
    /// The program's parent was killed.
    #[error("the process that starts the program was killed; so was the program")]
    ParentDied,
    /// The system refused something.
    #[error("{what}: {why}")]
    System {
        /// What.
        what: &'static str,
        /// The system's reason.
        why: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |why| RunError::System { what, why }
}

impl Run<'_> {
    /// Runs the program. Comes back when it has ended, and with it every process that it started.
    ///
    /// Signals that other processes send to this one meanwhile are passed on to the program, but for SIGUSR1, by which the
    /// operator takes the devices back. Call it from the thread that the process began with.
    ///
    /// # Errors
    /// Where the program does not run to its end; nothing of it is left then.
    pub fn run(self) -> Result<ExitStatus, RunError> {
        if self.devices.len() > MOST {
            return Err(RunError::TooMany(self.devices.len()));
        }
        let numbered = (0..).zip(self.devices);
        let functions: Vec<_> = numbered
            .map(|(number, device)| Function::new(number, device))
            .collect();
        let go = match self.via {
            Via::Preload(library) => Go {
                environment: vec![("LD_PRELOAD".to_owned(), preloaded(library)?)],
                filter: None,
            },
            Via::Seccomp => Go {
                environment: Vec::new(),
                filter: Some(filter::first_device(
                    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
                )),
            },
        };
        // Should the program's parent be killed, its children are ours.
        set_child_subreaper(Some(getpid()))
            .map_err(|errno| system("could not become a subreaper")(errno.into()))?;
        let mut parent = Parent::start(self.inside, self.command)?;
        let result = parent.supervise(
            &functions,
            go,
            self.locked_memory,
            self.order,
            self.release_within,
        );
        match result {
            // It ends when nothing of the program is left.
            Ok(status) => {
                parent
                    .ended()
                    .map_err(system("could not wait for the program's parent"))?;
                Ok(status)
            }
            Err(error) => Err(error),
        }
    }
}

/// The value of LD_PRELOAD that brings a library before any that is there already.
fn preloaded(library: &Path) -> Result<String, RunError> {
    let refused = |why| RunError::Preload {
        path: library.to_owned(),
        why,
    };
    if !library.is_file() {
        return Err(refused(
            "it is not there; `cargo build --release -p uvfio-preload` makes it, or `--via seccomp` does without",
        ));
    }
    let text = library.to_str().ok_or_else(|| refused("its path is not UTF-8"))?;
    // The loader would take it for two.
    if text.contains([' ', ':']) {
        return Err(refused(
            "its path has a space or a colon in it, which LD_PRELOAD can't have",
        ));
    }
    Ok(match std::env::var("LD_PRELOAD") {
        Ok(others) => format!("{text}:{others}"),
        Err(_) => text.to_owned(),
    })
}

/// Ends the answering of calls when it is dropped.
struct Stopped<'a>(&'a Calls);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The program's parent.
struct Parent {
    process: Child,
    channel: Channel,
}

impl Parent {
    fn start(mut inside: Command, command: &[OsString]) -> Result<Self, RunError> {
        let not_started = || system("the program's parent could not be started");
        let (ours, theirs) = UnixStream::pair().map_err(not_started())?;
        fcntl_setfd(&theirs, FdFlags::empty()).map_err(|errno| not_started()(errno.into()))?;
        let process = inside
            .arg(theirs.as_raw_fd().to_string())
            .arg("--")
            .args(command)
            .spawn()
            .map_err(not_started())?;
        Ok(Self {
            process,
            channel: Channel::new(ours).map_err(not_started())?,
        })
    }

    fn supervise(
        &mut self,
        functions: &[Function],
        go: Go,
        locked: LockedMemory,
        order: Order,
        release_within: Duration,
    ) -> Result<ExitStatus, RunError> {
        let uapi = Uapi::new(functions.iter().map(Function::for_uapi).collect());
        self.tell(&ToInside::Tree(machine::tree(functions, &uapi)))?;
        let FromInside::Placed { nodes, listener } = self.hear()? else {
            return Err(RunError::ParentDied);
        };
        let listener = descriptor_of(Some(Pid::from_child(&self.process)), listener)?;
        let calls = Calls::answer(uapi.clone(), &nodes, listener.into(), locked)
            .map_err(system("could not make ready to answer the program's calls"))?;
        let _stopped = Stopped(&calls);
        let signals = signals::take().map_err(system("could not take signals"))?;
        let _removal = removal::follow(order, uapi, release_within)
            .map_err(system("could not start to follow the operator's order"))?;
        let first_device = go.filter;
        self.tell(&ToInside::Go(go))?;
        if let Some(first_device) = first_device {
            let FromInside::Listener { process, listener } = self.hear()? else {
                return Err(RunError::ParentDied);
            };
            let listener = descriptor_of(Pid::from_raw(process), listener)?;
            Listener::answer(calls.clone(), listener, first_device).map_err(system(
                "could not make ready to answer the program's system calls",
            ))?;
            self.channel
                .say()
                .map_err(system("could not talk to the program's parent"))?;
        }
        let FromInside::Started { process } = self.hear()? else {
            return Err(RunError::ParentDied);
        };
        signals.to(process);
        let FromInside::Ended { status } = self.hear()? else {
            return Err(RunError::ParentDied);
        };
        Ok(ExitStatus::from_raw(status))
    }

    fn tell(&mut self, message: &ToInside) -> Result<(), RunError> {
        match self.channel.tell(message) {
            // What it said last tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(system("could not talk to the program's parent")),
        }
    }

    fn hear(&mut self) -> Result<FromInside, RunError> {
        match self.channel.hear() {
            Ok(FromInside::NotStarted(why)) => Err(RunError::NotStarted(why)),
            Ok(FromInside::Failed(why)) => Err(RunError::Place(why)),
            Ok(message) => Ok(message),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RunError::ParentDied),
            Err(error) => Err(system("could not hear from the program's parent")(error)),
        }
    }

    fn ended(&mut self) -> io::Result<()> {
        self.process.wait().map(drop)
    }
}

/// Takes a descriptor of another process.
fn descriptor_of(process: Option<Pid>, number: i32) -> Result<OwnedFd, RunError> {
    let process = process.ok_or(RunError::ParentDied)?;
    let take = || {
        let process = pidfd_open(process, PidfdFlags::empty())?;
        pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty())
    };
    take().map_err(|errno| system("could not take the descriptor at which calls arrive")(errno.into()))
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Where it has ended in order there is nobody.
        descendants::kill_all();
    }
}
