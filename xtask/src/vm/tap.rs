//! A relay between QEMU and a server, which counts the doorbells that go by.
//!
//! It adds a hop to every message, so it is for counting only, never for a run whose speed matters.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Bytes of a message's header.
const HEADER: usize = 16;
/// The command that writes a region.
const REGION_WRITE: u16 = 10;
/// The command that does several such writes, each described by 24 bytes after their number.
const REGION_WRITE_MULTI: u16 = 15;
/// Descriptors that a message may carry.
const DESCRIPTORS: usize = 16;
/// Where NVMe's doorbells begin in BAR 0 (NVM Express 1.4, 3.1).
const DOORBELLS: u64 = 0x1000;

/// A running relay; it ends when either side leaves.
#[derive(Debug)]
pub(super) struct Tap {
    doorbells: Arc<AtomicU64>,
}

impl Tap {
    /// Waits for one client on `listen`, and passes it on to the server on `server`.
    pub(super) fn start(listen: &Path, server: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(listen).with_context(|| format!("listening on {}", listen.display()))?;
        let server =
            UnixStream::connect(server).with_context(|| format!("connecting to {}", server.display()))?;
        let doorbells = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&doorbells);
        thread::spawn(move || {
            let Ok((client, _)) = listener.accept() else {
                return;
            };
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                return;
            };
            let answers = thread::spawn(move || relay(&from_server, &client, |_| {}));
            let mut parser = Parser::default();
            relay(&from_client, &server, |bytes| {
                count.fetch_add(parser.doorbells(bytes), Ordering::Relaxed);
            });
            let _ = answers.join();
        });
        Ok(Self { doorbells })
    }

    /// Writes of doorbells so far.
    pub(super) fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }
}

/// Passes on bytes and descriptors until `from` ends or `to` takes no more.
fn relay(from: &UnixStream, to: &UnixStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok((bytes, descriptors)) = receive(from, &mut buffer) {
        let Some(bytes) = buffer.get(..bytes).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        look(bytes);
        if send(to, bytes, &descriptors).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn receive(from: &UnixStream, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg(from.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok((got.bytes, descriptors.collect()))
}

fn send(to: &UnixStream, mut bytes: &[u8], descriptors: &[OwnedFd]) -> Result<()> {
    let mut descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let sent = sendmsg(
            to.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        bytes = bytes.get(sent..).unwrap_or_default();
        // They went with the first byte.
        descriptors.clear();
    }
    Ok(())
}

/// Cuts a stream into messages and counts the doorbells written by them.
#[derive(Debug, Default)]
struct Parser {
    message: Vec<u8>,
}

impl Parser {
    fn doorbells(&mut self, bytes: &[u8]) -> u64 {
        let mut count = 0;
        self.message.extend_from_slice(bytes);
        while let Some(size) = number(&self.message, 4, 4).filter(|size| *size >= HEADER as u64) {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let Some(message) = self.message.get(..size) else {
                break;
            };
            count += doorbells_of(message);
            self.message.drain(..size);
        }
        count
    }
}

fn doorbells_of(message: &[u8]) -> u64 {
    let command = number(message, 2, 2).and_then(|command| u16::try_from(command).ok());
    let is_doorbell = |at| number(message, at, 8).is_some_and(|offset| offset >= DOORBELLS);
    let is_bar0 = |at| number(message, at, 4) == Some(0);
    match command {
        Some(REGION_WRITE) => u64::from(is_doorbell(HEADER) && is_bar0(HEADER + 8)),
        Some(REGION_WRITE_MULTI) => {
            let writes = number(message, HEADER, 8)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0);
            let entries = (HEADER + 8..message.len()).step_by(24).take(writes);
            entries.filter(|at| is_doorbell(*at) && is_bar0(at + 8)).count() as u64
        }
        _ => 0,
    }
}

/// A little-endian number of `bytes` bytes at `at`.
fn number(message: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let bytes = message.get(at..at + bytes)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::Parser;

    fn write(region: u32, offset: u64) -> Vec<u8> {
        let mut message = [0_u16.to_le_bytes(), 10_u16.to_le_bytes()].concat();
        message.extend(36_u32.to_le_bytes());
        message.extend([0; 8]);
        message.extend(offset.to_le_bytes());
        message.extend(region.to_le_bytes());
        message.extend(4_u32.to_le_bytes());
        message.extend([0; 4]);
        message
    }

    #[test]
    fn doorbells_are_counted_however_the_stream_is_cut() {
        let stream = [
            write(0, 0x1008),
            write(0, 0x14),
            write(7, 0x1000),
            write(0, 0x1000),
        ]
        .concat();
        for cut in 0..stream.len() {
            let mut parser = Parser::default();
            let (first, second) = stream.split_at(cut);
            let count = parser.doorbells(first) + parser.doorbells(second);
            assert_eq!(count, 2, "cut after {cut} bytes");
        }
    }
}
