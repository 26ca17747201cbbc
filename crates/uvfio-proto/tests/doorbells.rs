//! DEVICE_GET_REGION_IO_FDS: the doorbells of a region, and their eventfds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use common::device::{BELLS, serve, serve_unnegotiated};
use common::raw::{N, Raw, message, pack, version, words};
use std::os::fd::OwnedFd;
use uvfio_core::GoneReason;

/// What comes for BAR 0 where the reply may have so many bytes.
fn ask(raw: &Raw, argsz: u32) -> (Vec<u8>, Vec<OwnedFd>) {
    raw.send(&message(1, 6, 0, &words(&[argsz, 0, 0, 0])));
    let (got, fds) = raw.recv_with().unwrap();
    assert_eq!((got.flags, got.errno), (1, 0), "{got:?}");
    (got.payload, fds)
}

/// As the specification draws it: any width and value, then stores of a dword 7.
fn entries(count: usize) -> Vec<u8> {
    let entry = |offset, bytes, index, flags, value| {
        let fields = [
            N::Q(offset),
            N::Q(bytes),
            N::D(index),
            N::D(0),
            N::D(flags),
            N::D(0),
            N::Q(value),
        ];
        pack(&fields)
    };
    let all = [entry(BELLS[0], 0, 0, 0, 0), entry(BELLS[1], 4, 1, 1, 7)];
    all[..count].concat()
}

#[test]
fn each_doorbell_is_an_ioeventfd_whose_other_end_the_device_has() {
    let (served, raw) = serve();
    let (payload, fds) = ask(&raw, 4096);
    assert_eq!(payload, [words(&[96, 0, 0, 2]), entries(2)].concat());
    assert_eq!(fds.len(), 2);
    for (fd, (bell, times)) in fds.iter().zip(served.device.bells.iter().zip([1_u64, 2])) {
        rustix::io::write(fd, &times.to_ne_bytes()).unwrap();
        assert_eq!(bell.take(), times);
    }
}

#[test]
fn what_does_not_fit_is_told_by_its_length_and_comes_without_descriptors() {
    let (_served, raw) = serve();
    for argsz in [16, 95] {
        let (payload, fds) = ask(&raw, argsz);
        assert_eq!((payload, fds.len()), (words(&[96, 0, 0, 2]), 0), "argsz {argsz}");
    }
    assert_eq!(ask(&raw, 96).1.len(), 2);
}

#[test]
fn a_client_gets_as_many_doorbells_as_it_takes_descriptors() {
    for most in [0, 1] {
        let (_served, raw) = serve_unnegotiated();
        let json = format!("{{\"capabilities\":{{\"max_msg_fds\":{most}}}}}\0");
        assert_eq!(raw.ask(0, 1, &version(0, 1, json.as_bytes())).flags, 1);
        let (payload, fds) = ask(&raw, 4096);
        let head = words(&[16 + 40 * most as u32, 0, 0, most as u32]);
        assert_eq!(payload, [head, entries(most)].concat());
        assert_eq!(fds.len(), most);
    }
}

#[test]
fn a_device_that_is_gone_has_none() {
    let (served, raw) = serve();
    served.virtual_device.gone(GoneReason::Revoked, false);
    let (payload, fds) = ask(&raw, 4096);
    assert_eq!((payload, fds.len()), (words(&[16, 0, 0, 0]), 0));
}
