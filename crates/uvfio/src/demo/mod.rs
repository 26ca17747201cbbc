//! `uvfio demo`: one page that shows what the service does, measured while it is printed.
//!
//! Three processes: this one, which starts the others and prints; `uvfio serve edu`; and the user (`user`), in a user
//! namespace of its own, who attaches to the server's socket and tries what a driver does and what none should.
//! Nothing on the page is known beforehand: what should be seen comes from what the device declares of itself.

mod checks;
mod function;
mod link;
mod page;
pub(crate) mod user;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;
use crate::{namespace, print};
use page::{Page, Section};

/// Show on one page what the service does: no root, no set-up.
///
/// Starts a server for `edu` and, as another process in another user namespace, a user of it. Ends with status 1 if
/// anything on the page is not as it should be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the page as JSON.
    #[arg(long)]
    json: bool,
}

/// How long the server may take to listen, and to end.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);
/// How long the user may take for everything.
const USER_PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let page = measure()?;
    if args.json {
        print(&(serde_json::to_string_pretty(&page).map_err(Failure::running)? + "\n"))?;
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
    let socket = folder.path().join("edu.sock");

    let mut server = Server::start(&program, &socket)?;
    // The server's log goes to the user, who prints the reasons that the server gives; we keep the pipe open, so that
    // the server's last words find a reader.
    let log = server.log()?;
    let user = Command::new(&program)
        .arg(user::VERB)
        .arg(&socket)
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
    page.sections.push(who(&server, &told));
    page.sections.append(&mut told.sections);
    page.sections.push(server.end(log, &socket));
    Ok(page)
}

fn who(server: &Server, told: &user::Told) -> Section {
    let mut section =
        Section::new("uvfio demo: edu, a PCI device in software, and a user who is not trusted");
    let ours = namespace::user_namespace("self");
    let uid = rustix::process::getuid().as_raw();
    section.tell(
        "server",
        format!("process {}, uid {uid}, {ours}", server.process.id()),
    );
    let theirs = format!("process {}, uid {}, {}", told.process, told.uid, told.namespace);
    match &told.shared_because {
        None => section.check(
            "user",
            theirs,
            told.namespace != ours,
            "a user namespace other than the server's",
        ),
        Some(why) => section.tell("user", format!("{theirs}: no namespace of its own here ({why})")),
    }
    let announced = told.announced.clone().unwrap_or_else(|| "nothing".into());
    let ok = announced.contains(&format!("process {} ", told.process));
    section.check(
        "the server's log",
        announced,
        ok,
        "that the user's process is attached",
    );
    section
}

/// The server's process. Killed if it is dropped before its time.
struct Server {
    process: Child,
}

impl Server {
    fn start(program: &Path, socket: &Path) -> Result<Self, Failure> {
        let process = Command::new(program)
            .args(["serve", "edu", "--log", "audit=info", "--socket"])
            .arg(socket)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::running(format_args!("the server could not be started: {e}")))?;
        let mut server = Self { process };
        let late = Instant::now() + SERVER_PATIENCE;
        while !socket.exists() {
            if server.process.try_wait().map_err(Failure::running)?.is_some() || Instant::now() > late {
                return Err(server.failed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn log(&mut self) -> Result<std::fs::File, Failure> {
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

    /// Ends the server as an operator would, and says how it went.
    fn end(mut self, mut log: std::fs::File, socket: &Path) -> Section {
        let mut section = Section::new("The end");
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
        if status.is_some() {
            // The log is for the page only: an unreadable one shows as an empty one.
            let _ = log.read_to_string(&mut words);
        }
        let last = words.lines().last().unwrap_or("no last word");
        let how = status.map_or_else(|| "still runs".to_owned(), |status| status.to_string());
        let left = socket.exists();
        let seen = format!(
            "{how}; {last:?}; its socket is {}",
            if left { "left behind" } else { "removed" }
        );
        let ok = status.is_some_and(|status| status.success()) && !left;
        section.check(
            "SIGTERM to the server",
            seen,
            ok,
            "exit status: 0, and the socket removed",
        );
        section
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
