//! A peer that sends whatever bytes and descriptors it likes. It shares no code with the crate.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// A received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) id: u16,
    pub(crate) command: u16,
    pub(crate) flags: u32,
    pub(crate) errno: u32,
    pub(crate) payload: Vec<u8>,
}

impl Got {
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.payload[at..at + 8].try_into().unwrap())
    }
}

pub(crate) struct Raw(pub(crate) UnixStream);

/// A message: header and payload.
pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    header(id, command, 16 + payload.len() as u32, flags)
        .into_iter()
        .chain(payload.iter().copied())
        .collect()
}

pub(crate) fn header(id: u16, command: u16, bytes: u32, flags: u32) -> Vec<u8> {
    [
        &id.to_ne_bytes()[..],
        &command.to_ne_bytes(),
        &bytes.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 4],
    ]
    .concat()
}

/// Words of a payload.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Numbers of a payload, by width.
#[derive(Clone, Copy)]
pub(crate) enum N {
    D(u32),
    Q(u64),
}

pub(crate) fn pack(numbers: &[N]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        match number {
            N::D(number) => bytes.extend(number.to_ne_bytes()),
            N::Q(number) => bytes.extend(number.to_ne_bytes()),
        }
    }
    bytes
}

pub(crate) fn access(offset: u64, region: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = pack(&[N::Q(offset), N::D(region), N::D(count)]);
    bytes.extend_from_slice(data);
    bytes
}

pub(crate) fn dma_map(argsz: u32, flags: u32, offset: u64, iova: u64, bytes: u64) -> Vec<u8> {
    pack(&[N::D(argsz), N::D(flags), N::Q(offset), N::Q(iova), N::Q(bytes)])
}

pub(crate) fn dma_unmap(argsz: u32, flags: u32, iova: u64, bytes: u64) -> Vec<u8> {
    pack(&[N::D(argsz), N::D(flags), N::Q(iova), N::Q(bytes)])
}

pub(crate) fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    pack(&[N::D(argsz), N::D(0), N::D(index), N::D(0), N::Q(0), N::Q(0)])
}

pub(crate) fn version(major: u16, minor: u16, json: &[u8]) -> Vec<u8> {
    [&major.to_ne_bytes()[..], &minor.to_ne_bytes(), json].concat()
}

impl Raw {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        self.send_with(bytes, &[]);
    }

    pub(crate) fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        self.try_send(bytes, fds).expect("the server reads");
    }

    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let mut sent = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        while sent < bytes.len() {
            sent += rustix::net::send(&self.0, &bytes[sent..], SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// The next message and its descriptors; `None` where the stream has ended.
    pub(crate) fn recv_with(&self) -> Option<(Got, Vec<OwnedFd>)> {
        let mut head = [0; 16];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut head)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let got = match got {
            Ok(got) if got.bytes > 0 => got.bytes,
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => return None,
            Err(error) => panic!("no message came: {error}"),
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                fds.extend(some);
            }
        }
        (&self.0).read_exact(&mut head[got..]).expect("a whole header");
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(4) as usize - 16];
        (&self.0).read_exact(&mut payload).expect("a whole payload");
        Some((
            Got {
                id: half(0),
                command: half(2),
                flags: word(8),
                errno: word(12),
                payload,
            },
            fds,
        ))
    }

    pub(crate) fn recv(&self) -> Got {
        self.recv_with().expect("the connection is open").0
    }

    /// Sends a command and receives one message.
    pub(crate) fn ask(&self, id: u16, command: u16, payload: &[u8]) -> Got {
        self.send(&message(id, command, 0, payload));
        self.recv()
    }

    /// Agrees on a version, with a long JSON.
    pub(crate) fn negotiate(&self) -> Got {
        let json =
            b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"write_multiple\":true,\
            \"max_dma_maps\":65535,\"migration\":{\"pgsize\":4096}}}\0";
        let got = self.ask(0xbeef, 1, &version(0, 1, json));
        assert_eq!(
            (got.id, got.command, got.flags),
            (0xbeef, 1, 1),
            "VERSION's reply: {got:?}"
        );
        got
    }
}
