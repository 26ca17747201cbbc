//! Everything that a client may send and must not: what the server answers, and that it serves on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::device::{BAR0, CONFIG, eventually, open_descriptors, serve, serve_unnegotiated};
use common::raw::{N, Raw, access, dma_map, dma_unmap, header, message, pack, region_info, version, words};
use uvfio_proto::{End, ServeError};

const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const ENOTTY: u32 = 25;
const ENOSYS: u32 = 38;
const EOPNOTSUPP: u32 = 95;
const NO_REPLY: u32 = 0x10;
const MIB: u32 = 1 << 20;

/// Tests here count descriptors of the process, so that they must not run at once.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A case: what it is, the command, its payload, how many descriptors, the error expected.
type Case = (&'static str, u16, Vec<u8>, usize, u32);

fn set_irqs(argsz: u32, flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags, index, start, count]);
    bytes.extend_from_slice(data);
    bytes
}

fn feature(argsz: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    bytes.extend_from_slice(data);
    bytes
}

fn multi(count: u64, writes: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = pack(&[N::Q(count)]);
    for &(offset, region, count) in writes {
        bytes.extend(pack(&[N::Q(offset), N::D(region), N::D(count), N::Q(0)]));
    }
    bytes
}

/// Refused with an error number; the stream stays in step.
fn refused() -> Vec<Case> {
    let size = BAR0;
    let mut cases: Vec<Case> = vec![
        // Commands that are none.
        ("command 0", 0, vec![], 0, ENOSYS),
        ("DIRTY_PAGES, which is gone", 14, vec![0; 8], 0, ENOSYS),
        ("command 19", 19, vec![1; 100], 0, ENOSYS),
        ("command 65535", 0xffff, vec![1; 100], 1, ENOSYS),
        ("DMA_READ from a client", 11, pack(&[N::Q(0), N::Q(8)]), 0, EINVAL),
        (
            "DMA_WRITE from a client",
            12,
            pack(&[N::Q(0), N::Q(0)]),
            0,
            EINVAL,
        ),
        ("migration read", 17, words(&[16, 8]), 0, EOPNOTSUPP),
        ("migration write", 18, words(&[16, 0]), 0, EOPNOTSUPP),
        (
            "a second VERSION",
            1,
            version(0, 1, b"{\"capabilities\":{}}\0"),
            0,
            EINVAL,
        ),
        ("a second VERSION, too short", 1, vec![0], 0, EINVAL),
        // DMA_MAP.
        ("map: no payload", 2, vec![], 0, EINVAL),
        (
            "map: 31 bytes",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000)[..31].to_vec(),
            0,
            EINVAL,
        ),
        (
            "map: 33 bytes",
            2,
            [dma_map(32, 3, 0, 0x1000, 0x1000), vec![0]].concat(),
            0,
            EINVAL,
        ),
        ("map: argsz 0", 2, dma_map(0, 3, 0, 0x1000, 0x1000), 0, EINVAL),
        (
            "map: unknown flags",
            2,
            dma_map(32, 0x13, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "map: all flags",
            2,
            dma_map(32, u32::MAX, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "map: neither read nor write",
            2,
            dma_map(32, 0, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        ("map: empty", 2, dma_map(32, 3, 0, 0x1000, 0), 0, EINVAL),
        (
            "map: wraps the address space",
            2,
            dma_map(32, 3, 0, u64::MAX - 0xfff, 0x2000),
            0,
            EINVAL,
        ),
        (
            "map: everything and a byte",
            2,
            dma_map(32, 3, 0, 1, u64::MAX),
            0,
            EINVAL,
        ),
        (
            "map: file offset wraps",
            2,
            dma_map(32, 3, u64::MAX - 0xfff, 0x1000, 0x2000),
            1,
            EINVAL,
        ),
        (
            "map: file offset negative",
            2,
            dma_map(32, 3, 1 << 63, 0x1000, 0x1000),
            1,
            EINVAL,
        ),
        (
            "map: two descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            2,
            EINVAL,
        ),
        (
            "map: 64 descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            64,
            EINVAL,
        ),
        (
            "map: 200 descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            200,
            EINVAL,
        ),
        ("map: again", 2, dma_map(32, 3, 0, 0x8000_0000, 0x4000), 0, EEXIST),
        (
            "map: over the end of another",
            2,
            dma_map(32, 3, 0, 0x8000_3000, 0x2000),
            0,
            EEXIST,
        ),
        (
            "map: around another",
            2,
            dma_map(32, 3, 0, 0x7fff_f000, 0x10000),
            0,
            EEXIST,
        ),
        // DMA_UNMAP.
        ("unmap: no payload", 3, vec![], 0, EINVAL),
        ("unmap: 1 byte", 3, vec![24], 0, EINVAL),
        (
            "unmap: 23 bytes",
            3,
            dma_unmap(24, 0, 0, 0x1000)[..23].to_vec(),
            0,
            EINVAL,
        ),
        ("unmap: argsz 0", 3, dma_unmap(0, 0, 0, 0x1000), 0, EINVAL),
        (
            "unmap: bitmap wanted and not sent",
            3,
            dma_unmap(24, 1, 0x8000_0000, 0x4000),
            0,
            EINVAL,
        ),
        (
            "unmap: unknown flags",
            3,
            dma_unmap(24, 4, 0x8000_0000, 0x4000),
            0,
            EINVAL,
        ),
        (
            "unmap: all, but a range",
            3,
            dma_unmap(24, 2, 0, 0x1000),
            0,
            EINVAL,
        ),
        ("unmap: empty", 3, dma_unmap(24, 0, 0x8000_0000, 0), 0, EINVAL),
        ("unmap: empty at 0", 3, dma_unmap(24, 0, 0, 0), 0, EINVAL),
        ("unmap: wraps", 3, dma_unmap(24, 0, u64::MAX, 2), 0, EINVAL),
        (
            "unmap: cuts the front off",
            3,
            dma_unmap(24, 0, 0x8000_0000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "unmap: cuts the end off",
            3,
            dma_unmap(24, 0, 0x8000_3000, 0x1_0000),
            0,
            EINVAL,
        ),
        // Information.
        ("info: no payload", 4, vec![], 0, EINVAL),
        ("info: 15 bytes", 4, vec![255; 15], 0, EINVAL),
        ("info: argsz 15", 4, words(&[15, 0, 0, 0]), 0, EINVAL),
        ("region info: no payload", 5, vec![], 0, EINVAL),
        (
            "region info: 31 bytes",
            5,
            region_info(32, 0)[..31].to_vec(),
            0,
            EINVAL,
        ),
        ("region info: argsz 31", 5, region_info(31, 0), 0, EINVAL),
        ("region info: region 9", 5, region_info(32, 9), 0, EINVAL),
        (
            "region info: region 2^32 - 1",
            5,
            region_info(32, u32::MAX),
            0,
            EINVAL,
        ),
        ("io fds: 15 bytes", 6, vec![0; 15], 0, EINVAL),
        ("io fds: argsz 0", 6, words(&[0, 0, 0, 0]), 0, EINVAL),
        ("io fds: flags", 6, words(&[16, 1, 0, 0]), 0, EINVAL),
        ("io fds: count", 6, words(&[16, 0, 0, 1]), 0, EINVAL),
        ("io fds: region 9", 6, words(&[16, 0, 9, 0]), 0, EINVAL),
        ("irq info: no payload", 7, vec![], 0, EINVAL),
        ("irq info: argsz 0", 7, words(&[0, 0, 0, 0]), 0, EINVAL),
        ("irq info: index 5", 7, words(&[16, 0, 5, 0]), 0, EINVAL),
        (
            "irq info: index 2^32 - 1",
            7,
            words(&[16, 0, u32::MAX, 0]),
            0,
            EINVAL,
        ),
        // SET_IRQS.
        ("irqs: no payload", 8, vec![], 0, EINVAL),
        ("irqs: 19 bytes", 8, vec![0; 19], 0, EINVAL),
        ("irqs: argsz 0", 8, set_irqs(0, 0x21, 0, 0, 0, &[]), 0, EINVAL),
        ("irqs: no flags", 8, set_irqs(20, 0, 2, 0, 1, &[]), 0, EINVAL),
        (
            "irqs: data without action",
            8,
            set_irqs(20, 0x01, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: action without data",
            8,
            set_irqs(20, 0x20, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: two kinds of data",
            8,
            set_irqs(21, 0x23, 2, 0, 1, &[1]),
            0,
            EINVAL,
        ),
        (
            "irqs: two actions",
            8,
            set_irqs(20, 0x31, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: unknown flag",
            8,
            set_irqs(20, 0x61, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        ("irqs: index 5", 8, set_irqs(20, 0x21, 5, 0, 1, &[]), 0, EINVAL),
        (
            "irqs: start past the end",
            8,
            set_irqs(20, 0x24, 2, 64, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: start and count wrap",
            8,
            set_irqs(20, 0x24, 2, u32::MAX, 2, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 2^32 - 1",
            8,
            set_irqs(20, 0x24, 2, 0, u32::MAX, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: bytes missing",
            8,
            set_irqs(20, 0x22, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: bytes missing for 2^32 - 1",
            8,
            set_irqs(20, 0x22, 2, 0, u32::MAX, &[1; 64]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 0 with eventfds",
            8,
            set_irqs(20, 0x24, 2, 0, 0, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 0 with mask",
            8,
            set_irqs(20, 0x09, 0, 0, 0, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: more descriptors than vectors",
            8,
            set_irqs(20, 0x24, 2, 0, 1, &[]),
            2,
            EINVAL,
        ),
        (
            "irqs: not an eventfd",
            8,
            set_irqs(20, 0x24, 2, 0, 1, &[]),
            1,
            EINVAL,
        ),
        (
            "irqs: 200 descriptors",
            8,
            set_irqs(20, 0x24, 2, 0, 200, &[]),
            200,
            EINVAL,
        ),
        (
            "irqs: MSI-X can't be masked",
            8,
            set_irqs(20, 0x09, 2, 0, 1, &[]),
            0,
            ENOTTY,
        ),
        // Reads and writes.
        ("read: no payload", 9, vec![], 0, EINVAL),
        ("read: 15 bytes", 9, vec![0; 15], 0, EINVAL),
        ("read: with data", 9, access(0, 0, 4, &[1, 2, 3, 4]), 0, EINVAL),
        ("read: region 9", 9, access(0, 9, 4, &[]), 0, EINVAL),
        ("read: region 2^32 - 1", 9, access(0, u32::MAX, 4, &[]), 0, EINVAL),
        ("read: past the end", 9, access(size, 0, 1, &[]), 0, EINVAL),
        ("read: over the end", 9, access(size - 2, 0, 4, &[]), 0, EINVAL),
        (
            "read: offset wraps",
            9,
            access(u64::MAX - 1, 0, 4, &[]),
            0,
            EINVAL,
        ),
        (
            "read: past configuration space",
            9,
            access(4094, CONFIG, 4, &[]),
            0,
            EINVAL,
        ),
        ("read: 1 GiB", 9, access(0, 0, 1 << 30, &[]), 0, EINVAL),
        ("read: 2^32 - 1", 9, access(0, 0, u32::MAX, &[]), 0, EINVAL),
        (
            "read: one more than the limit",
            9,
            access(0, 0, MIB + 1, &[]),
            0,
            EINVAL,
        ),
        ("read: a region that is empty", 9, access(0, 5, 4, &[]), 0, EINVAL),
        ("write: no payload", 10, vec![], 0, EINVAL),
        ("write: 15 bytes", 10, vec![0; 15], 0, EINVAL),
        (
            "write: fewer bytes than count",
            10,
            access(0, 0, 8, &[1; 4]),
            0,
            EINVAL,
        ),
        (
            "write: more bytes than count",
            10,
            access(0, 0, 4, &[1; 8]),
            0,
            EINVAL,
        ),
        (
            "write: no bytes, count 2^32 - 1",
            10,
            access(0, 0, u32::MAX, &[]),
            0,
            EINVAL,
        ),
        ("write: region 9", 10, access(0, 9, 4, &[1; 4]), 0, EINVAL),
        (
            "write: over the end",
            10,
            access(size - 2, 0, 4, &[1; 4]),
            0,
            EINVAL,
        ),
        (
            "write: offset wraps",
            10,
            access(u64::MAX, 0, 4, &[1; 4]),
            0,
            EINVAL,
        ),
        ("multi: no payload", 15, vec![], 0, EINVAL),
        ("multi: 7 bytes", 15, vec![0; 7], 0, EINVAL),
        (
            "multi: more writes than bytes",
            15,
            multi(2, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        (
            "multi: fewer writes than bytes",
            15,
            multi(0, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        ("multi: 2^64 - 1 writes", 15, multi(u64::MAX, &[]), 0, EINVAL),
        (
            "multi: the product wraps to the right length",
            15,
            multi((1 << 61) + 1, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        (
            "multi: 9 bytes in one",
            15,
            multi(2, &[(0, 0, 4), (8, 0, 9)]),
            0,
            EINVAL,
        ),
        (
            "multi: the first out of range",
            15,
            multi(1, &[(size, 0, 4)]),
            0,
            EINVAL,
        ),
        ("reset: with a payload", 13, vec![0; 4], 0, EINVAL),
    ];
    // DEVICE_FEATURE: Linux's answers.
    cases.extend([
        ("feature: no payload", 16, vec![], 0, EINVAL),
        ("feature: 7 bytes", 16, vec![0; 7], 0, EINVAL),
        ("feature: argsz 0", 16, feature(0, 10 | 1 << 18, &[]), 0, EINVAL),
        ("feature: no method", 16, feature(12, 10, &[]), 0, EINVAL),
        (
            "feature: get and set",
            16,
            feature(12, 10 | 3 << 16, &[0; 4]),
            0,
            EINVAL,
        ),
        (
            "feature: unknown method",
            16,
            feature(12, 10 | 1 << 19, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: get what can only be set",
            16,
            feature(12, 10 | 1 << 16, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: probe get of that",
            16,
            feature(12, 10 | 5 << 16, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: bus master without data",
            16,
            feature(8, 10 | 1 << 17, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: bus master 2",
            16,
            feature(12, 10 | 1 << 17, &2_u32.to_ne_bytes()),
            0,
            EINVAL,
        ),
    ]);
    for number in [0, 1, 2, 4, 6, 7, 8, 9, 11, 12, 0xffff] {
        cases.push((
            "feature: one that isn't there",
            16,
            feature(64, number | 1 << 18, &[]),
            0,
            ENOTTY,
        ));
    }
    cases
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
