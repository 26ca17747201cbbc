//! What good clients send, and the exact replies that they rely on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::device::{CONFIG, Served, VECTORS, eventually, limits, serve, serve_stream, serve_unnegotiated};
use common::raw::{N, Raw, access, dma_map, dma_unmap, message, pack, region_info, version, words};
use rustix::event::{EventfdFlags, eventfd};
use uvfio_proto::{End, Limits};

const NO_REPLY: u32 = 0x10;

fn text(payload: &[u8]) -> &str {
    std::str::from_utf8(&payload[4..]).unwrap()
}

#[test]
fn version_is_answered_as_each_client_needs_it() {
    // QEMU: 214 bytes, 0.0; it gives up on a reply longer than its request.
    let qemu = br#"{"capabilities":{"migration":{"max_bitmap_size":268435456,"pgsize":4096},"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,"write_multiple":true}}"#;
    let mut json = qemu.to_vec();
    json.resize(193, b' ');
    json.push(0);
    let (_served, raw) = serve_unnegotiated();
    let request = message(0, 1, 0, &version(0, 0, &json));
    assert_eq!(request.len(), 214);
    raw.send(&request);
    let got = raw.recv();
    assert_eq!((got.id, got.command, got.flags, got.errno), (0, 1, 1, 0));
    assert!(
        got.payload.len() + 16 <= 214,
        "the reply has {} bytes",
        got.payload.len() + 16
    );
    assert_eq!(got.payload[..4], [0, 0, 0, 0], "0.0 is answered 0.0");
    assert!(
        text(&got.payload).starts_with("{\"capabilities\":{"),
        "{}",
        text(&got.payload)
    );
    assert!(
        text(&got.payload).contains("\"max_msg_fds\":16"),
        "QEMU refuses more: {}",
        text(&got.payload)
    );
    assert!(text(&got.payload).ends_with("}}\0"), "{}", text(&got.payload));

    // Cloud Hypervisor: 112 bytes, 0.1.
    let json =
        b"{\"capabilities\":{\"max_msg_fds\":1,\"max_data_xfer_size\":1048576,\"migration\":{\"pgsize\":4096}}}\0";
    let (_served, raw) = serve_unnegotiated();
    let got = raw.ask(0, 1, &version(0, 1, json));
    assert_eq!(got.payload[..4], [0, 0, 1, 0], "0.1 is answered 0.1");
    assert!(
        !text(&got.payload).contains("write_multiple"),
        "it did not offer it: {}",
        text(&got.payload)
    );

    // SPDK: no JSON.
    let (_served, raw) = serve_unnegotiated();
    let got = raw.ask(0, 1, &version(0, 1, b""));
    assert_eq!((got.flags, got.payload.as_slice()), (1, &[0, 0, 1, 0][..]));

    // A later minor version is answered with ours.
    let (_served, raw) = serve_unnegotiated();
    assert_eq!(raw.ask(0, 1, &version(0, 9, b"\0")).payload[..4], [0, 0, 1, 0]);
}

#[test]
fn replies_have_the_lengths_that_cloud_hypervisor_waits_for() {
    let (_served, raw) = serve();
    let length = |id, command, payload: &[u8]| {
        let got = raw.ask(id, command, payload);
        assert_eq!(
            (got.id, got.command, got.flags, got.errno),
            (id, command, 1, 0),
            "{got:?}"
        );
        16 + got.payload.len()
    };
    assert_eq!(
        length(1, 4, &words(&[32, 0, 0, 0])),
        32,
        "GET_INFO, argsz 32 as it sends"
    );
    assert_eq!(length(2, 7, &words(&[16, 0, 2, 0])), 32, "GET_IRQ_INFO");
    assert_eq!(length(3, 2, &dma_map(32, 3, 0, 0x1000, 0x1000)), 16, "DMA_MAP");
    assert_eq!(length(4, 3, &dma_unmap(24, 0, 0x1000, 0x1000)), 40, "DMA_UNMAP");
    assert_eq!(length(5, 10, &access(0, 0, 4, &[0; 4])), 32, "REGION_WRITE");
    for count in [0, 1, 2, 3, 4, 8, 100, 4096] {
        assert_eq!(
            length(6, 9, &access(0, CONFIG, count, &[])),
            32 + count as usize,
            "REGION_READ"
        );
    }
    assert_eq!(
        length(7, 8, &words(&[20, 0x24, 2, 0, 4])),
        16,
        "SET_IRQS with eventfds, none sent"
    );
    assert_eq!(
        length(8, 8, &words(&[20, 0x21, 2, 0, 0])),
        16,
        "SET_IRQS, disable"
    );
    assert_eq!(length(9, 13, &[]), 16, "RESET");
    assert_eq!(
        length(10, 15, &pack(&[N::Q(1), N::Q(0), N::D(0), N::D(4), N::Q(1)])),
        24,
        "WRITE_MULTI"
    );
    assert_eq!(length(11, 6, &words(&[16, 0, 2, 0])), 32, "GET_REGION_IO_FDS");
}

#[test]
fn replies_repeat_what_was_asked() {
    let (_served, raw) = serve();
    let unmap = dma_unmap(24, 0, 0x7000_0000, 0x1234_5000);
    assert_eq!(
        raw.ask(1, 3, &unmap).payload,
        unmap,
        "nothing is mapped there, and that is no error"
    );
    let write = access(0x20, 0, 4, b"data");
    assert_eq!(raw.ask(1, 10, &write).payload, write[..16]);
    let read = access(0x20, 0, 4, &[]);
    assert_eq!(
        raw.ask(1, 9, &read).payload,
        access(0x20, 0, 4, &[0xff; 4]),
        "memory is not enabled: all ones"
    );
    // COMMAND: memory.
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[2, 0])).flags, 1);
    assert_eq!(raw.ask(1, 10, &write).flags, 1);
    assert_eq!(raw.ask(1, 9, &read).payload, write);
}

#[test]
fn commands_without_reply_get_none_and_are_done_in_order() {
    let (_served, raw) = serve();
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[2, 0])).flags, 1);
    // 1000 posted writes in one send, then a read.
    let mut all: Vec<u8> = (0..1000_u32)
        .flat_map(|value| {
            message(
                value as u16,
                10,
                NO_REPLY,
                &access(0x40, 0, 4, &value.to_ne_bytes()),
            )
        })
        .collect();
    all.extend(message(7, 9, 0, &access(0x40, 0, 4, &[])));
    raw.send(&all);
    let got = raw.recv();
    assert_eq!((got.id, got.command, got.u32(16)), (7, 9, 999));
    // Every other command may be posted too.
    let commands: [(u16, Vec<u8>); 12] = [
        (1, version(0, 1, b"")),
        (2, dma_map(32, 3, 0, 0x1000, 0x1000)),
        (3, dma_unmap(24, 0, 0x1000, 0x1000)),
        (4, words(&[16, 0, 0, 0])),
        (5, region_info(32, 2)),
        (6, words(&[16, 0, 0, 0])),
        (7, words(&[16, 0, 0, 0])),
        (8, words(&[20, 0x21, 2, 0, 0])),
        (9, access(0, CONFIG, 4, &[])),
        (13, vec![]),
        (16, words(&[12, 10 | 1 << 17, 1])),
        (99, vec![]),
    ];
    for (command, payload) in commands {
        raw.send(&message(8, command, NO_REPLY, &payload));
        let got = raw.ask(9, 9, &access(0, CONFIG, 4, &[]));
        assert_eq!(
            (got.id, got.command, got.u32(16)),
            (9, 9, 0x5678_1234),
            "after command {command}"
        );
    }
}

#[test]
fn version_may_be_posted() {
    let (_served, raw) = serve_unnegotiated();
    raw.send(&message(1, 1, NO_REPLY, &version(0, 1, b"")));
    assert_eq!(raw.ask(2, 4, &words(&[16, 0, 0, 0])).id, 2);
}

#[test]
fn an_id_may_come_again_and_again() {
    let (_served, raw) = serve();
    let one = message(0, 9, 0, &access(0, CONFIG, 4, &[]));
    let two = message(0, 4, 0, &words(&[16, 0, 0, 0]));
    let all: Vec<u8> = (0..100)
        .flat_map(|index| if index % 2 == 0 { one.clone() } else { two.clone() })
        .collect();
    raw.send(&all);
    for index in 0..100 {
        let got = raw.recv();
        assert_eq!(
            (got.id, got.command),
            (0, if index % 2 == 0 { 9 } else { 4 }),
            "reply {index}"
        );
    }
}

#[test]
fn a_descriptor_with_an_unmap_is_taken_and_closed() {
    let (_served, raw) = serve();
    let file = common_memory(0x4000);
    raw.send_with(
        &message(0, 2, 0, &dma_map(32, 3, 0, 0x10000, 0x4000)),
        &[file.as_fd()],
    );
    assert_eq!(raw.recv().flags, 1);
    let unmap = dma_unmap(24, 0, 0x10000, 0x4000);
    raw.send_with(&message(0, 3, 0, &unmap), &[file.as_fd()]);
    let got = raw.recv();
    assert_eq!((got.flags, got.payload), (1, unmap));
}

fn common_memory(bytes: u64) -> std::os::fd::OwnedFd {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let memory = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, bytes).unwrap();
    memory
}

#[test]
fn maps_and_unmaps_follow_type1v2() {
    let (_served, raw) = serve();
    let map = |iova, bytes| raw.ask(1, 2, &dma_map(32, 3, 0, iova, bytes)).errno;
    let unmap = |flags, iova, bytes| raw.ask(1, 3, &dma_unmap(24, flags, iova, bytes)).errno;
    assert_eq!(map(0x1000, 0x1000), 0);
    assert_eq!(map(0x2000, 0x1000), 0);
    assert_eq!(map(u64::MAX - 0xfff, 0x1000), 0, "it ends at 2^64");
    assert_eq!(map(0x2000, 0x2000), 17);
    assert_eq!(unmap(0, 0x1000, 0x1800), 22, "would cut the second");
    assert_eq!(unmap(0, 0, 0x8000), 0, "both at once");
    assert_eq!(unmap(0, 0, 0x8000), 0, "nothing is there any more");
    assert_eq!(unmap(0, 1 << 63, 1 << 63), 0, "the upper half");
    assert_eq!(map(u64::MAX - 0xfff, 0x1000), 0, "it is free again");
    assert_eq!(unmap(2, 0, 0), 0, "all");
    assert_eq!(map(u64::MAX - 0xfff, 0x1000), 0, "it is free again");
    // libvfio-user's flags.
    assert_eq!(raw.ask(1, 2, &dma_map(32, 3 | 4, 0, 0x1000, 0x1000)).errno, 0);
    assert_eq!(raw.ask(1, 2, &dma_map(32, 1 | 8, 0, 0x2000, 0x1000)).errno, 0);
}

#[test]
fn eventfds_reach_their_vectors() {
    let (served, raw) = serve();
    let events: Vec<_> = (0..20)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
        .collect();
    // Cloud Hypervisor sends blocks of 16, whatever it was told; the rest follows.
    for (start, some) in [(0, &events[..16]), (16, &events[16..])] {
        let fds: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        raw.send_with(
            &message(1, 8, 0, &words(&[20, 0x24, 2, start, some.len() as u32])),
            &fds,
        );
        assert_eq!(raw.recv().flags, 1);
    }
    // A message is a write to memory: without bus mastering there is none.
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[6, 0])).flags, 1);
    let host = served.device.host();
    for vector in 0..20_u16 {
        host.signal(vector);
        let fd = &events[usize::from(vector)];
        let mut count = [0; 8];
        eventually("the eventfd is written", || {
            rustix::io::read(fd, &mut count).is_ok()
        });
        assert_eq!(u64::from_ne_bytes(count), 1, "vector {vector}");
    }
    let info = raw.ask(1, 7, &words(&[16, 0, 2, 0]));
    assert_eq!(
        (info.u32(0), info.u32(8), info.u32(12)),
        (16, 2, u32::from(VECTORS))
    );
    assert_eq!(info.u32(4) & 1, 1, "EVENTFD");
}

#[test]
fn features_answer_as_linux_does() {
    let (_served, raw) = serve();
    let set = 1 << 17;
    let probe = 1 << 18;
    let ask = |words_: &[u32]| {
        let payload = words(words_);
        let got = raw.ask(1, 16, &payload);
        if got.flags == 1 {
            assert_eq!(got.payload, payload, "the reply is the request");
        }
        got.errno
    };
    for number in [3, 5, 10] {
        assert_eq!(ask(&[8, number | probe]), 0, "probe of {number}");
        assert_eq!(ask(&[8, number | probe | set]), 0, "probe of setting {number}");
    }
    let command = || raw.ask(1, 9, &access(4, CONFIG, 2, &[])).payload[16] & 4;
    assert_eq!(command(), 0);
    assert_eq!(ask(&[12, 10 | set, 1]), 0);
    assert_eq!(command(), 4, "bus master on, one state with COMMAND");
    assert_eq!(ask(&[8, 3 | set]), 0, "low power");
    assert_eq!(command(), 4, "a hint changes nothing");
    assert_eq!(ask(&[8, 5 | set]), 0, "out of it");
    assert_eq!(ask(&[12, 10 | set, 0]), 0);
    assert_eq!(command(), 0);
}

#[test]
fn the_usable_ranges_of_iovas_are_told_to_who_has_room_for_them() {
    const IOVA_RANGES: u32 = 0xff00;
    let (_served, raw) = serve();
    let (get, probe) = (1 << 16, 1 << 18);
    let ask = |argsz, flags| raw.ask(1, 16, &words(&[argsz, IOVA_RANGES | flags]));
    let probed = ask(8, get | probe);
    assert_eq!(
        (probed.flags, probed.payload.len()),
        (1, 8),
        "a probe carries no data"
    );
    let short = ask(23, get);
    assert_eq!(
        (short.u32(0), short.payload.len()),
        (24, 8),
        "what is needed, and nothing else"
    );
    let whole = ask(24, get);
    assert_eq!((whole.u32(0), whole.payload.len()), (24, 24));
    assert_eq!(whole.payload[8..16], [0; 8], "from address 0");
    assert_eq!(
        whole.payload[16..24],
        [0xff; 8],
        "to the end of the address space"
    );
}

#[test]
fn a_reset_that_hangs_is_answered_within_patience() {
    let limits = Limits {
        reset_patience: Duration::from_millis(100),
        ..limits()
    };
    let (served, stream) = serve_stream(limits);
    let raw = Raw::new(stream);
    raw.negotiate();
    served.device.set_stuck(true);
    assert_eq!(
        raw.ask(1, 13, &[]).flags,
        1,
        "it goes on behind the client's back"
    );
    assert_eq!(
        raw.ask(1, 9, &access(0, CONFIG, 2, &[])).u32(12),
        2,
        "accesses are answered meanwhile"
    );
    assert_eq!(*served.device.resets.lock().unwrap(), 0);
    served.device.set_stuck(false);
    eventually("the reset is done", || *served.device.resets.lock().unwrap() == 1);
}

#[test]
fn a_client_that_does_not_read_blocks_itself_only_and_can_be_ended() {
    let (mut served, raw) = serve();
    let (_other, other) = serve();
    let read = message(1, 9, 0, &access(0, CONFIG, 4096, &[]));
    let many = read.repeat(64);
    // Until neither side takes more.
    raw.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while raw.try_send(&many, &[]).is_ok() {}
    assert_eq!(
        other.ask(1, 4, &words(&[16, 0, 0, 0])).flags,
        1,
        "another client is served"
    );
    assert!(!served.thread.as_ref().unwrap().is_finished(), "it waits");
    served.handle.shutdown();
    assert!(matches!(served.end(), Ok(End::Shutdown)));
}

#[test]
fn shutdown_ends_a_server_that_waits_for_its_client() {
    let (mut served, raw) = serve();
    served.handle.shutdown();
    assert!(matches!(served.end(), Ok(End::Shutdown)));
    assert!(raw.recv_with().is_none(), "the client sees the end");
}

/// What QEMU 11.1 sends at start, in its order and as pipelined.
#[test]
fn qemus_opening_is_served() {
    let (served, raw) = serve_unnegotiated();
    let json = br#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"write_multiple":true}}"#;
    assert_eq!(
        raw.ask(0, 1, &version(0, 0, &[&json[..], &[0]].concat())).flags,
        1
    );
    // RAM with a descriptor, ROM without and read-only; none is waited for.
    let ram = common_memory(0x20_0000);
    let mut id = 1;
    for (flags, offset, iova, bytes, with_fd) in [
        (3, 0, 0, 0xa_0000, true),
        (1, 0, 0xc_0000, 0x2_0000, false),
        (1, 0, 0xe_0000, 0x2_0000, false),
        (3, 0x10_0000, 0x10_0000, 0x10_0000, true),
        (1, 0, 0xfffc_0000, 0x4_0000, false),
    ] {
        let fds = [ram.as_fd()];
        let map = message(id, 2, 0, &dma_map(32, flags, offset, iova, bytes));
        raw.send_with(&map, if with_fd { &fds } else { &[] });
        id += 1;
    }
    for expected in 1..id {
        let got = raw.recv();
        assert_eq!((got.id, got.command, got.flags), (expected, 2, 1), "{got:?}");
    }
    let ask = |command, payload: &[u8]| {
        let got = raw.ask(100, command, payload);
        assert_eq!(
            (got.flags, got.errno),
            (1, 0),
            "command {command} {payload:?}: {got:?}"
        );
        got
    };
    assert_eq!(
        ask(4, &words(&[16, 0, 0, 0])).u32(4),
        3,
        "PCI, and it can be reset"
    );
    for region in [0, 1, 2, 3, 4, 5, 7] {
        let argsz = ask(5, &region_info(32, region)).u32(0);
        if argsz > 32 {
            assert_eq!(ask(5, &region_info(argsz, region)).payload.len(), argsz as usize);
        }
    }
    assert_eq!(
        ask(7, &words(&[16, 0, 3, 0])).u32(4) & 1,
        1,
        "ERR can be signalled"
    );
    let config = ask(9, &access(0, CONFIG, 4096, &[]));
    assert_eq!(config.payload.len(), 16 + 4096);
    assert_eq!(config.payload[16..20], [0x34, 0x12, 0x78, 0x56]);
    for (offset, count) in [(0x10, 4), (0x18, 4), (0x3d, 1), (0x3d, 1), (0x0a, 2), (0x0e, 1)] {
        ask(9, &access(offset, CONFIG, count, &[]));
    }
    assert_eq!(ask(7, &words(&[16, 0, 2, 0])).u32(12), u32::from(VECTORS));
    let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let irqs = |flags, index, count, fd: Option<&std::os::fd::OwnedFd>| {
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        raw.send_with(&message(200, 8, 0, &words(&[20, flags, index, 0, count])), &fds);
        let got = raw.recv();
        assert_eq!(
            (got.flags, got.errno),
            (1, 0),
            "SET_IRQS {flags:#x} of {index}: {got:?}"
        );
    };
    let (trigger, unmask, error) = (event(), event(), event());
    let intx_on = || {
        irqs(0x24, 0, 1, Some(&trigger));
        irqs(0x09, 0, 1, None);
        irqs(0x14, 0, 1, Some(&unmask));
        irqs(0x11, 0, 1, None);
    };
    intx_on();
    irqs(0x24, 3, 1, Some(&error));
    // Machine reset.
    irqs(0x09, 0, 1, None);
    irqs(0x11, 0, 1, None);
    irqs(0x21, 0, 0, None);
    let command = ask(9, &access(4, CONFIG, 2, &[])).payload[16..].to_vec();
    ask(10, &access(4, CONFIG, 2, &command));
    ask(13, &[]);
    assert_eq!(*served.device.resets.lock().unwrap(), 1);
    intx_on();
    for bar in 0..6 {
        ask(10, &access(0x10 + 4 * bar, CONFIG, 4, &[0; 4]));
    }
    // Firmware: shadow RAM is switched, eight messages in flight.
    for round in 0..4_u16 {
        for step in 0..4_u16 {
            let iova = 0xc_0000;
            raw.send(&message(300 + step * 2, 3, 0, &dma_unmap(24, 0, iova, 0x2_0000)));
            let flags = if round % 2 == 0 { 3 } else { 1 };
            raw.send(&message(
                301 + step * 2,
                2,
                0,
                &dma_map(32, flags, 0, iova, 0x2_0000),
            ));
        }
        for expected in 300..308 {
            let got = raw.recv();
            assert_eq!((got.id, got.flags), (expected, 1), "round {round}: {got:?}");
        }
    }
    for bar in 0..6 {
        ask(10, &access(0x10 + 4 * bar, CONFIG, 4, &[0xff; 4]));
        ask(10, &access(0x10 + 4 * bar, CONFIG, 4, &[0; 4]));
    }
    drop(raw);
    drop::<Served>(served);
}
