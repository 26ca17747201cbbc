//! DMA_MAP and DMA_UNMAP. Whether the server lets go of memory shows in the kernel: a file that is mapped for writing
//! can't be sealed against writing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uvfio_proto::message::Command;

use super::{WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, Stop, fail, hold};
use crate::payload::{bytes_of, dma_map, dma_map_as, dma_unmap};
use crate::session::Session;

const MAP: Rule = Rule::Spec("VFIO_USER_DMA_MAP");
const UNMAP: Rule = Rule::Spec("VFIO_USER_DMA_UNMAP");
const RANGE: Rule = Rule::Ours("a range that is none can't be checked against");
const EEXIST: u32 = 17;

/// Where cases map; low enough for any device.
const IOVA: u64 = 0x10_0000;
const SIZE: u64 = 0x1_0000;

const TYPE1V2: &str = "it followed Linux's type1v2: every mapping wholly inside the range goes, and none is no error. \
     QEMU with an IOMMU in the guest sends such ranges";

pub(super) const CASES: &[Case] = &[
    steps(
        "dma.file",
        "64 KiB of a file mapped, and unmapped",
        UNMAP,
        "a reply without payload, then one that repeats the request's 24 bytes",
        |bench| {
            let mut session = bench.session()?;
            let file = memory(SIZE)?;
            session.done_with(Command::DmaMap, &dma_map(0, IOVA, SIZE), &[file.as_fd()], 0)?;
            unmap(&mut session, IOVA, SIZE)
        },
    ),
    steps(
        "dma.message",
        "64 KiB mapped without descriptor, and unmapped",
        UNMAP,
        "a reply without payload, then one that repeats the request's 24 bytes",
        |bench| {
            let mut session = bench.session()?;
            map(&mut session, IOVA, SIZE)?;
            unmap(&mut session, IOVA, SIZE)
        },
    ),
    steps(
        "dma.again",
        "mapped, unmapped, mapped at the same address",
        UNMAP,
        "all succeed",
        |bench| {
            let mut session = bench.session()?;
            for _ in 0..2 {
                map(&mut session, IOVA, SIZE)?;
                unmap(&mut session, IOVA, SIZE)?;
            }
            Ok(())
        },
    ),
    steps(
        "dma.neighbours",
        "mappings that touch on both sides",
        MAP,
        "all succeed",
        |bench| {
            let mut session = bench.session()?;
            for at in [IOVA, IOVA - SIZE, IOVA + SIZE] {
                map(&mut session, at, SIZE)?;
            }
            Ok(())
        },
    ),
    steps(
        "dma.read_only",
        "a mapping that can only be read, of a file that can't be written",
        MAP,
        "it succeeds",
        |bench| {
            let mut session = bench.session()?;
            let file = memory(SIZE)?;
            fcntl_add_seals(&file, SealFlags::WRITE).map_err(io::Error::from)?;
            session.done_with(
                Command::DmaMap,
                &dma_map_as(32, 1, 0, IOVA, SIZE),
                &[file.as_fd()],
                0,
            )?;
            unmap(&mut session, IOVA, SIZE)
        },
    ),
    steps(
        "dma.last_page",
        "the last page of the address space",
        Rule::Ours(
            "its end, 2^64, is a number that fits nowhere; QEMU with an IOMMU in the guest goes up to it",
        ),
        "it succeeds",
        |bench| {
            let mut session = bench.session()?;
            map(&mut session, 0_u64.wrapping_sub(0x1000), 0x1000)?;
            unmap(&mut session, 0_u64.wrapping_sub(0x1000), 0x1000)
        },
    ),
    steps(
        "dma.same",
        "a mapping over the same range",
        MAP,
        "EEXIST; the first mapping stays",
        |bench| overlap(bench, IOVA, SIZE),
    ),
    steps(
        "dma.over_end",
        "a mapping over another's end",
        MAP,
        "EEXIST; the first mapping stays",
        |bench| overlap(bench, IOVA + SIZE - 0x1000, SIZE),
    ),
    steps(
        "dma.over_start",
        "a mapping over another's start",
        MAP,
        "EEXIST; the first mapping stays",
        |bench| overlap(bench, IOVA - 0x1000, 0x2000),
    ),
    steps(
        "dma.around",
        "a mapping around another",
        MAP,
        "EEXIST; the first mapping stays",
        |bench| overlap(bench, IOVA - SIZE, 3 * SIZE),
    ),
    steps(
        "dma.inside",
        "a mapping inside another",
        MAP,
        "EEXIST; the first mapping stays",
        |bench| overlap(bench, IOVA + 0x1000, 0x1000),
    ),
    steps(
        "dma.many",
        "256 mappings at once, then 256 unmappings",
        Rule::Spec("Command Concurrency"),
        "each is answered, in order",
        many,
    ),
    refused(
        "dma.map_empty",
        "a mapping of no bytes",
        RANGE,
        Command::DmaMap,
        |_| Some(dma_map(0, IOVA, 0)),
    ),
    refused(
        "dma.map_wraps",
        "a mapping past 2^64",
        RANGE,
        Command::DmaMap,
        |_| Some(dma_map(0, u64::MAX - 0xfff, 0x2000)),
    ),
    refused(
        "dma.map_flags",
        "bit 31 of the flags",
        WHOLE,
        Command::DmaMap,
        |_| Some(dma_map_as(32, 3 | 1 << 31, 0, IOVA, SIZE)),
    ),
    refused("dma.map_argsz", "argsz 0", WHOLE, Command::DmaMap, |_| {
        Some(dma_map_as(0, 3, 0, IOVA, SIZE))
    }),
    refused(
        "dma.map_short",
        "31 bytes of payload",
        WHOLE,
        Command::DmaMap,
        |_| Some(dma_map(0, IOVA, SIZE).into_iter().take(31).collect()),
    ),
    refused("dma.map_none", "no payload", WHOLE, Command::DmaMap, |_| {
        Some(vec![])
    }),
    steps(
        "dma.two_files",
        "a mapping with two descriptors",
        MAP,
        "an error reply; the session goes on",
        |bench| refused_with_files(bench, &dma_map(0, IOVA, SIZE), 2),
    ),
    steps(
        "dma.offset_wraps",
        "an offset of 2^64 - 4096 in the file",
        RANGE,
        "an error reply; the session goes on",
        |bench| refused_with_files(bench, &dma_map(u64::MAX - 0xfff, IOVA, 0x2000), 1),
    ),
    steps(
        "dma.past_file",
        "64 KiB of a file of 4 KiB",
        Rule::Ours("a server that touches what is not there dies of it"),
        "an answer; the session goes on",
        |bench| {
            let file = memory(0x1000)?;
            odd_file(bench, &file)
        },
    ),
    steps(
        "dma.no_memory",
        "a device file that can't be mapped",
        Rule::Ours("a user may send any descriptor"),
        "an answer; the session goes on",
        |bench| {
            let null = rustix::fs::open(
                "/dev/null",
                OFlags::RDWR | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            );
            odd_file(bench, &null.map_err(io::Error::from)?)
        },
    ),
    steps(
        "dma.odd_range",
        "a mapping that is not made of pages",
        Rule::Spec("VFIO_USER_VERSION"),
        "an answer; the session goes on",
        |bench| {
            let mut session = bench.session()?;
            session.ask(Command::DmaMap, &dma_map(0, IOVA + 1, 0x1001))?;
            session.check_alive()
        },
    ),
    steps(
        "dma.unmap_nothing",
        "an unmapping where nothing is mapped",
        UNMAP,
        "an error reply",
        |bench| {
            let mut session = bench.session()?;
            let reply = session.ask(Command::DmaUnmap, &dma_unmap(IOVA, SIZE))?;
            session.check_alive()?;
            match reply.errno {
                Some(_) => Ok(()),
                None => Err(Stop::Deviation(TYPE1V2.into())),
            }
        },
    ),
    steps(
        "dma.unmap_two",
        "an unmapping of two mappings at once",
        UNMAP,
        "an error reply that leaves both",
        |bench| {
            let mut session = bench.session()?;
            map(&mut session, IOVA, SIZE)?;
            map(&mut session, IOVA + SIZE, SIZE)?;
            let refused = session
                .ask(Command::DmaUnmap, &dma_unmap(IOVA, 2 * SIZE))?
                .errno
                .is_some();
            let mut still = [false; 2];
            for (at, still) in [IOVA, IOVA + SIZE].into_iter().zip(&mut still) {
                *still = session
                    .ask(Command::DmaMap, &dma_map(0, at, SIZE))?
                    .errno
                    .is_some();
            }
            match (refused, still) {
                (true, [true, true]) => Ok(()),
                (false, [false, false]) => Err(Stop::Deviation(TYPE1V2.into())),
                (refused, still) => fail(format!("refused: {refused}; mapped afterwards: {still:?}")),
            }
        },
    ),
    steps(
        "dma.unmap_front",
        "an unmapping of a mapping's first half",
        UNMAP,
        "an error reply that leaves the mapping",
        |bench| part(bench, IOVA, SIZE / 2),
    ),
    steps(
        "dma.unmap_end",
        "an unmapping of a mapping's second half",
        UNMAP,
        "an error reply that leaves the mapping",
        |bench| part(bench, IOVA + SIZE / 2, SIZE / 2),
    ),
    steps(
        "dma.unmap_over",
        "an unmapping over a mapping's end",
        UNMAP,
        "an error reply that leaves the mapping",
        |bench| part(bench, IOVA + SIZE / 2, SIZE),
    ),
    steps(
        "dma.unmap_lets_go",
        "a file mapped and unmapped, then sealed against writing",
        UNMAP,
        "nothing maps it for writing once the reply is there",
        |bench| {
            let mut session = bench.session()?;
            let file = memory(SIZE)?;
            session.done_with(Command::DmaMap, &dma_map(0, IOVA, SIZE), &[file.as_fd()], 0)?;
            unmap(&mut session, IOVA, SIZE)?;
            hold(is_free(&file)?, || "the file is still mapped".into())
        },
    ),
    refused(
        "dma.unmap_wraps",
        "an unmapping past 2^64",
        RANGE,
        Command::DmaUnmap,
        |_| Some(dma_unmap(u64::MAX - 0xfff, 0x2000)),
    ),
    refused("dma.unmap_none", "no payload", WHOLE, Command::DmaUnmap, |_| {
        Some(vec![])
    }),
    refused(
        "dma.unmap_byte",
        "1 byte of payload",
        WHOLE,
        Command::DmaUnmap,
        |_| Some(vec![24]),
    ),
    refused(
        "dma.unmap_short",
        "23 bytes of payload",
        WHOLE,
        Command::DmaUnmap,
        |_| Some(dma_unmap(IOVA, SIZE).into_iter().take(23).collect()),
    ),
    steps(
        "dma.unmap_bitmap",
        "the flag for a bitmap of dirty pages, without what follows it",
        Rule::Ours("one server reads past the message there"),
        "an answer; the session goes on",
        |bench| {
            let mut session = bench.session()?;
            map(&mut session, IOVA, SIZE)?;
            let request = uvfio_proto::message::DmaUnmap {
                argsz: 24,
                flags: 1,
                iova: IOVA,
                bytes: SIZE,
            };
            session.ask(Command::DmaUnmap, &bytes_of(&request))?;
            session.check_alive()
        },
    ),
];

/// A file of shared memory.
pub(crate) fn memory(bytes: u64) -> Step<OwnedFd> {
    let memory =
        memfd_create("memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(io::Error::from)?;
    ftruncate(&memory, bytes).map_err(io::Error::from)?;
    Ok(memory)
}

pub(super) fn map(session: &mut Session, iova: u64, bytes: u64) -> Step {
    session.done_with(Command::DmaMap, &dma_map(0, iova, bytes), &[], 0)?;
    Ok(())
}

fn unmap(session: &mut Session, iova: u64, bytes: u64) -> Step {
    let request = dma_unmap(iova, bytes);
    let reply = session.done_with(Command::DmaUnmap, &request, &[], request.len())?;
    hold(reply.payload == request, || {
        format!("the reply does not repeat the request: {:x?}", reply.payload)
    })
}

/// Maps a file and says whether the server may have mapped it.
pub(super) fn map_file(session: &mut Session, file: &OwnedFd) -> Step {
    session.done_with(Command::DmaMap, &dma_map(0, IOVA, SIZE), &[file.as_fd()], 0)?;
    Ok(())
}

/// Whether nobody maps the file for writing. The file can't be written any more afterwards.
pub(super) fn is_free(file: &OwnedFd) -> Step<bool> {
    match fcntl_add_seals(file, SealFlags::WRITE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// The same, within a time.
pub(super) fn becomes_free(file: &OwnedFd, within: Duration) -> Step<bool> {
    let late = Instant::now() + within;
    while !is_free(file)? {
        if Instant::now() >= late {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

fn overlap(bench: &Bench<'_>, iova: u64, bytes: u64) -> Step {
    let mut session = bench.session()?;
    map(&mut session, IOVA, SIZE)?;
    let errno = session.refused(Command::DmaMap, &dma_map(0, iova, bytes))?;
    hold(errno == EEXIST, || format!("error {errno}; EEXIST is {EEXIST}"))?;
    unmap(&mut session, IOVA, SIZE)
}

/// An unmapping that would cut a mapping changes nothing.
fn part(bench: &Bench<'_>, iova: u64, bytes: u64) -> Step {
    let mut session = bench.session()?;
    map(&mut session, IOVA, SIZE)?;
    session.refused(Command::DmaUnmap, &dma_unmap(iova, bytes))?;
    session.refused(Command::DmaMap, &dma_map(0, IOVA, SIZE))?;
    unmap(&mut session, IOVA, SIZE)
}

/// A mapping with so many descriptors of a file of [`SIZE`] bytes is refused.
fn refused_with_files(bench: &Bench<'_>, request: &[u8], files: usize) -> Step {
    let mut session = bench.session()?;
    let file = memory(SIZE)?;
    let reply = session.ask_number(Command::DmaMap as u16, request, &vec![file.as_fd(); files])?;
    hold(reply.errno.is_some(), || "it succeeded".into())?;
    session.check_alive()
}

fn odd_file(bench: &Bench<'_>, file: &OwnedFd) -> Step {
    let mut session = bench.session()?;
    session.ask_number(Command::DmaMap as u16, &dma_map(0, IOVA, SIZE), &[file.as_fd()])?;
    session.check_alive()?;
    drop(session);
    bench.survives()
}

fn many(bench: &Bench<'_>) -> Step {
    let count = bench.facts()?.max_maps.min(256) as u16;
    let mut session = bench.session()?;
    for (command, payload) in [
        (Command::DmaMap, dma_map as fn(u64, u64, u64) -> Vec<u8>),
        (Command::DmaUnmap, |_, iova, bytes| dma_unmap(iova, bytes)),
    ] {
        let all: Vec<u8> = (0..count)
            .flat_map(|id| {
                let payload = payload(0, IOVA + u64::from(id) * 0x1000, 0x1000);
                crate::payload::message(id, command as u16, 0, &payload)
            })
            .collect();
        session.link.send(&all, &[])?;
        for id in 0..count {
            let reply = session.reply_to(id, command as u16)?;
            hold(reply.errno.is_none(), || {
                format!("{} {id} was refused with error {:?}", command.name(), reply.errno)
            })?;
        }
    }
    Ok(())
}
