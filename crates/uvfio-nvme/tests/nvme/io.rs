//! Commands of the NVM command set and their errors.

use super::driver::{
    Command, HOLE, MEMORY, Machine, PAGE, config, memory_namespace, read_command, write_command,
};
use uvfio_nvme::{Config, NamespaceConfig};

fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed)
        .collect()
}

/// A PRP list for pages `pages` and the PRP1 and PRP2 for them, as drivers make it: chained where it is long.
pub(crate) fn prps(machine: &Machine, pages: &[u64]) -> (u64, u64) {
    match pages {
        [one] => (*one, 0),
        [one, two] => (*one, *two),
        [first, rest @ ..] => {
            let mut rest = rest.to_vec();
            let list = machine.allocate(1);
            let mut at = list;
            while !rest.is_empty() {
                let whole = rest.len() <= 512;
                let now: Vec<u64> = rest
                    .drain(..rest.len().min(if whole { 512 } else { 511 }))
                    .collect();
                let mut bytes: Vec<u8> = now.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                if !whole {
                    let next = machine.allocate(1);
                    bytes.extend(next.to_le_bytes());
                    machine.write(at, &bytes);
                    at = next;
                } else {
                    machine.write(at, &bytes);
                }
            }
            (*first, list)
        }
        [] => panic!("no pages"),
    }
}

#[test]
fn what_was_written_is_read_back_at_every_length_and_offset() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 32);
    // Every second page, so that nothing is contiguous.
    let area = machine.allocate(600);
    let pages: Vec<u64> = (0..257).map(|page| area + 2 * page * PAGE).collect();
    for (blocks, offset) in [
        (1, 0),
        (1, 512),
        (8, 0),
        (8, 4),
        (9, 0),
        (16, 2048),
        (17, 1024),
        (256, 8),
        (2048, 0),
        (2048, 512),
    ] {
        let bytes = blocks as usize * 512;
        let data = pattern(blocks as u8 ^ offset as u8, bytes);
        let used = (bytes + offset).div_ceil(4096);
        let (prp1, prp2) = prps(&machine, &pages[..used]);
        // Scatter the data as the PRPs say.
        let place = |machine: &Machine, data: &[u8]| {
            let mut done = 0;
            for (number, page) in pages[..used].iter().enumerate() {
                let skip = if number == 0 { offset } else { 0 };
                let now = (4096 - skip).min(bytes - done);
                machine.write(page + skip as u64, &data[done..done + now]);
                done += now;
            }
        };
        place(&machine, &data);
        let prp1 = prp1 + offset as u64;
        let written = machine.run(&mut queue, write_command(1, 3, blocks, prp1, prp2));
        assert_eq!(
            written.status, 0,
            "write of {blocks} blocks at page offset {offset}"
        );
        place(&machine, &vec![0xee; bytes]);
        let read = machine.run(&mut queue, read_command(1, 3, blocks, prp1, prp2));
        assert_eq!(read.status, 0, "read of {blocks} blocks at page offset {offset}");
        let mut back = Vec::new();
        for (number, page) in pages[..used].iter().enumerate() {
            let skip = if number == 0 { offset } else { 0 };
            back.extend(machine.read(page + skip as u64, (4096 - skip).min(bytes - back.len())));
        }
        assert!(
            back == data,
            "{blocks} blocks at page offset {offset} come back different"
        );
    }
}

#[test]
fn a_list_that_begins_near_the_end_of_its_page_goes_on_in_the_next() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let area = machine.allocate(8);
    let (list, next) = (machine.allocate(1), machine.allocate(1));
    let data = pattern(5, 4 * 4096);
    machine.write(area, &data);
    for entries_in_first in 1..4 {
        let start = list + PAGE - 8 * entries_in_first;
        // Data pages 1, 2, 3; the last slot of the first page leads on unless it holds the last of them.
        let mut slots: Vec<u64> = (1..4).map(|page| area + page * PAGE).collect();
        if entries_in_first < 3 {
            let moved = slots.split_off(entries_in_first as usize - 1);
            slots.push(next);
            machine.write(
                next,
                &moved
                    .iter()
                    .flat_map(|entry| entry.to_le_bytes())
                    .collect::<Vec<_>>(),
            );
        }
        machine.write(
            start,
            &slots
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect::<Vec<_>>(),
        );
        let done = machine.run(&mut queue, write_command(1, 0, 32, area, start));
        assert_eq!(
            done.status, 0,
            "list of {entries_in_first} entries in its first page"
        );
        let back = machine.allocate(4);
        let pages: Vec<u64> = (0..4).map(|page| back + page * PAGE).collect();
        let (prp1, prp2) = prps(&machine, &pages);
        assert_eq!(
            machine.run(&mut queue, read_command(1, 0, 32, prp1, prp2)).status,
            0
        );
        assert!(
            machine.read(back, data.len()) == data,
            "list of {entries_in_first} entries in its first page"
        );
    }
}

#[test]
fn a_page_that_can_not_be_reached_fails_that_command_only() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    let list = machine.allocate(1);
    machine.write(list, &[page.to_le_bytes(), HOLE.to_le_bytes()].concat());
    let cases = [
        ("PRP1 in a hole", read_command(1, 0, 1, HOLE, 0), 0x004),
        ("PRP2 in a hole", read_command(1, 0, 16, page, HOLE), 0x004),
        ("the list in a hole", read_command(1, 0, 24, page, HOLE), 0x004),
        (
            "an entry of the list in a hole",
            read_command(1, 0, 24, page, list),
            0x004,
        ),
        (
            "PRP1 past the end of the address space",
            read_command(1, 0, 8, 0xffff_ffff_ffff_f004, page),
            0x004,
        ),
        (
            "PRP1 not dword aligned",
            read_command(1, 0, 1, page + 1, 0),
            0x013,
        ),
        (
            "PRP2 with an offset",
            read_command(1, 0, 16, page, page + 8),
            0x013,
        ),
        (
            "the list not qword aligned",
            read_command(1, 0, 24, page, list + 4),
            0x013,
        ),
        ("writing from a hole", write_command(1, 0, 1, HOLE, 0), 0x004),
    ];
    for (what, command, status) in cases {
        let done = machine.run(&mut queue, command);
        assert_eq!(done.status, status, "{what}: {done:x?}");
        let good = machine.run(&mut queue, read_command(1, 0, 1, page, 0));
        assert_eq!(good.status, 0, "the command after {what}");
    }
}

#[test]
fn a_list_that_leads_to_itself_ends_with_the_data() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    let list = machine.allocate(1);
    // Every slot names the list, the last one as its continuation.
    machine.write(list, &list.to_le_bytes().repeat(512));
    let done = machine.run(&mut queue, write_command(1, 0, 2048, page, list + 8 * 300));
    assert_eq!(done.status, 0, "{done:x?}");
}

#[test]
fn ranges_and_fields_that_can_not_be_are_refused() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    let blocks = (8 << 20) / 512;
    let cases = [
        ("last block", read_command(1, blocks - 1, 1, page, 0), 0),
        ("past the end", read_command(1, blocks, 1, page, 0), 0x080),
        ("across the end", read_command(1, blocks - 1, 2, page, 0), 0x080),
        (
            "SLBA + NLB beyond 2^64",
            read_command(1, u64::MAX, 2, page, 0),
            0x080,
        ),
        ("write past the end", write_command(1, blocks, 1, page, 0), 0x080),
        ("larger than MDTS", read_command(1, 0, 2049, page, 0), 0x002),
        ("namespace 0", read_command(0, 0, 1, page, 0), 0x00b),
        ("namespace 2", read_command(2, 0, 1, page, 0), 0x00b),
        ("all namespaces", read_command(0xffff_ffff, 0, 1, page, 0), 0x00b),
        ("an unknown opcode", Command::new(0x7f).nsid(1), 0x001),
        (
            "a fused command",
            read_command(1, 0, 1, page, 0).dword(0, 0x0102),
            0x002,
        ),
        ("SGL", read_command(1, 0, 1, page, 0).dword(0, 0x4002), 0x002),
        (
            "write zeroes past the end",
            Command::new(0x08).nsid(1).blocks(blocks, 1),
            0x080,
        ),
    ];
    for (what, command, status) in cases {
        let done = machine.run(&mut queue, command);
        assert_eq!(done.status, status, "{what}: {done:x?}");
        assert!(
            done.do_not_retry || status == 0,
            "{what} can't succeed later, so DNR is 1: {done:x?}"
        );
    }
}

#[test]
fn write_zeroes_and_deallocate_leave_zeroes_there_and_nowhere_else() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let data = machine.allocate(8);
    let fill = |machine: &Machine, queue: &mut super::driver::Queue| {
        machine.write(data, &[0x5a; 8 * 4096]);
        let pages: Vec<u64> = (0..8).map(|page| data + page * PAGE).collect();
        let (prp1, prp2) = prps(machine, &pages);
        assert_eq!(machine.run(queue, write_command(1, 0, 64, prp1, prp2)).status, 0);
        (prp1, prp2)
    };
    let ranges = machine.allocate(1);
    // Attributes, length, start.
    let range = |length: u32, start: u64| {
        [
            &0u32.to_le_bytes()[..],
            &length.to_le_bytes(),
            &start.to_le_bytes(),
        ]
        .concat()
    };
    machine.write(ranges, &[range(3, 5), range(0, 1), range(20, 20)].concat());
    let cases: [(&str, Command, Vec<u64>); 4] = [
        (
            "write zeroes",
            Command::new(0x08).nsid(1).blocks(7, 9),
            (7..16).collect(),
        ),
        (
            "write zeroes and deallocate",
            Command::new(0x08).nsid(1).dword(12, 1 << 25).blocks(7, 9),
            (7..16).collect(),
        ),
        (
            "deallocate",
            Command::new(0x09)
                .nsid(1)
                .prp(ranges, 0)
                .dword(10, 2)
                .dword(11, 1 << 2),
            (5..8).chain(20..40).collect(),
        ),
        (
            "hints only",
            Command::new(0x09)
                .nsid(1)
                .prp(ranges, 0)
                .dword(10, 2)
                .dword(11, 3),
            vec![],
        ),
    ];
    for (what, command, zero) in cases {
        let (prp1, prp2) = fill(&machine, &mut queue);
        assert_eq!(machine.run(&mut queue, command).status, 0, "{what}");
        assert_eq!(
            machine.run(&mut queue, read_command(1, 0, 64, prp1, prp2)).status,
            0
        );
        let back = machine.read(data, 64 * 512);
        for block in 0..64u64 {
            let expected = if zero.contains(&block) { 0 } else { 0x5a };
            let at = block as usize * 512;
            assert!(
                back[at..at + 512].iter().all(|b| *b == expected),
                "{what}: block {block} is not {expected:#x}"
            );
        }
    }
}

#[test]
fn a_range_of_dataset_management_past_the_end_changes_nothing() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    machine.write(page, &[7; 4096]);
    assert_eq!(machine.run(&mut queue, write_command(1, 0, 8, page, 0)).status, 0);
    let ranges = machine.allocate(1);
    let range = |length: u32, start: u64| {
        [
            &0u32.to_le_bytes()[..],
            &length.to_le_bytes(),
            &start.to_le_bytes(),
        ]
        .concat()
    };
    machine.write(ranges, &[range(8, 0), range(u32::MAX, 1)].concat());
    let done = machine.run(
        &mut queue,
        Command::new(0x09)
            .nsid(1)
            .prp(ranges, 0)
            .dword(10, 1)
            .dword(11, 4),
    );
    assert_eq!(done.status, 0x080, "{done:x?}");
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
    assert!(
        machine.read(page, 4096) == [7; 4096],
        "blocks of the good range were given back"
    );
}

#[test]
fn compare_tells_whether_the_blocks_are_the_same() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let pages = machine.allocate(2);
    machine.write(pages, &pattern(1, 8192));
    assert_eq!(
        machine
            .run(&mut queue, write_command(1, 4, 16, pages, pages + PAGE))
            .status,
        0
    );
    let compare = Command::new(0x05).nsid(1).prp(pages, pages + PAGE).blocks(4, 16);
    assert_eq!(machine.run(&mut queue, compare).status, 0);
    machine.write(pages + 8191, &[0]);
    assert_eq!(machine.run(&mut queue, compare).status, 0x285);
}

#[test]
fn a_read_only_namespace_refuses_every_change() {
    let namespaces = vec![
        NamespaceConfig {
            read_only: true,
            ..memory_namespace(1 << 20)
        },
        NamespaceConfig {
            block: 4096,
            ..memory_namespace(2 << 20)
        },
    ];
    let mut machine = Machine::new(Config {
        namespaces,
        ..config()
    });
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    machine.write(page + 4, &8u32.to_le_bytes());
    for command in [
        write_command(1, 0, 1, page, 0),
        Command::new(0x08).nsid(1).blocks(0, 1),
        Command::new(0x09).nsid(1).prp(page, 0).dword(11, 4),
    ] {
        let done = machine.run(&mut queue, command);
        assert_eq!(done.status, 0x020, "{command:x?}: {done:x?}");
    }
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    assert_eq!(machine.run(&mut queue, Command::new(0x00).nsid(1)).status, 0);
    assert_eq!(machine.run(&mut queue, write_command(2, 0, 1, page, 0)).status, 0);
    let identify = machine.identify(0, 1).unwrap();
    assert_eq!(identify[99], 1, "NSATTR of the read-only namespace");
}

#[test]
fn namespaces_keep_apart_and_blocks_of_4096_bytes_work() {
    let namespaces = vec![
        memory_namespace(1 << 20),
        NamespaceConfig {
            block: 4096,
            ..memory_namespace(2 << 20)
        },
    ];
    let mut machine = Machine::new(Config {
        namespaces,
        ..config()
    });
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    for nsid in [1u8, 2] {
        machine.write(page, &[nsid; 4096]);
        let count = if nsid == 1 { 8 } else { 1 };
        assert_eq!(
            machine
                .run(&mut queue, write_command(nsid.into(), 0, count, page, 0))
                .status,
            0
        );
    }
    for nsid in [1u8, 2] {
        let count = if nsid == 1 { 8 } else { 1 };
        assert_eq!(
            machine
                .run(&mut queue, read_command(nsid.into(), 0, count, page, 0))
                .status,
            0
        );
        assert!(
            machine.read(page, 4096) == [nsid; 4096],
            "namespace {nsid} holds another's data"
        );
    }
    assert_eq!(
        machine.run(&mut queue, read_command(2, 511, 1, page, 0)).status,
        0
    );
    assert_eq!(
        machine.run(&mut queue, read_command(2, 512, 1, page, 0)).status,
        0x080
    );
    assert_eq!(
        machine
            .run(&mut queue, Command::new(0x00).nsid(0xffff_ffff))
            .status,
        0,
        "flush of all"
    );
}

#[test]
fn the_ring_wraps_and_every_command_completes_once() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 5);
    let page = machine.allocate(1);
    for round in 0..50 {
        let mut expected: Vec<u16> = (0..4)
            .map(|block| machine.submit(&mut queue, read_command(1, block, 1, page, 0)))
            .collect();
        for _ in 0..4 {
            let done = machine.complete(&mut queue);
            assert_eq!(done.status, 0, "round {round}");
            let place = expected.iter().position(|cid| *cid == done.cid);
            assert!(
                place.is_some(),
                "round {round}: {done:x?} is not among {expected:x?}"
            );
            expected.remove(place.unwrap());
        }
    }
    assert_eq!(machine.poll(&mut queue), None, "a completion too many");
}

#[test]
fn memory_outside_the_data_is_not_touched() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 8);
    let area = machine.allocate(3);
    machine.write(area, &[0xaa; 3 * 4096]);
    assert_eq!(
        machine
            .run(
                &mut queue,
                read_command(1, 0, 8, area + PAGE + 8, area + 2 * PAGE)
            )
            .status,
        0
    );
    let back = machine.read(area, 3 * 4096);
    assert!(back[..4096 + 8].iter().all(|b| *b == 0xaa), "before the data");
    assert!(back[4096 + 8..8192 + 8].iter().all(|b| *b == 0), "the data");
    assert!(back[8192 + 8..].iter().all(|b| *b == 0xaa), "after the data");
    assert!(area > MEMORY);
}
