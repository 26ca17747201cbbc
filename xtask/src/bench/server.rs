//! The server that is measured: `uvfio serve` in processes of its own.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::processes;
use super::wire::{self, Line};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; ended when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts `uvfio serve DEVICE`, and waits until it listens.
    pub(super) fn start(folder: &Path, device: &str) -> Result<Self> {
        let mut server = Self::exec(folder, device)?;
        if let Err(error) = wait_for(&mut server.child, &server.socket, "uvfio serve") {
            return Err(error.context(server.last_words()));
        }
        Ok(server)
    }

    /// Starts `uvfio serve DEVICE` and waits for nothing. Its log, of errors only, is kept for when it fails.
    pub(super) fn exec(folder: &Path, device: &str) -> Result<Self> {
        let socket = folder.join("device.sock");
        let child = Command::new(crate::paths::target().join("release/uvfio"))
            .args(["serve", device, "--log", "error", "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting uvfio serve {device}"))?;
        Ok(Self { child, socket })
    }

    /// Its socket's path.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its processes: the supervisor and the worker.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        processes::family(self.child.id())
    }

    /// Connects as its user, and switches on memory decoding and bus mastering.
    pub(super) fn line(&self) -> Result<Line> {
        const COMMAND: u64 = 0x04;
        let mut line = Line::connect(&self.socket)?;
        line.negotiate()?;
        line.round_trip(&wire::region_write(wire::CONFIG, COMMAND, &[6, 0]), None)?;
        Ok(line)
    }

    /// Connects as soon as it listens, and has it answer: agrees on a version, and reads a register of configuration
    /// space.
    pub(super) fn first_answer(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut line = loop {
            match Line::connect(&self.socket) {
                Ok(line) => break line,
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait().context("waiting for the server")? {
                bail!("it ended with {status} before it listened: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_micros(50));
        };
        line.negotiate()?;
        line.round_trip(&wire::region_read(wire::CONFIG, 0, 4), None)?;
        Ok(())
    }

    /// Ends it, and gives what it has said.
    fn last_words(&mut self) -> String {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut words = String::new();
        if let Some(mut log) = self.child.stderr.take() {
            // What can be read is all there is to say.
            let _ = log.read_to_string(&mut words);
        }
        words.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // One that was killed leaves its socket behind, and the next of this folder has the same.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Waits until a process has made its socket.
pub(super) fn wait_for(child: &mut Child, socket: &Path, name: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for {name}"))? {
            bail!("{name} ended with {status} before it listened");
        }
        if Instant::now() > deadline {
            bail!("{name} did not listen within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The file is there a moment before it is listened to.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
