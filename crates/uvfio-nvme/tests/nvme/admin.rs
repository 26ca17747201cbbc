//! Admin commands and their errors.

use super::driver::{Command, HOLE, Machine, PAGE, Queue, config, memory_namespace, read_command};
use uvfio_nvme::{BackendConfig, Config, InterruptConfig, NamespaceConfig, Nvme};

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).trim_end().to_owned()
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(data[at..at + 2].try_into().unwrap())
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
}

#[test]
fn identify_controller_tells_what_the_controller_does() {
    let mut machine = Machine::new(config());
    let data = machine.identify(1, 0).unwrap();
    assert_eq!(text(&data[4..24]), "TEST", "SN");
    assert_eq!(text(&data[24..64]), "uvfio NVMe controller", "MN");
    assert_eq!(data[77], 8, "MDTS");
    assert_eq!(u32_at(&data, 80), 0x0001_0400, "VER");
    assert_eq!(data[111], 1, "CNTRLTYPE");
    assert_eq!(u16_at(&data, 256), 1 << 8, "OACS");
    assert_eq!(data[259], 3, "AERL");
    assert_eq!((data[512], data[513]), (0x66, 0x44), "SQES, CQES");
    assert_eq!(u32_at(&data, 516), 1, "NN");
    assert_eq!(u16_at(&data, 520), 0x5d, "ONCS");
    assert_eq!(data[525], 7, "VWC");
    assert!(
        data[768..].starts_with(b"nqn.2014-08.org.nvmexpress:uuid:"),
        "SUBNQN"
    );
    let mut vendor = [0; 2];
    machine
        .device
        .read(uvfio_core::region_index::CONFIG, 0, &mut vendor)
        .unwrap();
    assert_eq!(data[..2], vendor, "VID is the function's vendor");
}

#[test]
fn identify_lists_and_describes_namespaces() {
    let namespaces = vec![
        memory_namespace(1 << 20),
        NamespaceConfig {
            block: 4096,
            ..memory_namespace(3 << 20)
        },
    ];
    let mut machine = Machine::new(Config {
        namespaces,
        ..config()
    });
    let first = machine.identify(0, 1).unwrap();
    assert_eq!(
        (u64_at(&first, 0), first[26], first[130]),
        (2048, 0, 9),
        "NSZE, FLBAS, LBADS of namespace 1"
    );
    let second = machine.identify(0, 2).unwrap();
    assert_eq!(
        (u64_at(&second, 0), second[130]),
        (768, 12),
        "NSZE, LBADS of namespace 2"
    );
    let ids = |data: &[u8]| (data[104..120].to_vec(), data[120..128].to_vec());
    assert_ne!(
        ids(&first),
        ids(&second),
        "NGUID and EUI64 are the namespaces' own"
    );

    for (from, expected) in [(0, [1, 2, 0]), (1, [2, 0, 0]), (2, [0, 0, 0]), (9, [0, 0, 0])] {
        let list = machine.identify(2, from).unwrap();
        assert_eq!(
            [0, 4, 8].map(|at| u32_at(&list, at)),
            expected,
            "namespaces above {from}"
        );
    }
    let descriptors = machine.identify(3, 2).unwrap();
    assert_eq!(descriptors[..2], [1, 8], "EUI64");
    assert_eq!(descriptors[4..12], second[120..128]);
    assert_eq!(descriptors[12..14], [2, 16], "NGUID");
    assert_eq!(descriptors[16..32], second[104..120]);
    assert_eq!(descriptors[32..34], [3, 16], "UUID");

    for (cns, nsid, status) in [
        (0, 0, 0x00b),
        (0, 3, 0x00b),
        (0, 0xffff_ffff, 0x00b),
        (2, 0xffff_fffe, 0x00b),
        (3, 3, 0x00b),
        (0x55, 1, 0x002),
    ] {
        assert_eq!(
            machine.identify(cns, nsid),
            Err(status),
            "CNS {cns:#x} NSID {nsid:#x}"
        );
    }
}

#[test]
fn identifiers_are_the_same_whenever_the_controller_is_made() {
    let mut one = Machine::new(config());
    let mut two = Machine::new(config());
    assert_eq!(one.identify(3, 1), two.identify(3, 1));
}

#[test]
fn identify_into_a_hole_fails_and_the_next_command_works() {
    let mut machine = Machine::new(config());
    let done = machine.admin(Command::new(0x06).prp(HOLE, 0).dword(10, 1));
    assert_eq!(done.status, 0x004, "{done:x?}");
    // Across two pages that are not neighbours.
    let (one, two) = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x06).prp(two + 2048, one).dword(10, 1));
    assert_eq!(text(&machine.read(two + 2048 + 4, 20)), "TEST");
}

#[test]
fn queues_that_can_not_be_are_refused() {
    let mut machine = Machine::new(config());
    let page = machine.allocate(1);
    let cq = |id: u32, entries: u32, vector: u32, flags: u32, at: u64| {
        Command::new(0x05)
            .prp(at, 0)
            .dword(10, (entries - 1) << 16 | id)
            .dword(11, vector << 16 | flags)
    };
    let sq = |id: u32, entries: u32, cq: u32, flags: u32, at: u64| {
        Command::new(0x01)
            .prp(at, 0)
            .dword(10, (entries - 1) << 16 | id)
            .dword(11, cq << 16 | flags)
    };
    machine.admin_ok(cq(1, 8, 1, 3, page));
    machine.admin_ok(sq(1, 8, 1, 1, page));
    let cases = [
        ("CQ 0", cq(0, 8, 0, 3, page), 0x101),
        ("CQ 5 of 4", cq(5, 8, 0, 3, page), 0x101),
        ("CQ that exists", cq(1, 8, 0, 3, page), 0x101),
        ("CQ of one entry", cq(2, 1, 0, 3, page), 0x102),
        ("CQ larger than MQES", cq(2, 4097, 0, 3, page), 0x102),
        ("CQ vector 5 of 5", cq(2, 8, 5, 3, page), 0x108),
        ("CQ vector ffffh", cq(2, 8, 0xffff, 3, page), 0x108),
        ("CQ not contiguous", cq(2, 8, 0, 2, page), 0x002),
        ("CQ not at a page", cq(2, 8, 0, 3, page + 16), 0x013),
        ("SQ 0", sq(0, 8, 1, 1, page), 0x101),
        ("SQ 5 of 4", sq(5, 8, 1, 1, page), 0x101),
        ("SQ that exists", sq(1, 8, 1, 1, page), 0x101),
        ("SQ of one entry", sq(2, 1, 1, 1, page), 0x102),
        ("SQ with CQ 0", sq(2, 8, 0, 1, page), 0x101),
        ("SQ with CQ 5 of 4", sq(2, 8, 5, 1, page), 0x101),
        ("SQ with a CQ that isn't there", sq(2, 8, 2, 1, page), 0x100),
        ("SQ not contiguous", sq(2, 8, 1, 0, page), 0x002),
        ("SQ not at a page", sq(2, 8, 1, 1, page + 64), 0x013),
        ("deleting SQ 0", Command::new(0x00).dword(10, 0), 0x101),
        ("deleting SQ 2", Command::new(0x00).dword(10, 2), 0x101),
        ("deleting CQ 0", Command::new(0x04).dword(10, 0), 0x101),
        ("deleting CQ 2", Command::new(0x04).dword(10, 2), 0x101),
        ("deleting a CQ in use", Command::new(0x04).dword(10, 1), 0x10c),
        ("deleting SQ 1", Command::new(0x00).dword(10, 1), 0),
        ("deleting CQ 1", Command::new(0x04).dword(10, 1), 0),
        ("deleting CQ 1 again", Command::new(0x04).dword(10, 1), 0x101),
        ("largest CQ", cq(1, 4096, 4, 3, page), 0),
    ];
    for (what, command, status) in cases {
        assert_eq!(machine.admin(command).status, status, "{what}");
    }
}

#[test]
fn queues_can_not_be_created_while_entry_sizes_are_wrong() {
    let mut machine = Machine::new(config());
    machine.write_register(super::driver::reg::CC, 1);
    let page = machine.allocate(1);
    let done = machine.admin(
        Command::new(0x05)
            .prp(page, 0)
            .dword(10, 7 << 16 | 1)
            .dword(11, 1),
    );
    assert_eq!(done.status, 0x002, "IOCQES 0: {done:x?}");
    machine.write_register(super::driver::reg::CC, super::driver::CC_ENABLE);
    machine.admin_ok(
        Command::new(0x05)
            .prp(page, 0)
            .dword(10, 7 << 16 | 1)
            .dword(11, 1),
    );
}

#[test]
fn two_submission_queues_may_share_a_completion_queue() {
    let mut machine = Machine::new(config());
    let mut first = machine.create_queue(1, 8);
    let sq = machine.allocate(1);
    machine.admin_ok(
        Command::new(0x01)
            .prp(sq, 0)
            .dword(10, 7 << 16 | 2)
            .dword(11, 1 << 16 | 1),
    );
    let mut second = Queue::at(2, sq, 0, 8);
    let page = machine.allocate(1);
    machine.submit(&mut second, read_command(1, 0, 1, page, 0));
    let done = machine.complete(&mut first);
    assert_eq!((done.sq_id, done.status), (2, 0), "{done:x?}");
    assert_eq!(machine.run(&mut first, read_command(1, 0, 1, page, 0)).sq_id, 1);
}

#[test]
fn a_deleted_queue_takes_no_commands_and_can_be_made_again() {
    let mut machine = Machine::new(config());
    let page = machine.allocate(1);
    for _ in 0..3 {
        let mut queue = machine.create_queue(2, 16);
        for _ in 0..20 {
            assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
        }
        machine.admin_ok(Command::new(0x00).dword(10, 2));
        machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
        machine.admin_ok(Command::new(0x04).dword(10, 2));
        assert_eq!(machine.peek(&queue), None, "a deleted queue answers");
    }
}

#[test]
fn features_keep_what_was_set_until_a_reset() {
    let mut machine = Machine::new(config());
    let get = |select: u32, feature: u32, dword11: u32| {
        Command::new(0x0a)
            .dword(10, select << 8 | feature)
            .dword(11, dword11)
    };
    let set = |feature: u32, dword11: u32| Command::new(0x09).dword(10, feature).dword(11, dword11);
    // Feature, CDW11 to set, what then reads, the default, CDW11 to get.
    let values = [
        (0x01, 0x0102_0304, 0x0102_0304, 0, 0),
        (0x02, 0x20, 0x20, 0, 0),
        (0x04, 0x0150, 0x0150, 343, 0),
        (0x04, 1 << 20 | 0x0100, 0x0100, 0, 1 << 20),
        (0x05, 0x1234, 0x1234, 0, 0),
        (0x06, 0, 0, 1, 0),
        (0x08, 0x0503, 0x0503, 0, 0),
        (0x09, 1 << 16 | 2, 1 << 16 | 2, 2, 2),
        (0x0a, 1, 1, 0, 0),
        (0x0b, 0x1f, 0x1f, 0, 0),
    ];
    for (feature, value, reads, default, index) in values {
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            default,
            "feature {feature:#x} before"
        );
        machine.admin_ok(set(feature, value));
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            reads,
            "feature {feature:#x} set"
        );
        assert_eq!(
            machine.admin_ok(get(1, feature, index)),
            default,
            "feature {feature:#x} default"
        );
        assert_eq!(
            machine.admin_ok(get(2, feature, index)),
            default,
            "feature {feature:#x} saved"
        );
        assert_eq!(
            machine.admin_ok(get(3, feature, index)),
            4,
            "feature {feature:#x} capabilities"
        );
    }
    machine.disable();
    machine.enable();
    for (feature, _, _, default, index) in values {
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            default,
            "feature {feature:#x} after a reset"
        );
    }
}

#[test]
fn features_that_can_not_be_set_are_refused() {
    let mut machine = Machine::new(config());
    let set = |feature: u32, dword11: u32| Command::new(0x09).dword(10, feature).dword(11, dword11);
    let cases = [
        ("unknown feature", set(0x7f, 0), 0x002),
        ("feature 0", set(0, 0), 0x002),
        ("save", set(0x8000_0001, 0), 0x10d),
        ("power state 1", set(0x02, 1), 0x002),
        ("sensor 1", set(0x04, 1 << 16), 0x002),
        ("threshold type 2", set(0x04, 2 << 20), 0x002),
        ("vector 5 of 5", set(0x09, 5), 0x002),
        ("0xffff queues", set(0x07, 0xffff_0003), 0x002),
        ("select 5", Command::new(0x0a).dword(10, 5 << 8 | 1), 0x002),
        (
            "getting vector 5 of 5",
            Command::new(0x0a).dword(10, 9).dword(11, 5),
            0x002,
        ),
    ];
    for (what, command, status) in cases {
        assert_eq!(machine.admin(command).status, status, "{what}");
    }
}

#[test]
fn the_number_of_queues_is_told_and_fixed_once_queues_exist() {
    let mut machine = Machine::new(config());
    let set = Command::new(0x09).dword(10, 7).dword(11, 63 << 16 | 63);
    assert_eq!(machine.admin_ok(set), 3 << 16 | 3, "4 of each");
    let _queue = machine.create_queue(4, 8);
    assert_eq!(machine.admin(set).status, 0x00c);
    assert_eq!(machine.admin_ok(Command::new(0x0a).dword(10, 7)), 3 << 16 | 3);
}

#[test]
fn the_timestamp_counts_from_what_was_set() {
    let mut machine = Machine::new(config());
    let page = machine.allocate(1);
    machine.admin_ok(Command::new(0x0a).dword(10, 0x0e).prp(page, 0));
    assert_eq!(machine.read(page, 8)[6], 0, "origin: cleared by reset");
    let then = 1_700_000_000_000u64;
    machine.write(page, &then.to_le_bytes());
    machine.admin_ok(Command::new(0x09).dword(10, 0x0e).prp(page, 0));
    machine.write(page, &[0xff; 8]);
    machine.admin_ok(Command::new(0x0a).dword(10, 0x0e).prp(page, 0));
    let now = u64::from_le_bytes(machine.read(page, 8).try_into().unwrap());
    assert_eq!(now >> 48, 2, "origin: Set Features");
    assert!(now & 0xffff_ffff_ffff >= then, "{now:#x} is before {then:#x}");
}

fn log_page(machine: &mut Machine, page: u32, dwords: u32, offset: u64) -> Result<Vec<u8>, u16> {
    let data = machine.allocate(2);
    let command = Command::new(0x02)
        .nsid(0xffff_ffff)
        .prp(data, data + PAGE)
        .dword(10, (dwords - 1) << 16 | page)
        .dword(12, offset as u32)
        .dword(13, (offset >> 32) as u32);
    let done = machine.admin(command);
    if done.status == 0 {
        Ok(machine.read(data, 8192))
    } else {
        Err(done.status)
    }
}

#[test]
fn log_pages_tell_health_firmware_and_effects() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    for _ in 0..3 {
        machine.run(&mut queue, read_command(1, 0, 8, page, 0));
    }
    let health = log_page(&mut machine, 2, 128, 0).unwrap();
    assert_eq!(health[0], 0, "critical warning");
    assert_eq!(u16_at(&health, 1), 308, "temperature in kelvin");
    assert_eq!(u64_at(&health, 32), 1, "data units read: 12 KiB rounded up");
    assert_eq!(u64_at(&health, 64), 3, "host reads");
    let firmware = log_page(&mut machine, 3, 128, 0).unwrap();
    assert_eq!((firmware[0], text(&firmware[8..16])), (1, "1.0".to_owned()));
    let effects = log_page(&mut machine, 5, 1024, 0).unwrap();
    let supported = |base: usize| {
        (0..256)
            .filter(|op| u32_at(&effects, base + 4 * op) & 1 == 1)
            .collect::<Vec<_>>()
    };
    assert_eq!(supported(0), [0, 1, 2, 4, 5, 6, 8, 9, 10, 12], "admin");
    assert_eq!(supported(1024), [0, 1, 2, 5, 8, 9], "I/O");
    assert_eq!(
        log_page(&mut machine, 4, 1024, 0).unwrap()[..4096],
        [0; 4096],
        "changed namespaces"
    );
}

#[test]
fn a_log_page_is_given_from_an_offset_and_not_past_its_end() {
    let mut machine = Machine::new(config());
    let whole = log_page(&mut machine, 3, 128, 0).unwrap();
    let part = log_page(&mut machine, 3, 2, 8).unwrap();
    assert_eq!(part[..8], whole[8..16]);
    assert_eq!(part[8..], [0; 8184], "more than was asked for");
    let long = log_page(&mut machine, 3, 1024, 508).unwrap();
    assert_eq!(long[4..], [0; 8188], "past the end");
    for (what, page, offset, status) in [
        ("unknown page", 0x33, 0, 0x109),
        ("offset not of a dword", 3, 2, 0x002),
        ("offset past the end", 3, 516, 0x002),
        ("a huge offset", 3, u64::MAX - 3, 0x002),
    ] {
        assert_eq!(log_page(&mut machine, page, 1, offset), Err(status), "{what}");
    }
    let one = machine.admin(Command::new(0x02).nsid(1).dword(10, 2));
    assert_eq!(one.status, 0x002, "health of one namespace: {one:x?}");
}

#[test]
fn commands_that_failed_are_in_the_error_log_newest_first() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    for block in 0..20 {
        machine.run(&mut queue, read_command(1, 1 << 40 | block, 1, page, 0));
    }
    let log = log_page(&mut machine, 1, 256, 0).unwrap();
    for (place, expected) in (5..=20u64).rev().enumerate() {
        let entry = &log[64 * place..64 * (place + 1)];
        assert_eq!(u64_at(entry, 0), expected, "error count of entry {place}");
        assert_eq!(u16_at(entry, 8), 1, "SQID of entry {place}");
        assert_eq!(u16_at(entry, 12) >> 1 & 0x7ff, 0x080, "status of entry {place}");
        assert_eq!(
            u64_at(entry, 16),
            1 << 40 | (expected - 1),
            "LBA of entry {place}"
        );
        assert_eq!(u32_at(entry, 24), 1, "NSID of entry {place}");
    }
}

#[test]
fn events_wait_for_requests_and_requests_for_events() {
    let mut machine = Machine::new(config());
    let mut admin = std::mem::replace(&mut machine.admin, Queue::nowhere());
    let requests: Vec<u16> = (0..4)
        .map(|_| machine.submit(&mut admin, Command::new(0x0c)))
        .collect();
    let fifth = machine.run(&mut admin, Command::new(0x0c));
    assert_eq!(fifth.status, 0x105, "a fifth request");

    // A doorbell of a queue that isn't there.
    machine.write_register(0x1000 + 8 * 3, 1);
    let event = machine.complete(&mut admin);
    assert_eq!(
        (event.cid, event.status, event.result),
        (requests[0], 0, 0x01_0000),
        "invalid doorbell register"
    );
    // Another error is told only when the log was read.
    machine.write_register(0x1000, 4000);
    let read_log = Command::new(0x02)
        .nsid(0xffff_ffff)
        .prp(machine.allocate(1), 0)
        .dword(10, 15 << 16 | 1);
    let keep = machine.run(&mut admin, read_log.dword(10, 15 << 16 | 1 << 15 | 1));
    assert_eq!(
        keep.status, 0,
        "reading the log and keeping the event comes first: {keep:x?}"
    );
    machine.run(&mut admin, read_log);
    machine.write_register(0x1000, 4000);
    let event = machine.complete(&mut admin);
    assert_eq!(
        (event.cid, event.result),
        (requests[1], 0x01_0100),
        "invalid doorbell value"
    );

    // The temperature against its threshold.
    machine.run(&mut admin, Command::new(0x09).dword(10, 0x0b).dword(11, 2));
    let cid = machine.submit(&mut admin, Command::new(0x09).dword(10, 0x04).dword(11, 300));
    let first = machine.complete(&mut admin);
    let second = machine.complete(&mut admin);
    assert_eq!(first.cid, cid, "Set Features: {first:x?}");
    assert_eq!(
        (second.cid, second.result),
        (requests[2], 0x02_0101),
        "temperature"
    );

    // What waits can be aborted, what is done can't.
    let abort = |cid: u16| Command::new(0x08).dword(10, u32::from(cid) << 16);
    let cid = machine.submit(&mut admin, abort(requests[3]));
    let done = [machine.complete(&mut admin), machine.complete(&mut admin)];
    assert!(
        done.iter().any(|d| d.cid == requests[3] && d.status == 0x007),
        "{done:x?}"
    );
    assert!(
        done.iter()
            .any(|d| d.cid == cid && d.status == 0 && d.result == 0),
        "{done:x?}"
    );
    assert_eq!(
        machine.run(&mut admin, abort(requests[3])).result,
        1,
        "aborted twice"
    );
    machine.admin = admin;
}

#[test]
fn commands_that_are_not_offered_are_invalid() {
    let mut machine = Machine::new(config());
    for opcode in [0x03, 0x0d, 0x10, 0x11, 0x14, 0x15, 0x18, 0x80, 0x81, 0x84, 0xff] {
        assert_eq!(
            machine.admin(Command::new(opcode)).status,
            0x001,
            "opcode {opcode:#x}"
        );
    }
    assert_eq!(
        machine.admin(Command::new(0x06).dword(0, 0x4006)).status,
        0x002,
        "SGL"
    );
    // Before Identify has told of it.
    assert_eq!(
        machine.admin(Command::new(0x7c)).status,
        0x001,
        "Doorbell Buffer Config"
    );
}

#[test]
fn a_controller_that_can_not_be_is_refused_with_a_sentence() {
    let sized = |bytes| NamespaceConfig {
        backend: BackendConfig::Memory(bytes),
        block: 512,
        read_only: false,
    };
    let cases = [
        (
            Config {
                namespaces: vec![],
                ..config()
            },
            "1 to 1024 namespaces",
        ),
        (
            Config {
                queues: 0,
                ..config()
            },
            "1 to 64 pairs",
        ),
        (
            Config {
                queues: 65,
                ..config()
            },
            "1 to 64 pairs",
        ),
        (
            Config {
                interrupts: InterruptConfig::Msi { messages: 3 },
                ..config()
            },
            "1, 2, 4, 8, 16 or 32",
        ),
        (
            Config {
                interrupts: InterruptConfig::Msi { messages: 64 },
                ..config()
            },
            "1, 2, 4, 8, 16 or 32",
        ),
        (
            Config {
                serial: String::new(),
                ..config()
            },
            "1 to 20 printable",
        ),
        (
            Config {
                serial: "x".repeat(21),
                ..config()
            },
            "1 to 20 printable",
        ),
        (
            Config {
                serial: "a\nb".to_owned(),
                ..config()
            },
            "1 to 20 printable",
        ),
        (
            Config {
                namespaces: vec![sized(1 << 20), sized(1000)],
                ..config()
            },
            "namespace 2: 1000 bytes",
        ),
        (
            Config {
                namespaces: vec![sized(0)],
                ..config()
            },
            "namespace 1: 0 bytes",
        ),
        (
            Config {
                namespaces: vec![NamespaceConfig {
                    block: 1024,
                    ..sized(1 << 20)
                }],
                ..config()
            },
            "512 or 4096 bytes, not 1024",
        ),
    ];
    for (config, expected) in cases {
        let shown = format!("{config:?}");
        let error = Nvme::new(config)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            error.contains(expected),
            "{shown}: {error:?} does not contain {expected:?}"
        );
    }
}
