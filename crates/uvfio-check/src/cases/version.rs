//! VERSION: the first message.

use serde_json::Value;
use uvfio_proto::message::Command;

use super::{WHOLE, steps};
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::payload::{self, USUAL_JSON, message, version, version_json};
use crate::session::{Session, read_version, receive_reply};
use crate::wire::Heard;

const SECTION: Rule = Rule::Spec("VFIO_USER_VERSION");
const REFUSED: &str = "an error reply or the end of the connection; the next client is served";
const AGREED: &str = "a reply with major 0 and no higher minor, and a session";

pub(super) const CASES: &[Case] = &[
    steps(
        "version.agrees",
        "VERSION 0.1 with capabilities",
        SECTION,
        AGREED,
        |bench| agrees(bench, &version_json(USUAL_JSON), 1),
    ),
    steps("version.lower_minor", "VERSION 0.0", SECTION, AGREED, |bench| {
        agrees(bench, &version(0, 0, format!("{USUAL_JSON}\0").as_bytes()), 0)
    }),
    steps(
        "version.higher_minor",
        "VERSION 0.65535",
        SECTION,
        AGREED,
        |bench| {
            agrees(
                bench,
                &version(0, u16::MAX, format!("{USUAL_JSON}\0").as_bytes()),
                u16::MAX,
            )
        },
    ),
    steps(
        "version.no_data",
        "VERSION without version data, which are optional",
        SECTION,
        AGREED,
        |bench| agrees(bench, &version(0, 1, b""), 1),
    ),
    steps(
        "version.no_capabilities",
        "version data without `capabilities`, which are optional",
        SECTION,
        AGREED,
        |bench| agrees(bench, &version_json("{}"), 1),
    ),
    steps(
        "version.unknown_capability",
        "a capability that nobody knows",
        SECTION,
        AGREED,
        |bench| {
            agrees(
                bench,
                &version_json("{\"capabilities\":{\"x_nobody_knows\":{\"a\":[1]}}}"),
                1,
            )
        },
    ),
    steps(
        "version.subset",
        "capabilities without write_multiple, twin_socket and migration",
        SECTION,
        "a reply that names no capability beyond those proposed",
        subset,
    ),
    steps(
        "version.twin_socket_unasked",
        "no twin_socket",
        SECTION,
        "a reply without descriptors",
        |bench| {
            let mut link = bench.link()?;
            link.send(
                &message(1, Command::Version as u16, 0, &version_json(USUAL_JSON)),
                &[],
            )?;
            let reply = receive_reply(&mut link, 1, Command::Version as u16)?;
            hold(reply.fds.is_empty(), || {
                format!("{} descriptors came", reply.fds.len())
            })
        },
    ),
    steps(
        "version.twin_socket",
        "twin_socket proposed",
        SECTION,
        "either no twin socket, or the index of a descriptor that came",
        twin_socket,
    ),
    steps(
        "version.limits",
        "VERSION as QEMU's",
        Rule::Ours("QEMU refuses a server that says more"),
        "max_msg_fds at most 16, max_dma_maps at most 65535, max_data_xfer_size at most 64 MiB, pgsizes not below 4 KiB",
        limits,
    ),
    steps(
        "version.reply_fits",
        "VERSION as QEMU's",
        Rule::Ours(
            "QEMU receives the reply into the request's buffer, and loses a connection whose reply is longer",
        ),
        "a reply no longer than the request",
        |bench| {
            let request = version_json(USUAL_JSON);
            let mut link = bench.link()?;
            link.send(&message(1, Command::Version as u16, 0, &request), &[])?;
            let reply = receive_reply(&mut link, 1, Command::Version as u16)?;
            hold(reply.payload.len() <= request.len(), || {
                format!(
                    "{} bytes of payload to a request with {}",
                    reply.payload.len(),
                    request.len()
                )
            })
        },
    ),
    steps(
        "version.other_major",
        "VERSION 1.0",
        SECTION,
        "an error reply, the end of the connection, or the same major",
        |bench| {
            let mut link = bench.link()?;
            link.send(
                &message(
                    1,
                    Command::Version as u16,
                    0,
                    &version(1, 0, format!("{USUAL_JSON}\0").as_bytes()),
                ),
                &[],
            )?;
            if let Heard::Message(got) = link.receive()?
                && !got.header.is_error()
            {
                let (major, minor, _) = read_version(&got.payload)?;
                hold(major == 1, || format!("version {major}.{minor} was agreed to"))?;
            }
            drop(link);
            bench.survives()
        },
    ),
    steps(
        "version.not_first",
        "DEVICE_GET_INFO before VERSION",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::GetInfo, &payload::info(16)),
    ),
    steps(
        "version.mapping_first",
        "DMA_MAP before VERSION",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::DmaMap, &payload::dma_map(0, 0, 0x1000)),
    ),
    steps(
        "version.empty",
        "VERSION without payload",
        WHOLE,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &[]),
    ),
    steps(
        "version.short",
        "VERSION with 3 bytes of payload",
        WHOLE,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &[0; 3]),
    ),
    steps(
        "version.no_nul",
        "version data that do not end with a NUL",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &version(0, 1, USUAL_JSON.as_bytes())),
    ),
    steps(
        "version.inner_nul",
        "version data with a NUL inside",
        SECTION,
        REFUSED,
        |bench| {
            turned_away(
                bench,
                Command::Version,
                &version(0, 1, b"{\"cap\0abilities\":{}}\0"),
            )
        },
    ),
    steps(
        "version.no_json",
        "version data that are no JSON",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &version(0, 1, b"capabilities\0")),
    ),
    steps(
        "version.half_json",
        "version data that are half of JSON",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &version(0, 1, b"{\"capabilities\":{\0")),
    ),
    steps(
        "version.wrong_type",
        "`capabilities` that are a number",
        SECTION,
        REFUSED,
        |bench| turned_away(bench, Command::Version, &version_json("{\"capabilities\":7}")),
    ),
    steps(
        "version.negative_limit",
        "max_msg_fds of -1",
        SECTION,
        REFUSED,
        |bench| {
            turned_away(
                bench,
                Command::Version,
                &version_json("{\"capabilities\":{\"max_msg_fds\":-1}}"),
            )
        },
    ),
    steps(
        "version.deep_json",
        "20,000 nested brackets",
        Rule::Ours("a parser that recurses ends the server"),
        "anything but the server's end",
        |bench| {
            let json = [vec![b'['; 20_000], vec![b']'; 20_000], vec![0]].concat();
            let mut link = bench.link()?;
            link.send(
                &message(1, Command::Version as u16, 0, &version(0, 1, &json)),
                &[],
            )?;
            let _ = link.receive()?;
            drop(link);
            bench.survives()
        },
    ),
    steps(
        "version.again",
        "a second VERSION",
        Rule::Ours(
            "limits that change under way would be checked against the wrong ones; the text calls it the initial message",
        ),
        "an error reply or the end of the connection",
        |bench| {
            let mut session = bench.session()?;
            let id = session.fresh_id();
            session.link.send(
                &message(id, Command::Version as u16, 0, &version_json(USUAL_JSON)),
                &[],
            )?;
            match session.link.receive()? {
                Heard::Message(got) => hold(got.header.is_error(), || format!("it was agreed to: {got}"))?,
                Heard::Closed { .. } => {}
                other => return fail(other.to_string()),
            }
            drop(session);
            bench.survives()
        },
    ),
];

/// VERSION is agreed to, and a session follows.
fn agrees(bench: &Bench<'_>, request: &[u8], most: u16) -> Step {
    let mut link = bench.link()?;
    link.send(&message(0, Command::Version as u16, 0, request), &[])?;
    let reply = receive_reply(&mut link, 0, Command::Version as u16)?;
    if let Some(errno) = reply.errno {
        return fail(format!("it was refused with error {errno}"));
    }
    let (major, minor, _) = read_version(&reply.payload)?;
    hold(major == 0 && minor <= most, || format!("version {major}.{minor}"))?;
    link.send(&message(0, Command::GetInfo as u16, 0, &payload::info(16)), &[])?;
    let info = receive_reply(&mut link, 0, Command::GetInfo as u16)?;
    hold(info.errno.is_none() && info.payload.len() == 16, || {
        format!("DEVICE_GET_INFO afterwards: {info:?}")
    })
}

/// A first message that begins no session.
fn turned_away(bench: &Bench<'_>, command: Command, request: &[u8]) -> Step {
    let mut link = bench.link()?;
    link.send(&message(1, command as u16, 0, request), &[])?;
    match link.receive()? {
        Heard::Message(got) => hold(got.header.is_error() && got.payload.is_empty(), || {
            format!("it was answered: {got}")
        })?,
        Heard::Closed { cut: 0 } => {}
        other => return fail(other.to_string()),
    }
    drop(link);
    bench.survives()
}

fn subset(bench: &Bench<'_>) -> Step {
    let proposed = ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"];
    let json = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,\"max_dma_maps\":1000,\"pgsizes\":4096}}";
    let session = Session::open(bench.link()?, json)?;
    let beyond: Vec<_> = session
        .offer
        .iter()
        .filter(|(key, value)| {
            let off = matches!(value, Value::Bool(false) | Value::Null);
            !off && !proposed.contains(&key.as_str())
        })
        .map(|(key, _)| key.as_str())
        .collect();
    hold(beyond.is_empty(), || {
        format!("beyond what was proposed: {beyond:?}")
    })
}

fn twin_socket(bench: &Bench<'_>) -> Step {
    let mut link = bench.link()?;
    let json = "{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}";
    link.send(&message(1, Command::Version as u16, 0, &version_json(json)), &[])?;
    let reply = receive_reply(&mut link, 1, Command::Version as u16)?;
    let (_, _, capabilities) = read_version(&reply.payload)?;
    let twin = capabilities
        .unwrap_or_default()
        .remove("twin_socket")
        .unwrap_or(Value::Null);
    if twin.get("supported").and_then(Value::as_bool) != Some(true) {
        hold(reply.fds.is_empty(), || "a descriptor, but no twin socket".into())?;
        return not_applicable("the server has no twin socket");
    }
    let index = twin.get("fd_index").and_then(Value::as_u64);
    hold(index.is_some_and(|index| index < reply.fds.len() as u64), || {
        format!("fd_index {index:?} with {} descriptors", reply.fds.len())
    })
}

fn limits(bench: &Bench<'_>) -> Step {
    let session = bench.session()?;
    let number = |key: &str| session.offer.get(key).and_then(Value::as_u64);
    for (key, most) in [
        ("max_msg_fds", 16),
        ("max_dma_maps", 65_535),
        ("max_data_xfer_size", 64 << 20),
    ] {
        let said = number(key).unwrap_or(1);
        hold((1..=most).contains(&said), || format!("{key} is {said}"))?;
    }
    let pages = number("pgsizes").unwrap_or(4096);
    hold(pages != 0 && pages.trailing_zeros() >= 12, || {
        format!("pgsizes is {pages:#x}")
    })
}
