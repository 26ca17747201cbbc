//! What the device is.

use super::common::proxy::{Frame, replies, requests};
use super::{E, FEATURE, INFO, IO_FDS, IRQ_INFO, N, REGION_INFO, W, check, each, succeed};

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

/// An entry follows 16 fixed bytes: offset, size, number of the descriptor, type, flags, padding, value.
#[test]
fn faults_of_registers_with_descriptors_are_found() {
    check(&[
        (
            "no descriptor",
            N,
            "io_fds.every",
            replies(|_, frames| each(frames, IO_FDS, |frame| frame.fds.clear())),
        ),
        (
            "a register outside the region",
            N,
            "io_fds.entries",
            replies(|_, frames| with_entries(frames, |frame| frame.put(16, 0x2000))),
        ),
        (
            "a descriptor that did not come",
            N,
            "io_fds.entries",
            replies(|_, frames| with_entries(frames, |frame| frame.put(32, 1))),
        ),
        (
            "a value without a width",
            N,
            "io_fds.entries",
            replies(|_, frames| with_entries(frames, |frame| frame.put(40, 1))),
        ),
        (
            "a descriptor that is no eventfd",
            N,
            "io_fds.entries",
            replies(|_, frames| {
                with_entries(frames, |frame| {
                    let (end, _) = rustix::pipe::pipe().expect("a pipe");
                    frame.fds = vec![end];
                });
            }),
        ),
        (
            "another number where only that fits",
            N,
            "io_fds.cut",
            replies(|_, frames| {
                each(frames, IO_FDS, |frame| {
                    if frame.payload.len() == 16 {
                        frame.put(12, 0);
                    }
                });
            }),
        ),
    ]);
}

/// Alters the replies that have entries.
fn with_entries(frames: &mut [Frame], alter: impl Fn(&mut Frame)) {
    each(frames, IO_FDS, |frame| {
        if frame.payload.len() > 16 {
            alter(frame);
        }
    });
}
