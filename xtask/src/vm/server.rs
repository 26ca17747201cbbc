//! Our server, `uvfio serve`, as scenarios start it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long the server may take to make its socket.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `uvfio serve`, ended when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Serves `device` (as the command takes it, such as `nvme,file=disk.img`) on `socket`, and
    /// waits until it listens. What it prints goes to `log`.
    pub(super) fn start(uvfio: &Path, device: &str, socket: &Path, log: &Path) -> Result<Self> {
        let _ = fs::remove_file(socket);
        let mut command = Command::new(uvfio);
        command.arg("serve").arg(device).arg("--socket").arg(socket);
        command
            .stdin(Stdio::null())
            .stdout(File::options().append(true).create(true).open(log)?);
        command.stderr(File::options().append(true).create(true).open(log)?);
        let child = command
            .spawn()
            .with_context(|| format!("{} could not be started", uvfio.display()))?;
        let mut server = Self {
            child,
            socket: socket.to_owned(),
            log: log.to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!("`uvfio serve {device}` ended with {status}: {}", server.said());
            }
            if Instant::now() > deadline {
                bail!(
                    "`uvfio serve {device}` made no socket in {PATIENCE:?}: {}",
                    server.said()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Tells the server to take the device away from its user.
    pub(super) fn take_away(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::USR1).context("sending SIGUSR1 to the server")
    }

    /// Kills the server's worker, the process that answers the user.
    pub(super) fn kill_worker(&self) -> Result<()> {
        let parent = self.child.id().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // It may have ended since it was listed.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name in parentheses: state, parent.
            let is_ours = stat
                .rsplit_once(')')
                .is_some_and(|(_, rest)| rest.split_whitespace().nth(1) == Some(&parent));
            if let (true, Some(pid)) = (is_ours, Pid::from_raw(number)) {
                return kill_process(pid, Signal::KILL).context("killing the worker");
            }
        }
        bail!("the server has no worker")
    }

    /// The exit status, if the server has ended.
    pub(super) fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits until the server ends by itself; `None`: it has not within `patience`.
    pub(super) fn wait(&mut self, patience: Duration) -> Result<Option<i32>> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// What the server has printed.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
