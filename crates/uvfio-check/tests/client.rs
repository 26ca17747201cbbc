//! Clients under judgement: ours, the one of the crate `vfio_user`, and one that is broken on purpose. What they answer
//! to DMA_READ and DMA_WRITE is in `client_dma`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

#[path = "common/clients.rs"]
mod clients;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;

use clients::{judged, message, outcome, words};
use uvfio_check::Outcome;
use uvfio_check::client::{Options, check_client};
use uvfio_proto::Client;
use uvfio_proto::message::DmaMapFlags;

#[test]
fn our_client_keeps_every_rule() {
    let report = judged(&Options::default(), |stream| {
        let mut client = Client::new(stream).expect("a version");
        assert_eq!(client.info().expect("info").regions, 9);
        for region in 0..9 {
            client.region_info(region).expect("a region");
        }
        client.irq_info(0).expect("INTx");
        let mut identity = [0; 4];
        client.read(7, 0, &mut identity).expect("configuration space");
        client.write(0, 8, b"data").expect("BAR 0");
        client.write_posted(0, 8, b"more").expect("BAR 0");
        let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
        client.dma_map(0x1000, 0x1000, flags, None).expect("a mapping");
        client.dma_unmap(0x1000, 0x1000).expect("an unmapping");
        client.reset().expect("a reset");
    });
    assert!(report.good(), "{report}");
    assert_eq!(*outcome(&report, "client.ranges"), Outcome::Pass, "{report}");
    assert_eq!(*outcome(&report, "client.unmap"), Outcome::Pass, "{report}");
    assert_eq!(*outcome(&report, "client.dma_read"), Outcome::Pass, "{report}");
}

#[test]
fn our_client_goes_on_after_a_refusal() {
    let report = judged(&Options { refuse: Some(9) }, |stream| {
        let mut client = Client::new(stream).expect("a version");
        assert!(client.read(7, 0, &mut [0; 4]).is_err(), "it is refused");
        client.info().expect("the next command");
    });
    assert!(report.good(), "{report}");
    assert_eq!(*outcome(&report, "client.after_error"), Outcome::Pass, "{report}");
}

#[test]
fn the_other_client_is_judged_to_its_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = vfio_user::Client::new(&path).expect("a version");
            client
                .region_read(7, 0, &mut [0; 4])
                .expect("configuration space");
            client.region_write(0, 0, &[1; 4]).expect("BAR 0");
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd");
            client
                .set_irqs(0, 0x24, 0, 1, &[event.as_fd().as_raw_fd()])
                .expect("INTx");
            client.shutdown().expect("the end");
        });
        let (stream, _) = listener.accept().expect("a client");
        check_client(stream, &Options::default()).expect("the socket works")
    });
    assert!(report.good(), "{report}");
    assert_eq!(*outcome(&report, "client.irqs"), Outcome::Pass, "{report}");
}

#[test]
fn each_fault_of_a_client_is_found() {
    let version = message(1, 0, 0, b"\0\0\x01\0{}\0");
    let access = |region, offset, count| words(&[offset, 0, region, count]);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("client.framing", vec![0; 16]),
        ("client.version_first", message(1, 0, 0, b"\0\0\x01\0{}\0")),
        ("client.flags", message(13, 2, 0, &[])),
        ("client.error_field", message(13, 0, 7, &[])),
        ("client.commands", message(14, 0, 0, &[])),
        ("client.commands", message(11, 0, 0, &[0; 16])),
        ("client.payload", message(4, 0, 0, &[0; 15])),
        ("client.argsz", message(4, 0, 0, &words(&[0, 0, 0, 0]))),
        ("client.ranges", message(9, 0, 0, &access(7, 255, 2))),
        ("client.ranges", message(9, 0, 0, &access(3, 0, 1))),
        ("client.irqs", message(8, 0, 0, &words(&[20, 0x31, 0, 0, 1]))),
        ("client.irqs", message(8, 0, 0, &words(&[20, 0x21, 2, 0, 1]))),
        ("client.map", message(2, 0, 0, &words(&[32, 3, 0, 0, 0, 0, 0, 0]))),
        ("client.unasked", message(9, 1, 0, &[])),
    ];
    for (rule, bytes) in rows {
        let report = judged(&Options::default(), |mut stream| {
            stream
                .write_all(&[version.clone(), bytes].concat())
                .expect("it is read");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let found = matches!(outcome(&report, rule), Outcome::Fail { .. });
        assert!(found, "the fault meant for {rule} was not found:\n{report}");
    }
    let report = judged(&Options::default(), |mut stream| {
        let _ = stream.write_all(&message(1, 0, 0, b"\0\0\x01\0{}"));
    });
    assert!(
        matches!(outcome(&report, "client.version_data"), Outcome::Fail { .. }),
        "{report}"
    );
}
