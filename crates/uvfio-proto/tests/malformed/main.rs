//! Everything that a client may send and must not: what the server answers, and that it serves on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod cases;
#[path = "../common/mod.rs"]
mod common;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{Case, multi, refused};
use common::device::{CONFIG, eventually, open_descriptors, serve, serve_unnegotiated};
use common::raw::{Raw, access, dma_map, dma_unmap, header, message, region_info, version, words};
use uvfio_proto::{End, ServeError};

const EINVAL: u32 = 22;
const NO_REPLY: u32 = 0x10;
const MIB: u32 = 1 << 20;

/// Tests here count descriptors of the process, so that they must not run at once.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Descriptors of the wrong kind, as many as a case wants.
fn some_fds(file: &std::fs::File, count: usize) -> Vec<BorrowedFd<'_>> {
    vec![file.as_fd(); count]
}

/// A good request still works.
fn check_alive(raw: &Raw, what: &str) {
    static MARK: AtomicUsize = AtomicUsize::new(1);
    let mark = MARK.fetch_add(1, Ordering::Relaxed) as u32;
    let got = raw.ask(mark as u16, 10, &access(0x100, 0, 4, &mark.to_ne_bytes()));
    assert_eq!(
        (got.id, got.command, got.flags),
        (mark as u16, 10, 1),
        "a write after «{what}»: {got:?}"
    );
    let got = raw.ask(mark as u16, 9, &access(0x100, CONFIG, 0, &[]));
    assert_eq!(
        (got.id, got.command, got.payload.len()),
        (mark as u16, 9, 16),
        "an empty read after «{what}»"
    );
    let got = raw.ask(9, 4, &words(&[16, 0, 0, 0]));
    assert_eq!(
        (got.flags, got.u32(8), got.u32(12)),
        (1, 9, 5),
        "GET_INFO after «{what}»: {got:?}"
    );
}

#[test]
fn a_refused_command_gets_its_error_and_the_next_one_is_served() {
    let _turn = turn();
    let (_served, raw) = serve();
    let file = tempfile::tempfile().unwrap();
    let got = raw.ask(1, 2, &dma_map(32, 3, 0, 0x8000_0000, 0x4000));
    assert_eq!(got.flags, 1, "the mapping that later ones collide with: {got:?}");
    let cases = refused();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let before = open_descriptors();
    for (index, (what, command, payload, fds, errno)) in cases.into_iter().enumerate() {
        let id = 0x4000 + index as u16;
        raw.send_with(&message(id, command, 0, &payload), &some_fds(&file, fds));
        let (got, got_fds) = raw
            .recv_with()
            .unwrap_or_else(|| panic!("{what}: the connection was closed"));
        assert_eq!(
            (
                got.id,
                got.command,
                got.flags,
                got.errno,
                got.payload.len(),
                got_fds.len()
            ),
            (id, command, 0x21, errno, 0, 0),
            "{what}: {got:?}"
        );
        check_alive(&raw, what);
    }
    eventually("every descriptor is closed", || open_descriptors() <= before);
}

#[test]
fn a_refused_command_without_reply_gets_none_and_the_next_one_is_served() {
    let _turn = turn();
    let (_served, raw) = serve();
    let file = tempfile::tempfile().unwrap();
    assert_eq!(raw.ask(1, 2, &dma_map(32, 3, 0, 0x8000_0000, 0x4000)).flags, 1);
    for (what, command, payload, fds, _) in refused() {
        raw.send_with(&message(77, command, NO_REPLY, &payload), &some_fds(&file, fds));
        check_alive(&raw, what);
    }
}

#[test]
fn refused_commands_in_one_send_are_answered_one_by_one() {
    let _turn = turn();
    let (_served, raw) = serve();
    assert_eq!(raw.ask(1, 2, &dma_map(32, 3, 0, 0x8000_0000, 0x4000)).flags, 1);
    let cases: Vec<Case> = refused().into_iter().filter(|case| case.3 == 0).collect();
    let all: Vec<u8> = cases
        .iter()
        .flat_map(|(_, command, payload, ..)| message(5, *command, 0, payload))
        .collect();
    raw.send(&all);
    for (what, command, _, _, errno) in cases {
        let got = raw.recv();
        assert_eq!(
            (got.id, got.command, got.flags, got.errno),
            (5, command, 0x21, errno),
            "{what}"
        );
    }
    check_alive(&raw, "all at once");
}

/// Nobody knows where the next message begins, or the other side is no client: the connection is closed.
#[test]
fn what_cannot_be_framed_ends_the_connection_with_a_reason() {
    let _turn = turn();
    type Reason = fn(&ServeError) -> bool;
    let too_short: Reason = |e| e.to_string().contains("a header alone has 16 bytes");
    let too_long: Reason = |e| e.to_string().contains("the longest that is taken is");
    let kind: Reason = |e| matches!(e, ServeError::Kind { .. });
    let unasked: Reason = |e| matches!(e, ServeError::Unasked { .. });
    let limit = MIB + 32;
    let mut cases: Vec<(String, Vec<u8>, Reason)> = vec![
        ("size 0".into(), header(1, 9, 0, 0), too_short),
        ("size 15".into(), header(1, 9, 15, 0), too_short),
        ("size 2^32 - 1".into(), header(1, 9, u32::MAX, 0), too_long),
        ("size 2^31".into(), header(1, 10, 1 << 31, 0), too_long),
        (
            "one more than the limit".into(),
            header(1, 10, limit + 1, 0),
            too_long,
        ),
        ("a reply to nothing".into(), message(1, 9, 1, &[]), unasked),
        (
            "a reply to a DMA_READ that was not sent".into(),
            message(0, 11, 1, &[0; 24]),
            unasked,
        ),
        ("an error to nothing".into(), message(1, 12, 0x21, &[]), unasked),
        ("zeros".into(), vec![0; 16], too_short),
        ("all ones".into(), vec![0xff; 16], too_long),
        ("HTTP".into(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), too_long),
    ];
    for number in 2..16 {
        cases.push((
            format!("type {number}"),
            message(1, 9, number, &access(0, CONFIG, 4, &[])),
            kind,
        ));
    }
    for (what, bytes, reason) in cases {
        let (mut served, raw) = serve();
        raw.send(&bytes);
        assert!(raw.recv_with().is_none(), "{what}: something was answered");
        match served.end() {
            Err(error) => assert!(reason(&error), "{what}: {error}"),
            Ok(end) => panic!("{what}: {end:?}"),
        }
    }
}

#[test]
fn the_longest_message_is_served() {
    let _turn = turn();
    let (_served, raw) = serve();
    let got = raw.ask(1, 10, &access(0, 0, MIB, &vec![0; MIB as usize]));
    assert_eq!(
        (got.flags, got.errno),
        (0x21, EINVAL),
        "the region is smaller, but the message is taken"
    );
    check_alive(&raw, "the longest message");
}

#[test]
fn without_a_version_there_is_an_error_and_the_end() {
    let _turn = turn();
    let json = |json: &[u8]| version(0, 1, &[json, &[0]].concat());
    let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("GET_INFO first", 4, words(&[16, 0, 0, 0])),
        ("DMA_MAP first", 2, dma_map(32, 3, 0, 0, 0x1000)),
        ("no command first", 99, vec![]),
        ("no payload", 1, vec![]),
        ("3 bytes", 1, vec![0; 3]),
        ("major 1", 1, version(1, 0, b"{\"capabilities\":{}}\0")),
        ("major 65535", 1, version(u16::MAX, 0, b"")),
        ("JSON without NUL", 1, version(0, 1, b"{\"capabilities\":{}}")),
        (
            "JSON with an inner NUL",
            1,
            version(0, 1, b"{\"cap\0abilities\":{}}\0"),
        ),
        ("not JSON", 1, json(b"capabilities")),
        ("half of JSON", 1, json(b"{\"capabilities\":")),
        ("JSON of another shape", 1, json(b"{\"capabilities\":[1,2]}")),
        (
            "a negative limit",
            1,
            json(b"{\"capabilities\":{\"max_msg_fds\":-1}}"),
        ),
        (
            "no data allowed",
            1,
            json(b"{\"capabilities\":{\"max_data_xfer_size\":0}}"),
        ),
        ("a deep nest", 1, json(&deep)),
        ("100 KiB of JSON", 1, json(&vec![b' '; 100 * 1024])),
    ];
    for (what, command, payload) in cases {
        let (mut served, raw) = serve_unnegotiated();
        let got = raw.ask(3, command, &payload);
        assert_eq!(
            (got.id, got.command, got.flags, got.errno, got.payload.len()),
            (3, command, 0x21, EINVAL, 0),
            "{what}: {got:?}"
        );
        assert!(raw.recv_with().is_none(), "{what}: the connection is still open");
        assert!(served.end().is_err(), "{what}");
    }
    let (mut served, raw) = serve_unnegotiated();
    raw.send(&message(1, 9, 1, &[]));
    assert!(raw.recv_with().is_none(), "a reply first");
    assert!(matches!(served.end(), Err(ServeError::Unasked { .. })));
}

#[test]
fn stray_descriptors_are_closed_and_change_nothing() {
    let _turn = turn();
    let (_served, raw) = serve();
    let file = tempfile::tempfile().unwrap();
    let before = open_descriptors();
    let commands: [(u16, Vec<u8>); 9] = [
        (3, dma_unmap(24, 0, 0x1000, 0x1000)),
        (4, words(&[16, 0, 0, 0])),
        (5, region_info(32, 0)),
        (6, words(&[16, 0, 0, 0])),
        (7, words(&[16, 0, 2, 0])),
        (9, access(0, CONFIG, 4, &[])),
        (10, access(0, 0, 4, &[0; 4])),
        (15, multi(1, &[(0, 0, 4)])),
        (13, vec![]),
    ];
    for (command, payload) in commands {
        for fds in [1, 16, 64] {
            raw.send_with(&message(1, command, 0, &payload), &some_fds(&file, fds));
            let (got, _) = raw.recv_with().expect("open");
            assert_eq!(got.flags, 1, "command {command} with {fds} descriptors: {got:?}");
        }
    }
    raw.send_with(
        &message(1, 9, 0, &access(0, CONFIG, 4, &[])),
        &some_fds(&file, 65),
    );
    assert_eq!(
        raw.recv().errno,
        EINVAL,
        "65 descriptors are more than a message may carry"
    );
    eventually("every descriptor is closed", || open_descriptors() <= before);
}

#[test]
fn a_client_that_leaves_at_any_point_ends_the_server() {
    let _turn = turn();
    let whole = [
        message(1, 4, 0, &words(&[16, 0, 0, 0])),
        message(2, 9, 0, &access(0, CONFIG, 4, &[])),
    ]
    .concat();
    for sent in 0..=whole.len() {
        let (mut served, raw) = serve();
        raw.send(&whole[..sent]);
        drop(raw);
        let end = served.end();
        match sent {
            0 | 32 | 64 => assert!(
                matches!(end, Ok(End::Disconnected)),
                "after {sent} bytes: {end:?}"
            ),
            // It may leave before it has read the reply: a reset of the connection.
            _ => assert!(
                matches!(end, Ok(End::Disconnected) | Err(ServeError::Receive(_))),
                "{sent}: {end:?}"
            ),
        }
    }
}
