//! A relay between QEMU and a server. It counts the doorbells that go by, and tells the guest lies about the device, which
//! no server of ours would.
//!
//! It adds a hop to every message, so it is never for a run whose speed matters.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Bytes of a message's header.
const HEADER: usize = 16;
/// The command that reads a region.
const REGION_READ: u16 = 9;
/// Where the data of an access begins: after the offset, the region and the count.
const DATA: usize = HEADER + 16;
/// The command that writes a region.
const REGION_WRITE: u16 = 10;
/// The command that does several such writes, each described by 24 bytes after their number.
const REGION_WRITE_MULTI: u16 = 15;
/// The region of configuration space.
const CONFIG: u64 = 7;
/// Descriptors that a message may carry.
const DESCRIPTORS: usize = 16;
/// The register of our edu's that begins a function level reset, and the bit in it (PCI Express Base 5.0, 7.5.3.4).
const EDU_DEVICE_CONTROL: u64 = 0x60;
const INITIATE_RESET: u64 = 1 << 15;
/// Where NVMe's doorbells begin in BAR 0 (NVM Express 1.4, 3.1).
const DOORBELLS: u64 = 0x1000;

/// A running relay; it ends when either side leaves.
#[derive(Debug)]
pub(super) struct Tap {
    doorbells: Arc<AtomicU64>,
    lies: Arc<Mutex<Lies>>,
}

/// What is not true of the device.
#[derive(Debug, Default)]
pub(super) struct Lies {
    /// Bytes of configuration space that read otherwise, by their offset.
    pub(super) config: BTreeMap<u64, u8>,
    /// How long the device reads all ones after a function level reset, as one does that takes its time.
    pub(super) reset_takes: Duration,
    silent_until: Option<Instant>,
}

impl Tap {
    /// Waits for one client on `listen`, and passes it on to the server on `server`.
    pub(super) fn start(listen: &Path, server: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(listen).with_context(|| format!("listening on {}", listen.display()))?;
        let server =
            UnixStream::connect(server).with_context(|| format!("connecting to {}", server.display()))?;
        let tap = Self {
            doorbells: Arc::default(),
            lies: Arc::default(),
        };
        let (doorbells, lies) = (Arc::clone(&tap.doorbells), Arc::clone(&tap.lies));
        thread::spawn(move || {
            let Ok((client, _)) = listener.accept() else {
                return;
            };
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                return;
            };
            let told = Arc::clone(&lies);
            let answers = thread::spawn(move || {
                relay(&from_server, &client, |message| lock(&told).tell(message));
            });
            relay(&from_client, &server, |message| {
                doorbells.fetch_add(doorbells_of(message), Ordering::Relaxed);
                lock(&lies).hear(message);
            });
            let _ = answers.join();
        });
        Ok(tap)
    }

    /// Writes of doorbells so far.
    pub(super) fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    /// What the guest is told from now on.
    pub(super) fn lies(&self) -> MutexGuard<'_, Lies> {
        lock(&self.lies)
    }
}

fn lock(lies: &Mutex<Lies>) -> MutexGuard<'_, Lies> {
    lies.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lies {
    /// Hears what the client wants: a reset begins the device's silence.
    fn hear(&mut self, message: &[u8]) {
        let resets = command(message) == Some(REGION_WRITE)
            && number(message, HEADER + 8, 4) == Some(CONFIG)
            && number(message, HEADER, 8) == Some(EDU_DEVICE_CONTROL)
            && number(message, DATA, 2).is_some_and(|value| value & INITIATE_RESET != 0);
        if resets && !self.reset_takes.is_zero() {
            self.silent_until = Some(Instant::now() + self.reset_takes);
        }
    }

    /// Changes the data that an answer brings.
    fn tell(&self, message: &mut [u8]) {
        if command(message) != Some(REGION_READ) {
            return;
        }
        let (Some(first), Some(region)) = (number(message, HEADER, 8), number(message, HEADER + 8, 4)) else {
            return;
        };
        let Some(data) = message.get_mut(DATA..) else {
            return;
        };
        if self.silent_until.is_some_and(|end| Instant::now() < end) {
            data.fill(0xff);
        } else if region == CONFIG {
            for (byte, at) in data.iter_mut().zip(first..) {
                *byte = self.config.get(&at).copied().unwrap_or(*byte);
            }
        }
    }
}

/// Passes on messages and descriptors until `from` ends or `to` takes no more.
fn relay(from: &UnixStream, to: &UnixStream, mut look: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 1 << 20];
    let mut parser = Parser::default();
    while let Ok((bytes, mut descriptors)) = receive(from, &mut buffer) {
        let Some(bytes) = buffer.get(..bytes).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        parser.bytes.extend_from_slice(bytes);
        parser.descriptors.append(&mut descriptors);
        let mut whole = parser.whole_messages();
        if whole.is_empty() {
            continue;
        }
        let mut rest = whole.as_mut_slice();
        while let Some(size) = size_of_first(rest) {
            let (message, others) = rest.split_at_mut(size);
            look(message);
            rest = others;
        }
        if send(to, &whole, &std::mem::take(&mut parser.descriptors)).is_err() {
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

/// Cuts a stream into messages.
#[derive(Debug, Default)]
struct Parser {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Parser {
    /// Takes the messages that have come whole.
    fn whole_messages(&mut self) -> Vec<u8> {
        let mut end = 0;
        while let Some(size) = self.bytes.get(end..).and_then(size_of_first) {
            end += size;
        }
        self.bytes.drain(..end).collect()
    }
}

/// How long the first message is, if it is there as a whole.
fn size_of_first(bytes: &[u8]) -> Option<usize> {
    let size = usize::try_from(number(bytes, 4, 4)?).ok()?;
    (HEADER..=bytes.len()).contains(&size).then_some(size)
}

fn command(message: &[u8]) -> Option<u16> {
    number(message, 2, 2).and_then(|command| u16::try_from(command).ok())
}

fn doorbells_of(message: &[u8]) -> u64 {
    let is_doorbell = |at| number(message, at, 8).is_some_and(|offset| offset >= DOORBELLS);
    let is_bar0 = |at| number(message, at, 4) == Some(0);
    match command(message) {
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
    use super::{CONFIG, Lies, Parser, doorbells_of, size_of_first};

    fn access(command: u16, region: u32, offset: u64, data: [u8; 4]) -> Vec<u8> {
        let mut message = [0_u16.to_le_bytes(), command.to_le_bytes()].concat();
        message.extend(36_u32.to_le_bytes());
        message.extend([0; 8]);
        message.extend(offset.to_le_bytes());
        message.extend(region.to_le_bytes());
        message.extend(4_u32.to_le_bytes());
        message.extend(data);
        message
    }

    fn write(region: u32, offset: u64) -> Vec<u8> {
        access(10, region, offset, [0; 4])
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
            let mut count = 0;
            let (first, second) = stream.split_at(cut);
            for part in [first, second] {
                parser.bytes.extend_from_slice(part);
                let whole = parser.whole_messages();
                let mut rest = whole.as_slice();
                while let Some(size) = size_of_first(rest) {
                    count += doorbells_of(&rest[..size]);
                    rest = &rest[size..];
                }
            }
            assert_eq!(count, 2, "cut after {cut} bytes");
        }
    }

    #[test]
    fn what_is_not_true_stands_in_the_answer_at_its_place() {
        let mut lies = Lies::default();
        lies.config.insert(0x0e, 1);
        let mut header = access(9, CONFIG as u32, 0x0c, [1, 2, 3, 4]);
        lies.tell(&mut header);
        assert_eq!(header[32..], [1, 2, 1, 4]);
        let mut register = access(9, 0, 0x0c, [1, 2, 3, 4]);
        lies.tell(&mut register);
        assert_eq!(register[32..], [1, 2, 3, 4]);
    }
}
