//! A virtual machine that runs: how it is told what to do, and ended.
//!
//! The guest's init takes commands from its second serial port and answers there, so a scenario
//! decides on the host what happens next:
//!
//! | guest says | meaning |
//! |---|---|
//! | `UVFIO ready` | booted; waits for a command |
//! | `UVFIO ok WHAT` | a check passed |
//! | `UVFIO fail WHAT: expected X got Y` | a check failed |
//! | `UVFIO text TEXT` | a line of output that the scenario asked for |
//! | `UVFIO note TEXT` | something that a scenario waits for |
//! | `UVFIO end STATUS` | the command has ended, with this exit status |
//!
//! A command is a line of shell; `xtask/guest/*.sh` hold the functions that it may use. The first
//! serial port is the console, kept in `console.log`.

mod builder;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::checks::Checks;
use super::device::Device;
use super::qmp::Qmp;

pub(super) use builder::Builder;

/// How long QEMU may take for a command of QMP or to connect to us. All waits in this file are
/// several times what an idle machine needs.
const QEMU_PATIENCE: Duration = Duration::from_secs(40);
/// How long a guest may take from power-on to its first command (5 s where nothing else runs).
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// A running virtual machine. Dropping it ends QEMU at once.
#[derive(Debug)]
pub(super) struct Guest {
    process: Process,
    qmp: Qmp,
    control: UnixStream,
    lines: Receiver<String>,
}

impl Guest {
    /// Runs a line of shell in the guest, counts the checks that it reports, and one more: that it
    /// ends with status 0 within `patience`. An error means that the guest is gone or hangs.
    pub(super) fn run(&mut self, command: &str, patience: Duration, checks: &mut Checks) -> Result<()> {
        self.tell(command)?;
        self.finish(command, patience, checks)
    }

    /// Waits for the end of a command that [`Guest::tell`] has started, as [`Guest::run`] does.
    pub(super) fn finish(&mut self, command: &str, patience: Duration, checks: &mut Checks) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("during {command:?}"))?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ok", what) => checks.ok(what),
                ("fail", what) => checks.fail(what),
                ("end", "0") => return Ok(()),
                ("end", status) => {
                    checks.fail(&format!(
                        "{command:?} in the guest: expected status 0 got {status}"
                    ));
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Starts a line of shell in the guest, without waiting for its end.
    pub(super) fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.control, "{command}").map_err(|e| self.process.explain(&e.into()))
    }

    /// Waits for `UVFIO note ...` and returns the text. Checks that come before it are counted.
    pub(super) fn note(&mut self, patience: Duration, checks: &mut Checks) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(deadline).context("waiting for a note of the guest's")?;
            match line.split_once(' ') {
                Some(("note", text)) => return Ok(text.to_owned()),
                Some(("ok", what)) => checks.ok(what),
                Some(("fail", what)) => checks.fail(what),
                Some(("end", status)) => bail!("the guest's command ended with {status} and left no note"),
                _ => {}
            }
        }
    }

    /// Runs a line of shell in the guest and returns the text that it sends by `text`. Status other
    /// than 0 is an error.
    pub(super) fn text(&mut self, command: &str, patience: Duration) -> Result<Vec<String>> {
        self.tell(command)?;
        let deadline = Instant::now() + patience;
        let mut text = Vec::new();
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("during {command:?}"))?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("text", words) => text.push(words.to_owned()),
                ("end", "0") => return Ok(text),
                ("end", status) => bail!("{command:?} in the guest ended with status {status}: {text:?}"),
                _ => {}
            }
        }
    }

    /// Waits until the guest has booted (again).
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        while self.line(deadline).context("waiting for the guest's boot")? != "ready" {}
        Ok(())
    }

    /// Resets the whole machine, as its reset button would, and waits until it has booted again.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.execute("system_reset", &json!({}))?;
        self.wait_ready()
    }

    /// Runs a command of QMP; `arguments` is a JSON object.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let result = self.qmp.execute(command, arguments, QEMU_PATIENCE);
        result.map_err(|e| self.process.explain(&e))
    }

    /// Adds a device to the running machine.
    pub(super) fn plug(&mut self, device: &Device) -> Result<()> {
        self.execute("device_add", &device.description)?;
        Ok(())
    }

    /// Asks the guest to give a device back, and waits until it is gone; `false`: it has not gone
    /// within `patience`.
    pub(super) fn unplug(&mut self, device: &Device, patience: Duration) -> Result<bool> {
        self.execute("device_del", &json!({ "id": device.description["id"] }))?;
        self.wait_unplugged(device, patience)
    }

    /// Waits until a device is gone, whoever asked the guest to give it back; `false`: it has not gone within `patience`.
    pub(super) fn wait_unplugged(&mut self, device: &Device, patience: Duration) -> Result<bool> {
        let id = &device.description["id"];
        let event = self
            .qmp
            .event("DEVICE_DELETED", patience, |data| data["device"] == *id);
        Ok(event.map_err(|e| self.process.explain(&e))?.is_some())
    }

    /// Tells `uvfio run`, where QEMU was launched by it, to take the devices back.
    pub(super) fn take_devices_back(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.process.child), Signal::USR1)
            .context("sending SIGUSR1 to `uvfio run`")
    }

    /// Waits until the guest sleeps; `false`: it does not within `patience`.
    pub(super) fn wait_asleep(&mut self, patience: Duration) -> Result<bool> {
        let event = self.qmp.event("SUSPEND", patience, |_| true);
        Ok(event.map_err(|e| self.process.explain(&e))?.is_some())
    }

    /// Wakes a guest that sleeps.
    pub(super) fn wake(&mut self) -> Result<()> {
        self.execute("system_wakeup", &json!({}))?;
        Ok(())
    }

    /// Ends QEMU by SIGKILL, as a crash of the host would.
    pub(super) fn kill(mut self) -> Result<ExitStatus> {
        self.process.child.kill()?;
        Ok(self.process.child.wait()?)
    }

    /// Ends QEMU by SIGKILL, and returns what notes it had still sent.
    pub(super) fn kill_for_notes(mut self) -> Result<Vec<String>> {
        self.process.child.kill()?;
        self.process.child.wait()?;
        let mut notes = Vec::new();
        while let Ok(line) = self.line(Instant::now() + Duration::from_secs(1)) {
            notes.extend(line.strip_prefix("note ").map(str::to_owned));
        }
        Ok(notes)
    }

    /// Asks QEMU to end, and waits until it has.
    pub(super) fn quit(mut self) -> Result<ExitStatus> {
        // QEMU may close the connection before it has sent its answer.
        let _ = self.qmp.execute("quit", &json!({}), QEMU_PATIENCE);
        let deadline = Instant::now() + QEMU_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(self
            .process
            .explain(&anyhow!("QEMU did not end when told to quit")))
    }

    /// The next of the guest's words to us, without `UVFIO`.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, words)) = line.split_once("UVFIO ") {
                        return Ok(words.trim_end().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.process.explain(&anyhow!("the guest said nothing in time")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.process.explain(&anyhow!("the guest's machine is gone")));
                }
            }
        }
    }
}

/// QEMU's process, ended when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    errors: PathBuf,
    console: PathBuf,
}

impl Process {
    /// Waits for QEMU to connect.
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + QEMU_PATIENCE;
        while Instant::now() < deadline && self.child.try_wait()?.is_none() {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(self.explain(&anyhow!("QEMU did not connect to its sockets")))
    }

    /// Adds to an error what QEMU and the guest's console said last.
    fn explain(&mut self, error: &anyhow::Error) -> anyhow::Error {
        // A process that is just ending gets the time to say why.
        thread::sleep(Duration::from_millis(200));
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("QEMU ended with {status}"),
            _ => "QEMU runs".to_owned(),
        };
        let (errors, console) = (tail(&self.errors), tail(&self.console));
        anyhow!(
            "{error:#}; {state}\n    QEMU's last words:\n{errors}    the console's last lines:\n{console}"
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..]
        .iter()
        .map(|line| format!("      {line}\n"))
        .collect()
}

fn read_lines(stream: UnixStream) -> Receiver<String> {
    let (to, from) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // A machine that is reset in mid-line may leave bytes that are no text.
        while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    from
}
