//! The floor: a process that answers messages of a given length by messages of a given length, and does nothing else.
//!
//! It receives as a server of the protocol must: into a buffer that takes any message, with room for descriptors, which
//! it closes. One `recvmsg` and one `sendmsg` a message: nothing that answers can do with less.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg};

use super::server::wait_for;
use super::wire::{Line, Request};

/// Descriptors that a message of the protocol may carry.
const DESCRIPTORS: usize = 16;

/// Where the floor makes its system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// In the loop that answers.
    InPlace = 0,
    /// Each in a function of its own, which returns after it.
    InFunctions = 1,
}

/// A running floor; ended when dropped.
#[derive(Debug)]
pub(super) struct Floor {
    child: Child,
    socket: PathBuf,
}

impl Floor {
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("floor.sock");
        let program = std::env::current_exe().context("where this program lies")?;
        let mut child = Command::new(program)
            .args(["bench", "--floor"])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("starting the floor")?;
        wait_for(&mut child, &socket, "the floor")?;
        Ok(Self { child, socket })
    }

    /// A line on which messages as long as `request` are answered by replies as long as its reply.
    pub(super) fn line(&self, request: &Request) -> Result<Line> {
        self.line_by(request, Calls::InPlace)
    }

    /// The same, with a floor that makes its system calls so.
    pub(super) fn line_by(&self, request: &Request, calls: Calls) -> Result<Line> {
        let mut line = Line::connect(&self.socket)?;
        let setup = [request.bytes.len(), request.reply, calls as usize].map(|number| number as u64);
        let setup = Request {
            bytes: setup.map(u64::to_ne_bytes).concat(),
            reply: 1,
        };
        line.round_trip(&setup, None)?;
        Ok(line)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The floor's own process: a thread a connection.
pub(super) fn answer(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
    for stream in listener.incoming() {
        let stream = stream.context("accepting")?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("floor: {error:#}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: UnixStream) -> Result<()> {
    let mut setup = [0; 24];
    stream.read_exact(&mut setup).context("reading the lengths")?;
    stream.write_all(&[0]).context("answering the lengths")?;
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |n: usize, b| (n << 8) | usize::from(*b))
    };
    let (request, reply) = (number(&setup[..8]), number(&setup[8..16]));
    let in_place = number(&setup[16..]) == Calls::InPlace as usize;
    let mut buffer = vec![0; 64 << 10];
    let answer = vec![0; reply];
    loop {
        let mut have = 0;
        while have < request {
            let free = &mut buffer[have..];
            let got = if in_place {
                receive(&stream, free)
            } else {
                receive_and_return(&stream, free)
            };
            match got.context("receiving")? {
                0 => return Ok(()),
                bytes => have += bytes,
            }
        }
        let sent = if in_place {
            send(&stream, &answer)
        } else {
            send_and_return(&stream, &answer)
        };
        let sent = sent.context("sending")?;
        if sent != reply {
            bail!("only {sent} of {reply} bytes were sent");
        }
    }
}

#[inline(always)]
fn receive(stream: &UnixStream, free: &mut [u8]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(free)];
    let got = recvmsg(stream.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    // Descriptors are closed as they are dropped.
    control.drain().for_each(drop);
    Ok(got.bytes)
}

#[inline(never)]
fn receive_and_return(stream: &UnixStream, free: &mut [u8]) -> rustix::io::Result<usize> {
    receive(stream, free)
}

#[inline(always)]
fn send(stream: &UnixStream, answer: &[u8]) -> rustix::io::Result<usize> {
    let mut control = SendAncillaryBuffer::default();
    sendmsg(
        stream.as_fd(),
        &[IoSlice::new(answer)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

#[inline(never)]
fn send_and_return(stream: &UnixStream, answer: &[u8]) -> rustix::io::Result<usize> {
    send(stream, answer)
}
