//! The table of commands that are refused.

use super::common::device::{BAR0, CONFIG};
use super::common::raw::{N, access, dma_map, dma_unmap, pack, region_info, version, words};

const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const ENOTTY: u32 = 25;
const ENOSYS: u32 = 38;
const EOPNOTSUPP: u32 = 95;
const MIB: u32 = 1 << 20;

/// A case: what it is, the command, its payload, how many descriptors, the error expected.
pub(crate) type Case = (&'static str, u16, Vec<u8>, usize, u32);

fn set_irqs(argsz: u32, flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags, index, start, count]);
    bytes.extend_from_slice(data);
    bytes
}

fn feature(argsz: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    bytes.extend_from_slice(data);
    bytes
}

pub(crate) fn multi(count: u64, writes: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = pack(&[N::Q(count)]);
    for &(offset, region, count) in writes {
        bytes.extend(pack(&[N::Q(offset), N::D(region), N::D(count), N::Q(0)]));
    }
    bytes
}

/// Refused with an error number; the stream stays in step.
pub(crate) fn refused() -> Vec<Case> {
    let size = BAR0;
    let mut cases: Vec<Case> = vec![
        // Commands that are none.
        ("command 0", 0, vec![], 0, ENOSYS),
        ("DIRTY_PAGES, which is gone", 14, vec![0; 8], 0, ENOSYS),
        ("command 19", 19, vec![1; 100], 0, ENOSYS),
        ("command 65535", 0xffff, vec![1; 100], 1, ENOSYS),
        ("DMA_READ from a client", 11, pack(&[N::Q(0), N::Q(8)]), 0, EINVAL),
        (
            "DMA_WRITE from a client",
            12,
            pack(&[N::Q(0), N::Q(0)]),
            0,
            EINVAL,
        ),
        ("migration read", 17, words(&[16, 8]), 0, EOPNOTSUPP),
        ("migration write", 18, words(&[16, 0]), 0, EOPNOTSUPP),
        (
            "a second VERSION",
            1,
            version(0, 1, b"{\"capabilities\":{}}\0"),
            0,
            EINVAL,
        ),
        ("a second VERSION, too short", 1, vec![0], 0, EINVAL),
        // DMA_MAP.
        ("map: no payload", 2, vec![], 0, EINVAL),
        (
            "map: 31 bytes",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000)[..31].to_vec(),
            0,
            EINVAL,
        ),
        (
            "map: 33 bytes",
            2,
            [dma_map(32, 3, 0, 0x1000, 0x1000), vec![0]].concat(),
            0,
            EINVAL,
        ),
        ("map: argsz 0", 2, dma_map(0, 3, 0, 0x1000, 0x1000), 0, EINVAL),
        (
            "map: unknown flags",
            2,
            dma_map(32, 0x13, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "map: all flags",
            2,
            dma_map(32, u32::MAX, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "map: neither read nor write",
            2,
            dma_map(32, 0, 0, 0x1000, 0x1000),
            0,
            EINVAL,
        ),
        ("map: empty", 2, dma_map(32, 3, 0, 0x1000, 0), 0, EINVAL),
        (
            "map: wraps the address space",
            2,
            dma_map(32, 3, 0, u64::MAX - 0xfff, 0x2000),
            0,
            EINVAL,
        ),
        (
            "map: everything and a byte",
            2,
            dma_map(32, 3, 0, 1, u64::MAX),
            0,
            EINVAL,
        ),
        (
            "map: file offset wraps",
            2,
            dma_map(32, 3, u64::MAX - 0xfff, 0x1000, 0x2000),
            1,
            EINVAL,
        ),
        (
            "map: file offset negative",
            2,
            dma_map(32, 3, 1 << 63, 0x1000, 0x1000),
            1,
            EINVAL,
        ),
        (
            "map: two descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            2,
            EINVAL,
        ),
        (
            "map: 64 descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            64,
            EINVAL,
        ),
        (
            "map: 200 descriptors",
            2,
            dma_map(32, 3, 0, 0x1000, 0x1000),
            200,
            EINVAL,
        ),
        ("map: again", 2, dma_map(32, 3, 0, 0x8000_0000, 0x4000), 0, EEXIST),
        (
            "map: over the end of another",
            2,
            dma_map(32, 3, 0, 0x8000_3000, 0x2000),
            0,
            EEXIST,
        ),
        (
            "map: around another",
            2,
            dma_map(32, 3, 0, 0x7fff_f000, 0x10000),
            0,
            EEXIST,
        ),
        // DMA_UNMAP.
        ("unmap: no payload", 3, vec![], 0, EINVAL),
        ("unmap: 1 byte", 3, vec![24], 0, EINVAL),
        (
            "unmap: 23 bytes",
            3,
            dma_unmap(24, 0, 0, 0x1000)[..23].to_vec(),
            0,
            EINVAL,
        ),
        ("unmap: argsz 0", 3, dma_unmap(0, 0, 0, 0x1000), 0, EINVAL),
        (
            "unmap: bitmap wanted and not sent",
            3,
            dma_unmap(24, 1, 0x8000_0000, 0x4000),
            0,
            EINVAL,
        ),
        (
            "unmap: unknown flags",
            3,
            dma_unmap(24, 4, 0x8000_0000, 0x4000),
            0,
            EINVAL,
        ),
        (
            "unmap: all, but a range",
            3,
            dma_unmap(24, 2, 0, 0x1000),
            0,
            EINVAL,
        ),
        ("unmap: empty", 3, dma_unmap(24, 0, 0x8000_0000, 0), 0, EINVAL),
        ("unmap: empty at 0", 3, dma_unmap(24, 0, 0, 0), 0, EINVAL),
        ("unmap: wraps", 3, dma_unmap(24, 0, u64::MAX, 2), 0, EINVAL),
        (
            "unmap: cuts the front off",
            3,
            dma_unmap(24, 0, 0x8000_0000, 0x1000),
            0,
            EINVAL,
        ),
        (
            "unmap: cuts the end off",
            3,
            dma_unmap(24, 0, 0x8000_3000, 0x1_0000),
            0,
            EINVAL,
        ),
        // Information.
        ("info: no payload", 4, vec![], 0, EINVAL),
        ("info: 15 bytes", 4, vec![255; 15], 0, EINVAL),
        ("info: argsz 15", 4, words(&[15, 0, 0, 0]), 0, EINVAL),
        ("region info: no payload", 5, vec![], 0, EINVAL),
        (
            "region info: 31 bytes",
            5,
            region_info(32, 0)[..31].to_vec(),
            0,
            EINVAL,
        ),
        ("region info: argsz 31", 5, region_info(31, 0), 0, EINVAL),
        ("region info: region 9", 5, region_info(32, 9), 0, EINVAL),
        (
            "region info: region 2^32 - 1",
            5,
            region_info(32, u32::MAX),
            0,
            EINVAL,
        ),
        ("io fds: 15 bytes", 6, vec![0; 15], 0, EINVAL),
        ("io fds: argsz 0", 6, words(&[0, 0, 0, 0]), 0, EINVAL),
        ("io fds: flags", 6, words(&[16, 1, 0, 0]), 0, EINVAL),
        ("io fds: count", 6, words(&[16, 0, 0, 1]), 0, EINVAL),
        ("io fds: region 9", 6, words(&[16, 0, 9, 0]), 0, EINVAL),
        ("irq info: no payload", 7, vec![], 0, EINVAL),
        ("irq info: argsz 0", 7, words(&[0, 0, 0, 0]), 0, EINVAL),
        ("irq info: index 5", 7, words(&[16, 0, 5, 0]), 0, EINVAL),
        (
            "irq info: index 2^32 - 1",
            7,
            words(&[16, 0, u32::MAX, 0]),
            0,
            EINVAL,
        ),
        // SET_IRQS.
        ("irqs: no payload", 8, vec![], 0, EINVAL),
        ("irqs: 19 bytes", 8, vec![0; 19], 0, EINVAL),
        ("irqs: argsz 0", 8, set_irqs(0, 0x21, 0, 0, 0, &[]), 0, EINVAL),
        ("irqs: no flags", 8, set_irqs(20, 0, 2, 0, 1, &[]), 0, EINVAL),
        (
            "irqs: data without action",
            8,
            set_irqs(20, 0x01, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: action without data",
            8,
            set_irqs(20, 0x20, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: two kinds of data",
            8,
            set_irqs(21, 0x23, 2, 0, 1, &[1]),
            0,
            EINVAL,
        ),
        (
            "irqs: two actions",
            8,
            set_irqs(20, 0x31, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: unknown flag",
            8,
            set_irqs(20, 0x61, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        ("irqs: index 5", 8, set_irqs(20, 0x21, 5, 0, 1, &[]), 0, EINVAL),
        (
            "irqs: start past the end",
            8,
            set_irqs(20, 0x24, 2, 64, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: start and count wrap",
            8,
            set_irqs(20, 0x24, 2, u32::MAX, 2, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 2^32 - 1",
            8,
            set_irqs(20, 0x24, 2, 0, u32::MAX, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: bytes missing",
            8,
            set_irqs(20, 0x22, 2, 0, 1, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: bytes missing for 2^32 - 1",
            8,
            set_irqs(20, 0x22, 2, 0, u32::MAX, &[1; 64]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 0 with eventfds",
            8,
            set_irqs(20, 0x24, 2, 0, 0, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: count 0 with mask",
            8,
            set_irqs(20, 0x09, 0, 0, 0, &[]),
            0,
            EINVAL,
        ),
        (
            "irqs: more descriptors than vectors",
            8,
            set_irqs(20, 0x24, 2, 0, 1, &[]),
            2,
            EINVAL,
        ),
        (
            "irqs: not an eventfd",
            8,
            set_irqs(20, 0x24, 2, 0, 1, &[]),
            1,
            EINVAL,
        ),
        (
            "irqs: 200 descriptors",
            8,
            set_irqs(20, 0x24, 2, 0, 200, &[]),
            200,
            EINVAL,
        ),
        (
            "irqs: MSI-X can't be masked",
            8,
            set_irqs(20, 0x09, 2, 0, 1, &[]),
            0,
            ENOTTY,
        ),
        // Reads and writes.
        ("read: no payload", 9, vec![], 0, EINVAL),
        ("read: 15 bytes", 9, vec![0; 15], 0, EINVAL),
        ("read: with data", 9, access(0, 0, 4, &[1, 2, 3, 4]), 0, EINVAL),
        ("read: region 9", 9, access(0, 9, 4, &[]), 0, EINVAL),
        ("read: region 2^32 - 1", 9, access(0, u32::MAX, 4, &[]), 0, EINVAL),
        ("read: past the end", 9, access(size, 0, 1, &[]), 0, EINVAL),
        ("read: over the end", 9, access(size - 2, 0, 4, &[]), 0, EINVAL),
        (
            "read: offset wraps",
            9,
            access(u64::MAX - 1, 0, 4, &[]),
            0,
            EINVAL,
        ),
        (
            "read: past configuration space",
            9,
            access(4094, CONFIG, 4, &[]),
            0,
            EINVAL,
        ),
        ("read: 1 GiB", 9, access(0, 0, 1 << 30, &[]), 0, EINVAL),
        ("read: 2^32 - 1", 9, access(0, 0, u32::MAX, &[]), 0, EINVAL),
        (
            "read: one more than the limit",
            9,
            access(0, 0, MIB + 1, &[]),
            0,
            EINVAL,
        ),
        ("read: a region that is empty", 9, access(0, 5, 4, &[]), 0, EINVAL),
        ("write: no payload", 10, vec![], 0, EINVAL),
        ("write: 15 bytes", 10, vec![0; 15], 0, EINVAL),
        (
            "write: fewer bytes than count",
            10,
            access(0, 0, 8, &[1; 4]),
            0,
            EINVAL,
        ),
        (
            "write: more bytes than count",
            10,
            access(0, 0, 4, &[1; 8]),
            0,
            EINVAL,
        ),
        (
            "write: no bytes, count 2^32 - 1",
            10,
            access(0, 0, u32::MAX, &[]),
            0,
            EINVAL,
        ),
        ("write: region 9", 10, access(0, 9, 4, &[1; 4]), 0, EINVAL),
        (
            "write: over the end",
            10,
            access(size - 2, 0, 4, &[1; 4]),
            0,
            EINVAL,
        ),
        (
            "write: offset wraps",
            10,
            access(u64::MAX, 0, 4, &[1; 4]),
            0,
            EINVAL,
        ),
        ("multi: no payload", 15, vec![], 0, EINVAL),
        ("multi: 7 bytes", 15, vec![0; 7], 0, EINVAL),
        (
            "multi: more writes than bytes",
            15,
            multi(2, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        (
            "multi: fewer writes than bytes",
            15,
            multi(0, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        ("multi: 2^64 - 1 writes", 15, multi(u64::MAX, &[]), 0, EINVAL),
        (
            "multi: the product wraps to the right length",
            15,
            multi((1 << 61) + 1, &[(0, 0, 4)]),
            0,
            EINVAL,
        ),
        (
            "multi: 9 bytes in one",
            15,
            multi(2, &[(0, 0, 4), (8, 0, 9)]),
            0,
            EINVAL,
        ),
        (
            "multi: the first out of range",
            15,
            multi(1, &[(size, 0, 4)]),
            0,
            EINVAL,
        ),
        ("reset: with a payload", 13, vec![0; 4], 0, EINVAL),
    ];
    // DEVICE_FEATURE: Linux's answers.
    cases.extend([
        ("feature: no payload", 16, vec![], 0, EINVAL),
        ("feature: 7 bytes", 16, vec![0; 7], 0, EINVAL),
        ("feature: argsz 0", 16, feature(0, 10 | 1 << 18, &[]), 0, EINVAL),
        ("feature: no method", 16, feature(12, 10, &[]), 0, EINVAL),
        (
            "feature: get and set",
            16,
            feature(12, 10 | 3 << 16, &[0; 4]),
            0,
            EINVAL,
        ),
        (
            "feature: unknown method",
            16,
            feature(12, 10 | 1 << 19, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: get what can only be set",
            16,
            feature(12, 10 | 1 << 16, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: probe get of that",
            16,
            feature(12, 10 | 5 << 16, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: set what can only be got",
            16,
            feature(24, 0xff00 | 1 << 17, &[0; 16]),
            0,
            EINVAL,
        ),
        (
            "feature: bus master without data",
            16,
            feature(8, 10 | 1 << 17, &[]),
            0,
            EINVAL,
        ),
        (
            "feature: bus master 2",
            16,
            feature(12, 10 | 1 << 17, &2_u32.to_ne_bytes()),
            0,
            EINVAL,
        ),
    ]);
    for number in [0, 1, 2, 4, 6, 7, 8, 9, 11, 12, 0xffff] {
        cases.push((
            "feature: one that isn't there",
            16,
            feature(64, number | 1 << 18, &[]),
            0,
            ENOTTY,
        ));
    }
    cases
}
