//! Log pages and asynchronous events.

use super::driver::{Command, Machine, PAGE, Queue, config, read_command};

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
