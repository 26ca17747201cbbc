//! Servers to try the kit on: ours, in this process, each behind a socket as `uvfio serve` has it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

pub(crate) mod proxy;
mod windows;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uvfio_check::{Patience, Server};
use uvfio_core::{Device, Policy, VirtualDevice};
use uvfio_nvme::{BackendConfig, Config, NamespaceConfig, Nvme, PollConfig};
use uvfio_proto::Limits;
use uvfio_soft::edu::{self, Edu};
use uvfio_soft::notify::Notify;

pub(crate) use windows::Windows;

/// Long enough for a machine that does other things.
pub(crate) const PATIENT: Patience = Patience {
    reply: Duration::from_secs(30),
    connection: Duration::from_secs(60),
};

/// A server of one device, to one client after another; it ends with the process.
pub(crate) struct Ours {
    path: PathBuf,
    _dir: TempDir,
}

impl Ours {
    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let device = VirtualDevice::new(device, &Policy::default()).expect("a device");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = uvfio_proto::Server::new(stream, Arc::clone(&device), Limits::default()).serve();
                device.detach().expect("the device comes back");
            }
        });
        Self { path, _dir: dir }
    }
}

impl Server for Ours {
    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

pub(crate) fn edu() -> Arc<dyn Device> {
    Edu::new(edu::Config::default()).expect("edu")
}

pub(crate) fn notify() -> Arc<dyn Device> {
    Notify::new()
}

pub(crate) fn nvme(poll: PollConfig) -> Arc<dyn Device> {
    let namespace = NamespaceConfig {
        backend: BackendConfig::Memory(1 << 20),
        block: 512,
        read_only: false,
    };
    let config = Config {
        poll,
        ..Config::new("KIT", vec![namespace])
    };
    Nvme::new(config).expect("nvme")
}
