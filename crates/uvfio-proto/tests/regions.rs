//! Regions: what is told of them, and every way to reach them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use common::device::{BAR0, BAR1, BAR2, BAR2_AT, CONFIG, PARTS, serve, serve_unnegotiated};
use common::raw::{N, access, dma_map, message, pack, region_info, version, words};

#[test]
fn an_access_in_range_is_never_refused() {
    let (served, raw) = serve();
    let all_of_it = |what: &str| {
        for (region, bytes) in [(0, BAR0), (1, BAR1), (2, BAR2), (4, 0x1000), (CONFIG, 4096)] {
            for (offset, count) in [(0, bytes), (1, 7), (bytes - 1, 1), (3, 2), (bytes, 0)] {
                let got = raw.ask(1, 9, &access(offset, region, count as u32, &[]));
                assert_eq!(
                    (got.flags, got.errno),
                    (1, 0),
                    "{what}: read of {count} at {offset:#x} in {region}"
                );
                assert_eq!(got.payload.len() as u64, 16 + count, "{what}");
            }
            if region != CONFIG {
                let got = raw.ask(1, 10, &access(1, region, 7, &[0; 7]));
                assert_eq!((got.flags, got.errno), (1, 0), "{what}: write in {region}");
            }
        }
    };
    all_of_it("memory off");
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[6, 0])).flags, 1);
    all_of_it("memory on");
    served.virtual_device.gone(uvfio_core::GoneReason::Revoked, false);
    all_of_it("gone");
    assert_eq!(raw.ask(1, 9, &access(0, CONFIG, 4, &[])).payload[16..], [0xff; 4]);
    assert_eq!(
        raw.ask(1, 2, &dma_map(32, 3, 0, 0x1000, 0x1000)).flags,
        1,
        "map when gone"
    );
    assert_eq!(raw.ask(1, 13, &[]).flags, 1, "reset when gone");
}

#[test]
fn region_information_tells_its_length_first_and_its_areas_then() {
    let (_served, raw) = serve();
    let ask = |argsz, index| {
        raw.send(&message(1, 5, 0, &region_info(argsz, index)));
        let (got, fds) = raw.recv_with().unwrap();
        assert_eq!(got.flags, 1, "region {index}: {got:?}");
        (got, fds.len())
    };
    // argsz, flags, index, cap_offset, size, offset, descriptors.
    let fixed = |argsz, index| {
        let (got, fds) = ask(argsz, index);
        (
            got.payload.len(),
            [got.u32(0), got.u32(4), got.u32(8), got.u32(12)],
            got.u64(16),
            got.u64(24),
            fds,
        )
    };
    assert_eq!(fixed(32, 0), (32, [32, 3, 0, 0], BAR0, 0, 0), "BAR 0, by message");
    assert_eq!(
        fixed(32, 1),
        (32, [32, 7, 1, 0], BAR1, 0, 1),
        "BAR 1, mapped whole: no list"
    );
    let needed = 32 + 16 + 2 * 16;
    assert_eq!(
        fixed(32, 2),
        (32, [needed, 15, 2, 32], BAR2, BAR2_AT, 1),
        "BAR 2, the list does not fit"
    );
    assert_eq!(
        fixed(needed - 1, 2),
        (32, [needed, 15, 2, 32], BAR2, BAR2_AT, 1),
        "BAR 2, it still does not"
    );
    assert_eq!(
        fixed(32, 3),
        (32, [32, 0, 3, 0], 0, 0, 0),
        "BAR 3 is BAR 2's upper half"
    );
    assert_eq!(
        fixed(32, CONFIG),
        (32, [32, 3, CONFIG, 0], 4096, 0, 0),
        "configuration space"
    );
    assert_eq!(fixed(32, 8), (32, [32, 0, 8, 0], 0, 0, 0), "no VGA");
}

#[test]
fn the_list_of_areas_is_as_linux_has_it() {
    let (_served, raw) = serve();
    for argsz in [80, 4064] {
        // SPDK sends as many bytes as it takes.
        let mut payload = region_info(argsz, 2);
        payload.resize(argsz as usize, 0);
        let got = raw.ask(1, 5, &payload);
        assert_eq!(got.payload.len(), 80);
        let mut want = pack(&[N::D(80), N::D(15), N::D(2), N::D(32), N::Q(BAR2), N::Q(BAR2_AT)]);
        // The capability: sparse mmap is 1, version 1, the last.
        want.extend([1, 0, 1, 0, 0, 0, 0, 0]);
        want.extend(words(&[2, 0]));
        for (offset, bytes) in PARTS {
            want.extend(pack(&[N::Q(offset), N::Q(bytes)]));
        }
        assert_eq!(got.payload, want, "argsz {argsz}");
    }
}

#[test]
fn a_client_without_json_is_shown_one_area() {
    let (_served, raw) = serve_unnegotiated();
    assert_eq!(raw.ask(0, 1, &version(0, 1, b"")).flags, 1);
    let got = raw.ask(0, 5, &region_info(4064, 2));
    assert_eq!((got.u32(0), got.u32(40)), (64, 1), "one area: {got:?}");
    assert_eq!((got.u64(48), got.u64(56)), PARTS[1], "the larger one");
}

#[test]
fn a_client_that_takes_no_descriptor_is_told_of_nothing_to_map() {
    let (_served, raw) = serve_unnegotiated();
    assert_eq!(
        raw.ask(0, 1, &version(0, 1, b"{\"capabilities\":{\"max_msg_fds\":0}}\0"))
            .flags,
        1
    );
    raw.send(&message(1, 5, 0, &region_info(4064, 2)));
    let (got, fds) = raw.recv_with().unwrap();
    assert_eq!((got.u32(0), got.u32(4), fds.len()), (32, 3, 0), "{got:?}");
    assert_eq!(got.u64(24), 0, "no file, no place in it: {got:?}");
}

#[test]
fn the_descriptor_of_a_region_is_its_memory() {
    let (_served, raw) = serve();
    raw.send(&message(1, 5, 0, &region_info(4096, 2)));
    let (_, fds) = raw.recv_with().unwrap();
    rustix::io::pwrite(&fds[0], b"here", BAR2_AT + PARTS[0].0).unwrap();
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[2, 0])).flags, 1);
    raw.send(&message(1, 5, 0, &region_info(4096, 2)));
    let (_, again) = raw.recv_with().unwrap();
    let mut data = [0; 4];
    rustix::io::pread(&again[0], &mut data, BAR2_AT + PARTS[0].0).unwrap();
    assert_eq!(&data, b"here");
}

#[test]
fn several_writes_in_one_message_stop_at_the_first_that_is_refused() {
    let (_served, raw) = serve();
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[2, 0])).flags, 1);
    let write = |offset, count, data: u64| [N::Q(offset), N::D(0), N::D(count), N::Q(data)];
    let payload = [
        pack(&[N::Q(4)]),
        pack(&write(0, 8, u64::MAX)),
        pack(&write(2, 1, 0)),
        pack(&write(BAR0, 4, 0)),
        pack(&write(8, 4, 1)),
    ]
    .concat();
    let got = raw.ask(1, 15, &payload);
    assert_eq!((got.flags, got.u64(0)), (1, 2), "two were done: {got:?}");
    let got = raw.ask(1, 9, &access(0, 0, 12, &[]));
    assert_eq!(
        got.payload[16..],
        [255, 255, 0, 255, 255, 255, 255, 255, 0, 0, 0, 0]
    );
    assert_eq!(raw.ask(1, 15, &pack(&[N::Q(0)])).u64(0), 0, "none is none");
}
