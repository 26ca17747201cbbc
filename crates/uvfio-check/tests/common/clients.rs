//! Clients to try the kit on: what a client does, and messages put together by hand.

use std::os::unix::net::UnixStream;

use uvfio_check::client::{Options, check_client};
use uvfio_check::{Outcome, Report};

/// What a client does, and what was seen of it.
pub(crate) fn judged(options: &Options, client: impl FnOnce(UnixStream) + Send) -> Report {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    std::thread::scope(|scope| {
        scope.spawn(move || client(theirs));
        check_client(ours, options).expect("the socket works")
    })
}

pub(crate) fn outcome<'a>(report: &'a Report, rule: &str) -> &'a Outcome {
    let row = report.cases.iter().find(|row| row.name == rule);
    &row.expect("there is such a rule").outcome
}

/// A message of id 1.
pub(crate) fn message(command: u16, flags: u32, errno: u32, payload: &[u8]) -> Vec<u8> {
    let bytes = 16 + payload.len() as u32;
    let mut message = [1_u16.to_ne_bytes(), command.to_ne_bytes()].concat();
    message.extend(words(&[bytes, flags, errno]));
    message.extend_from_slice(payload);
    message
}

/// 32-bit words.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
