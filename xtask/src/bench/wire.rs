//! The smallest vfio-user client that can measure: messages built by hand, one send and one receive a round trip.
//!
//! It is not the project's own client on purpose: the same few instructions stand before the server and before the
//! floor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;
/// Configuration space's region.
pub(super) const CONFIG: u32 = 7;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const ERROR: u32 = 1 << 5;

/// A request, and how long its reply is.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    pub(super) reply: usize,
}

fn message(command: u16, payload: &[u8], reply: usize) -> Request {
    let size = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    Request { bytes, reply }
}

/// Reads `count` bytes of a region.
pub(super) fn region_read(region: u32, offset: u64, count: u32) -> Request {
    message(
        REGION_READ,
        &place(region, offset, count),
        HEADER + 16 + count as usize,
    )
}

/// Writes to a region.
pub(super) fn region_write(region: u32, offset: u64, data: &[u8]) -> Request {
    let mut payload = place(region, offset, u32::try_from(data.len()).unwrap_or(u32::MAX));
    payload.extend(data);
    message(REGION_WRITE, &payload, HEADER + 16)
}

fn place(region: u32, offset: u64, count: u32) -> Vec<u8> {
    let mut payload = offset.to_ne_bytes().to_vec();
    payload.extend(region.to_ne_bytes());
    payload.extend(count.to_ne_bytes());
    payload
}

/// Maps a range of a file, for reads and writes.
pub(super) fn dma_map(offset: u64, iova: u64, bytes: u64) -> Request {
    let mut payload = [32_u32.to_ne_bytes(), 3_u32.to_ne_bytes()].concat();
    for number in [offset, iova, bytes] {
        payload.extend(number.to_ne_bytes());
    }
    message(DMA_MAP, &payload, HEADER)
}

/// Unmaps a range.
pub(super) fn dma_unmap(iova: u64, bytes: u64) -> Request {
    let mut payload = [24_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    for number in [iova, bytes] {
        payload.extend(number.to_ne_bytes());
    }
    message(DMA_UNMAP, &payload, HEADER + 24)
}

/// One side of a stream socket, with a buffer for replies.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Line {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        // So that a server that does not answer is an error and no hang.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .context("setting a time limit")?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Sends a request, with a descriptor if one is given, and waits for the whole reply.
    pub(super) fn round_trip(
        &mut self,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<&[u8]> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            bail!("no room for a descriptor");
        }
        let parts = [IoSlice::new(&request.bytes)];
        let sent =
            sendmsg(self.stream.as_fd(), &parts, &mut control, SendFlags::NOSIGNAL).context("sending")?;
        if sent != request.bytes.len() {
            bail!("only {sent} of {} bytes were sent", request.bytes.len());
        }
        let mut have = 0;
        while have < request.reply {
            let got = {
                let mut parts = [IoSliceMut::new(&mut self.buffer[have..])];
                let mut control = RecvAncillaryBuffer::default();
                recvmsg(self.stream.as_fd(), &mut parts, &mut control, RecvFlags::empty())
                    .context("receiving")?
            };
            if got.bytes == 0 {
                bail!("the other side has closed the connection");
            }
            have += got.bytes;
            // An error is a header alone.
            if have >= HEADER && self.word(8) & ERROR != 0 {
                bail!(
                    "command {} was refused: errno {}",
                    self.word(2) & 0xffff,
                    self.word(12)
                );
            }
        }
        Ok(&self.buffer[..request.reply])
    }

    /// Sends a request and gives the time until its reply, in microseconds.
    pub(super) fn time(&mut self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<f64> {
        let start = Instant::now();
        self.round_trip(request, descriptor)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }

    /// Agrees on a version with a server.
    pub(super) fn negotiate(&mut self) -> Result<()> {
        let mut payload = [0_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        payload.extend(b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}\0");
        // The reply's length is the server's choice: it stands in the header.
        let request = message(VERSION, &payload, HEADER);
        self.round_trip(&request, None)?;
        Ok(())
    }

    fn word(&self, at: usize) -> u32 {
        self.buffer
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }
}
