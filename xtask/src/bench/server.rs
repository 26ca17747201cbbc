//! The server that is measured: `uvfio serve edu` in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::wire::{self, Line};

/// A running server; ended when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("edu.sock");
        let mut child = Command::new(crate::paths::target().join("release/uvfio"))
            .args(["serve", "edu", "--log", "error", "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting uvfio serve edu")?;
        wait_for(&mut child, &socket, "uvfio serve edu")?;
        Ok(Self { child, socket })
    }

    /// Connects as its user, and switches on memory decoding and bus mastering.
    pub(super) fn line(&self) -> Result<Line> {
        const COMMAND: u64 = 0x04;
        let mut line = Line::connect(&self.socket)?;
        line.negotiate()?;
        line.round_trip(&wire::region_write(wire::CONFIG, COMMAND, &[6, 0]), None)?;
        Ok(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a process has made its socket.
pub(super) fn wait_for(child: &mut Child, socket: &Path, name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for {name}"))? {
            bail!("{name} ended with {status} before it listened");
        }
        if Instant::now() > deadline {
            bail!("{name} did not listen within 20 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The file is there a moment before it is listened to.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
