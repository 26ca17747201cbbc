//! Regions and reset.

use super::common::proxy::{replies, requests};
use super::{DMA_MAP, E, MULTI, READ, RESET, WRITE, check, each, succeed};

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
                });
            }),
        ),
        (
            "nobody is there",
            E,
            "region_read.config",
            replies(|_, frames| {
                each(frames, READ, |frame| {
                    frame.payload.iter_mut().skip(16).for_each(|byte| *byte = 0xff);
                });
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
                });
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
                });
            }),
        ),
    ]);
}
