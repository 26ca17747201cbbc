//! SET_IRQS.

use super::common::proxy::{Frame, replies, requests};
use super::{E, SET_IRQS, check, succeed};

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
                });
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
                });
            }),
        ),
        (
            "a message twice",
            E,
            "irqs.msi",
            requests(|memory, frames| {
                for frame in frames.iter().filter(|frame| frame.is(SET_IRQS)) {
                    memory
                        .fds
                        .extend(frame.fds.iter().filter_map(|fd| fd.try_clone().ok()));
                    if frame.word(4) == 0x21 {
                        for event in &memory.fds {
                            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
                        }
                    }
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
                });
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
