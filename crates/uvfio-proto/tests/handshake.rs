//! Clients that connect and do not say what they want.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::device::{limits, serve_stream};
use common::raw::{Raw, message, version, words};
use uvfio_proto::{Limits, ServeError};

fn within(version_patience: Duration) -> Limits {
    Limits {
        version_patience,
        ..limits()
    }
}

#[test]
fn a_client_that_does_not_complete_version_is_closed() {
    let patience = Duration::from_millis(200);
    let whole = message(1, 1, 0, &version(0, 1, b"\0"));
    for (what, bytes) in [
        ("nothing", 0),
        ("half a header", 8),
        ("all but a byte", whole.len() - 1),
    ] {
        let (mut served, mut client) = serve_stream(within(patience));
        client.write_all(&whole[..bytes]).expect("sent");
        match served.end() {
            Err(ServeError::NoVersion(said)) => assert_eq!(said, patience, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(client.read(&mut [0]).expect("closed"), 0, "{what}: bytes came");
        assert!(!served.device.has_user(), "{what}: the device was attached");
    }
}

#[test]
fn a_client_that_sends_version_byte_by_byte_gains_no_time() {
    let (mut served, mut client) = serve_stream(within(Duration::from_millis(200)));
    let trickle = std::thread::spawn(move || {
        // A header that promises more than ever comes, one byte each 5 ms, for as long as it is taken.
        let mut sent = 0;
        for byte in message(1, 1, 0, &[0; 60_000]) {
            if client.write_all(&[byte]).is_err() {
                break;
            }
            sent += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        sent
    });
    let end = served.end();
    assert!(matches!(end, Err(ServeError::NoVersion(_))), "{end:?}");
    let sent = trickle.join().expect("no panic");
    assert!(sent < 60_000, "all {sent} bytes were taken");
}

#[test]
fn a_client_with_a_version_may_be_silent_for_as_long_as_it_likes() {
    let patience = Duration::from_secs(1);
    let (_served, client) = serve_stream(within(patience));
    let raw = Raw::new(client);
    raw.negotiate();
    std::thread::sleep(patience + patience / 2);
    assert_eq!(raw.ask(2, 4, &words(&[16, 0, 0, 0])).errno, 0);
}
