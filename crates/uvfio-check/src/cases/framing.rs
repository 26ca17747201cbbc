//! A stream has no borders: messages come in pieces, many at once, cut off, or with a length that is a lie.

use std::time::Duration;

use uvfio_proto::message::Command;

use super::steps;
use crate::case::{Bench, Case, Rule, Step, fail, hold};
use crate::payload::{access, header, info, message};
use crate::wire::Heard;

const SECTION: Rule = Rule::Spec("Header");
const STREAM: Rule = Rule::Ours("a stream socket may split and join messages anywhere");
const LIE: Rule = Rule::Ours("a length that can't be true must neither be waited for nor allocated");
const CUT: Rule = Rule::Spec("Client Disconnection");
const ENDS: &str = "an error reply or the end of the connection; the next client is served";
const NEXT: &str = "the next client is served";

pub(super) const CASES: &[Case] = &[
    steps(
        "framing.bytewise",
        "DEVICE_GET_INFO, a byte a send",
        STREAM,
        "one good reply",
        |bench| in_pieces(bench, |bytes| bytes.chunks(1).collect()),
    ),
    steps(
        "framing.header_split",
        "a header in two sends",
        STREAM,
        "one good reply",
        |bench| {
            in_pieces(bench, |bytes| {
                [bytes.get(..7), bytes.get(7..)].into_iter().flatten().collect()
            })
        },
    ),
    steps(
        "framing.payload_split",
        "header, then payload",
        STREAM,
        "one good reply",
        |bench| in_pieces(bench, |bytes| bytes.chunks(16).collect()),
    ),
    steps(
        "framing.joined",
        "64 commands in one send",
        STREAM,
        "64 good replies in order",
        |bench| {
            let mut session = bench.session()?;
            let all: Vec<u8> = (0..64)
                .flat_map(|id| message(id, Command::GetInfo as u16, 0, &info(16)))
                .collect();
            session.link.send(&all, &[])?;
            for id in 0..64 {
                let reply = session.reply_to(id, Command::GetInfo as u16)?;
                hold(reply.errno.is_none(), || format!("command {id} was refused"))?;
            }
            Ok(())
        },
    ),
    steps(
        "framing.size_0",
        "a header that says 0 bytes",
        SECTION,
        ENDS,
        |bench| lie(bench, 0),
    ),
    steps(
        "framing.size_15",
        "a header that says 15 bytes, one less than itself",
        SECTION,
        ENDS,
        |bench| lie(bench, 15),
    ),
    steps(
        "framing.size_max",
        "a header that says 2^32 - 1 bytes",
        LIE,
        ENDS,
        |bench| lie(bench, u32::MAX),
    ),
    steps(
        "framing.size_2g",
        "a header that says 2 GiB",
        LIE,
        ENDS,
        |bench| lie(bench, 1 << 31),
    ),
    steps("framing.noise", "16 bytes of HTTP", LIE, ENDS, |bench| {
        let mut session = bench.session()?;
        session.link.send(b"GET / HTTP/1.1\r\n", &[])?;
        ends(&session.link.receive()?)?;
        drop(session);
        bench.survives()
    }),
    steps(
        "framing.cut_header",
        "7 bytes of a header, then the end",
        CUT,
        NEXT,
        |bench| {
            cut(
                bench,
                message(1, Command::GetInfo as u16, 0, &info(16))
                    .get(..7)
                    .unwrap_or_default(),
            )
        },
    ),
    steps(
        "framing.cut_payload",
        "a header and half of its payload, then the end",
        CUT,
        NEXT,
        |bench| {
            cut(
                bench,
                message(1, Command::GetInfo as u16, 0, &info(16))
                    .get(..24)
                    .unwrap_or_default(),
            )
        },
    ),
    steps(
        "framing.cut_first",
        "the end before VERSION",
        CUT,
        NEXT,
        |bench| {
            drop(bench.link()?);
            bench.survives()
        },
    ),
    steps(
        "framing.cut_version",
        "half of VERSION, then the end",
        CUT,
        NEXT,
        |bench| {
            let link = bench.link()?;
            link.send(&header(1, Command::Version as u16, 200, 0), &[])?;
            drop(link);
            bench.survives()
        },
    ),
    steps(
        "framing.longest",
        "a write of max_data_xfer_size to a region that is shorter",
        Rule::Spec("Message sizes"),
        "the message is taken, and refused; the session goes on",
        |bench| {
            let facts = bench.facts()?;
            let Some(region) = facts
                .regions
                .iter()
                .position(|info| info.bytes < u64::from(facts.max_data))
                .filter(|_| facts.max_data <= 64 << 20)
            else {
                return crate::case::not_applicable("every region is longer");
            };
            let mut session = bench.session()?;
            let data = vec![0; facts.max_data as usize];
            let payload = access(region as u32, 0, facts.max_data, &data);
            session.refused(Command::RegionWrite, &payload)?;
            session.check_alive()
        },
    ),
];

/// DEVICE_GET_INFO, sent in pieces, is answered as it should be.
fn in_pieces(bench: &Bench<'_>, cut: impl Fn(&[u8]) -> Vec<&[u8]>) -> Step {
    let mut session = bench.session()?;
    for piece in cut(&message(5, Command::GetInfo as u16, 0, &info(16))) {
        session.link.send(piece, &[])?;
        // Lets the server see the piece alone; whether it does, the result must be the same.
        std::thread::sleep(Duration::from_millis(3));
    }
    let reply = session.reply_to(5, Command::GetInfo as u16)?;
    hold(reply.errno.is_none() && reply.payload.len() == 16, || {
        format!("{reply:?}")
    })?;
    session.check_alive()
}

fn lie(bench: &Bench<'_>, bytes: u32) -> Step {
    let mut session = bench.session()?;
    session
        .link
        .send(&header(5, Command::RegionWrite as u16, bytes, 0), &[])?;
    ends(&session.link.receive()?)?;
    drop(session);
    bench.survives()
}

/// An error reply or the end.
fn ends(heard: &Heard) -> Step {
    match heard {
        Heard::Closed { .. } => Ok(()),
        Heard::Message(got) if got.header.is_error() => Ok(()),
        Heard::Silence { .. } => fail("the server waits for bytes that nobody announced in earnest"),
        other => fail(other.to_string()),
    }
}

fn cut(bench: &Bench<'_>, bytes: &[u8]) -> Step {
    let session = bench.session()?;
    session.link.send(bytes, &[])?;
    drop(session);
    bench.survives()
}
