//! What a client leaves behind when it goes.

use uvfio_proto::message::Command;

use super::dma::{becomes_free, map, map_file, memory};
use super::regions::{line, writable, write};
use super::steps;
use crate::case::{Case, Rule, Stop, fail, hold};
use crate::payload::{info, message};

const SECTION: Rule = Rule::Spec("Client Disconnection");

pub(super) const CASES: &[Case] = &[
    steps(
        "disconnect.lets_go",
        "a file mapped, then the end of the connection",
        SECTION,
        "nothing maps the file for writing any more",
        |bench| {
            let mut session = bench.session()?;
            let file = memory(0x1_0000)?;
            map_file(&mut session, &file)?;
            drop(session);
            let free = becomes_free(&file, bench.patience().connection)?;
            hold(free, || "the file is still mapped".into())
        },
    ),
    steps(
        "disconnect.unmapped",
        "a range mapped, the end of the connection, and the same from a new client",
        SECTION,
        "the range is free again",
        |bench| {
            for _ in 0..2 {
                map(&mut bench.session()?, 0x10_0000, 0x1_0000)?;
            }
            Ok(())
        },
    ),
    steps(
        "disconnect.state",
        "Interrupt Line written, the end of the connection, and a new client",
        SECTION,
        "the device's state is as it was",
        |bench| {
            write(&mut writable(bench)?, 0x6b)?;
            match line(&mut bench.session()?)? {
            0x6b => Ok(()),
            0 | 0xff => Err(Stop::Deviation(
                "the device was reset: the next client may be somebody else, who must not see what the last one left".into(),
            )),
            other => fail(format!("Interrupt Line was 0x6b and reads {other:#x}")),
        }
        },
    ),
    steps(
        "disconnect.unread",
        "100 commands, and the end before a reply is read",
        SECTION,
        "the next client is served",
        |bench| {
            let session = bench.session()?;
            let all: Vec<u8> = (0..100)
                .flat_map(|id| message(id, Command::GetInfo as u16, 0, &info(16)))
                .collect();
            session.link.send(&all, &[])?;
            drop(session);
            bench.survives()
        },
    ),
    steps(
        "disconnect.often",
        "20 clients that agree on a version and go",
        SECTION,
        "each is served",
        |bench| {
            for _ in 0..20 {
                bench.survives()?;
            }
            Ok(())
        },
    ),
];
