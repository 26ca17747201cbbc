//! VERSION.

use super::common::proxy::{replies, requests};
use super::{E, VERSION, check, each, json};

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
                });
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
                });
            }),
        ),
        (
            "too many descriptors",
            E,
            "version.limits",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(frame, "{\"capabilities\":{\"max_msg_fds\":1024}}");
                });
            }),
        ),
        (
            "a long reply",
            E,
            "version.reply_fits",
            replies(|_, frames| {
                each(frames, VERSION, |frame| {
                    json(frame, &format!("{{\"capabilities\":{{}}}}{}", " ".repeat(400)));
                });
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
                });
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
                });
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
