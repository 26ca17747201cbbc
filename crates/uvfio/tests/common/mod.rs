//! The command, serving a device, and its worker.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::expect_used)] // A test whose ground gives way has failed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so; `what` says what is not, where it does not become so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < late, "{what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The server; dropping it kills it.
pub(crate) struct Server(pub(crate) Child);

impl Server {
    /// Serves a device, named with any options of the server's, and waits until the socket is there.
    pub(crate) fn start(device: &[&str], socket: &Path, stderr: impl Into<Stdio>) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_uvfio"))
            .arg("serve")
            .args(device)
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the server starts");
        let server = Self(child);
        eventually(&format!("{device:?} is not served"), || socket.exists());
        server
    }

    /// The worker: the process whose parent the server is.
    pub(crate) fn worker(&self) -> Pid {
        let parent = self.0.id().to_string();
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let mut children = processes.filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name in parentheses: state, parent.
            let (_, rest) = stat.rsplit_once(')')?;
            (rest.split_whitespace().nth(1)? == parent).then(|| Pid::from_raw(number))?
        });
        children.next().expect("a worker")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
