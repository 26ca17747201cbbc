//! A worker that dies under a user who has sent more than it has answered.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Signal, kill_process};
use uvfio_core::region_index::CONFIG;
use uvfio_proto::Client;

mod common;

use common::Server;

const PATIENCE: Duration = Duration::from_secs(20);
const HEADER: usize = 16;
const MEMORY: u64 = 64 << 20;

/// The server, whose stderr is kept.
fn serve(device: &str, socket: &Path) -> Server {
    Server::start(&[device], socket, Stdio::piped())
}

fn kill_worker(server: &Server) {
    kill_process(server.worker(), Signal::KILL).expect("killed");
}

/// The server's exit status and all that it said.
fn end(mut server: Server) -> (Option<i32>, String) {
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().expect("its stderr");
    stderr.read_to_string(&mut said).expect("text");
    (server.0.wait().expect("its end").code(), said)
}

fn message(id: u16, command: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&id.to_ne_bytes());
    bytes.extend_from_slice(&command.to_ne_bytes());
    bytes.extend_from_slice(&((HEADER + payload.len()) as u32).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(payload);
    bytes
}

fn map(id: u16, iova: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&32_u32.to_ne_bytes());
    payload.extend_from_slice(&3_u32.to_ne_bytes());
    payload.extend_from_slice(&0_u64.to_ne_bytes());
    payload.extend_from_slice(&iova.to_ne_bytes());
    payload.extend_from_slice(&4096_u64.to_ne_bytes());
    message(id, 2, &payload)
}

fn unmap(id: u16, iova: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&24_u32.to_ne_bytes());
    payload.extend_from_slice(&0_u32.to_ne_bytes());
    payload.extend_from_slice(&iova.to_ne_bytes());
    payload.extend_from_slice(&4096_u64.to_ne_bytes());
    message(id, 3, &payload)
}

fn read(id: u16, region: u32, offset: u64, count: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&offset.to_ne_bytes());
    payload.extend_from_slice(&region.to_ne_bytes());
    payload.extend_from_slice(&count.to_ne_bytes());
    message(id, 9, &payload)
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("sent");
    assert_eq!(sent, bytes.len(), "a message was sent in part");
}

/// A message of the server's: id, command, flags, error number, payload.
fn receive(mut stream: &UnixStream) -> (u16, u16, u32, u32, Vec<u8>) {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).expect("a reply");
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let half = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().expect("2 bytes"));
    let mut payload = vec![0; (word(4) as usize).checked_sub(HEADER).expect("a header's length")];
    stream.read_exact(&mut payload).expect("its payload");
    (half(0), half(2), word(8), word(12), payload)
}

fn attach(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    send(&stream, &message(0xffff, 1, &[0, 0, 0, 0]), &[]);
    let (id, command, flags, ..) = receive(&stream);
    assert_eq!((id, command, flags), (0xffff, 1, 1), "the answer to VERSION");
    stream
}

fn memory() -> OwnedFd {
    let memory = memfd_create(c"memory", MemfdFlags::CLOEXEC).expect("memory");
    rustix::fs::ftruncate(&memory, MEMORY).expect("its size");
    memory
}

/// Sends `count` commands without waiting, kills the worker once `kill_after` of them are answered, and checks that
/// each has exactly one reply, in order, and that the device is gone afterwards.
fn burst(server: &Server, stream: &UnixStream, count: u16, kill_after: u16, pause: Duration) {
    let memory = memory();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..count {
                let iova = u64::from(id / 4) << 12;
                match id % 4 {
                    0 => send(stream, &map(id, iova), &[memory.as_fd()]),
                    1 => send(stream, &read(id, CONFIG, 0, 4096), &[]),
                    2 => send(stream, &unmap(id, iova), &[]),
                    _ => send(stream, &map(id, 1 << 40 | iova), &[memory.as_fd()]),
                }
            }
        });
        for expected in 0..count {
            if expected == kill_after {
                // So that it is hit in different places.
                let until = Instant::now() + pause;
                while Instant::now() < until {}
                kill_worker(server);
            }
            let (id, command, flags, errno, payload) = receive(stream);
            let sent = [2, 9, 3, 2][usize::from(expected % 4)];
            assert_eq!(
                (id, command, flags, errno),
                (expected, sent, 1, 0),
                "id, command, flags and error number of the reply to message {expected}, the worker killed after {kill_after}"
            );
            assert_eq!(
                payload.len(),
                [0, 16 + 4096, 24, 0][usize::from(expected % 4)],
                "payload of the reply to message {expected}, command {command}"
            );
        }
    });
    for (region, offset, bytes) in [(CONFIG, 0, 4096), (CONFIG, 4, 2), (0, 0, 4)] {
        send(stream, &read(7, region, offset, bytes), &[]);
        let (id, _, flags, errno, payload) = receive(stream);
        assert_eq!(
            (id, flags, errno),
            (7, 1, 0),
            "the reply to a read after the worker's death"
        );
        let data = payload.get(16..).expect("data");
        assert!(
            data.len() == bytes as usize && data.iter().all(|byte| *byte == 0xff),
            "region {region}, offset {offset}: expected {bytes} bytes of ones, got {data:02x?}"
        );
    }
}

#[test]
fn every_message_of_a_burst_is_answered_once_and_in_order_when_the_worker_is_killed_in_it() {
    for round in 0..24_u16 {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("edu.sock");
        let server = serve("edu", &socket);
        let stream = attach(&socket);
        let pause = Duration::from_micros(u64::from(round % 6) * 7);
        burst(&server, &stream, 2000, 1 + round * 70, pause);
        // A reset and interrupts are acknowledged as well.
        send(&stream, &message(8, 13, &[]), &[]);
        let (id, command, flags, errno, _) = receive(&stream);
        assert_eq!((id, command, flags, errno), (8, 13, 1, 0), "the reply to a reset");
        drop(stream);
        let (status, said) = end(server);
        assert_eq!(status, Some(1), "{said}");
        for part in ["worker", "died: killed by signal 9", "the device is gone for"] {
            assert!(said.contains(part), "{part:?} is missing in: {said}");
        }
    }
}

#[test]
fn info_is_the_same_before_and_after_the_worker_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("nvme.sock");
    let image = folder.path().join("disk.img");
    let server = serve(&format!("nvme,file={},size=16M", image.display()), &socket);
    let mut user = Client::connect(&socket).expect("attached");
    let info = |user: &mut Client| {
        let regions: Vec<_> = (0..9)
            .map(|index| {
                let region = user.region_info(index).expect("region info");
                (region.bytes, format!("{:?}", region.flags))
            })
            .collect();
        let irqs: Vec<_> = (0..5)
            .map(|index| user.irq_info(index).expect("irq info").count)
            .collect();
        (regions, irqs)
    };
    let before = info(&mut user);
    kill_worker(&server);
    let after = info(&mut user);
    assert_eq!(after, before, "info after and before");
    let mut config = [0; 4];
    user.read(CONFIG, 0, &mut config)
        .expect("configuration space is read");
    assert_eq!(config, [0xff; 4], "identity of the device that is gone");
    user.reset().expect("a reset is acknowledged");
    drop(user);
    let (status, said) = end(server);
    assert_eq!(status, Some(1), "{said}");
}

#[test]
fn a_worker_that_dies_without_a_user_is_reported_and_its_image_is_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = format!("nvme,file={},size=16M", folder.path().join("disk.img").display());
    let socket = folder.path().join("nvme.sock");
    let server = serve(&device, &socket);
    kill_worker(&server);
    let (status, said) = end(server);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("the worker died (killed by signal 9"), "{said}");
    assert!(!socket.exists(), "the socket is still there");
    let _next = serve(&device, &socket);
}

#[test]
fn a_server_that_is_killed_takes_its_worker_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = format!("nvme,file={},size=16M", folder.path().join("disk.img").display());
    let socket = folder.path().join("nvme.sock");
    let server = serve(&device, &socket);
    let _user = Client::connect(&socket).expect("attached");
    let worker = server.worker();
    drop(server);
    // What has ended and was not waited for has no program any more.
    let program = format!("/proc/{}/exe", worker.as_raw_nonzero());
    common::eventually("the worker still runs", || std::fs::read_link(&program).is_err());
    std::fs::remove_file(&socket).expect("the socket was left behind");
    let _next = serve(&device, &socket);
}
