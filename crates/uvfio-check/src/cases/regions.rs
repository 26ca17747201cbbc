//! REGION_READ, REGION_WRITE, REGION_WRITE_MULTI. What is written is Interrupt Line only: it does nothing.

use uvfio_proto::message::{Command, MultiWrite};

use super::{WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::facts::{CONFIG, Facts, INTERRUPT_LINE};
use crate::payload::{access, multi};
use crate::session::Session;

const READ: Rule = Rule::Spec("VFIO_USER_REGION_READ");
const WRITE: Rule = Rule::Spec("VFIO_USER_REGION_WRITE");
const MULTI: Rule = Rule::Spec("VFIO_USER_REGION_WRITE_MULTI");
const LIMIT: Rule = Rule::Spec("Read and Write Operations");
const OUTSIDE: Rule = Rule::Ours("a region ends where its size says; what lies beyond is not the device's");

pub(super) const CASES: &[Case] = &[
    steps(
        "region_read.config",
        "a read of vendor and device",
        READ,
        "the request's 16 bytes, and 4 of data that no absent device has",
        |bench| {
            let mut session = config_session(bench)?;
            let data = read(&mut session, CONFIG, 0, 4)?;
            hold(data != [0xff; 4] && data != [0; 4], || format!("{data:x?}"))
        },
    ),
    steps(
        "region_read.widths",
        "vendor and device by bytes, words, a dword, and within 64 bytes",
        READ,
        "the same bytes whatever the width",
        |bench| {
            let mut session = config_session(bench)?;
            let whole = read(&mut session, CONFIG, 0, 64)?;
            for width in [1, 2, 4] {
                let mut pieces = Vec::new();
                for at in (0..4).step_by(width) {
                    pieces.extend(read(&mut session, CONFIG, at as u64, width as u32)?);
                }
                hold(whole.get(..4) == Some(&pieces), || {
                    format!("{pieces:x?} by {width}, {:x?} in one", whole.get(..4))
                })?;
            }
            Ok(())
        },
    ),
    steps(
        "region_read.nothing",
        "a read of no bytes",
        READ,
        "an answer; the session goes on",
        |bench| {
            let mut session = config_session(bench)?;
            let reply = session.ask(Command::RegionRead, &access(CONFIG, 0, 0, &[]))?;
            hold(reply.errno.is_some() || reply.payload.len() == 16, || {
                format!("{reply:?}")
            })?;
            session.check_alive()
        },
    ),
    refused(
        "region_read.past_end",
        "a read of a byte after a region's end",
        OUTSIDE,
        Command::RegionRead,
        |facts| Some(access(CONFIG, facts.bytes(CONFIG), 1, &[])),
    ),
    refused(
        "region_read.over_end",
        "a read over a region's end",
        OUTSIDE,
        Command::RegionRead,
        |facts| Some(access(CONFIG, facts.bytes(CONFIG).checked_sub(2)?, 4, &[])),
    ),
    refused(
        "region_read.wraps",
        "a read from offset 2^64 - 4 of 8 bytes",
        OUTSIDE,
        Command::RegionRead,
        |_| Some(access(CONFIG, u64::MAX - 3, 8, &[])),
    ),
    refused(
        "region_read.empty_region",
        "a read of a region of size 0",
        OUTSIDE,
        Command::RegionRead,
        |facts| Some(access(facts.empty_region()?, 0, 4, &[])),
    ),
    refused(
        "region_read.no_region",
        "a read of the region after the last",
        READ,
        Command::RegionRead,
        |facts| Some(access(facts.region_count, 0, 4, &[])),
    ),
    refused(
        "region_read.region_max",
        "a read of region 2^32 - 1",
        READ,
        Command::RegionRead,
        |_| Some(access(u32::MAX, 0, 4, &[])),
    ),
    refused(
        "region_read.too_much",
        "a read of one byte more than max_data_xfer_size",
        LIMIT,
        Command::RegionRead,
        |facts| Some(access(CONFIG, 0, facts.max_data.checked_add(1)?, &[])),
    ),
    refused(
        "region_read.count_max",
        "a read of 2^32 - 1 bytes",
        LIMIT,
        Command::RegionRead,
        |_| Some(access(CONFIG, 0, u32::MAX, &[])),
    ),
    refused(
        "region_read.empty",
        "no payload",
        WHOLE,
        Command::RegionRead,
        |_| Some(vec![]),
    ),
    refused(
        "region_read.short",
        "15 bytes of payload",
        WHOLE,
        Command::RegionRead,
        |_| Some(vec![0; 15]),
    ),
    steps(
        "region_write.reads_back",
        "Interrupt Line written with 0x5a, then 0xa5",
        WRITE,
        "the request's 16 bytes without data; the value reads back",
        |bench| {
            let mut session = writable(bench)?;
            for value in [0x5a, 0xa5] {
                write(&mut session, value)?;
                let got = line(&mut session)?;
                hold(got == value, || format!("wrote {value:#x}, read {got:#x}"))?;
            }
            Ok(())
        },
    ),
    steps(
        "region_write.too_few",
        "count 4 with 1 byte of data",
        WHOLE,
        "an error reply; Interrupt Line is unchanged",
        |bench| unchanged(bench, &access(CONFIG, INTERRUPT_LINE, 4, &[0x77])),
    ),
    steps(
        "region_write.too_many",
        "count 1 with 4 bytes of data",
        WHOLE,
        "an error reply; Interrupt Line is unchanged",
        |bench| unchanged(bench, &access(CONFIG, INTERRUPT_LINE, 1, &[0x77; 4])),
    ),
    refused(
        "region_write.past_end",
        "a write after a region's end",
        OUTSIDE,
        Command::RegionWrite,
        |facts| Some(access(CONFIG, facts.bytes(CONFIG), 1, &[0])),
    ),
    refused(
        "region_write.over_end",
        "a write over a region's end",
        OUTSIDE,
        Command::RegionWrite,
        |facts| Some(access(CONFIG, facts.bytes(CONFIG).checked_sub(2)?, 4, &[0; 4])),
    ),
    refused(
        "region_write.wraps",
        "a write from offset 2^64 - 4 of 8 bytes",
        OUTSIDE,
        Command::RegionWrite,
        |_| Some(access(CONFIG, u64::MAX - 3, 8, &[0; 8])),
    ),
    refused(
        "region_write.no_region",
        "a write of the region after the last",
        WRITE,
        Command::RegionWrite,
        |facts| Some(access(facts.region_count, 0, 4, &[0; 4])),
    ),
    refused(
        "region_write.count_max",
        "count 2^32 - 1 without data",
        LIMIT,
        Command::RegionWrite,
        |_| Some(access(CONFIG, 0, u32::MAX, &[])),
    ),
    refused(
        "region_write.short",
        "15 bytes of payload",
        WHOLE,
        Command::RegionWrite,
        |_| Some(vec![0; 15]),
    ),
    steps(
        "write_multi.in_order",
        "two writes of Interrupt Line in one message",
        MULTI,
        "8 bytes that say 2; the second write stands",
        |bench| {
            offered(bench)?;
            let mut session = writable(bench)?;
            let payload = multi(2, &[one(0x31, 1), one(0x32, 1)]);
            let reply = session.done_with(Command::RegionWriteMulti, &payload, &[], 8)?;
            hold(reply.payload == 2_u64.to_ne_bytes(), || {
                format!("{:x?}", reply.payload)
            })?;
            let got = line(&mut session)?;
            hold(got == 0x32, || format!("Interrupt Line reads {got:#x}"))
        },
    ),
    refused(
        "write_multi.too_few",
        "wr_cnt 2 with one write",
        WHOLE,
        Command::RegionWriteMulti,
        |facts| facts.write_multiple.then(|| multi(2, &[one(0, 1)])),
    ),
    refused(
        "write_multi.count_max",
        "wr_cnt 2^64 - 1 without writes",
        WHOLE,
        Command::RegionWriteMulti,
        |facts| facts.write_multiple.then(|| multi(u64::MAX, &[])),
    ),
    refused(
        "write_multi.wraps",
        "wr_cnt whose product wraps to the length",
        WHOLE,
        Command::RegionWriteMulti,
        |facts| facts.write_multiple.then(|| multi((1 << 61) + 1, &[one(0, 1)])),
    ),
    refused(
        "write_multi.nine_bytes",
        "a single write of 9 bytes",
        MULTI,
        Command::RegionWriteMulti,
        |facts| facts.write_multiple.then(|| multi(1, &[one(0, 9)])),
    ),
    refused(
        "write_multi.short",
        "7 bytes of payload",
        WHOLE,
        Command::RegionWriteMulti,
        |_| Some(vec![0; 7]),
    ),
];

/// A write of Interrupt Line among several.
fn one(value: u8, count: u32) -> MultiWrite {
    MultiWrite {
        offset: INTERRUPT_LINE,
        region: CONFIG,
        count,
        data: [value, 0, 0, 0, 0, 0, 0, 0],
    }
}

fn offered(bench: &Bench<'_>) -> Step {
    if bench.facts()?.write_multiple {
        Ok(())
    } else {
        not_applicable("the server did not offer write_multiple")
    }
}

fn config_session(bench: &Bench<'_>) -> Step<Session> {
    if bench.facts()?.bytes(CONFIG) < 64 {
        return not_applicable("there is no configuration space");
    }
    bench.session()
}

/// A session in which Interrupt Line can be written.
pub(super) fn writable(bench: &Bench<'_>) -> Step<Session> {
    if !Facts::has_config(bench.facts()?) {
        return not_applicable("configuration space can't be written");
    }
    bench.session()
}

pub(super) fn read(session: &mut Session, region: u32, offset: u64, count: u32) -> Step<Vec<u8>> {
    let request = access(region, offset, count, &[]);
    let reply = session.done_with(Command::RegionRead, &request, &[], request.len() + count as usize)?;
    hold(reply.fds.is_empty(), || {
        format!("{} descriptors came", reply.fds.len())
    })?;
    match reply.payload.split_at_checked(request.len()) {
        Some((head, data)) if head == request => Ok(data.to_vec()),
        _ => fail(format!(
            "the reply does not repeat the request: {:x?}",
            reply.payload
        )),
    }
}

/// Writes Interrupt Line.
pub(super) fn write(session: &mut Session, value: u8) -> Step {
    let request = access(CONFIG, INTERRUPT_LINE, 1, &[value]);
    let head = access(CONFIG, INTERRUPT_LINE, 1, &[]);
    let reply = session.done_with(Command::RegionWrite, &request, &[], head.len())?;
    hold(reply.payload == head, || {
        format!("the reply does not repeat the request: {:x?}", reply.payload)
    })
}

/// Interrupt Line.
pub(super) fn line(session: &mut Session) -> Step<u8> {
    Ok(read(session, CONFIG, INTERRUPT_LINE, 1)?
        .first()
        .copied()
        .unwrap_or_default())
}

fn unchanged(bench: &Bench<'_>, payload: &[u8]) -> Step {
    let mut session = writable(bench)?;
    write(&mut session, 0x42)?;
    session.refused(Command::RegionWrite, payload)?;
    let got = line(&mut session)?;
    hold(got == 0x42, || {
        format!("Interrupt Line was 0x42 and reads {got:#x}")
    })
}
