//! Headers, framing, order.

use std::time::Duration;

use super::common::proxy::{Fault, Frame, NO_FAULT, replies, requests};
use super::{E, INFO, READ, REGION_INFO, check, each, succeed};

#[test]
fn faults_of_headers_are_found() {
    check(&[
        (
            "another id",
            E,
            "header.ids",
            replies(|_, frames| {
                each(frames, INFO, |frame| {
                    frame.header.id = frame.header.id.wrapping_add(1);
                });
            }),
        ),
        (
            "another command",
            E,
            "header.ids",
            replies(|_, frames| each(frames, INFO, |frame| frame.header.command = 5)),
        ),
        (
            "no reply but a command",
            E,
            "header.ids",
            replies(|_, frames| each(frames, INFO, |frame| frame.header.flags = 0)),
        ),
        (
            "the bit of No_reply",
            E,
            "header.ids",
            replies(|_, frames| each(frames, INFO, |frame| frame.header.flags |= 16)),
        ),
        (
            "a reply lost",
            E,
            "region_read.config",
            replies(|_, frames| frames.retain(|frame| !frame.is(READ))),
        ),
        (
            "a reply twice",
            E,
            "header.same_id",
            replies(|_, frames| {
                if let Some(frame) = frames.first().filter(|frame| frame.is(INFO)) {
                    let again = Frame {
                        header: frame.header,
                        payload: frame.payload.clone(),
                        fds: Vec::new(),
                    };
                    frames.push(again);
                }
            }),
        ),
        (
            "two replies swapped",
            E,
            "order.pipelined",
            replies(|memory, frames| {
                if memory.held.is_empty() && frames.iter().any(|frame| frame.is(REGION_INFO)) {
                    memory.held.append(frames);
                } else {
                    frames.append(&mut memory.held);
                }
            }),
        ),
        (
            "a late reply",
            E,
            "region_read.config",
            replies(|_, frames| {
                each(frames, READ, |_| std::thread::sleep(Duration::from_secs(2)));
            }),
        ),
        (
            "an error with payload",
            E,
            "header.unknown_command",
            replies(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is_error()) {
                    frame.payload = vec![0; 16];
                }
            }),
        ),
        (
            "the size of an error says more than comes",
            E,
            "header.unknown_command",
            replies(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is_error()) {
                    frame.header.bytes += 16;
                }
            }),
        ),
        (
            "the end after an error",
            E,
            "irq_info.past_end",
            Fault {
                ends_on_error: true,
                ..NO_FAULT
            },
        ),
        (
            "unknown commands succeed",
            E,
            "header.unknown_command",
            replies(|_, frames| succeed(frames, 19, &[])),
        ),
        (
            "No_reply is answered",
            E,
            "header.no_reply",
            requests(|_, frames| {
                frames.iter_mut().for_each(|frame| frame.header.flags &= !16);
            }),
        ),
        (
            "replies are carried out",
            E,
            "header.reply_unasked",
            requests(|_, frames| {
                frames.iter_mut().for_each(|frame| frame.header.flags &= !1);
            }),
        ),
        (
            "type 2 is carried out",
            E,
            "header.type_2",
            requests(|_, frames| {
                frames.iter_mut().for_each(|frame| frame.header.flags &= !2);
            }),
        ),
        (
            "a lie about the size is believed",
            E,
            "framing.size_max",
            Fault {
                believes_lies: true,
                ..NO_FAULT
            },
        ),
        (
            "a message must come in one piece",
            E,
            "framing.bytewise",
            Fault {
                whole_sends_only: true,
                ..NO_FAULT
            },
        ),
    ]);
}
