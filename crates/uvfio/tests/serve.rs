//! `uvfio serve` as a process, and its users in another.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use uvfio_core::region_index::CONFIG;
use uvfio_proto::Client;

use common::eventually;

mod common;

/// A server that ends with the test.
struct Server(Child);

impl Server {
    fn listening(device: &str, socket: &Path) -> Self {
        let mut server = Self::start(
            &["serve", device, "--socket", &socket.display().to_string()],
            Stdio::null(),
        );
        eventually("there is no socket", || {
            assert!(
                server.0.try_wait().expect("its status").is_none(),
                "the server has ended: {}",
                server.said()
            );
            socket.exists()
        });
        server
    }

    fn start(args: &[&str], stdin: impl Into<Stdio>) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_uvfio"))
            .args(args)
            .stdin(stdin)
            .stderr(Stdio::piped())
            .spawn();
        Self(command.expect("the command starts"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("signalled");
    }

    fn wait(&mut self) -> ExitStatus {
        let has_ended = || self.0.try_wait().expect("its status").is_some();
        eventually("the server still runs", has_ended);
        self.0.wait().expect("its status")
    }

    /// All that an ended server wrote to stderr.
    fn said(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stderr
            .take()
            .expect("its stderr")
            .read_to_string(&mut text)
            .expect("text");
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("device.sock");
    (folder, socket)
}

fn identity(user: &mut Client) -> [u8; 4] {
    let mut data = [0; 4];
    user.read(CONFIG, 0, &mut data)
        .expect("configuration space is read");
    data
}

#[test]
fn a_user_in_another_process_is_served_and_sigterm_ends_the_server_in_order() {
    let (_folder, socket) = place();
    let mut server = Server::listening("edu", &socket);
    let mode = std::fs::metadata(&socket).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "mode {mode:o} of the socket");
    let mut user = Client::connect(&socket).expect("attached");
    assert_eq!(identity(&mut user), [0x34, 0x12, 0xe8, 0x11]);

    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(!socket.exists(), "the socket file is still there");
    let said = server.said();
    let first = said
        .lines()
        .find(|line| line.contains("listens on"))
        .expect("it says that it listens");
    for part in [
        "vfio-user-pci",
        "memory-backend-memfd",
        &socket.display().to_string(),
    ] {
        assert!(first.contains(part), "{part:?} is missing in: {first}");
    }
    assert!(
        said.contains("attached"),
        "the audit log does not tell of the user: {said}"
    );
}

#[test]
fn sigusr1_takes_the_device_away_and_the_server_ends_when_its_user_leaves() {
    let (_folder, socket) = place();
    let mut server = Server::listening("edu", &socket);
    let mut user = Client::connect(&socket).expect("attached");
    server.signal(Signal::USR1);
    eventually("SIGUSR1: the device is still there", || {
        identity(&mut user) == [0xff; 4]
    });
    drop(user);
    assert!(server.wait().success());
    let said = server.said();
    assert!(
        said.contains("it was taken away, and its user has left"),
        "{said}"
    );
}

#[test]
fn a_socket_left_by_a_killed_server_is_taken_over() {
    let (_folder, socket) = place();
    let mut killed = Server::listening("edu", &socket);
    killed.signal(Signal::KILL);
    assert!(!killed.wait().success());
    assert!(socket.exists(), "a killed server leaves its socket");
    let _server = Server::start(
        &["serve", "edu", "--socket", &socket.display().to_string()],
        Stdio::null(),
    );
    let mut user = None;
    eventually("there is no server", || {
        user = Client::connect(&socket).ok();
        user.is_some()
    });
    let mut user = user.expect("attached");
    assert_eq!(identity(&mut user), [0x34, 0x12, 0xe8, 0x11]);
}

#[test]
fn a_connected_descriptor_is_served_until_its_user_leaves() {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut server = Server::start(&["serve", "edu", "--fd", "0"], OwnedFd::from(theirs));
    let mut user = Client::new(ours).expect("attached");
    assert_eq!(identity(&mut user), [0x34, 0x12, 0xe8, 0x11]);
    drop(user);
    let status = server.wait();
    assert!(status.success(), "{status}: {}", server.said());
}

#[test]
fn a_listening_descriptor_is_served_user_after_user() {
    let (_folder, socket) = place();
    let listener = UnixListener::bind(&socket).expect("listens");
    let mut server = Server::start(&["serve", "edu", "--fd", "0"], OwnedFd::from(listener));
    for _ in 0..2 {
        assert_eq!(
            identity(&mut Client::connect(&socket).expect("attached")),
            [0x34, 0x12, 0xe8, 0x11]
        );
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(socket.exists(), "the socket is not the server's to remove");
}

#[test]
fn an_image_that_one_server_has_is_refused_to_another() {
    let (folder, socket) = place();
    let image = format!("nvme,file={},size=1M", folder.path().join("disk.img").display());
    let mut server = Server::listening(&image, &socket);
    let other = folder.path().join("other.sock");
    let mut second = Server::start(
        &["serve", &image, "--socket", &other.display().to_string()],
        Stdio::null(),
    );
    assert_eq!(second.wait().code(), Some(2));
    let said = second.said();
    assert!(said.contains("in use by another process"), "{said}");
    assert!(!other.exists(), "a socket was left behind");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn each_user_of_one_confined_server_maps_doorbells_of_its_own() {
    let (_folder, socket) = place();
    let mut server = Server::listening("nvme,mem=1M,poll=always", &socket);
    let mut before: Vec<OwnedFd> = Vec::new();
    for number in 0..3 {
        let mut user = Client::connect(&socket).expect("attached");
        let region = user.region_info(0).expect("BAR 0");
        let areas: Vec<_> = region
            .areas
            .iter()
            .map(|area| (area.offset, area.bytes))
            .collect();
        assert_eq!(areas, [(0x1000, 0x1000)], "what user {number} may map");
        let memory = region.memory.expect("its memory");
        let mut page = [1; 0x1000];
        rustix::io::pread(&memory, &mut page, region.offset + 0x1000).expect("the page");
        assert!(page == [0; 0x1000], "the doorbells as user {number} finds them");
        for old in &before {
            rustix::io::pwrite(old, &[0xee; 8], 0x1ff8).expect("written");
        }
        user.write(CONFIG, 4, &[6, 0]).expect("memory is switched on");
        // A doorbell by message lands in the memory; that of the admin queue's tail.
        user.write(0, 0x1000, &[5, 0, 0, 0]).expect("a doorbell");
        rustix::io::pread(&memory, &mut page, region.offset + 0x1000).expect("the page");
        assert_eq!(page[..4], [5, 0, 0, 0], "user {number}");
        assert_eq!(page[0xff8..], [0; 8], "user {number} finds what another wrote");
        before.push(memory);
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn a_user_who_is_refused_ten_thousand_times_over_many_connections_does_not_fill_the_log() {
    let (_folder, socket) = place();
    let mut server = Server::listening("edu", &socket);
    for _ in 0..100 {
        let mut user = Client::connect(&socket).expect("attached");
        for _ in 0..100 {
            user.dma_unmap(0x1000, 1).expect_err("not a page");
        }
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    let said = server.said();
    // Refusals, comings and goings, each 64 and a few a second; far from 10,200.
    let lines = said.lines().count();
    assert!(lines < 1000, "{lines} lines");
    let refusals = said.lines().filter(|line| line.contains("refused: ")).count();
    assert!(refusals >= 64, "{refusals} refusals in:\n{said}");
}

/// What `uvfio show SOCKET` says on stderr, and its exit status.
fn show(socket: &Path) -> (Option<i32>, String) {
    let mut show = Server::start(&["show", &socket.display().to_string()], Stdio::null());
    (show.wait().code(), show.said())
}

#[test]
fn a_server_that_has_a_user_is_not_shown_and_does_not_keep_anybody_waiting() {
    let (_folder, socket) = place();
    let _server = Server::listening("edu", &socket);
    let user = Client::connect(&socket).expect("attached");
    let (status, said) = show(&socket);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("it serves another user"), "{said}");

    // The line behind the user is full: whoever comes now does not even get to wait in it.
    let mut line = Vec::new();
    let full = loop {
        let client = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .expect("a socket");
        let address = rustix::net::SocketAddrUnix::new(&socket).expect("an address");
        match rustix::net::connect(&client, &address) {
            Ok(()) => line.push(client),
            Err(error) => break error,
        }
        assert!(line.len() < 10_000, "the line has no end");
    };
    assert_eq!(full, rustix::io::Errno::AGAIN);
    let (status, said) = show(&socket);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("it serves another user"), "{said}");
    drop((user, line));
}
