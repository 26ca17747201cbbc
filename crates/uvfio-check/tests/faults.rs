//! Servers that are broken on purpose: each fault is found by the case that is there for it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::proxy::{Broken, Fault, Frame, Memory, NO_FAULT, replies, requests};
use common::{Ours, Windows, edu};
use uvfio_check::{Patience, check_server};

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const INFO: u16 = 4;
const REGION_INFO: u16 = 5;
const IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const READ: u16 = 9;
const WRITE: u16 = 10;
const RESET: u16 = 13;
const MULTI: u16 = 15;
const FEATURE: u16 = 16;

/// What is wrong, with which device, and the case that must find it.
type Row = (&'static str, Device, &'static str, Fault);

#[derive(Clone, Copy)]
enum Device {
    Edu,
    Windows,
}

use Device::{Edu as E, Windows as W};

/// Short: faults that are a silence cost this. A fault found too early on a busy machine is still a fault found.
const PATIENCE: Patience = Patience {
    reply: Duration::from_millis(700),
    connection: Duration::from_secs(30),
};

fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for &(what, device, case, fault) in rows {
        let ours = Ours::new(match device {
            E => edu(),
            W => Arc::new(Windows::new()),
        });
        let report = check_server(&Broken::new(ours, fault), PATIENCE, case, |_| {});
        if !report.failed().contains(&case) {
            wrong.push(format!("«{what}» was not found by {case}:\n{report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Alters each reply to one command that succeeded.
fn each(frames: &mut [Frame], command: u16, alter: impl Fn(&mut Frame)) {
    for frame in frames
        .iter_mut()
        .filter(|frame| frame.is(command) && !frame.is_error())
    {
        alter(frame);
    }
}

/// Makes every refusal of one command a success.
fn succeed(frames: &mut [Frame], command: u16, payload: &[u8]) {
    for frame in frames
        .iter_mut()
        .filter(|frame| frame.is(command) && frame.is_error())
    {
        frame.succeed(payload);
    }
}

/// The JSON of VERSION, NUL and all.
fn json(frame: &mut Frame, json: &str) {
    frame.payload.truncate(4);
    frame.payload.extend_from_slice(json.as_bytes());
    frame.payload.push(0);
}

#[test]
fn faults_of_headers_are_found() {
    check(&[
        (
            "another id",
            E,
            "header.ids",
            replies(|_, frames| {
                each(frames, INFO, |frame| {
                    frame.header.id = frame.header.id.wrapping_add(1)
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
            "irq_info.every",
            replies(|_, frames| frames.retain(|frame| !frame.is(IRQ_INFO))),
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
            "irq_info.every",
            replies(|_, frames| {
                each(frames, IRQ_INFO, |_| std::thread::sleep(Duration::from_secs(2)));
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

#[test]
fn faults_of_versions_are_found() {
    check(&[
        (
            "another major",
            E,
            "version.agrees",
            replies(|_, frames| each(frames, VERSION, |frame| frame.put(0, 1))),
        ),
        (
            "a higher minor",
            E,
            "version.lower_minor",
            replies(|_, frames| each(frames, VERSION, |frame| frame.put(0, 1 << 16))),
        ),
        (
            "no NUL",
            E,
            "version.agrees",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    frame.payload.pop();
                })
            }),
        ),
        (
            "no JSON",
            E,
            "version.agrees",
            replies(|_, frames| each(frames, VERSION, |frame| json(frame, "{\"capabilities\":{"))),
        ),
        (
            "a capability nobody proposed",
            E,
            "version.subset",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(frame, "{\"capabilities\":{\"write_multiple\":true}}");
                })
            }),
        ),
        (
            "too many descriptors",
            E,
            "version.limits",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(frame, "{\"capabilities\":{\"max_msg_fds\":1024}}");
                })
            }),
        ),
        (
            "a long reply",
            E,
            "version.reply_fits",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(frame, &format!("{{\"capabilities\":{{}}}}{}", " ".repeat(400)));
                })
            }),
        ),
        (
            "a descriptor for no twin socket",
            E,
            "version.twin_socket_unasked",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    let (end, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
                    frame.fds.push(end.into());
                })
            }),
        ),
        (
            "a twin socket that did not come",
            E,
            "version.twin_socket",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(
                        frame,
                        "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}",
                    );
                })
            }),
        ),
        (
            "another major is agreed to",
            E,
            "version.other_major",
            requests(|_, frames| {
                frames
                    .iter_mut()
                    .filter(|frame| frame.is(VERSION))
                    .for_each(|frame| frame.put(0, 1 << 16));
            }),
        ),
    ]);
}

#[test]
fn faults_of_information_are_found() {
    check(&[
        (
            "a long reply",
            E,
            "info.reply",
            replies(|_, frames| each(frames, INFO, |frame| frame.payload.extend([0; 4]))),
        ),
        (
            "a short reply",
            E,
            "info.reply",
            replies(|_, frames| each(frames, INFO, |frame| frame.payload.truncate(12))),
        ),
        (
            "argsz 0",
            E,
            "info.reply",
            replies(|_, frames| each(frames, INFO, |frame| frame.put(0, 0))),
        ),
        (
            "no PCI device",
            E,
            "info.reply",
            replies(|_, frames| each(frames, INFO, |frame| frame.put(4, 1))),
        ),
        (
            "seven regions",
            E,
            "info.pci_regions",
            replies(|_, frames| each(frames, INFO, |frame| frame.put(8, 7))),
        ),
        (
            "descriptors kept",
            E,
            "info.stray_descriptor",
            requests(|memory, frames| {
                frames
                    .iter_mut()
                    .filter(|frame| frame.is(INFO))
                    .for_each(|frame| memory.fds.append(&mut frame.fds));
            }),
        ),
        (
            "short requests succeed",
            E,
            "info.short",
            replies(|_, frames| succeed(frames, INFO, &[0; 16])),
        ),
        (
            "another region",
            E,
            "region_info.every",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(8, 0))),
        ),
        (
            "capabilities that were not asked for",
            W,
            "region_info.every",
            requests(|_, frames| {
                frames
                    .iter_mut()
                    .filter(|frame| frame.is(REGION_INFO))
                    .for_each(|frame| frame.put(0, 4096));
            }),
        ),
        (
            "a flag for a descriptor that does not come",
            W,
            "region_info.descriptors",
            replies(|_, frames| {
                each(frames, REGION_INFO, |frame| frame.fds.clear());
            }),
        ),
        (
            "a descriptor without its flag",
            W,
            "region_info.descriptors",
            replies(|_, frames| {
                each(frames, REGION_INFO, |frame| frame.put(4, frame.word(4) & !4));
            }),
        ),
        (
            "a file that is too short",
            W,
            "region_info.descriptors",
            replies(|_, frames| {
                each(frames, REGION_INFO, |frame| frame.put(24, 0x1000));
            }),
        ),
        (
            "capabilities that are promised and cut",
            W,
            "region_info.caps_cut",
            replies(|_, frames| {
                each(frames, REGION_INFO, |frame| frame.payload.truncate(32));
            }),
        ),
        (
            "a capability that names itself",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(36, 32))),
        ),
        (
            "a capability past the reply",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(36, 0x1000))),
        ),
        (
            "no offset for capabilities",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(12, 0))),
        ),
        (
            "more areas than there are",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(40, 100))),
        ),
        (
            "an area outside the region",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(52, 1))),
        ),
        (
            "areas that overlap",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(64, 0x1000))),
        ),
        (
            "half a page",
            W,
            "region_info.caps",
            replies(|_, frames| each(frames, REGION_INFO, |frame| frame.put(56, 0x800))),
        ),
        (
            "a region that is not there",
            E,
            "region_info.past_end",
            replies(|_, frames| succeed(frames, REGION_INFO, &[0; 32])),
        ),
        (
            "unknown flags of an interrupt",
            E,
            "irq_info.flags",
            replies(|_, frames| each(frames, IRQ_INFO, |frame| frame.put(4, 0x100))),
        ),
        (
            "argsz 0 of an interrupt",
            E,
            "irq_info.every",
            replies(|_, frames| each(frames, IRQ_INFO, |frame| frame.put(0, 0))),
        ),
        (
            "another feature",
            E,
            "feature.probe",
            replies(|_, frames| each(frames, FEATURE, |frame| frame.put(4, frame.word(4) + 1))),
        ),
    ]);
}

#[test]
fn faults_of_accesses_are_found() {
    check(&[
        (
            "words that are swapped",
            E,
            "region_read.widths",
            replies(|_, frames| {
                each(frames, READ, |frame| {
                    if frame.word(12) == 2 {
                        frame.payload.swap(16, 17);
                    }
                })
            }),
        ),
        (
            "nobody is there",
            E,
            "region_read.config",
            replies(|_, frames| {
                each(frames, READ, |frame| {
                    frame.payload.iter_mut().skip(16).for_each(|byte| *byte = 0xff);
                })
            }),
        ),
        (
            "another offset",
            E,
            "region_read.config",
            replies(|_, frames| each(frames, READ, |frame| frame.put(0, 4))),
        ),
        (
            "fewer data than it says",
            E,
            "region_read.config",
            replies(|_, frames| {
                each(frames, READ, |frame| {
                    frame.payload.pop();
                })
            }),
        ),
        (
            "reads past the end",
            E,
            "region_read.past_end",
            replies(|_, frames| succeed(frames, READ, &[0; 17])),
        ),
        (
            "a write that repeats its data",
            E,
            "region_write.reads_back",
            replies(|_, frames| {
                each(frames, WRITE, |frame| frame.payload.push(0));
            }),
        ),
        (
            "a write of something else",
            E,
            "region_write.reads_back",
            requests(|_, frames| {
                for byte in frames
                    .iter_mut()
                    .filter(|frame| frame.is(WRITE))
                    .filter_map(|frame| frame.payload.get_mut(16))
                {
                    *byte ^= 1;
                }
            }),
        ),
        (
            "a write of too few data",
            E,
            "region_write.too_few",
            requests(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(WRITE)) {
                    let bytes = frame.payload.len() - 16;
                    frame.put(12, bytes as u32);
                }
            }),
        ),
        (
            "posted writes lost",
            E,
            "order.posted",
            requests(|_, frames| {
                frames.retain(|frame| !frame.is(WRITE) || !frame.header.no_reply());
            }),
        ),
        (
            "the last posted write is late",
            E,
            "order.posted_many",
            requests(|memory, frames| {
                if frames
                    .iter()
                    .any(|frame| frame.is(WRITE) && frame.header.no_reply())
                {
                    std::mem::swap(&mut memory.held, frames);
                }
            }),
        ),
        (
            "another number of writes",
            E,
            "write_multi.in_order",
            replies(|_, frames| each(frames, MULTI, |frame| frame.put(0, 1))),
        ),
        (
            "writes backwards",
            E,
            "write_multi.in_order",
            requests(|_, frames| {
                for frame in frames
                    .iter_mut()
                    .filter(|frame| frame.is(MULTI) && frame.payload.len() == 56)
                {
                    let second = frame.payload.split_off(32);
                    let first = frame.payload.split_off(8);
                    frame.payload.extend(second);
                    frame.payload.extend(first);
                }
            }),
        ),
        (
            "a reset with payload",
            E,
            "reset.replies",
            replies(|_, frames| each(frames, RESET, |frame| frame.payload.push(0))),
        ),
        (
            "a reset that takes the device away",
            E,
            "reset.keeps_mappings",
            replies(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(DMA_MAP)) {
                    frame.succeed(&[]);
                }
            }),
        ),
        (
            "state that comes and goes",
            E,
            "disconnect.state",
            replies(|_, frames| {
                each(frames, READ, |frame| {
                    if let Some(byte) = frame.payload.get_mut(16) {
                        *byte ^= 0x10;
                    }
                })
            }),
        ),
    ]);
}

#[test]
fn faults_of_interrupts_are_found() {
    /// Alters SET_IRQS with these flags.
    fn set(frames: &mut [Frame], flags: u32, alter: impl Fn(&mut Frame)) {
        for frame in frames
            .iter_mut()
            .filter(|frame| frame.is(SET_IRQS) && frame.word(4) == flags)
        {
            alter(frame);
        }
    }
    check(&[
        (
            "a message lost",
            E,
            "irqs.msi",
            requests(|_, frames| {
                set(frames, 0x21, |frame| {
                    frame.put(4, 0x22);
                    frame.payload.push(0);
                })
            }),
        ),
        (
            "INTx lost",
            E,
            "irqs.intx",
            requests(|_, frames| {
                set(frames, 0x21, |frame| {
                    frame.put(4, 0x22);
                    frame.payload.push(0);
                })
            }),
        ),
        (
            "a message twice",
            E,
            "irqs.msi",
            requests(|_, frames| {
                if let Some(frame) = frames
                    .first()
                    .filter(|frame| frame.is(SET_IRQS) && frame.word(4) == 0x21)
                {
                    let mut again = Frame {
                        header: frame.header,
                        payload: frame.payload.clone(),
                        fds: Vec::new(),
                    };
                    again.header.flags = 16;
                    frames.insert(0, again);
                }
            }),
        ),
        (
            "every message",
            E,
            "irqs.bool",
            requests(|_, frames| {
                set(frames, 0x22, |frame| {
                    frame.payload.iter_mut().skip(20).for_each(|byte| *byte = 1);
                })
            }),
        ),
        (
            "eventfds stay",
            E,
            "irqs.taken_away",
            requests(|_, frames| {
                for frame in frames
                    .iter_mut()
                    .filter(|frame| frame.is(SET_IRQS) && frame.word(4) == 0x24 && frame.fds.is_empty())
                {
                    frame.put(4, 0x22);
                    frame.payload.push(0);
                }
            }),
        ),
        (
            "flags ignored",
            E,
            "irqs.two_actions",
            requests(|_, frames| set(frames, 0x29, |frame| frame.put(4, 0x21))),
        ),
        (
            "vectors past the end",
            E,
            "irqs.past_end",
            replies(|_, frames| succeed(frames, SET_IRQS, &[])),
        ),
    ]);
}

#[test]
fn faults_of_mappings_are_found() {
    /// Moves an unmapping elsewhere, and back.
    fn astray(_: &mut Memory, frames: &mut Vec<Frame>) {
        for frame in frames.iter_mut().filter(|frame| frame.is(DMA_UNMAP)) {
            let word = frame.word(12);
            frame.put(12, word ^ 0x100);
        }
    }
    check(&[
        (
            "EINVAL for EEXIST",
            E,
            "dma.same",
            replies(|_, frames| {
                frames
                    .iter_mut()
                    .filter(|frame| frame.header.errno == 17)
                    .for_each(|frame| frame.header.errno = 22);
            }),
        ),
        (
            "no number for EEXIST",
            E,
            "dma.over_end",
            replies(|_, frames| {
                frames.iter_mut().for_each(|frame| frame.header.errno = 0);
            }),
        ),
        (
            "mappings that overlap",
            E,
            "dma.around",
            replies(|_, frames| succeed(frames, DMA_MAP, &[])),
        ),
        (
            "a mapping with payload",
            E,
            "dma.file",
            replies(|_, frames| each(frames, DMA_MAP, |frame| frame.payload.push(0))),
        ),
        (
            "an unmapping without payload",
            E,
            "dma.file",
            replies(|_, frames| each(frames, DMA_UNMAP, |frame| frame.payload.clear())),
        ),
        (
            "an unmapping that says something else",
            E,
            "dma.message",
            replies(|_, frames| {
                each(frames, DMA_UNMAP, |frame| frame.put(16, 0));
            }),
        ),
        (
            "nothing is unmapped",
            E,
            "dma.again",
            Fault {
                to_server: astray,
                to_client: astray,
                ..NO_FAULT
            },
        ),
        (
            "memory is held on to",
            E,
            "dma.unmap_lets_go",
            Fault {
                to_server: astray,
                to_client: astray,
                ..NO_FAULT
            },
        ),
        (
            "mappings are cut",
            E,
            "dma.unmap_front",
            replies(|_, frames| succeed(frames, DMA_UNMAP, &[0; 24])),
        ),
        (
            "short unmappings succeed",
            E,
            "dma.unmap_byte",
            replies(|_, frames| succeed(frames, DMA_UNMAP, &[0; 24])),
        ),
        (
            "half of two mappings",
            E,
            "dma.unmap_two",
            requests(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(DMA_UNMAP)) {
                    frame.put(16, 0x1_0000);
                }
            }),
        ),
    ]);
}
