//! DMA_READ and DMA_WRITE: what is asked for, when it ends, and what answers do.

use uvfio_proto::message::{Header, Kind};

use super::common::proxy::{Fault, Frame, Memory, NO_FAULT, dies, replies, requests};
use super::{DMA_MAP, DMA_READ, DMA_UNMAP, DMA_WRITE, E, IRQ_INFO, RESET, VERSION, WRITE, check};

/// The server's own commands of this number.
fn own(frames: &mut [Frame], command: u16) -> impl Iterator<Item = &mut Frame> {
    let of = move |frame: &&mut Frame| frame.is(command) && frame.header.kind() == Kind::Command;
    frames.iter_mut().filter(of)
}

/// The client's answers to commands of this number.
fn answers(frames: &mut [Frame], command: u16) -> impl Iterator<Item = &mut Frame> {
    let of = move |frame: &&mut Frame| frame.is(command) && frame.header.kind() == Kind::Reply;
    frames.iter_mut().filter(of)
}

/// A DMA_READ of 8 bytes that nobody told the device to make, after each write of a register.
fn asks_for(frames: &mut Vec<Frame>, iova: u64) {
    if frames.iter().any(|frame| frame.is(WRITE)) {
        frames.push(Frame {
            header: Header {
                id: 77,
                command: DMA_READ,
                bytes: 32,
                ..Header::default()
            },
            payload: [iova, 8].iter().flat_map(|word| word.to_ne_bytes()).collect(),
            fds: Vec::new(),
        });
    }
}

/// Moves an unmapping elsewhere, and back: nothing is unmapped.
#[allow(clippy::ptr_arg, reason = "what alters may add and remove")]
fn astray(_: &mut Memory, frames: &mut Vec<Frame>) {
    for frame in frames.iter_mut().filter(|frame| frame.is(DMA_UNMAP)) {
        let word = frame.word(12);
        frame.put(12, word ^ 0x100);
    }
}

const NOTHING_UNMAPPED: Fault = Fault {
    to_server: astray,
    to_client: astray,
    ..NO_FAULT
};

/// Bus mastering stays on.
#[allow(clippy::ptr_arg, reason = "what alters may add and remove")]
fn master_stays(_: &mut Memory, frames: &mut Vec<Frame>) {
    for frame in frames.iter_mut().filter(|frame| frame.is(WRITE)) {
        if (frame.word(0), frame.word(8)) == (4, 7) {
            frame.payload[16] |= 4;
        }
    }
}

/// A reset that only asks about INTx, and calls the answer its own.
const NO_RESET: Fault = Fault {
    to_server: |memory, frames| {
        for frame in frames.iter_mut().filter(|frame| frame.is(RESET)) {
            memory.last = vec![1];
            frame.header.command = IRQ_INFO;
            frame.payload = [16_u32, 0, 0, 0]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
        }
    },
    to_client: |memory, frames| {
        for frame in frames.iter_mut().filter(|frame| frame.is(IRQ_INFO)) {
            if std::mem::take(&mut memory.last) == [1] {
                frame.header.command = RESET;
                frame.payload.clear();
            }
        }
    },
    ..NO_FAULT
};

/// Maps what may only be read, or only be written, for both.
const ALL_ACCESS: Fault = Fault {
    to_server: |_, frames| {
        for frame in frames.iter_mut().filter(|frame| frame.is(DMA_MAP)) {
            frame.put(4, 3);
        }
    },
    ..NO_FAULT
};

/// The client is said to take 64 KiB in a message.
fn long_messages() -> Fault {
    requests(|_, frames| {
        for frame in frames.iter_mut().filter(|frame| frame.is(VERSION)) {
            let json = String::from_utf8_lossy(&frame.payload[4..]).replace("1024", "65536");
            frame.payload.truncate(4);
            frame.payload.extend_from_slice(json.as_bytes());
        }
    })
}

#[test]
fn faults_of_what_is_asked_for_are_found() {
    check(&[
        (
            "a read of its neighbour",
            E,
            "by_message.read",
            replies(|_, frames| {
                own(frames, DMA_READ).for_each(|frame| {
                    let low = frame.word(0);
                    frame.put(0, low + 4);
                });
            }),
        ),
        (
            "a count of 2^32 more",
            E,
            "by_message.read",
            replies(|_, frames| own(frames, DMA_READ).for_each(|frame| frame.put(12, 1))),
        ),
        (
            "a read that wants no reply",
            E,
            "by_message.read",
            replies(|_, frames| own(frames, DMA_READ).for_each(|frame| frame.header.flags |= 0x10)),
        ),
        (
            "a read with an error",
            E,
            "by_message.read",
            replies(|_, frames| own(frames, DMA_READ).for_each(|frame| frame.header.errno = 1)),
        ),
        (
            "a read with data",
            E,
            "by_message.read",
            replies(|_, frames| own(frames, DMA_READ).for_each(|frame| frame.payload.push(0))),
        ),
        (
            "a write of other data",
            E,
            "by_message.write",
            replies(|_, frames| own(frames, DMA_WRITE).for_each(|frame| frame.payload[16] ^= 1)),
        ),
        (
            "a write without the last byte",
            E,
            "by_message.write",
            replies(|_, frames| {
                own(frames, DMA_WRITE).for_each(|frame| frame.payload.truncate(16 + 299));
            }),
        ),
        ("long reads", E, "by_message.most_read", long_messages()),
        ("long writes", E, "by_message.most_write", long_messages()),
        (
            "a byte too many",
            E,
            "by_message.neighbours",
            replies(|_, frames| {
                own(frames, DMA_READ).for_each(|frame| {
                    let low = frame.word(8);
                    frame.put(8, low + 1);
                });
            }),
        ),
        (
            "the file from its beginning",
            E,
            "by_message.file_beside",
            requests(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(DMA_MAP)) {
                    if let Some(file) = frame.fds.first() {
                        rustix::fs::ftruncate(file, 0x2000).expect("its size");
                        frame.put(8, 0x1000);
                    }
                }
            }),
        ),
        (
            "reads of what is not mapped",
            E,
            "by_message.unmapped",
            replies(|_, frames| asks_for(frames, 0x80_0000)),
        ),
        (
            "mappings a page too long",
            E,
            "by_message.past_end",
            requests(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(DMA_MAP)) {
                    frame.put(24, 0x1_1000);
                }
            }),
        ),
        (
            "mappings from a page before",
            E,
            "by_message.before_start",
            requests(|_, frames| {
                for frame in frames.iter_mut().filter(|frame| frame.is(DMA_MAP)) {
                    frame.put(16, 0xf_f000);
                }
            }),
        ),
        ("all may be written", E, "by_message.read_only", ALL_ACCESS),
        ("all may be read", E, "by_message.write_only", ALL_ACCESS),
    ]);
}

#[test]
fn faults_of_what_ends_it_are_found() {
    check(&[
        (
            "nothing is unmapped",
            E,
            "by_message.after_unmap",
            NOTHING_UNMAPPED,
        ),
        ("it goes on", E, "by_message.unmap_under_way", NOTHING_UNMAPPED),
        (
            "an unmapping takes all",
            E,
            "by_message.unmap_other",
            Fault {
                to_server: |_, frames| {
                    for frame in frames.iter_mut().filter(|frame| frame.is(DMA_UNMAP)) {
                        frame.put(8, 0x10_0000);
                        frame.put(16, 0x2_0000);
                    }
                },
                ..NO_FAULT
            },
        ),
        (
            "bus mastering stays",
            E,
            "by_message.master_off",
            requests(master_stays),
        ),
        (
            "bus mastering stays for a transfer",
            E,
            "by_message.master_off_under_way",
            requests(master_stays),
        ),
        ("no reset", E, "by_message.reset_under_way", NO_RESET),
        (
            "a reset unmaps",
            E,
            "by_message.after_reset",
            replies(|memory, frames| {
                memory.asked |= frames.iter().any(|frame| frame.is(RESET));
                if memory.asked {
                    frames.retain(|frame| !frame.is(DMA_READ));
                }
            }),
        ),
    ]);
}

#[test]
fn faults_of_answers_are_found() {
    /// Bytes that are no answer go into the device.
    fn pads(frames: &mut [Frame]) {
        // Those of 128 bytes are right.
        for frame in answers(frames, DMA_READ).filter(|frame| frame.word(8) != 128) {
            frame.payload.resize(16 + 64, 0xdd);
            frame.put(0, 0x10_0000);
            frame.put(4, 0);
            frame.put(8, 64);
            frame.put(12, 0);
        }
    }
    /// The first answer after a reset.
    fn after_reset(memory: &mut Memory, frames: &mut [Frame], alter: fn(&mut Frame)) {
        memory.asked |= frames.iter().any(|frame| frame.is(RESET));
        if memory.asked
            && let Some(frame) = answers(frames, DMA_READ).next()
        {
            alter(frame);
        }
    }
    check(&[
        (
            "an answer in pieces is lost",
            E,
            "by_message.pieces",
            Fault {
                whole_sends_only: true,
                ..NO_FAULT
            },
        ),
        (
            "a refusal ends the session",
            E,
            "by_message.refused",
            requests(|_, frames| {
                let refused = |frame: &&mut Frame| frame.is_error();
                answers(frames, DMA_READ)
                    .filter(refused)
                    .for_each(|frame| frame.header.id ^= 0x5555);
            }),
        ),
        (
            "a refusal of a write is never heard",
            E,
            "by_message.refused_write",
            requests(|_, frames| frames.retain(|frame| !(frame.is(DMA_WRITE) && frame.is_error()))),
        ),
        (
            "a count of 4 bytes is refused",
            E,
            "by_message.count_of_4",
            requests(|_, frames| answers(frames, DMA_WRITE).for_each(|frame| frame.payload.truncate(8))),
        ),
        (
            "all waits for the answer",
            E,
            "by_message.no_wait",
            Fault {
                to_server: |memory, frames| {
                    if memory.asked {
                        frames.clear();
                    }
                },
                to_client: |memory, frames| memory.asked |= own(frames, DMA_READ).next().is_some(),
                ..NO_FAULT
            },
        ),
        (
            "one id for all",
            E,
            "by_message.id_of_unanswered",
            replies(|_, frames| own(frames, DMA_READ).for_each(|frame| frame.header.id = 7)),
        ),
        (
            "a late answer ends the session",
            E,
            "by_message.late",
            requests(|memory, frames| after_reset(memory, frames, |frame| frame.header.id ^= 0x5555)),
        ),
        (
            "a late answer's data are taken",
            E,
            "by_message.late",
            requests(|memory, frames| {
                after_reset(memory, frames, |frame| {
                    frame.payload.get_mut(16..).unwrap_or_default().fill(0xee);
                });
            }),
        ),
        (
            "it dies of an unknown id",
            E,
            "by_message.unknown_id",
            dies(|_, frame| frame.is(DMA_READ) && frame.header.id >= 0x5000),
        ),
        (
            "it dies of another command",
            E,
            "by_message.other_command",
            dies(|_, frame| frame.is(DMA_WRITE) && frame.header.kind() == Kind::Reply),
        ),
        (
            "it dies of an answer",
            E,
            "by_message.twice",
            dies(|_, frame| frame.is(DMA_READ) && frame.header.kind() == Kind::Reply),
        ),
        (
            "what a short answer has not comes from elsewhere",
            E,
            "by_message.short",
            requests(|_, frames| pads(frames)),
        ),
        (
            "an empty answer is data",
            E,
            "by_message.header_only",
            requests(|_, frames| pads(frames)),
        ),
        (
            "another address's data",
            E,
            "by_message.other_address",
            requests(|_, frames| pads(frames)),
        ),
        (
            "a long answer runs over",
            E,
            "by_message.long",
            Fault {
                to_server: |_, frames| pads(frames),
                to_client: |_, frames| {
                    for frame in own(frames, DMA_WRITE).filter(|frame| frame.payload.len() == 16 + 128) {
                        frame.payload.get_mut(16 + 64..).unwrap_or_default().fill(0xee);
                    }
                },
                ..NO_FAULT
            },
        ),
        (
            "it serves nobody while it waits",
            E,
            "by_message.left",
            dies(|_, frame| frame.is(DMA_READ)),
        ),
    ]);
}
