//! `uvfio serve` whose log nobody reads: it serves, and ends, as if somebody did.
#![allow(clippy::expect_used)] // A test whose ground gives way has failed.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use uvfio_core::region_index::CONFIG;
use uvfio_proto::Client;

mod common;

/// BAR 0 in configuration space.
const BAR0: u64 = 0x10;

/// A server that logs all there is into a pipe of one page, which is not read.
struct Server {
    process: common::Server,
    log: OwnedFd,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("device.sock");
        let (log, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&theirs, 4096).expect("a small pipe");
        let process = common::Server::start(&["edu", "--log", "trace"], &socket, theirs);
        Self {
            process,
            log,
            socket,
            _folder: folder,
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        common::eventually(what, || done(self));
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.process.0.id().cast_signed()).expect("a process");
        kill_process(pid, Signal::TERM).expect("signalled");
        let mut status = None;
        self.until("the server still runs", |server| {
            status = server.process.0.try_wait().expect("its status");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

/// Does what is logged, far more often than all the pipes on the way can hold: refused requests of two kinds (rationed)
/// and BARs that move (not rationed, since a trace was asked for). Every one of them is answered.
fn flood(socket: &Path) {
    let mut user = Client::connect(socket).expect("attached");
    // Memory accesses on, so that a BAR that is written has moved.
    user.write(CONFIG, 4, &[2, 0])
        .expect("the command register is written");
    for round in 0..3000_u32 {
        user.dma_unmap(0x1000, 1).expect_err("not a page");
        user.read(7, 1 << 40, &mut [0; 4]).expect_err("beyond the region");
        let place = 0x1000_0000 + (round % 2) * 0x0100_0000;
        user.write(CONFIG, BAR0, &place.to_le_bytes())
            .expect("the BAR is written");
        let mut back = [0; 4];
        user.read(CONFIG, BAR0, &mut back).expect("the BAR is read");
        assert_eq!(u32::from_le_bytes(back), place, "BAR 0 in round {round}");
    }
}

/// What comes out of a log, as it comes.
fn read_on(log: OwnedFd) -> Receiver<String> {
    let (send, pieces) = channel();
    std::thread::spawn(move || {
        let mut log = File::from(log);
        let mut bytes = [0; 4096];
        while let Ok(got @ 1..) = log.read(&mut bytes) {
            let piece = String::from_utf8_lossy(bytes.get(..got).unwrap_or_default()).into_owned();
            if send.send(piece).is_err() {
                break;
            }
        }
    });
    pieces
}

#[test]
fn users_are_served_while_nobody_reads_the_log_and_its_next_reader_is_told_what_was_dropped() {
    let mut server = Server::start();
    flood(&server.socket);
    // The supervisor, which logs as well, goes on accepting.
    flood(&server.socket);

    let log = server.log.try_clone().expect("a descriptor");
    let pieces = read_on(log);
    let mut user = Client::connect(&server.socket).expect("attached");
    let mut text = String::new();
    let mut place = 0x2000_0000_u32;
    server.until("nobody says that lines were dropped", |_| {
        place ^= 0x0100_0000;
        user.write(CONFIG, BAR0, &place.to_le_bytes())
            .expect("the BAR is written");
        text.extend(pieces.try_iter());
        text.contains("lines of the log were dropped: nobody read it in time")
    });
    assert!(
        text.contains("uvfio: edu listens on"),
        "the first lines are lost: {:?}",
        text.get(..500)
    );
}

#[test]
fn a_server_whose_log_nobody_reads_ends_when_it_is_told_to() {
    let mut server = Server::start();
    flood(&server.socket);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    assert!(!server.socket.exists(), "the socket is still there");
}
