//! Admin commands and their errors.

use super::driver::{Command, HOLE, Machine, Queue, config, memory_namespace, read_command};
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
