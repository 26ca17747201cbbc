//! Commands are carried out and answered in their order.

use uvfio_proto::message::Command;

use super::regions::{line, writable, write};
use super::steps;
use crate::case::{Case, Rule, hold};
use crate::facts::{CONFIG, INTERRUPT_LINE};
use crate::payload::{access, indexed, info, message, region_info};

const SECTION: Rule = Rule::Spec("Command Concurrency");

pub(super) const CASES: &[Case] = &[
    steps(
        "order.pipelined",
        "200 commands of four kinds before the first reply is read",
        SECTION,
        "200 replies in the commands' order",
        |bench| {
            let mut session = bench.session()?;
            let kinds = [
                (Command::GetInfo, info(16)),
                (Command::GetRegionInfo, region_info(32, CONFIG)),
                (Command::GetIrqInfo, indexed(16, 0, 0, 0)),
                (Command::RegionRead, access(CONFIG, 0, 4, &[])),
            ];
            let commands: Vec<_> = (0..200_u16).zip(kinds.iter().cycle()).collect();
            let all: Vec<u8> = commands
                .iter()
                .flat_map(|(id, (command, payload))| message(*id, *command as u16, 0, payload))
                .collect();
            session.link.send(&all, &[])?;
            for (id, (command, _)) in commands {
                session.reply_to(id, *command as u16)?;
            }
            session.check_alive()
        },
    ),
    steps(
        "order.posted",
        "a write that wants no reply, then a read of the same register",
        SECTION,
        "the value written",
        |bench| {
            let mut session = writable(bench)?;
            for value in [0x0f, 0xf0, 0x33] {
                session.post(
                    Command::RegionWrite as u16,
                    &access(CONFIG, INTERRUPT_LINE, 1, &[value]),
                )?;
                let got = line(&mut session)?;
                hold(got == value, || format!("wrote {value:#x}, read {got:#x}"))?;
            }
            Ok(())
        },
    ),
    steps(
        "order.posted_many",
        "100 writes that want no reply, then a read",
        SECTION,
        "the last value written",
        |bench| {
            let mut session = writable(bench)?;
            write(&mut session, 0xff)?;
            for value in 0..100 {
                session.post(
                    Command::RegionWrite as u16,
                    &access(CONFIG, INTERRUPT_LINE, 1, &[value]),
                )?;
            }
            let got = line(&mut session)?;
            hold(got == 99, || format!("the last was 0x63, read {got:#x}"))
        },
    ),
    steps(
        "order.refused_between",
        "good and bad commands by turns, all at once",
        SECTION,
        "a good reply and an error by turns",
        |bench| {
            let mut session = bench.session()?;
            let all: Vec<u8> = (0..20)
                .flat_map(|id| {
                    let payload = if id % 2 == 0 { info(16) } else { vec![0; 3] };
                    message(id, Command::GetInfo as u16, 0, &payload)
                })
                .collect();
            session.link.send(&all, &[])?;
            for id in 0..20 {
                let reply = session.reply_to(id, Command::GetInfo as u16)?;
                hold(reply.errno.is_some() == (id % 2 == 1), || {
                    format!("command {id}: {reply:?}")
                })?;
            }
            Ok(())
        },
    ),
];
