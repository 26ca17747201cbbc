//! A worker as its supervisor sees it: a process, the socket to it, and its log.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::channel::{Channel, Order, Report, Setup};
use crate::image::Image;
use crate::log_pipe::{Copier, pipe};
use crate::memory::{STACK, STACK_VARIABLE};
use crate::opened::Opened;
use crate::orders::Orders;
use crate::process::BUILD;
use crate::supervisor::SupervisorError;

/// The hidden verb under which the command itself is a worker.
const VERB: &str = "worker";

/// How long a process that has closed its socket may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// How long its last words may take to be read; its user waits meanwhile for whoever comes in its place.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A running worker; killed when dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Child,
    pub(crate) channel: Channel,
    /// Of what shape its functions are, where that is asked for when it is gone.
    pub(crate) shape: String,
    /// Copies its log to our standard error.
    log: Copier,
}

impl Worker {
    /// Starts one and waits until it is confined and its device made. None where an order to stop comes first.
    pub(crate) fn start(
        setup: &Setup,
        opened: &Opened,
        orders: &Orders,
    ) -> Result<Option<Self>, SupervisorError> {
        let own = std::env::current_exe().map_err(SupervisorError::Start)?;
        let beside = own.with_file_name("uvfio-worker");
        if beside.is_file()
            && let Some(worker) = Self::spawn(beside, None)?.of_this_build(orders)?
        {
            return worker.make(setup, opened, orders);
        }
        match Self::spawn(own, Some(VERB))?.of_this_build(orders)? {
            Some(worker) => worker.make(setup, opened, orders),
            None if orders.stopping() => Ok(None),
            None => Err(SupervisorError::Start(io::Error::other("it is of another build"))),
        }
    }

    fn spawn(program: PathBuf, verb: Option<&str>) -> Result<Self, SupervisorError> {
        let (channel, theirs) = Channel::pair().map_err(SupervisorError::Start)?;
        let (words, their_words) = pipe().map_err(SupervisorError::Start)?;
        let mut process = Command::new(program)
            .args(verb)
            // One arena: a second one, when it shrinks, has libc read a file under /proc.
            .env_clear()
            .env("MALLOC_ARENA_MAX", "1")
            .env(STACK_VARIABLE, STACK.to_string())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(their_words))
            // What a terminal sends to its foreground is for us alone.
            .process_group(0)
            .spawn()
            .map_err(SupervisorError::Start)?;
        match Copier::to_stderr(words) {
            Ok(log) => Ok(Self {
                process,
                channel,
                shape: String::new(),
                log,
            }),
            Err(error) => {
                kill(&mut process);
                Err(SupervisorError::Start(error))
            }
        }
    }

    /// Itself if it is of the same build as we are.
    fn of_this_build(self, orders: &Orders) -> Result<Option<Self>, SupervisorError> {
        match self.wait_report(orders)? {
            Some(Report::Hello(build)) if build == BUILD => Ok(Some(self)),
            Some(Report::Failed(why)) => Err(SupervisorError::Refused(why)),
            _ => Ok(None),
        }
    }

    fn make(
        mut self,
        setup: &Setup,
        opened: &Opened,
        orders: &Orders,
    ) -> Result<Option<Self>, SupervisorError> {
        for image in &opened.images {
            let file = image.file.try_clone().map_err(SupervisorError::Start)?;
            let bytes = image.bytes;
            self.order(&Order::Image(Image { file, bytes }))?;
        }
        for function in &opened.functions {
            let descriptors = function.descriptors().map_err(SupervisorError::Start)?;
            self.order(&Order::Function(descriptors))?;
        }
        self.order(&Order::Make(setup.clone()))?;
        match self.wait_report(orders)? {
            Some(Report::Ready { shape }) => {
                self.shape = shape;
                Ok(Some(self))
            }
            Some(Report::Failed(why)) => Err(SupervisorError::Refused(why)),
            _ if orders.stopping() => Ok(None),
            _ => Err(SupervisorError::Died(self.end())),
        }
    }

    /// Gives an order. One that the worker does not take is lost with the worker, which shows at its socket.
    pub(crate) fn order(&self, order: &Order) -> Result<(), SupervisorError> {
        match self.channel.order(order) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            other => other.map_err(SupervisorError::Channel),
        }
    }

    /// The next report; none where the worker or an order to stop ends the waiting.
    fn wait_report(&self, orders: &Orders) -> Result<Option<Report>, SupervisorError> {
        loop {
            if orders.stopping() {
                return Ok(None);
            }
            let wake = orders.wake();
            let mut ready = [
                PollFd::new(&self.channel, PollFlags::IN),
                PollFd::new(&wake, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SupervisorError::Channel(errno.into())),
            }
            orders.heard();
            if let Some(report) = self.channel.next_report().map_err(SupervisorError::Channel)? {
                return Ok(report);
            }
        }
    }

    /// Kills it. From now on none of its threads does anything more, but for a call that the kernel does not end yet.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself in this very moment.
        let _ = self.process.kill();
        let late = Instant::now() + LAST_BREATH;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its end, which it has begun; says how it was.
    pub(crate) fn end(&mut self) -> String {
        let late = Instant::now() + LAST_BREATH;
        let mut killed = false;
        let status = loop {
            match self.process.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < late => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) if !killed => {
                    killed = true;
                    // It may end by itself in this very moment.
                    let _ = self.process.kill();
                }
                Ok(None) => break self.process.wait().ok(),
                Err(_) => break None,
            }
        };
        // Its last words come before ours, where standard error takes them.
        self.log.end(LAST_WORDS);
        match status {
            _ if killed => "it closed its socket and ran on".into(),
            Some(status) => how(status),
            None => "nobody knows how".into(),
        }
    }

    /// Its process's number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        kill(&mut self.process);
        self.log.end(LAST_WORDS);
    }
}

/// Ends a process, which has ended already where all went well.
fn kill(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// An exit status in words.
fn how(status: ExitStatus) -> String {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::SYS) => "killed by SIGSYS: it made a system call that is not in its list".into(),
        Some(signal) => format!("killed by signal {} ({signal:?})", signal.as_raw()),
        None => status.to_string(),
    }
}
