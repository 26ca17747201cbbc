//! A client that refuses, answers late, twice, something else or never: none of it may harm the server, or bring
//! bytes into the device that are no answer.

use uvfio_proto::message::{Command, Kind};

use super::super::steps;
use super::{
    AFTER_RESET, BUFFER_BYTES, IOVA, PAGE, SIZE, SMALL_JSON, WRITE, copy, drop_kept, everything_else,
    exactly, mapped, part, pattern, under_way,
};
use crate::case::{Bench, Case, Rule, Step, Stop, fail, hold};
use crate::engine::{Asked, Driven, Way};
use crate::payload::{message, refusal};

const REFUSALS: Rule = Rule::Ours("QEMU refuses while its guest has bus mastering off, and outside of RAM");
const CLIENTS: Rule = Rule::Ours("a client's answers are a user's bytes; the server outlives any of them");
const NOT_DATA: Rule = Rule::Ours("what is no answer to the command has no bytes for the device");
const NO_WAIT: Rule =
    Rule::Ours("QEMU holds its lock while it waits for a reply, and answers nothing meanwhile");

const SURVIVES: &str = "the session goes on or ends; a new client is served";

/// ENODEV, as QEMU refuses.
const ENODEV: u32 = 19;

pub(in super::super) const ANSWERS: &[Case] = &[
    steps(
        "by_message.pieces",
        "an answer to DMA_READ, a byte a send",
        Rule::Spec("Header"),
        "the device has the bytes",
        |bench| {
            let (mut driven, first) = one(bench, Way::In)?;
            for byte in first.reply(part(&pattern(), &first)) {
                driven.session.link.send(&[byte], &[])?;
            }
            driven.until_done(bench, |_| None)?;
            buffer_is(bench, &mut driven, &memory_64())
        },
    ),
    steps(
        "by_message.refused",
        "DMA_READ refused with ENODEV",
        REFUSALS,
        "the transfer ends, the session goes on, and the next transfer works",
        |bench| refused(bench, Way::In),
    ),
    steps(
        "by_message.refused_write",
        "DMA_WRITE refused with ENODEV",
        REFUSALS,
        "the transfer ends, the session goes on, and the next transfer works",
        |bench| refused(bench, Way::Out),
    ),
    steps(
        "by_message.count_of_4",
        "an answer to DMA_WRITE whose count has 4 bytes",
        WRITE,
        "it is taken, as the text's table has it (clients send 8)",
        |bench| {
            let mut driven = Driven::open_with(bench, SMALL_JSON)?;
            driven.map(IOVA, SIZE)?;
            driven.start(Way::Out, IOVA, BUFFER_BYTES)?;
            let all = driven.until_done(bench, |asked| {
                let fixed = asked.fixed();
                let short = fixed.get(..12).unwrap_or_default();
                Some(message(asked.id, asked.command(), Kind::REPLY, short))
            })?;
            exactly(&all, Way::Out, IOVA, BUFFER_BYTES)
        },
    ),
    steps(
        "by_message.no_wait",
        "a DMA_READ that is not answered, and meanwhile other commands",
        NO_WAIT,
        "each is answered; so is DEVICE_RESET",
        |bench| {
            let (mut driven, _) = under_way(bench)?;
            everything_else(&mut driven)?;
            driven.session.done_with(Command::Reset, &[], &[], 0)?;
            driven.session.check_alive()
        },
    ),
    steps(
        "by_message.id_of_unanswered",
        "a DMA_READ that is not answered, DEVICE_RESET, and the next DMA_READ",
        Rule::Ours("with the same id the late answer to the first could not be told from the second's"),
        "it has another id",
        |bench| {
            let (mut driven, first) = under_way(bench)?;
            driven.session.done_with(Command::Reset, &[], &[], 0)?;
            let next = again(&mut driven)?;
            hold(next.id != first.id, || format!("both have id {}", first.id))
        },
    ),
    steps(
        "by_message.late",
        "an answer after DEVICE_RESET, while the next DMA_READ waits for its own",
        AFTER_RESET,
        "the session goes on; the device has the bytes of the second answer",
        |bench| {
            let (mut driven, first) = under_way(bench)?;
            driven.session.done_with(Command::Reset, &[], &[], 0)?;
            let next = again(&mut driven)?;
            driven.send(&first, &first.reply(&vec![0xee; first.count as usize]))?;
            driven.session.check_alive()?;
            driven.send(&next, &next.reply(part(&pattern(), &next)))?;
            driven.until_done(bench, |_| None)?;
            buffer_is(bench, &mut driven, &memory_64())
        },
    ),
    steps(
        "by_message.unknown_id",
        "an answer with an id that no command has, then the right one",
        CLIENTS,
        SURVIVES,
        |bench| {
            wrong(bench, 0, |asked, data| {
                let payload = [asked.fixed(), data].concat();
                let stray = message(asked.id ^ 0x5555, asked.command(), Kind::REPLY, &payload);
                [stray, right(asked)].concat()
            })
        },
    ),
    steps(
        "by_message.other_command",
        "an answer to DMA_READ that says DMA_WRITE, then the right one",
        CLIENTS,
        SURVIVES,
        |bench| {
            wrong(bench, 0, |asked, data| {
                let payload = [asked.fixed(), data].concat();
                let stray = message(asked.id, Command::DmaWrite as u16, Kind::REPLY, &payload);
                [stray, right(asked)].concat()
            })
        },
    ),
    steps(
        "by_message.twice",
        "two answers to one DMA_READ",
        CLIENTS,
        "the device has the first; the session goes on or ends; a new client is served",
        |bench| wrong(bench, 0, |asked, _| right(asked).repeat(2)),
    ),
    steps(
        "by_message.short",
        "an answer with 8 bytes where 64 were asked for",
        NOT_DATA,
        "the device has no other bytes than before, or these 8",
        |bench| {
            wrong(bench, 8, |asked, data| {
                asked.reply(data.get(..8).unwrap_or_default())
            })
        },
    ),
    steps(
        "by_message.header_only",
        "an answer without payload",
        NOT_DATA,
        "the device has the bytes that it had",
        |bench| {
            wrong(bench, 0, |asked, _| {
                message(asked.id, asked.command(), Kind::REPLY, &[])
            })
        },
    ),
    steps(
        "by_message.long",
        "an answer with 128 bytes where 64 were asked for",
        NOT_DATA,
        "nothing but these 64 changes in the device",
        |bench| {
            wrong(bench, 64, |asked, data| {
                asked.reply(&[data.clone(), data].concat())
            })
        },
    ),
    steps(
        "by_message.other_address",
        "an answer that names another address",
        NOT_DATA,
        "the device has the bytes that it had",
        |bench| {
            wrong(bench, 0, |asked, data| {
                let mut other = asked.clone();
                other.iova ^= PAGE;
                other.reply(&data)
            })
        },
    ),
    steps(
        "by_message.left",
        "the end of the connection while a DMA_READ is not answered",
        CLIENTS,
        "a new client is served, and its device reads",
        |bench| {
            let (driven, _) = under_way(bench)?;
            drop(driven);
            let (mut driven, mut memory) = mapped(bench)?;
            let all = driven.transfer(bench, (Way::In, IOVA, 64), IOVA, &mut memory)?;
            exactly(&all, Way::In, IOVA, 64)
        },
    ),
];

/// A transfer of 64 bytes that waits for its one answer.
fn one(bench: &Bench<'_>, way: Way) -> Step<(Driven, Asked)> {
    let (mut driven, _) = mapped(bench)?;
    driven.start(way, IOVA, 64)?;
    let asked = driven.asked()?;
    exactly(std::slice::from_ref(&asked), way, IOVA, 64)?;
    Ok((driven, asked))
}

/// What memory has at [`IOVA`].
fn memory_64() -> Vec<u8> {
    pattern().into_iter().take(64).collect()
}

/// The next transfer, after a reset.
fn again(driven: &mut Driven) -> Step<Asked> {
    drop_kept(driven);
    driven.master(true)?;
    driven.start(Way::In, IOVA, 64)?;
    driven.asked()
}

fn refused(bench: &Bench<'_>, way: Way) -> Step {
    let (mut driven, asked) = one(bench, way)?;
    driven.send(&asked, &refusal(asked.id, asked.command(), ENODEV))?;
    // It may be tried again, and is refused again.
    driven.until_done(bench, |asked| Some(refusal(asked.id, asked.command(), ENODEV)))?;
    driven.session.check_alive()?;
    let mut memory = pattern();
    let all = driven.transfer(bench, (Way::In, IOVA, 64), IOVA, &mut memory)?;
    exactly(&all, Way::In, IOVA, 64)?;
    buffer_is(bench, &mut driven, &memory_64())
}

/// The device's buffer begins with these bytes, as it writes them.
fn buffer_is(bench: &Bench<'_>, driven: &mut Driven, expected: &[u8]) -> Step {
    let got = buffer(bench, driven, expected.len() as u64)?;
    hold(got == expected, || "the device has other bytes".into())
}

/// What the device's buffer begins with.
fn buffer(bench: &Bench<'_>, driven: &mut Driven, count: u64) -> Step<Vec<u8>> {
    let mut memory = vec![0; SIZE as usize];
    driven.transfer(bench, (Way::Out, IOVA, count), IOVA, &mut memory)?;
    memory.truncate(count as usize);
    Ok(memory)
}

/// The right answer to a DMA_READ.
fn right(asked: &Asked) -> Vec<u8> {
    asked.reply(part(&pattern(), asked))
}

/// Answers a DMA_READ of 64 bytes wrongly; `answer` is given 64 bytes that are no memory. The device then has the bytes
/// of before, or those of memory, or of the 64 as many as it `may` have; past 64 it has those of before.
fn wrong(bench: &Bench<'_>, may: usize, answer: impl Fn(&Asked, Vec<u8>) -> Vec<u8>) -> Step {
    let (mut driven, mut memory) = mapped(bench)?;
    driven.transfer(bench, (Way::In, IOVA + PAGE, 128), IOVA, &mut memory)?;
    driven.start(Way::In, IOVA, 64)?;
    let asked = driven.asked()?;
    exactly(std::slice::from_ref(&asked), Way::In, IOVA, 64)?;
    let lies = vec![0xee; 64];
    driven.send(&asked, &answer(&asked, lies))?;
    match look(bench, &mut driven) {
        Ok(got) => judge(&got, may)?,
        // It may end the session of a client that breaks the protocol: that harms nobody else.
        Err(Stop::Fail(got)) if got.contains("was closed") || got.contains("the socket failed") => {}
        Err(other) => return Err(other),
    }
    drop(driven);
    bench.survives()
}

/// What the device has once the transfer is over. A command that still waits is refused, as its answer was none.
fn look(bench: &Bench<'_>, driven: &mut Driven) -> Step<Vec<u8>> {
    driven.session.check_alive()?;
    driven.until_done(bench, |asked| Some(refusal(asked.id, asked.command(), ENODEV)))?;
    buffer(bench, driven, 128)
}

fn judge(got: &[u8], may: usize) -> Step {
    let memory = pattern();
    let before = memory
        .get(PAGE as usize..PAGE as usize + 128)
        .unwrap_or_default()
        .to_vec();
    let mut right = before.clone();
    copy(&mut right, 0, memory.get(..64).unwrap_or_default());
    let mut partly = before.clone();
    let taken = got.iter().take(may).take_while(|byte| **byte == 0xee).count();
    copy(&mut partly, 0, &vec![0xee; taken]);
    if [&before, &right, &partly].contains(&&got.to_vec()) {
        Ok(())
    } else {
        fail("the device has bytes that nobody sent it for this place")
    }
}
