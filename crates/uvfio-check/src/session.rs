//! A connection with a version agreed: commands, and what every reply must keep to.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde_json::{Map, Value};
use uvfio_proto::message::{Command, DeviceInfo, HEADER_BYTES, Header, HeaderFlags, Kind};
use zerocopy::FromBytes;

use crate::case::{Step, fail, hold};
use crate::payload::{info, message, refusal, version_json};
use crate::wire::{Heard, Link, Message};

/// Most commands of the server's that are passed over while a reply is waited for.
const MOST_COMMANDS: usize = 1000;

/// EIO, which answers commands of the server's where a case does not look at them.
const EIO: u32 = 5;

/// The reply to one command.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The error number, where it is an error.
    pub(crate) errno: Option<u32>,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// A connection after VERSION.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    /// The capabilities in the server's reply.
    pub(crate) offer: Map<String, Value>,
    next_id: u16,
    /// Commands of the server's that nobody has looked at yet; none are kept where no case wants them.
    kept: Option<VecDeque<Message>>,
}

impl Session {
    /// Agrees on a version, with this JSON.
    pub(crate) fn open(mut link: Link, json: &str) -> Step<Self> {
        link.send(
            &message(0x5eed, Command::Version as u16, 0, &version_json(json)),
            &[],
        )?;
        let reply = receive_reply(&mut link, 0x5eed, Command::Version as u16)?;
        if let Some(errno) = reply.errno {
            return fail(format!("VERSION 0.1 was refused with error {errno}"));
        }
        let offer = read_version(&reply.payload)?.2;
        Ok(Self {
            link,
            offer: offer.unwrap_or_default(),
            next_id: 0x7ff0,
            kept: None,
        })
    }

    /// Sends a command and receives its reply, which keeps to the rules of headers.
    pub(crate) fn ask(&mut self, command: Command, payload: &[u8]) -> Step<Reply> {
        self.ask_number(command as u16, payload, &[])
    }

    /// The same with descriptors, for any number of a command.
    pub(crate) fn ask_number(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Step<Reply> {
        let id = self.fresh_id();
        self.link.send(&message(id, command, 0, payload), fds)?;
        self.reply_to(id, command)
    }

    /// Sends a command that wants no reply.
    pub(crate) fn post(&mut self, command: u16, payload: &[u8]) -> Step {
        let id = self.fresh_id();
        let no_reply = HeaderFlags::NO_REPLY.bits();
        Ok(self.link.send(&message(id, command, no_reply, payload), &[])?)
    }

    pub(crate) fn fresh_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// A command that must succeed; gives its reply.
    pub(crate) fn done(&mut self, command: Command, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Step<Reply> {
        let reply = self.ask_number(command as u16, payload, fds)?;
        match reply.errno {
            None => Ok(reply),
            Some(errno) => fail(format!("{} was refused with error {errno}", command.name())),
        }
    }

    /// A command that must succeed with exactly this much payload.
    pub(crate) fn done_with(
        &mut self,
        command: Command,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        bytes: usize,
    ) -> Step<Reply> {
        let reply = self.done(command, payload, fds)?;
        hold(reply.payload.len() == bytes, || {
            format!(
                "{}'s reply has {} bytes of payload, not {bytes}",
                command.name(),
                reply.payload.len()
            )
        })?;
        Ok(reply)
    }

    /// A command that must be answered by a structure, which more may follow.
    pub(crate) fn get<T: FromBytes>(&mut self, command: Command, payload: &[u8]) -> Step<T> {
        let reply = self.done(command, payload, &[])?;
        match T::read_from_prefix(&reply.payload) {
            Ok((value, _)) => Ok(value),
            Err(_) => fail(format!(
                "{}'s reply has {} bytes of payload; {} are needed",
                command.name(),
                reply.payload.len(),
                size_of::<T>()
            )),
        }
    }

    /// A command that must be refused; gives the error number.
    pub(crate) fn refused(&mut self, command: Command, payload: &[u8]) -> Step<u32> {
        match self.ask(command, payload)?.errno {
            Some(errno) => Ok(errno),
            None => fail(format!("{} succeeded", command.name())),
        }
    }

    /// The stream is in step and the session goes on: DEVICE_GET_INFO is answered as it should be.
    pub(crate) fn check_alive(&mut self) -> Step {
        let reply = self
            .done_with(Command::GetInfo, &info(16), &[], size_of::<DeviceInfo>())
            .map_err(|stop| match stop {
                crate::case::Stop::Fail(got) => {
                    crate::case::Stop::Fail(format!("DEVICE_GET_INFO afterwards: {got}"))
                }
                other => other,
            })?;
        hold(reply.fds.is_empty(), || {
            format!("DEVICE_GET_INFO came with {} descriptors", reply.fds.len())
        })
    }

    /// The next reply, where it is one to this command.
    pub(crate) fn reply_to(&mut self, id: u16, command: u16) -> Step<Reply> {
        receive_reply_and(&mut self.link, self.kept.as_mut(), id, command)
    }

    /// Keeps the server's commands from now on, instead of refusing them.
    pub(crate) fn keep_commands(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// The first command of the server's among those that were kept.
    pub(crate) fn kept_command(&mut self) -> Option<Message> {
        self.kept.as_mut().and_then(VecDeque::pop_front)
    }

    /// The next command of the server's; waits for it. No reply may be due.
    pub(crate) fn next_command(&mut self) -> Step<Message> {
        if let Some(got) = self.kept_command() {
            return Ok(got);
        }
        match self.link.receive()? {
            Heard::Message(got) if got.header.kind() == Kind::Command => Ok(got),
            other => fail(format!("instead of a command: {other}")),
        }
    }
}

/// Waits for the reply to a command, and holds it to the rules of headers. The server's commands are refused.
pub(crate) fn receive_reply(link: &mut Link, id: u16, command: u16) -> Step<Reply> {
    receive_reply_and(link, None, id, command)
}

/// The same; the server's commands are put where they are kept.
fn receive_reply_and(
    link: &mut Link,
    mut kept: Option<&mut VecDeque<Message>>,
    id: u16,
    command: u16,
) -> Step<Reply> {
    for _ in 0..MOST_COMMANDS {
        match link.receive()? {
            Heard::Message(got) if got.header.kind() == Kind::Command => match &mut kept {
                Some(kept) => kept.push_back(got),
                None => decline(link, &got)?,
            },
            Heard::Message(got) => return check_reply(got, id, command),
            other => return fail(format!("instead of a reply to command {command}: {other}")),
        }
    }
    fail(format!("{MOST_COMMANDS} commands of the server's and no reply"))
}

/// Answers a command of the server's with an error.
fn decline(link: &Link, got: &Message) -> Step {
    if got.header.no_reply() {
        return Ok(());
    }
    Ok(link.send(&refusal(got.header.id, got.header.command, EIO), &[])?)
}

fn check_reply(got: Message, id: u16, command: u16) -> Step<Reply> {
    let Header { flags, .. } = got.header;
    hold(got.header.kind() == Kind::Reply, || {
        format!("no reply, but {got}")
    })?;
    hold(got.header.id == id, || {
        format!("the reply to id {id} has another one: {got}")
    })?;
    hold(got.header.command == command, || {
        format!("the reply to command {command} has another one: {got}")
    })?;
    let known = Kind::REPLY | HeaderFlags::ERROR.bits();
    hold(flags & !known == 0, || {
        format!("a reply whose flags are neither type nor error: {got}")
    })?;
    if !got.header.is_error() {
        return Ok(Reply {
            errno: None,
            payload: got.payload,
            fds: got.fds,
        });
    }
    hold(got.payload.is_empty(), || {
        format!("an error reply is a header of {HEADER_BYTES} bytes and nothing else, not {got}")
    })?;
    hold(got.fds.is_empty(), || {
        format!("an error reply with descriptors: {got}")
    })?;
    Ok(Reply {
        errno: Some(got.header.errno),
        payload: Vec::new(),
        fds: Vec::new(),
    })
}

/// What VERSION's payload says: major, minor, and its capabilities where it has data.
type Agreed = (u16, u16, Option<Map<String, Value>>);

/// Reads VERSION's payload.
pub(crate) fn read_version(payload: &[u8]) -> Step<Agreed> {
    let Ok((fixed, data)) = uvfio_proto::message::Version::read_from_prefix(payload) else {
        return fail(format!(
            "VERSION's reply has {} bytes of payload; 4 are needed",
            payload.len()
        ));
    };
    if data.is_empty() {
        return Ok((fixed.major, fixed.minor, None));
    }
    let [json @ .., 0] = data else {
        return fail("the version data do not end with a NUL");
    };
    let value: Value = match serde_json::from_slice(json) {
        Ok(value) => value,
        Err(error) => return fail(format!("the version data are no JSON: {error}")),
    };
    let capabilities = match value {
        Value::Object(mut data) => data.remove("capabilities"),
        other => return fail(format!("the version data are no JSON object: {other}")),
    };
    match capabilities {
        None => Ok((fixed.major, fixed.minor, Some(Map::new()))),
        Some(Value::Object(capabilities)) => Ok((fixed.major, fixed.minor, Some(capabilities))),
        Some(other) => fail(format!("`capabilities` is no object: {other}")),
    }
}
