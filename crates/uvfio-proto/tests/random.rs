//! Random clients: whatever is framed well is answered, once and in order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::os::fd::AsFd;

use common::device::{CONFIG, serve, serve_unnegotiated};
use common::raw::{access, dma_map, dma_unmap, message, region_info, version, words};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use uvfio_proto::{End, ServeError};

/// A good payload of each command, to be spoilt.
fn good() -> Vec<(u16, Vec<u8>)> {
    vec![
        (1, version(0, 1, b"{\"capabilities\":{\"max_msg_fds\":16}}\0")),
        (2, dma_map(32, 3, 0, 0x1000, 0x1000)),
        (2, dma_map(32, 3, 0x1000, 0x8000_0000, 0x4000)),
        (3, dma_unmap(24, 0, 0x1000, 0x1000)),
        (3, dma_unmap(24, 0, 0, 0x1_0000_0000)),
        (4, words(&[16, 0, 0, 0])),
        (5, region_info(32, 0)),
        (5, region_info(4096, 2)),
        (6, words(&[16, 0, 0, 0])),
        (7, words(&[16, 0, 2, 0])),
        (8, words(&[20, 0x24, 2, 0, 2])),
        (8, [words(&[24, 0x22, 2, 0, 4]), vec![1, 0, 1, 0]].concat()),
        (8, words(&[20, 0x21, 2, 0, 0])),
        (9, access(0, CONFIG, 64, &[])),
        (9, access(0x100, 0, 4, &[])),
        (10, access(4, CONFIG, 2, &[6, 0])),
        (10, access(0x100, 0, 8, &[5; 8])),
        (11, access(0, 0, 0, &[])),
        (13, vec![]),
        (15, [words(&[1, 0, 0, 0, 0, 4]), vec![1; 8]].concat()),
        (16, words(&[12, 10 | 1 << 17, 1])),
        (16, words(&[8, 3 | 1 << 18])),
        (17, words(&[16, 8])),
        (99, vec![1; 9]),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    id: u16,
    command: u16,
    no_reply: bool,
    payload: Vec<u8>,
    fds: usize,
}

fn sent() -> impl Strategy<Value = Sent> {
    let odd = select(vec![
        0_u32,
        1,
        2,
        4,
        15,
        16,
        31,
        63,
        64,
        0xfff,
        0x1000,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ]);
    (
        select(good()),
        any::<u16>(),
        prop::bool::weighted(0.2),
        vec((any::<Index>(), odd), 0..3),
        prop::option::weighted(0.2, any::<Index>()),
        vec(any::<u8>(), 0..5),
        select(vec![0, 0, 0, 1, 2, 16, 65]),
    )
        .prop_map(|((command, mut payload), id, no_reply, spoilt, cut, more, fds)| {
            for (at, word) in spoilt {
                if payload.len() >= 4 {
                    let at = at.index(payload.len() / 4) * 4;
                    payload[at..at + 4].copy_from_slice(&word.to_ne_bytes());
                }
            }
            if let Some(cut) = cut {
                payload.truncate(cut.index(payload.len() + 1));
                payload.extend(more);
            }
            Sent {
                id,
                command,
                no_reply,
                payload,
                fds,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_framed_is_answered_once_and_in_order(all in vec(sent(), 1..60)) {
        let (_served, raw) = serve();
        let file = tempfile::tempfile().unwrap();
        for one in &all {
            let fds = vec![file.as_fd(); one.fds];
            let flags = if one.no_reply { 0x10 } else { 0 };
            raw.send_with(&message(one.id, one.command, flags, &one.payload), &fds);
        }
        for one in all.iter().filter(|one| !one.no_reply) {
            let got = raw.recv();
            prop_assert_eq!((got.id, got.command), (one.id, one.command), "{:x?}", one);
            match got.flags {
                1 => prop_assert_eq!(got.errno, 0, "{:x?}", one),
                0x21 => {
                    prop_assert!(got.payload.is_empty(), "{:x?}: {:?}", one, got);
                    prop_assert_ne!(got.errno, 0, "{:x?}", one);
                }
                other => prop_assert!(false, "flags {:#x}: {:x?}", other, one),
            }
        }
        let got = raw.ask(7, 4, &words(&[16, 0, 0, 0]));
        prop_assert_eq!((got.id, got.command, got.flags), (7, 4, 1));
    }

    #[test]
    fn garbage_ends_a_connection_or_is_answered(bytes in vec(any::<u8>(), 0..200), agreed: bool) {
        let (mut served, raw) = if agreed { serve() } else { serve_unnegotiated() };
        raw.send(&bytes);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        while let Some((got, _)) = raw.recv_with() {
            prop_assert_eq!(got.flags & 1, 1);
        }
        // Ended, and not by a panic.
        match served.end() {
            Ok(end) => prop_assert_eq!(end, End::Disconnected),
            Err(ServeError::Send(error)) => prop_assert!(false, "{}", error),
            Err(_) => {}
        }
    }
}
