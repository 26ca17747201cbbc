//! `uvfio demo`: one page that shows what the service does, measured while it is printed.
//!
//! Besides this process, which starts the others and prints: `uvfio serve` for edu and for an NVMe controller, and the
//! user (`user`), in a user namespace of its own, who attaches to the servers' sockets and tries what a driver does and
//! what none should. Nothing on the page is known beforehand: what should be seen comes from what the device declares of
//! itself.

mod checks;
mod function;
mod link;
mod page;
pub(crate) mod user;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;
use crate::{namespace, print};
use page::{Page, Section};

/// Show on one page what the service does: no root, no set-up.
///
/// Starts servers for two devices and, as another process in another user namespace, a user of both. Ends with status 1
/// if anything on the page is not as it should be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the page as one JSON object, with every number of it as a number.
    #[arg(long)]
    json: bool,
}

/// The disk: large enough that reads at random are of many places, and soon written.
const DISK: &str = "nvme,mem=8M";
/// How long a server may take to listen, and to end.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);
/// How long the user may take for everything.
const USER_PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let page = measure()?;
    if args.json {
        print(&(serde_json::to_string_pretty(&page.to_json()).map_err(Failure::running)? + "\n"))?;
    } else {
        print(&format!("{page}\n"))?;
    }
    match page.count().1 {
        0 => Ok(()),
        wrong => Err(Failure::running(format_args!(
            "{wrong} lines of the page are not as they should be"
        ))),
    }
}

fn measure() -> Result<Page, Failure> {
    let program = std::env::current_exe().map_err(Failure::running)?;
    let folder = tempfile::Builder::new()
        .prefix("uvfio-")
        .tempdir()
        .map_err(Failure::running)?;
    let mut edu = Server::start(&program, folder.path(), "edu", "edu")?;
    let nvme = Server::start(&program, folder.path(), "nvme", DISK)?;
    // The log of edu's server goes to the user, who prints the reasons that the server gives; we keep the pipe open, so that
    // the server's last words find a reader.
    let log = edu.log()?;
    let user = Command::new(&program)
        .arg(user::VERB)
        .args([&edu.socket, &nvme.socket])
        .stdin(log.try_clone().map_err(Failure::running)?)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::running(format_args!("the user's process could not be started: {e}")))?;
    let told = output(user, USER_PATIENCE)?;
    let mut told: user::Told = serde_json::from_str(&told).map_err(|e| {
        Failure::running(format_args!(
            "the user's process said nothing that can be read ({e})"
        ))
    })?;

    let mut page = Page::default();
    page.sections.push(who(&edu, &nvme, &told));
    page.sections.append(&mut told.sections);
    if let Some(last) = page.sections.last_mut() {
        end(&[edu.end(Some(log)), nvme.end(None)], last);
    }
    Ok(page)
}

/// The processes, and what the server's log says of the user.
fn who(edu: &Server, nvme: &Server, told: &user::Told) -> Section {
    let mut section = Section::new("uvfio demo: PCI devices in software, and a user who is not trusted");
    let ours = namespace::user_namespace("self");
    let uid = rustix::process::getuid().as_raw();
    let processes = [edu.process.id(), nvme.process.id()];
    section
        .tell(
            "servers, of edu and of nvme",
            format!(
                "processes {} and {}, uid {uid}, {ours}",
                processes[0], processes[1]
            ),
        )
        .number("processes", processes.to_vec())
        .number("uid", uid);
    let announced = told.announced.as_deref().unwrap_or("nothing");
    let attached = announced.contains(&format!("process {} ", told.process));
    let mut seen = format!("process {}, uid {}, {}", told.process, told.uid, told.namespace);
    if let Some(why) = &told.shared_because {
        seen += &format!(": no namespace of its own here ({why})");
    }
    let apart = told.shared_because.is_some() || told.namespace != ours;
    section
        .check(
            "user, whom the server's log has",
            format!("{seen}; {announced:?}"),
            apart && attached,
            "a user namespace other than the servers', and the user's process in the log",
        )
        .number("process", told.process)
        .number("uid", told.uid);
    section
}

/// A line about how the servers ended.
fn end(servers: &[Ended; 2], section: &mut Section) {
    let ok = servers.iter().all(|ended| ended.ok);
    let seen: Vec<&str> = servers.iter().map(|ended| ended.seen.as_str()).collect();
    section.check(
        "SIGTERM to the servers",
        seen.join("; "),
        ok,
        "exit status: 0, and the sockets removed",
    );
}

/// The server's process. Killed if it is dropped before its time.
struct Server {
    process: Child,
    socket: PathBuf,
}

/// How a server ended.
struct Ended {
    seen: String,
    ok: bool,
}

impl Server {
    /// Serves `device` at the socket `name` in `folder`.
    fn start(program: &Path, folder: &Path, name: &str, device: &str) -> Result<Self, Failure> {
        let socket = folder.join(name).with_extension("sock");
        let process = Command::new(program)
            .args(["serve", device, "--log", "audit=info", "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::running(format_args!("the server could not be started: {e}")))?;
        let mut server = Self { process, socket };
        let late = Instant::now() + SERVER_PATIENCE;
        while !server.socket.exists() {
            if server.process.try_wait().map_err(Failure::running)?.is_some() || Instant::now() > late {
                return Err(server.failed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn log(&mut self) -> Result<File, Failure> {
        let log = self
            .process
            .stderr
            .take()
            .ok_or_else(|| Failure::running("the server has no log"))?;
        Ok(std::os::fd::OwnedFd::from(log).into())
    }

    /// The server ended, or did nothing, before anybody attached.
    fn failed(&mut self) -> Failure {
        // It may have ended by itself already.
        let _ = self.process.kill();
        let mut log = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            // What can be read is all there is to say.
            let _ = stderr.read_to_string(&mut log);
        }
        Failure::running(format_args!("the server did not start: {}", log.trim()))
    }

    /// Ends the server as an operator would, and says how it went. Its log is given where somebody else has had it.
    fn end(mut self, log: Option<File>) -> Ended {
        if let Some(pid) = Pid::from_raw(self.process.id().cast_signed()) {
            // Fails only where it has ended, which is seen below.
            let _ = kill_process(pid, Signal::TERM);
        }
        let late = Instant::now() + SERVER_PATIENCE;
        let status = loop {
            match self.process.try_wait() {
                Ok(None) if Instant::now() < late => std::thread::sleep(Duration::from_millis(5)),
                Ok(status) => break status,
                Err(_) => break None,
            }
        };
        let mut words = String::new();
        if let (Some(_), Some(mut log)) = (status, log.or_else(|| self.log().ok())) {
            // The log is for the page only: an unreadable one shows as an empty one.
            let _ = log.read_to_string(&mut words);
        }
        let last = words.lines().last().unwrap_or("no last word");
        let how = status.map_or_else(|| "still runs".to_owned(), |status| status.to_string());
        let left = self.socket.exists();
        let socket = if left { "left behind" } else { "removed" };
        Ended {
            seen: format!("{how}, {last:?}, its socket {socket}"),
            ok: status.is_some_and(|status| status.success()) && !left,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // It may end by itself in this very moment.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// All that a process prints, which must end within `patience`.
fn output(mut process: Child, patience: Duration) -> Result<String, Failure> {
    let (send, receive) = mpsc::channel();
    if let Some(mut stdout) = process.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text).map(|_| text);
            // The receiver may have lost patience.
            let _ = send.send(read);
        });
    }
    let read = receive.recv_timeout(patience);
    if read.is_err() {
        // It may end by itself in this very moment.
        let _ = process.kill();
    }
    let status = process.wait().map_err(Failure::running)?;
    match read {
        Ok(Ok(text)) if status.success() => Ok(text),
        Ok(Ok(_)) => Err(Failure::running(format_args!(
            "the user's process failed ({status})"
        ))),
        Ok(Err(error)) => Err(Failure::running(format_args!(
            "the user's process could not be read: {error}"
        ))),
        Err(_) => Err(Failure::running(format_args!(
            "the user was not done after {} s",
            patience.as_secs()
        ))),
    }
}
