//! DMA_READ and DMA_WRITE: what a server asks of its client when its device reaches for memory without a descriptor.
//! The other half, a client that answers badly, is in `answers`.

mod answers;

use uvfio_proto::message::Command;

use super::steps;
use crate::case::{Bench, Case, Rule, Step, fail, hold};
use crate::engine::{Asked, BUFFER_BYTES, Driven, Way, file_of};
use crate::payload::access;

const READ: Rule = Rule::Spec("VFIO_USER_DMA_READ");
const WRITE: Rule = Rule::Spec("VFIO_USER_DMA_WRITE");
const MAP: Rule = Rule::Spec("VFIO_USER_DMA_MAP");
const UNMAP: Rule = Rule::Spec("VFIO_USER_DMA_UNMAP");
const DATA: Rule = Rule::Spec("VFIO_USER_VERSION");
const MASTER: Rule = Rule::Ours(
    "a function without Bus Master Enable reaches no memory (PCI 3.0, 6.2.2), which is how a guest stops it",
);
const AFTER_RESET: Rule = Rule::Ours(
    "a function that was reset does nothing of what it was told before; its driver has used the memory again",
);

/// Where cases map, low enough for the 28 bits of edu's addresses, and how much.
const IOVA: u64 = 0x10_0000;
const SIZE: u64 = 0x1_0000;
const PAGE: u64 = 0x1000;

/// A client that takes 1 KiB in a message, so that a transfer of the whole buffer takes several.
const SMALL: u64 = 1024;
const SMALL_JSON: &str = "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1024}}";

pub(super) use answers::ANSWERS;

/// What is asked for, and what is not.
pub(super) const ASKED: &[Case] = &[
    steps(
        "by_message.read",
        "the device told to read 300 bytes of memory without a descriptor",
        READ,
        "DMA_READ of these bytes and no others, each once",
        |bench| {
            let (mut driven, mut memory) = mapped(bench)?;
            let all = driven.transfer(bench, (Way::In, IOVA + 20, 300), IOVA, &mut memory)?;
            exactly(&all, Way::In, IOVA + 20, 300)
        },
    ),
    steps(
        "by_message.write",
        "the device told to read 300 bytes, and to write them elsewhere",
        WRITE,
        "DMA_WRITE of these bytes and no others, with the data that were read",
        |bench| {
            let (mut driven, mut memory) = mapped(bench)?;
            driven.transfer(bench, (Way::In, IOVA + 20, 300), IOVA, &mut memory)?;
            let before = memory.clone();
            let all = driven.transfer(bench, (Way::Out, IOVA + 5000, 300), IOVA, &mut memory)?;
            exactly(&all, Way::Out, IOVA + 5000, 300)?;
            let mut expected = before.clone();
            copy(&mut expected, 5000, before.get(20..320).unwrap_or_default());
            hold(memory == expected, || {
                "other data were written, or elsewhere".into()
            })
        },
    ),
    steps(
        "by_message.most_read",
        "max_data_xfer_size 1024, and the device told to read 4096 bytes",
        DATA,
        "DMA_READ of at most 1024 bytes each, which together are these 4096",
        |bench| most(bench, Way::In),
    ),
    steps(
        "by_message.most_write",
        "max_data_xfer_size 1024, and the device told to write 4096 bytes",
        DATA,
        "DMA_WRITE of at most 1024 bytes each, which together are these 4096",
        |bench| most(bench, Way::Out),
    ),
    steps(
        "by_message.neighbours",
        "a transfer over the border of two mappings",
        READ,
        "DMA_READ of these bytes and no others, each once",
        |bench| {
            let mut driven = Driven::open(bench)?;
            driven.map(IOVA, PAGE)?;
            driven.map(IOVA + PAGE, PAGE)?;
            let mut memory = pattern();
            let at = IOVA + PAGE - 100;
            let all = driven.transfer(bench, (Way::In, at, 300), IOVA, &mut memory)?;
            exactly(&all, Way::In, at, 300)
        },
    ),
    steps(
        "by_message.file_beside",
        "a transfer over the border of a mapping with a descriptor and one without",
        MAP,
        "the device has the bytes of both",
        file_beside,
    ),
    steps(
        "by_message.unmapped",
        "the device told to read and to write where nothing is mapped",
        MAP,
        "nothing is asked for; the transfer ends",
        |bench| both_ways(bench, IOVA + SIZE + PAGE, nothing),
    ),
    steps(
        "by_message.past_end",
        "the device told to read, and to write, over a mapping's end",
        MAP,
        "nothing is asked for beyond the end",
        |bench| both_ways(bench, IOVA + SIZE - 64, |all| inside(all, IOVA, SIZE)),
    ),
    steps(
        "by_message.before_start",
        "the device told to read, and to write, over a mapping's beginning",
        MAP,
        "nothing is asked for before the beginning",
        |bench| both_ways(bench, IOVA - 64, |all| inside(all, IOVA, SIZE)),
    ),
    steps(
        "by_message.read_only",
        "the device told to write a mapping that can only be read",
        MAP,
        "no DMA_WRITE; a DMA_READ of it still comes",
        |bench| permitted(bench, 1, Way::In),
    ),
    steps(
        "by_message.write_only",
        "the device told to read a mapping that can only be written",
        MAP,
        "no DMA_READ; a DMA_WRITE of it still comes",
        |bench| permitted(bench, 2, Way::Out),
    ),
];

/// What ends it.
pub(super) const STOPPED: &[Case] = &[
    steps(
        "by_message.after_unmap",
        "the memory unmapped, then the device told to read it",
        UNMAP,
        "nothing is asked for; the transfer ends",
        |bench| {
            let (mut driven, mut memory) = mapped(bench)?;
            driven.unmap(IOVA, SIZE)?;
            nothing(&driven.transfer(bench, (Way::In, IOVA, 64), IOVA, &mut memory)?)
        },
    ),
    steps(
        "by_message.unmap_under_way",
        "the memory unmapped while a transfer of several messages is under way",
        UNMAP,
        "the unmapping is answered, and nothing of the transfer comes after its answer",
        |bench| {
            let (mut driven, first) = under_way(bench)?;
            driven.unmap(IOVA, SIZE)?;
            halted(bench, &mut driven, &first, "the unmapping's answer")
        },
    ),
    steps(
        "by_message.unmap_other",
        "other memory unmapped while a transfer of several messages is under way",
        UNMAP,
        "the transfer goes on to its end",
        |bench| {
            let mut driven = Driven::open_with(bench, SMALL_JSON)?;
            driven.map(IOVA, SIZE)?;
            driven.map(IOVA + SIZE, SIZE)?;
            driven.start(Way::In, IOVA, BUFFER_BYTES)?;
            let first = driven.asked()?;
            driven.unmap(IOVA + SIZE, SIZE)?;
            let memory = pattern();
            driven.send(&first, &first.reply(part(&memory, &first)))?;
            let rest = driven.until_done(bench, |asked| Some(asked.reply(part(&memory, asked))))?;
            exactly(&[vec![first], rest].concat(), Way::In, IOVA, BUFFER_BYTES)
        },
    ),
    steps(
        "by_message.master_off",
        "Bus Master Enable cleared, then the device told to read and to write",
        MASTER,
        "nothing is asked for",
        |bench| {
            let (mut driven, _) = mapped(bench)?;
            driven.master(false)?;
            for way in [Way::In, Way::Out] {
                driven.start(way, IOVA, 64)?;
                driven.quiet("the end of bus mastering")?;
            }
            Ok(())
        },
    ),
    steps(
        "by_message.master_off_under_way",
        "Bus Master Enable cleared while a transfer of several messages is under way",
        MASTER,
        "nothing of the transfer comes after the answer",
        |bench| {
            let (mut driven, first) = under_way(bench)?;
            driven.master(false)?;
            drop_kept(&mut driven);
            driven.send(&first, &first.reply(part(&pattern(), &first)))?;
            driven.quiet("the end of bus mastering")
        },
    ),
    steps(
        "by_message.reset_under_way",
        "DEVICE_RESET while a transfer of several messages is under way",
        AFTER_RESET,
        "the reset is answered, and nothing of the transfer comes after its answer",
        |bench| {
            let (mut driven, first) = under_way(bench)?;
            driven.session.done_with(Command::Reset, &[], &[], 0)?;
            halted(bench, &mut driven, &first, "the reset's answer")
        },
    ),
    steps(
        "by_message.after_reset",
        "DEVICE_RESET, then the device told to read",
        Rule::Ours("Linux's VFIO keeps mappings over a reset: clients map once, at their start"),
        "DMA_READ of these bytes",
        |bench| {
            let (mut driven, mut memory) = mapped(bench)?;
            driven.session.done_with(Command::Reset, &[], &[], 0)?;
            driven.master(true)?;
            let all = driven.transfer(bench, (Way::In, IOVA, 64), IOVA, &mut memory)?;
            exactly(&all, Way::In, IOVA, 64)
        },
    ),
];

/// Memory of [`SIZE`] bytes of which no two pieces are alike.
fn pattern() -> Vec<u8> {
    (0..SIZE as u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect()
}

/// A device, and what it reaches by message at [`IOVA`].
fn mapped(bench: &Bench<'_>) -> Step<(Driven, Vec<u8>)> {
    let mut driven = Driven::open(bench)?;
    driven.map(IOVA, SIZE)?;
    Ok((driven, pattern()))
}

/// A device that reads, by the first of several messages, which is not answered yet.
fn under_way(bench: &Bench<'_>) -> Step<(Driven, Asked)> {
    let mut driven = Driven::open_with(bench, SMALL_JSON)?;
    driven.map(IOVA, SIZE)?;
    driven.start(Way::In, IOVA, BUFFER_BYTES)?;
    let first = driven.asked()?;
    hold(first.count <= SMALL, || {
        format!("{} bytes at once are more than max_data_xfer_size", first.count)
    })?;
    Ok((driven, first))
}

/// What came before `what` may have come; nothing comes after it, even when the first command is answered then.
fn halted(bench: &Bench<'_>, driven: &mut Driven, first: &Asked, what: &str) -> Step {
    drop_kept(driven);
    driven.send(first, &first.reply(part(&pattern(), first)))?;
    driven.quiet(what)?;
    nothing(&driven.until_done(bench, |_| None)?)
}

/// Looks away from what has come by now.
fn drop_kept(driven: &mut Driven) {
    while driven.session.kept_command().is_some() {}
}

/// What a read asks for.
fn part<'a>(memory: &'a [u8], asked: &Asked) -> &'a [u8] {
    let start = asked.iova.wrapping_sub(IOVA) as usize;
    memory
        .get(start..start.saturating_add(asked.count as usize))
        .unwrap_or_default()
}

fn copy(memory: &mut [u8], at: usize, data: &[u8]) {
    if let Some(place) = memory.get_mut(at..at + data.len()) {
        place.copy_from_slice(data);
    }
}

/// These bytes are asked for, each once, and no others.
fn exactly(all: &[Asked], way: Way, iova: u64, count: u64) -> Step {
    let wrong = || {
        let seen: Vec<_> = all
            .iter()
            .map(|asked| format!("{:?} {:#x}+{:#x}", asked.way, asked.iova, asked.count))
            .collect();
        format!("for {count:#x} bytes at {iova:#x} came: {}", seen.join(", "))
    };
    let mut ranges: Vec<_> = all.iter().map(|asked| (asked.iova, asked.end())).collect();
    ranges.sort_unstable();
    let mut at = u128::from(iova);
    for (first, end) in ranges {
        hold(u128::from(first) == at, wrong)?;
        at = end;
    }
    let whole = at == u128::from(iova) + u128::from(count);
    hold(whole && all.iter().all(|asked| asked.way == way), wrong)
}

fn nothing(all: &[Asked]) -> Step {
    match all.first() {
        None => Ok(()),
        Some(asked) => fail(format!(
            "{} of {:#x} bytes at {:#x} came",
            if asked.way == Way::In {
                "DMA_READ"
            } else {
                "DMA_WRITE"
            },
            asked.count,
            asked.iova
        )),
    }
}

fn inside(all: &[Asked], iova: u64, bytes: u64) -> Step {
    let end = u128::from(iova) + u128::from(bytes);
    let outside = |asked: &&Asked| asked.iova < iova || asked.end() > end;
    nothing(&all.iter().filter(outside).cloned().collect::<Vec<_>>())
}

/// 128 bytes are read, and written; `right` looks at what is asked for.
fn both_ways(bench: &Bench<'_>, at: u64, right: impl Fn(&[Asked]) -> Step) -> Step {
    let (mut driven, mut memory) = mapped(bench)?;
    for way in [Way::In, Way::Out] {
        right(&driven.transfer(bench, (way, at, 128), IOVA, &mut memory)?)?;
    }
    driven.session.check_alive()
}

/// The whole buffer, by a client that takes less.
fn most(bench: &Bench<'_>, way: Way) -> Step {
    let mut driven = Driven::open_with(bench, SMALL_JSON)?;
    driven.map(IOVA, SIZE)?;
    let mut memory = pattern();
    let all = driven.transfer(bench, (way, IOVA + 8, BUFFER_BYTES), IOVA, &mut memory)?;
    if let Some(long) = all.iter().find(|asked| asked.count > SMALL) {
        return fail(format!("{} bytes at once", long.count));
    }
    exactly(&all, way, IOVA + 8, BUFFER_BYTES)
}

/// Of a mapping that can be accessed one way only, the other is not asked for.
fn permitted(bench: &Bench<'_>, flags: u32, way: Way) -> Step {
    let mut driven = Driven::open(bench)?;
    driven.map_as(flags, IOVA, SIZE, None)?;
    let mut memory = pattern();
    let other = if way == Way::In { Way::Out } else { Way::In };
    nothing(&driven.transfer(bench, (other, IOVA, 64), IOVA, &mut memory)?)?;
    exactly(
        &driven.transfer(bench, (way, IOVA, 64), IOVA, &mut memory)?,
        way,
        IOVA,
        64,
    )
}

/// What the device reads is judged by what it writes afterwards, by message.
fn file_beside(bench: &Bench<'_>) -> Step {
    let mut driven = Driven::open(bench)?;
    let mut memory = pattern();
    let file = file_of(memory.get(..PAGE as usize).unwrap_or_default())?;
    driven.map_as(3, IOVA, PAGE, Some(&file))?;
    driven.map(IOVA + PAGE, SIZE - PAGE)?;
    // What the file has can be had by message as well: so says the specification.
    driven.transfer(bench, (Way::In, IOVA + PAGE - 100, 300), IOVA, &mut memory)?;
    let there = IOVA + 2 * PAGE;
    driven.transfer(bench, (Way::Out, there, 300), IOVA, &mut memory)?;
    let fresh = pattern();
    let start = (PAGE - 100) as usize;
    let (expected, got) = (
        fresh.get(start..start + 300),
        memory.get(2 * PAGE as usize..2 * PAGE as usize + 300),
    );
    hold(expected == got, || "the device has other bytes".into())
}

/// Registers are read, memory is mapped, and so on, though a command waits for its answer.
fn everything_else(driven: &mut Driven) -> Step {
    driven.session.check_alive()?;
    driven
        .session
        .done(Command::RegionRead, &access(0, 0, 4, &[]), &[])?;
    driven.map(IOVA + SIZE, PAGE)?;
    driven.unmap(IOVA + SIZE, PAGE)
}
