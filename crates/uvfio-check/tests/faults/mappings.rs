//! DMA_MAP and DMA_UNMAP.

use super::common::proxy::{Fault, Frame, Memory, NO_FAULT, replies, requests};
use super::{DMA_MAP, DMA_UNMAP, E, check, each, succeed};

#[test]
fn faults_of_mappings_are_found() {
    /// Moves an unmapping elsewhere, and back.
    #[allow(clippy::ptr_arg, reason = "what alters may add and remove")]
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
