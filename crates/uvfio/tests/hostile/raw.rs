//! Messages put together by hand, with descriptors that belong to no command.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A connection.
pub(crate) struct Raw(UnixStream);

impl Raw {
    /// Connects, and says VERSION; the reply may come later.
    pub(crate) fn connect(path: &Path) -> Self {
        let raw = Self(UnixStream::connect(path).expect("it listens"));
        raw.send(1, b"\0\0\x01\0{}\0", &[]);
        raw
    }

    /// Sends a command, with descriptors.
    pub(crate) fn send(&self, command: u16, payload: &[u8], fds: &[OwnedFd]) {
        let bytes = 16 + payload.len() as u32;
        let mut message = [7_u16.to_ne_bytes(), command.to_ne_bytes()].concat();
        for word in [bytes, 0, 0] {
            message.extend(word.to_ne_bytes());
        }
        message.extend_from_slice(payload);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(
            &self.0,
            &[IoSlice::new(&message)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        assert_eq!(sent.expect("it is sent"), message.len());
    }

    /// The next reply: command and error number.
    pub(crate) fn reply(&mut self, patience: Duration) -> (u16, u32) {
        self.0.set_read_timeout(Some(patience)).expect("a time-out");
        let mut header = [0; 16];
        self.0.read_exact(&mut header).expect("a reply in time");
        let word = |at| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut payload = vec![0; word(4) as usize - 16];
        self.0.read_exact(&mut payload).expect("the rest of it");
        (u16::from_ne_bytes([header[2], header[3]]), word(12))
    }
}

/// 32-bit words.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
