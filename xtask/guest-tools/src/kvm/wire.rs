//! A client of vfio-user in as few lines as do: it counts its messages, and knows requests that the client which Cloud
//! Hypervisor uses does not. What lies on the wire is written down here apart from our server.

use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::machine::Registers;

const VERSION: u16 = 1;
const GET_REGION_IO_FDS: u16 = 6;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const HEADER_BYTES: usize = 16;
const ERROR: u32 = 1 << 5;

/// SET_IRQS: a descriptor a vector; it triggers, or it unmasks. And INTx's and MSI-X's indices.
const EVENTFD: u32 = 1 << 2;
pub(super) const UNMASK: u32 = 1 << 4;
pub(super) const TRIGGER: u32 = 1 << 5;
pub(super) const INTX: u32 = 0;
pub(super) const MSIX: u32 = 2;

const BAR0: u32 = 0;
const CONFIG: u32 = 7;

/// A register for whose stores the server waits at an eventfd.
pub(super) struct Doorbell {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) flags: u32,
    pub(super) eventfd: OwnedFd,
}

pub(super) struct Wire {
    socket: UnixStream,
    sent: u32,
}

impl Wire {
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let socket =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        let mut wire = Self { socket, sent: 0 };
        let version = b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":16}}\0";
        wire.ask(VERSION, version, &[]).context("VERSION")?;
        let memory_and_master = u16::to_le_bytes(0x6);
        wire.write(CONFIG, 0x04, &memory_and_master)?;
        Ok(wire)
    }

    /// How many messages were sent.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Whether the server has sent anything that was not asked for.
    pub(super) fn is_silent(&self) -> Result<bool> {
        let now = Timespec::default();
        Ok(poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&now))? == 0)
    }

    /// The doorbells of BAR 0, which all come with a descriptor.
    pub(super) fn doorbells(&mut self) -> Result<Vec<Doorbell>> {
        let request = words(&[4096, 0, BAR0, 0]);
        let (reply, mut fds) = self
            .ask(GET_REGION_IO_FDS, &request, &[])
            .context("DEVICE_GET_REGION_IO_FDS")?;
        let (fixed, entries) = reply.split_at_checked(16).context("the reply is too short")?;
        ensure!(
            word(fixed, 0) as usize == reply.len(),
            "argsz is not the reply's length"
        );
        ensure!(
            word(fixed, 12) as usize * 40 == entries.len(),
            "the entries are not as many as told"
        );
        let mut doorbells = Vec::new();
        // From the last on: a descriptor that is taken out leaves the ones before it where they are.
        for entry in entries.chunks_exact(40).rev() {
            let index = word(entry, 16) as usize;
            ensure!(word(entry, 20) == 0, "it is no ioeventfd");
            ensure!(index + 1 == fds.len(), "not one descriptor each, in order");
            doorbells.push(Doorbell {
                offset: long(entry, 0),
                bytes: long(entry, 8),
                flags: word(entry, 24),
                eventfd: fds.remove(index),
            });
        }
        ensure!(fds.is_empty(), "a descriptor is no entry's");
        Ok(doorbells)
    }

    /// Attaches an eventfd to the first interrupt of an index, to trigger or to unmask it.
    pub(super) fn set_eventfd(&mut self, index: u32, action: u32, eventfd: BorrowedFd<'_>) -> Result<()> {
        let request = words(&[20, EVENTFD | action, index, 0, 1]);
        self.ask(SET_IRQS, &request, &[eventfd])
            .context("DEVICE_SET_IRQS")?;
        Ok(())
    }

    /// A register of BAR 0.
    pub(super) fn register(&mut self, offset: u64) -> Result<u32> {
        let mut data = [0; 4];
        self.load(offset, &mut data)?;
        Ok(u32::from_le_bytes(data))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let mut request = access(region, offset, data.len());
        request.extend_from_slice(data);
        self.ask(REGION_WRITE, &request, &[]).context("REGION_WRITE")?;
        Ok(())
    }

    /// Sends a request and waits for its reply.
    fn ask(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.sent += 1;
        let mut message = u16::to_le_bytes(self.sent as u16).to_vec();
        message.extend(command.to_le_bytes());
        message.extend(words(&[(HEADER_BYTES + payload.len()) as u32, 0, 0]));
        message.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = sendmsg(
            &self.socket,
            &[IoSlice::new(&message)],
            &mut with,
            SendFlags::empty(),
        )?;
        ensure!(sent == message.len(), "the message did not go out whole");

        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut header)];
        let got = recvmsg(self.socket.as_fd(), &mut into, &mut with, RecvFlags::WAITALL)?;
        ensure!(got.bytes == HEADER_BYTES, "the server has closed the connection");
        let mut received = Vec::new();
        for with in with.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = with {
                received.extend(fds);
            }
        }
        if word(&header, 8) & ERROR != 0 {
            bail!("refused with error {}", word(&header, 12));
        }
        ensure!(header[..4] == message[..4], "the reply is to another request");
        let rest = (word(&header, 4) as usize)
            .checked_sub(HEADER_BYTES)
            .context("a reply without a header")?;
        let mut payload = vec![0; rest];
        self.socket.read_exact(&mut payload)?;
        Ok((payload, received))
    }
}

impl Registers for Wire {
    fn load(&mut self, offset: u64, data: &mut [u8]) -> Result<()> {
        let request = access(BAR0, offset, data.len());
        let (reply, _) = self.ask(REGION_READ, &request, &[]).context("REGION_READ")?;
        data.copy_from_slice(
            reply
                .get(16..)
                .filter(|read| read.len() == data.len())
                .context("not as many bytes as asked for")?,
        );
        Ok(())
    }

    fn store(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(BAR0, offset, data)
    }
}

fn access(region: u32, offset: u64, bytes: usize) -> Vec<u8> {
    let mut request = offset.to_le_bytes().to_vec();
    request.extend(words(&[region, bytes as u32]));
    request
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    long(bytes, at) as u32
}

/// Up to eight bytes from `at` on.
fn long(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
