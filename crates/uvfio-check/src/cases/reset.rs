//! DEVICE_RESET, DEVICE_FEATURE, and what little can be asked of migration.

use std::time::{Duration, Instant};

use uvfio_proto::message::Command;

use super::dma::map;
use super::regions::read;
use super::{WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, Stop, fail, hold, not_applicable};
use crate::facts::{CONFIG, Facts};
use crate::payload::{dma_map, feature, words};
use crate::session::Session;

const RESET: Rule = Rule::Spec("VFIO_USER_DEVICE_RESET");
const FEATURE: Rule = Rule::Spec("VFIO_USER_DEVICE_FEATURE");
const PROBE: u32 = 1 << 18;

/// How long a device may be in its reset after the reply: the kernel waits this long for a function.
const RESET_TIME: Duration = Duration::from_secs(65);

pub(super) const CASES: &[Case] = &[
    steps(
        "reset.replies",
        "DEVICE_RESET",
        RESET,
        "a reply without payload, and the device is there",
        |bench| {
            let mut session = resettable(bench)?;
            let before = read(&mut session, CONFIG, 0, 4)?;
            session.done_with(Command::Reset, &[], &[], 0)?;
            let begin = Instant::now();
            if read(&mut session, CONFIG, 0, 4)? == before {
                return Ok(());
            }
            while begin.elapsed() < RESET_TIME {
                std::thread::sleep(Duration::from_millis(50));
                if read(&mut session, CONFIG, 0, 4)? == before {
                    return Err(Stop::Deviation(
                    "the reply came before the reset was done: clients give up after 5 s, a reset may take 65".into(),
                ));
                }
            }
            fail("the device has not come back")
        },
    ),
    steps(
        "reset.in_time",
        "DEVICE_RESET",
        Rule::Ours("QEMU gives a request up after 5 s, and the stream with it"),
        "a reply within 5 s",
        |bench| {
            let mut session = resettable(bench)?;
            let begin = Instant::now();
            session.done_with(Command::Reset, &[], &[], 0)?;
            let took = begin.elapsed();
            hold(took < Duration::from_secs(5), || format!("it took {took:?}"))
        },
    ),
    steps(
        "reset.keeps_mappings",
        "a mapping, then DEVICE_RESET",
        Rule::Ours("Linux's VFIO keeps them: clients map once, at their start"),
        "the mapping is still there",
        |bench| {
            let mut session = resettable(bench)?;
            map(&mut session, 0x10_0000, 0x1000)?;
            session.done_with(Command::Reset, &[], &[], 0)?;
            session.refused(Command::DmaMap, &dma_map(0, 0x10_0000, 0x1000))?;
            Ok(())
        },
    ),
    steps(
        "reset.repeated",
        "ten times DEVICE_RESET",
        RESET,
        "ten replies",
        |bench| {
            let mut session = resettable(bench)?;
            for _ in 0..10 {
                session.done_with(Command::Reset, &[], &[], 0)?;
            }
            session.check_alive()
        },
    ),
    steps(
        "reset.payload",
        "DEVICE_RESET with 4 bytes of payload",
        WHOLE,
        "an error reply; the session goes on",
        |bench| {
            let mut session = resettable(bench)?;
            session.refused(Command::Reset, &[0; 4])?;
            session.check_alive()
        },
    ),
    refused(
        "feature.unknown",
        "feature 65535",
        FEATURE,
        Command::Feature,
        |_| Some(feature(8, 0xffff | PROBE, &[])),
    ),
    refused(
        "feature.no_method",
        "neither GET, SET nor PROBE",
        FEATURE,
        Command::Feature,
        |_| Some(feature(8, 1, &[])),
    ),
    refused(
        "feature.get_and_set",
        "GET and SET at once",
        FEATURE,
        Command::Feature,
        |_| Some(feature(16, 1 | 3 << 16, &[0; 8])),
    ),
    refused(
        "feature.short",
        "7 bytes of payload",
        WHOLE,
        Command::Feature,
        |_| Some(vec![0; 7]),
    ),
    refused("feature.empty", "no payload", WHOLE, Command::Feature, |_| {
        Some(vec![])
    }),
    steps(
        "feature.probe",
        "the features 0 to 31 by PROBE",
        FEATURE,
        "an error, or a reply with argsz of 8 or more and the same feature",
        |bench| {
            let mut session = bench.session()?;
            for number in 0..32 {
                for method in [1 << 16, 1 << 17] {
                    let asked = number | PROBE | method;
                    let reply = session.ask(Command::Feature, &feature(8, asked, &[]))?;
                    if reply.errno.is_some() {
                        continue;
                    }
                    let word = |at: usize| {
                        reply
                            .payload
                            .get(at..at + 4)
                            .and_then(|bytes| bytes.try_into().ok())
                            .map(u32::from_ne_bytes)
                    };
                    let (argsz, flags) = (word(0), word(4));
                    hold(
                        argsz.is_some_and(|argsz| argsz >= 8)
                            && flags.is_some_and(|flags| flags & 0xffff == number),
                        || format!("feature {number}: argsz {argsz:?}, flags {flags:x?}"),
                    )?;
                }
            }
            session.check_alive()
        },
    ),
    steps(
        "migration.running",
        "MIG_DATA_READ of a device that runs",
        Rule::Spec("VFIO_USER_MIG_DATA_READ"),
        "an error reply; the session goes on",
        |bench| {
            let mut session = bench.session()?;
            session.refused(Command::MigrationRead, &words(&[4096, 64]))?;
            session.check_alive()
        },
    ),
    steps(
        "migration.write_running",
        "MIG_DATA_WRITE to a device that runs",
        Rule::Spec("VFIO_USER_MIG_DATA_WRITE"),
        "an error reply; the session goes on",
        |bench| {
            let mut session = bench.session()?;
            session.refused(Command::MigrationWrite, &words(&[12, 4, 0]))?;
            session.check_alive()
        },
    ),
];

fn resettable(bench: &Bench<'_>) -> Step<Session> {
    let facts: &Facts = bench.facts()?;
    if !facts.resettable {
        return not_applicable("the device says that it can't be reset");
    }
    bench.session()
}
