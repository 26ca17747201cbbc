//! Headers: ids, types, flags, commands that are none.

use uvfio_proto::message::{Command, Header, HeaderFlags, Kind};
use zerocopy::IntoBytes;

use super::steps;
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::facts::{CONFIG, INTERRUPT_LINE};
use crate::payload::{access, info, message, words};
use crate::wire::Heard;

const SECTION: Rule = Rule::Spec("Header");
const COMMANDS: Rule = Rule::Spec("Commands");
const REFUSED: &str = "an error reply that is a header only; the session goes on";

pub(super) const CASES: &[Case] = &[
    steps(
        "header.ids",
        "the ids 0, 1, 0x8000 and 0xffff",
        SECTION,
        "each reply has its command's id",
        |bench| {
            let mut session = bench.session()?;
            for id in [0, 1, 0x8000, 0xffff] {
                session
                    .link
                    .send(&message(id, Command::GetInfo as u16, 0, &info(16)), &[])?;
                session.reply_to(id, Command::GetInfo as u16)?;
            }
            Ok(())
        },
    ),
    steps(
        "header.same_id",
        "three commands with one id at once",
        SECTION,
        "three replies with that id, in order",
        |bench| {
            let mut session = bench.session()?;
            let all = [
                message(7, Command::GetInfo as u16, 0, &info(16)),
                message(7, Command::GetIrqInfo as u16, 0, &words(&[16, 0, 0, 0])),
                message(7, Command::GetInfo as u16, 0, &info(16)),
            ];
            session.link.send(&all.concat(), &[])?;
            for command in [Command::GetInfo, Command::GetIrqInfo, Command::GetInfo] {
                session.reply_to(7, command as u16)?;
            }
            session.check_alive()
        },
    ),
    steps(
        "header.unknown_command",
        "the commands 0, 14, 19 and 65535, without payload",
        COMMANDS,
        REFUSED,
        |bench| unknown(bench, &[]),
    ),
    steps(
        "header.unknown_payload",
        "the commands 0, 14, 19 and 65535 with 1000 bytes of payload",
        COMMANDS,
        REFUSED,
        |bench| unknown(bench, &[0xa5; 1000]),
    ),
    steps(
        "header.wrong_way",
        "DMA_READ and DMA_WRITE, which only servers send",
        COMMANDS,
        REFUSED,
        |bench| {
            let mut session = bench.session()?;
            for command in [Command::DmaRead, Command::DmaWrite] {
                session.refused(command, &[0; 16])?;
                session.check_alive()?;
            }
            Ok(())
        },
    ),
    steps(
        "header.no_reply",
        "DEVICE_GET_INFO that wants no reply",
        SECTION,
        "none",
        |bench| {
            let mut session = bench.session()?;
            session.post(Command::GetInfo as u16, &info(16))?;
            session.check_alive()
        },
    ),
    steps(
        "header.no_reply_refused",
        "commands that fail and want no reply",
        SECTION,
        "none; the session goes on",
        |bench| {
            let mut session = bench.session()?;
            for (command, payload) in [
                (99, vec![0; 8]),
                (Command::GetInfo as u16, vec![]),
                (Command::GetIrqInfo as u16, words(&[16, 0, u32::MAX, 0])),
                (Command::RegionRead as u16, access(u32::MAX, 0, 4, &[])),
                (Command::DmaMap as u16, vec![0; 31]),
            ] {
                session.post(command, &payload)?;
                session.check_alive()?;
            }
            Ok(())
        },
    ),
    steps(
        "header.error_in_command",
        "a command whose error field, which is reserved, is not 0",
        Rule::Ours("reserved is ignored, so that it can get a meaning"),
        "it is served",
        |bench| {
            let mut session = bench.session()?;
            let header = Header {
                id: 3,
                command: Command::GetInfo as u16,
                bytes: 32,
                flags: 0,
                errno: 0xffff_ffff,
            };
            session.link.send(&[header.as_bytes(), &info(16)].concat(), &[])?;
            let reply = session.reply_to(3, Command::GetInfo as u16)?;
            hold(reply.errno.is_none(), || {
                format!("it was refused with error {:?}", reply.errno)
            })
        },
    ),
    steps(
        "header.reply_unasked",
        "a reply-typed write to Interrupt Line, which answers nothing",
        SECTION,
        "it is not carried out",
        |bench| not_carried_out(bench, Kind::REPLY),
    ),
    steps(
        "header.error_unasked",
        "a reply with the error bit to nothing",
        SECTION,
        "it is not carried out",
        |bench| not_carried_out(bench, Kind::REPLY | HeaderFlags::ERROR.bits()),
    ),
    steps(
        "header.type_2",
        "a message of type 2, which is neither command nor reply",
        SECTION,
        "it is not carried out",
        |bench| not_carried_out(bench, 2),
    ),
    steps(
        "header.type_15",
        "a message of type 15, which is neither command nor reply",
        SECTION,
        "it is not carried out",
        |bench| not_carried_out(bench, 15),
    ),
];

fn unknown(bench: &Bench<'_>, payload: &[u8]) -> Step {
    let mut session = bench.session()?;
    for command in [0, 14, 19, 0xffff] {
        let reply = session.ask_number(command, payload, &[])?;
        hold(reply.errno.is_some(), || format!("command {command} succeeded"))?;
        session.check_alive()?;
    }
    Ok(())
}

/// A message that looks like a write of Interrupt Line, but is no command: the register keeps its value, whether the
/// connection lives or not.
fn not_carried_out(bench: &Bench<'_>, flags: u32) -> Step {
    if !bench.facts()?.has_config() {
        return not_applicable("configuration space can't be written");
    }
    let mut session = bench.session()?;
    let line = |value: u8| access(CONFIG, INTERRUPT_LINE, 1, &[value]);
    session.done(Command::RegionWrite, &line(0x11), &[])?;
    session
        .link
        .send(&message(9, Command::RegionWrite as u16, flags, &line(0x22)), &[])?;
    let id = session.fresh_id();
    let read = message(
        id,
        Command::RegionRead as u16,
        0,
        &access(CONFIG, INTERRUPT_LINE, 1, &[]),
    );
    // The connection may be closed by now.
    let _ = session.link.send(&read, &[]);
    loop {
        match session.link.receive()? {
            Heard::Closed { .. } => break,
            Heard::Message(got) if got.header.id == id => {
                let value = got.payload.get(16).copied();
                hold(value == Some(0x11), || {
                    format!("Interrupt Line was 0x11 and reads {value:x?} afterwards")
                })?;
                break;
            }
            Heard::Message(got) if got.header.is_error() => {}
            Heard::Message(got) => return fail(format!("it was answered: {got}")),
            other => return fail(other.to_string()),
        }
    }
    drop(session);
    bench.survives()
}
