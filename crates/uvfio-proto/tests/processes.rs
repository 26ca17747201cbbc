//! Client and server in two processes. This binary is both: it runs itself again with a role.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::device::{CONFIG, TestDevice, eventually, limits};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Resource, Rlimit, setrlimit};
use uvfio_core::{Policy, VirtualDevice, Width};
use uvfio_proto::message::{DmaMapFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientError, End, Errno, Server};

const ROLE: &str = "UVFIO_TEST_ROLE";
const SOCKET: &str = "UVFIO_TEST_SOCKET";

fn main() {
    let socket = std::env::var_os(SOCKET).map(std::path::PathBuf::from);
    match (std::env::var(ROLE).as_deref(), socket) {
        (Ok("server"), Some(socket)) => serve(&UnixListener::bind(socket).unwrap()),
        (Ok("poor server"), Some(socket)) => {
            let few = Rlimit {
                current: Some(40),
                maximum: Some(40),
            };
            setrlimit(Resource::Nofile, few).unwrap();
            serve(&UnixListener::bind(socket).unwrap());
        }
        (Ok("client"), Some(socket)) => sit(&socket),
        _ => {
            // As cargo's own harness does, so that tools can list the tests.
            if std::env::args().any(|argument| argument == "--list") {
                println!("processes: test");
                return;
            }
            for (name, test) in [
                (
                    "a_device_in_another_process_does_dma_and_interrupts",
                    dma_and_interrupts as fn(),
                ),
                (
                    "a_server_without_descriptors_to_spare_refuses_and_serves_on",
                    few_descriptors,
                ),
                ("a_client_whose_server_dies_is_told", server_dies),
                (
                    "a_server_whose_client_is_killed_ends_and_serves_the_next",
                    client_is_killed,
                ),
            ] {
                test();
                println!("test {name} ... ok");
            }
        }
    }
}

fn role(role: &str, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .env(SOCKET, socket)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Serves one client. Its device copies a page: from the address in register 0x8000 to that in 0x8008, when 0x8010 is
/// written, and sends message 3.
fn serve(listener: &UnixListener) {
    use uvfio_core::Device;
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(Arc::clone(&device) as _, &Policy::default()).unwrap();
    let engine = Arc::clone(&device);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            if engine.read(0, 0x8010, Width::B4) == 0 {
                continue;
            }
            engine.write(0, 0x8010, Width::B4, 0);
            let host = engine.host();
            let mut page = vec![0; 4096];
            host.dma()
                .read(engine.read(0, 0x8000, Width::B8), &mut page)
                .unwrap();
            host.dma()
                .write(engine.read(0, 0x8008, Width::B8), &page)
                .unwrap();
            host.signal(3);
        }
    });
    let (stream, _) = listener.accept().unwrap();
    let end = Server::new(stream, Arc::clone(&virtual_device), limits())
        .serve()
        .unwrap();
    assert_eq!(end, End::Disconnected);
    virtual_device.detach().unwrap();
}

/// Connects, and waits to be killed.
fn sit(socket: &Path) {
    let mut client = Client::connect(socket).unwrap();
    client.info().unwrap();
    loop {
        std::thread::park();
    }
}

fn connect(socket: &Path) -> Client {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match Client::connect(socket) {
            Ok(client) => return client,
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn dma_and_interrupts() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = role("server", &socket);
    let mut client = connect(&socket);

    let ram = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&ram, 0x10_0000).unwrap();
    fcntl_add_seals(&ram, SealFlags::SHRINK).unwrap();
    rustix::io::pwrite(&ram, &[0x5a; 4096], 0x3000).unwrap();
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client
        .dma_map(0x8000_0000, 0x10_0000, flags, Some((ram.as_fd(), 0)))
        .unwrap();
    client.write(CONFIG, 4, &[6, 0]).unwrap();
    let events: Vec<_> = (0..4)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
        .collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client.set_eventfds(2, SetIrqsFlags::TRIGGER, 0, &fds).unwrap();

    client.write(0, 0x8000, &0x8000_3000_u64.to_le_bytes()).unwrap();
    client.write(0, 0x8008, &0x8000_9000_u64.to_le_bytes()).unwrap();
    client.write_posted(0, 0x8010, &[1, 0, 0, 0]).unwrap();
    let mut waited = [PollFd::new(&events[3], PollFlags::IN)];
    assert_eq!(
        poll(
            &mut waited,
            Some(&Timespec {
                tv_sec: 20,
                tv_nsec: 0
            })
        ),
        Ok(1),
        "message 3 comes"
    );
    let mut page = [0; 4096];
    rustix::io::pread(&ram, &mut page, 0x9000).unwrap();
    assert!(page == [0x5a; 4096], "the page was copied");

    drop(client);
    let status = server.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = role("poor server", &socket);
    let mut client = connect(&socket);
    let events: Vec<_> = (0..16)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
        .collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    // Each is kept for its vector, until there is no room for the next sixteen.
    let mut refused = 0;
    for start in [0, 16, 32, 48] {
        match client.set_eventfds(2, SetIrqsFlags::TRIGGER, start, &fds) {
            Ok(()) => {}
            Err(ClientError::Refused { errno, .. }) => {
                assert_eq!(errno, Errno::INVAL);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(client.info().unwrap().irqs, 5, "it serves on");
    }
    assert!((1..4).contains(&refused), "{refused} of 4 were refused");
    // Freed, they can be given again.
    client
        .set_irqs(2, SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER, 0, 0, &[])
        .unwrap();
    client
        .set_eventfds(2, SetIrqsFlags::TRIGGER, 0, &fds[..4])
        .unwrap();
    drop(client);
    let status = server.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn server_dies() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = role("server", &socket);
    let mut client = connect(&socket);
    client.info().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    match client.info() {
        Err(ClientError::Closed) => {}
        other => panic!("{other:?}"),
    }
}

fn client_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(Arc::clone(&device) as _, &Policy::default()).unwrap();
    for round in 0..3 {
        let mut client = role("client", &socket);
        let (stream, _) = listener.accept().unwrap();
        let mut server = Server::new(stream, Arc::clone(&virtual_device), limits());
        let thread = std::thread::spawn(move || server.serve());
        eventually("the client is there", || device.has_user());
        client.kill().unwrap();
        client.wait().unwrap();
        let end = thread.join().unwrap();
        assert!(matches!(end, Ok(End::Disconnected)), "round {round}: {end:?}");
        virtual_device.detach().unwrap();
        assert!(!device.has_user());
    }
}
