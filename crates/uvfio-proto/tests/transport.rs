//! Messages out of a stream: split, joined, with descriptors here and there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::raw::{Raw, header, message};
use uvfio_proto::transport::{Blocked, Incoming, MAX_FDS, Outgoing, ReceiveError, SendError};

fn pair(limit: usize) -> (Raw, Incoming) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    (Raw::new(ours), Incoming::new(Arc::new(theirs), limit))
}

/// Id, payload and number of descriptors of the next message.
fn next(incoming: &mut Incoming) -> (u16, Vec<u8>, usize) {
    let message = incoming.next_message().expect("good").expect("open");
    (
        message.header.id,
        incoming.payload(&message).to_vec(),
        message.fds.len(),
    )
}

#[test]
fn a_message_that_comes_byte_by_byte_is_one_message() {
    let (raw, mut incoming) = pair(1 << 16);
    let bytes = message(7, 9, 0, b"sixteen bytes ok");
    let writer = std::thread::spawn(move || {
        for byte in bytes {
            raw.send(&[byte]);
        }
        raw
    });
    assert_eq!(next(&mut incoming), (7, b"sixteen bytes ok".to_vec(), 0));
    drop(writer.join());
    assert!(
        incoming.next_message().expect("good").is_none(),
        "closed after the last message"
    );
}

#[test]
fn messages_sent_at_once_come_one_by_one() {
    let (raw, mut incoming) = pair(1 << 20);
    let mut all = Vec::new();
    for id in 0..1000 {
        all.extend(message(id, 9, 0, &vec![id as u8; usize::from(id) % 61]));
    }
    // Longer than the first buffer, in the middle.
    all.extend(message(1000, 9, 0, &vec![3; 300_000]));
    all.extend(message(1001, 9, 0, b"end"));
    let writer = std::thread::spawn(move || raw.send(&all));
    for id in 0..1000_u16 {
        assert_eq!(next(&mut incoming), (id, vec![id as u8; usize::from(id) % 61], 0));
    }
    assert_eq!(next(&mut incoming), (1000, vec![3; 300_000], 0));
    assert_eq!(next(&mut incoming), (1001, b"end".to_vec(), 0));
    writer.join().expect("sent");
}

#[test]
fn descriptors_belong_to_the_message_they_were_sent_with() {
    let (raw, mut incoming) = pair(1 << 16);
    let file = tempfile::tempfile().expect("a file");
    let fds = [file.as_fd(), file.as_fd(), file.as_fd()];
    // All of it is there before the first is read.
    raw.send(&message(1, 9, 0, b"none"));
    raw.send_with(&message(2, 8, 0, b"two"), &fds[..2]);
    raw.send(&message(3, 9, 0, b"none"));
    raw.send_with(&message(4, 8, 0, b"three"), &fds);
    raw.send_with(&message(5, 8, 0, b""), &fds[..1]);
    for (id, payload, fds) in [
        (1, "none", 0),
        (2, "two", 2),
        (3, "none", 0),
        (4, "three", 3),
        (5, "", 1),
    ] {
        assert_eq!(next(&mut incoming), (id, payload.as_bytes().to_vec(), fds));
    }
}

#[test]
fn descriptors_that_come_with_any_piece_of_a_message_are_its() {
    let bytes = message(1, 8, 0, b"payload");
    let file = tempfile::tempfile().expect("a file");
    for at in 0..bytes.len() {
        let (raw, mut incoming) = pair(1 << 16);
        raw.send(&message(0, 9, 0, b"before"));
        for (index, byte) in bytes.iter().enumerate() {
            let fds = [file.as_fd()];
            raw.send_with(&[*byte], if index == at { &fds } else { &[] });
        }
        raw.send(&message(2, 9, 0, b"after"));
        assert_eq!(next(&mut incoming).2, 0, "before, descriptor with byte {at}");
        assert_eq!(
            next(&mut incoming),
            (1, b"payload".to_vec(), 1),
            "descriptor with byte {at}"
        );
        assert_eq!(next(&mut incoming).2, 0, "after, descriptor with byte {at}");
    }
}

#[test]
fn received_descriptors_are_close_on_exec() {
    let (raw, mut incoming) = pair(1 << 16);
    let file = tempfile::tempfile().expect("a file");
    raw.send_with(&message(1, 2, 0, b""), &[file.as_fd()]);
    let message = incoming.next_message().expect("good").expect("open");
    let flags = rustix::io::fcntl_getfd(&message.fds[0]).expect("a descriptor");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{flags:?}");
}

#[test]
fn more_descriptors_than_a_message_may_carry_are_lost_and_that_is_known() {
    let file = tempfile::tempfile().expect("a file");
    let many: Vec<BorrowedFd<'_>> = vec![file.as_fd(); 253];
    for (count, lost) in [
        (MAX_FDS - 1, false),
        (MAX_FDS, false),
        (MAX_FDS + 1, true),
        (200, true),
        (253, true),
    ] {
        let (raw, mut incoming) = pair(1 << 16);
        raw.send_with(&message(1, 8, 0, b""), &many[..count]);
        raw.send_with(&message(2, 8, 0, b""), &many[..1]);
        let first = incoming.next_message().expect("good").expect("open");
        assert_eq!(first.fds_lost, lost, "{count} descriptors");
        assert!(
            first.fds.len() <= MAX_FDS,
            "{count} descriptors: {} were kept",
            first.fds.len()
        );
        let second = incoming.next_message().expect("good").expect("open");
        assert_eq!(
            (second.fds.len(), second.fds_lost),
            (1, false),
            "the message after {count} descriptors"
        );
    }
}

#[test]
fn a_descriptor_with_every_byte_is_bounded() {
    let (raw, mut incoming) = pair(1 << 16);
    let file = tempfile::tempfile().expect("a file");
    let bytes = message(1, 8, 0, &[0; 600]);
    let before = open_descriptors();
    let writer = std::thread::spawn(move || {
        for byte in bytes {
            raw.send_with(&[byte], &[file.as_fd()]);
        }
        raw
    });
    let message = incoming.next_message().expect("good").expect("open");
    assert!(message.fds_lost);
    assert_eq!(message.fds.len(), MAX_FDS);
    // Those that are not kept are closed by a thread of their own, in its own time. Other tests of this process open
    // some meanwhile.
    let held = || open_descriptors().saturating_sub(before);
    let deadline = Instant::now() + Duration::from_secs(20);
    while held() >= 3 * MAX_FDS + 300 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let held = held();
    assert!(held < 3 * MAX_FDS + 300, "{held} descriptors are held");
    drop(writer.join());
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    for (bytes, what) in [(0, "short"), (15, "short"), (4097, "long"), (u32::MAX, "long")] {
        let (raw, mut incoming) = pair(4096);
        raw.send(&header(3, 9, bytes, 0));
        match (what, incoming.next_message()) {
            (
                "short",
                Err(ReceiveError::TooShort {
                    bytes: said, id: 3, ..
                }),
            ) => assert_eq!(said, bytes),
            (
                "long",
                Err(ReceiveError::TooLong {
                    bytes: said,
                    limit: 4096,
                    ..
                }),
            ) => assert_eq!(said, bytes),
            (_, other) => panic!("size {bytes} ({what}): {other:?}"),
        }
    }
    let (raw, mut incoming) = pair(4096);
    raw.send(&message(1, 9, 0, &[5; 4080]));
    assert_eq!(next(&mut incoming).1.len(), 4080, "exactly the limit");
}

#[test]
fn a_stream_that_ends_within_a_message_says_so() {
    for sent in 1..20 {
        let (raw, mut incoming) = pair(4096);
        (&raw.0)
            .write_all(&message(1, 9, 0, b"four")[..sent])
            .expect("sent");
        drop(raw);
        match incoming.next_message() {
            Err(ReceiveError::CutShort { have }) => assert_eq!(have, sent),
            other => panic!("after {sent} bytes: {other:?}"),
        }
    }
}

#[test]
fn a_message_whose_time_has_passed_when_its_turn_comes_is_not_sent() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let out = Outgoing::new(Arc::new(ours));
    let wait = &mut || Blocked::Wait;
    let first = message(1, 12, 0, b"too late");
    let result = out.send_if(&[&first, b""], &[], wait, &mut || false);
    assert!(matches!(result, Err(SendError::GivenUp)), "{result:?}");
    let second = message(2, 12, 0, b"in time");
    out.send_if(&[&second, b""], &[], wait, &mut || true)
        .expect("sent");
    let mut incoming = Incoming::new(Arc::new(theirs), 4096);
    assert_eq!(next(&mut incoming).1, b"in time");
}
