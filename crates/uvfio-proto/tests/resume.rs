//! A server that goes on where another was stopped. Stopped servers are journals as they were at some moment: copied
//! while the server was blocked in the midst of a message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::device::{BAR0, CONFIG, Served, TestDevice, eventually, serve_by};
use common::raw::{Raw, access, dma_map, message, words};
use uvfio_core::{GoneReason, Policy, VirtualDevice};
use uvfio_proto::{Journal, Limits, OutOfStep, ResumeError, Server};

fn limits() -> Limits {
    Limits {
        reset_patience: Duration::from_secs(60),
        dma_timeout: Duration::from_secs(60),
        ..Limits::default()
    }
}

fn device() -> (Arc<TestDevice>, Arc<VirtualDevice>) {
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(Arc::clone(&device) as _, &Policy::default()).expect("a device");
    (device, virtual_device)
}

/// A server with a journal, on a thread.
struct First {
    served: Served,
    journal: File,
    raw: Raw,
}

impl First {
    fn new() -> Self {
        let journal = Journal::create(&limits()).expect("a journal");
        let (served, stream) = serve_by(|stream, device| {
            Server::with_journal(stream, device, limits(), &journal).expect("a server")
        });
        Self {
            served,
            journal: File::from(journal),
            raw: Raw::new(stream),
        }
    }

    fn negotiated() -> Self {
        let first = Self::new();
        first.raw.negotiate();
        first
    }

    /// What would be left if the server died at this moment.
    fn left(&self) -> File {
        let copy = File::from(Journal::create(&limits()).expect("a journal"));
        let mut bytes = vec![0; 256 * 1024];
        let length = self.journal.metadata().expect("its size").len();
        let mut at = 0;
        while at < length {
            let n = self.journal.read_at(&mut bytes, at).expect("read");
            copy.write_all_at(&bytes[..n], at).expect("written");
            at += n as u64;
        }
        copy
    }
}

/// A server that goes on with what was left, on a connection of its own, with a device that is gone.
fn resume(left: File) -> Result<Raw, ResumeError> {
    Ok(resume_in_thread(left)?.0)
}

/// The same, and its thread, which ends with the client.
fn resume_in_thread(left: File) -> Result<(Raw, JoinHandle<()>), ResumeError> {
    let (_, virtual_device) = device();
    virtual_device.gone(GoneReason::Failed("its worker has died".into()), false);
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut server = Server::resume(theirs, virtual_device, limits(), &OwnedFd::from(left))?;
    let thread = std::thread::spawn(move || drop(server.serve()));
    Ok((Raw::new(ours), thread))
}

fn decode(raw: &Raw) {
    raw.send(&message(
        1,
        10,
        0,
        &access(0x10, CONFIG, 4, &0xfe00_0000_u32.to_le_bytes()),
    ));
    raw.send(&message(2, 10, 0, &access(4, CONFIG, 2, &[6, 0])));
    assert_eq!([raw.recv().id, raw.recv().id], [1, 2]);
}

#[test]
fn messages_received_and_not_answered_are_answered_in_their_order() {
    let first = First::negotiated();
    first.served.device.set_stuck(true);
    let mut burst = message(10, 13, 0, &[]);
    for id in 11..40 {
        burst.extend(message(id, 2, 0, &dma_map(32, 3, 0, u64::from(id) << 12, 0x1000)));
    }
    // The last one is cut: the rest of it is in the socket, so to say.
    let cut = message(40, 9, 0, &access(0, CONFIG, 8, &[]));
    burst.extend(&cut[..20]);
    first.raw.send(&burst);
    eventually("all of the burst is received", || {
        let mut page = [0; 4096 * 2];
        first.journal.read_exact_at(&mut page, 4096).expect("read");
        page.windows(burst.len()).any(|window| window == burst)
    });
    // A moment for the last note.
    std::thread::sleep(Duration::from_millis(50));
    let raw = resume(first.left()).expect("in step");
    for id in 10..40 {
        let got = raw.recv();
        assert_eq!(
            (got.id, got.flags, got.errno),
            (id, 1, 0),
            "reply to message {id}"
        );
    }
    raw.send(&cut[20..]);
    let got = raw.recv();
    assert_eq!((got.id, got.command, &got.payload[16..]), (40, 9, &[0xff; 8][..]));
}

#[test]
fn a_reply_that_was_sent_is_not_sent_again() {
    let first = First::negotiated();
    for id in 1..5 {
        first.raw.send(&message(id, 4, 0, &words(&[16, 0, 0, 0])));
        assert_eq!(first.raw.recv().id, id);
        let raw = resume(first.left()).expect("in step");
        raw.send(&message(100 + id, 4, 0, &words(&[16, 0, 0, 0])));
        assert_eq!(raw.recv().id, 100 + id, "the first reply of the second server");
    }
}

#[test]
fn a_server_that_dies_before_version_leaves_one_that_answers_it() {
    let first = First::new();
    let raw = resume(first.left()).expect("in step");
    raw.negotiate();
    raw.send(&message(3, 9, 0, &access(0, CONFIG, 4, &[])));
    assert_eq!(raw.recv().payload[16..], [0xff; 4]);
}

#[test]
fn the_rest_of_a_read_that_was_cut_is_ones() {
    let first = First::negotiated();
    decode(&first.raw);
    // More replies than the socket takes, so that one is cut.
    for id in 0..64 {
        first
            .raw
            .send(&message(id, 9, 0, &access(0, 0, BAR0 as u32, &[])));
    }
    let queued = |bytes: &mut Vec<u8>| {
        let mut socket = &first.raw.0;
        socket.set_nonblocking(true).expect("non-blocking");
        let mut piece = [0; 65536];
        while let Ok(n) = socket.read(&mut piece) {
            bytes.extend_from_slice(&piece[..n]);
        }
    };
    std::thread::sleep(Duration::from_millis(200));
    let left = first.left();
    let one = 16 + 16 + BAR0 as usize;
    let mut bytes = Vec::new();
    // The server fills the socket again as it is emptied: what matters is what it had sent by then, and that the
    // second one sends what was missing of the same reply.
    queued(&mut bytes);
    let raw = match resume(left) {
        Ok(raw) => raw,
        // The cut was within the header.
        Err(ResumeError::OutOfStep(OutOfStep::ReplyCut { sent, .. })) => {
            assert!(sent < 32, "cut after {sent} bytes");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut rest = Vec::new();
    let mut socket = &raw.0;
    let mut piece = [0; 65536];
    let mut next = None;
    while next.is_none() {
        let n = socket.read(&mut piece).expect("the rest, and the next replies");
        assert!(n > 0, "the second server has left after {} bytes", rest.len());
        rest.extend_from_slice(&piece[..n]);
        // The next reply's header follows the rest: command 9, size.
        let header = [
            &9_u16.to_ne_bytes()[..],
            &(one as u32).to_ne_bytes(),
            &1_u32.to_ne_bytes(),
        ]
        .concat();
        next = rest.windows(header.len()).position(|window| window == header);
    }
    let cut = next.expect("found") - 2;
    assert!(cut < one, "{cut} bytes before the next reply");
    assert!(
        rest[..cut].iter().all(|byte| *byte == 0xff),
        "the rest of the reply: {cut} bytes"
    );
    let id = u16::from_ne_bytes([rest[cut], rest[cut + 1]]);
    // So many whole replies and the cut one came from the first.
    assert!(usize::from(id) >= 1, "the next reply's id is {id}");
}

#[test]
fn a_command_of_ours_that_was_cut_ends_the_connection_with_a_reason() {
    let first = First::negotiated();
    decode(&first.raw);
    first
        .raw
        .send(&message(9, 2, 0, &dma_map(32, 3, 0, 0x10_0000, 0x20_0000)));
    assert_eq!(first.raw.recv().id, 9);
    let host = first.served.device.host();
    let writer = std::thread::spawn(move || host.dma().write(0x10_0000, &[5; 1 << 20]));
    let mut error = None;
    eventually("the command is cut", || {
        error = resume(first.left()).err();
        error.is_some()
    });
    let error = error.expect("an error");
    assert!(
        matches!(error, ResumeError::OutOfStep(OutOfStep::CommandCut { sent, total }) if sent > 0 && sent < total),
        "{error}"
    );
    first.served.handle.shutdown();
    let written = writer.join().expect("no panic");
    assert!(written.is_err(), "a command that was never answered: {written:?}");
}

#[test]
fn a_reply_to_a_command_of_the_dead_server_is_dropped() {
    let first = First::negotiated();
    let raw = resume(first.left()).expect("in step");
    raw.send(&message(0, 11, 1, &[0; 20]));
    raw.send(&message(5, 4, 0, &words(&[16, 0, 0, 0])));
    assert_eq!(raw.recv().id, 5);
}

#[test]
fn a_journal_full_of_nonsense_ends_the_connection_or_is_served_and_nothing_else() {
    let first = First::negotiated();
    first.raw.send(&message(1, 4, 0, &words(&[16, 0, 0, 0])));
    assert_eq!(first.raw.recv().id, 1);
    let mut seed = 1_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..300 {
        let left = first.left();
        for _ in 0..1 + round % 8 {
            let (at, what) = (random() % 400 / 8 * 8, random());
            let value = match what % 4 {
                0 => what,
                1 => what % 64,
                2 => u64::MAX - what % 64,
                _ => what % (5 << 20),
            };
            left.write_all_at(&value.to_ne_bytes(), at).expect("written");
        }
        // Whatever comes of it: no panic, no access outside the journal, no endless loop.
        if let Ok((raw, thread)) = resume_in_thread(left) {
            drop(raw);
            thread.join().expect("no panic");
        }
    }
}

#[test]
fn a_journal_of_a_stream_that_is_too_long_to_be_one_ends_the_connection() {
    let left = First::negotiated().left();
    // What is answered, where the buffer begins, and what was received.
    for at in [16, 24, 40, 48] {
        left.write_all_at(&u64::MAX.to_ne_bytes(), at).expect("written");
    }
    let error = resume(left).err();
    assert!(
        matches!(error, Some(ResumeError::OutOfStep(OutOfStep::Journal))),
        "{error:?}"
    );
}

#[test]
fn what_is_no_journal_is_refused() {
    let other = rustix::fs::memfd_create("other", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let refused = resume(File::from(other)).err().expect("refused").to_string();
    assert!(refused.contains("no journal"), "{refused}");
}
