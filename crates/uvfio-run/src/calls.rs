//! Answers the calls that the preloaded library makes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};
use uvfio_calls::{AT_POSITION, Call, MapPart, PARTS, Reply, kind, op};
use uvfio_uapi::{Answer, Caller as _, FileId, Given, Part, Uapi};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::LockedMemory;
use crate::files::{Files, Inode};
use crate::process::{Calling, Process, Processes, Thread};
use crate::tree::Node;

/// Bytes of a read or write that are under way at a time.
const CHUNK: usize = 64 << 10;
/// Most threads that answer, which is most connections: a process has as many as it makes calls at a time.
const THREADS: usize = 1024;
const STACK: usize = 256 << 10;

/// What answering needs.
pub(crate) struct Calls {
    uapi: Arc<Uapi>,
    pub(crate) files: Files,
    nodes: HashMap<Inode, Node>,
    pub(crate) processes: Processes,
    listener: UnixListener,
    /// Threads that wait for a call
    idle: AtomicUsize,
    threads: AtomicUsize,
}

/// What a call gives: a reply, and descriptors with it.
pub(crate) type Answered = (Reply, Vec<OwnedFd>);

impl Calls {
    /// Answers calls at `listener` from now on. `nodes` are the files that stand for nodes, by device and inode numbers.
    pub(crate) fn answer(
        uapi: Arc<Uapi>,
        nodes: &[(Node, u64, u64)],
        listener: UnixListener,
        locked: LockedMemory,
    ) -> io::Result<Arc<Self>> {
        let calls = Arc::new(Self {
            files: Files::new(uapi.clone())?,
            uapi,
            nodes: nodes
                .iter()
                .map(|(node, device, inode)| ((*device, *inode), *node))
                .collect(),
            processes: Processes::new(locked),
            listener,
            idle: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
        });
        calls.start_thread()?;
        let watching = calls.clone();
        Builder::new()
            .name("files".into())
            .stack_size(STACK)
            .spawn(move || watching.files.watch())?;
        Ok(calls)
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let calls = self.clone();
        self.threads.fetch_add(1, Ordering::Relaxed);
        self.idle.fetch_add(1, Ordering::Relaxed);
        let started = Builder::new()
            .name("calls".into())
            .stack_size(STACK)
            .spawn(move || calls.work());
        if started.is_err() {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    fn work(self: Arc<Self>) {
        while let Ok((connection, _)) = self.listener.accept() {
            let last = self.idle.fetch_sub(1, Ordering::Relaxed) == 1;
            if last && self.threads.load(Ordering::Relaxed) < THREADS {
                // Without another, the next caller would wait for this one.
                let _ = self.start_thread();
            }
            // Until the caller has gone, which ends it with an error.
            if let Err(error) = self.serve(&connection)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                tracing::debug!(%error, "a caller is served no more");
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// No more calls are answered. The descriptor is the socket itself, not a duplicate.
    pub(crate) fn stop(&self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.files.end();
    }

    /// Answers the calls of one connection. Never comes back without an error.
    fn serve(&self, mut connection: &UnixStream) -> io::Result<Infallible> {
        let process = self.processes.get(sockopt::socket_peercred(connection)?.pid)?;
        // The library does that, where it knows the processor.
        let traps = cfg!(target_arch = "x86_64");
        loop {
            let mut call = Call::new_zeroed();
            connection.read_exact(call.as_mut_bytes())?;
            let (reply, descriptors) = self
                .answered(&call, process.clone(), traps)
                .unwrap_or_else(|errno| (Reply::of(kind::ERROR, errno.raw_os_error() as u64), Vec::new()));
            send(connection, &reply, descriptors)?;
        }
    }

    /// What a call gives that the kernel has told of.
    pub(crate) fn call_of(&self, call: &Call, thread: &Thread) -> Result<Answered, Errno> {
        self.answered(call, self.processes.get(thread.process()?)?, false)
    }

    fn answered(&self, call: &Call, process: Arc<Process>, traps: bool) -> Result<Answered, Errno> {
        self.files.close_closed();
        let calling = &Calling {
            process,
            files: &self.files,
            traps,
        };
        if call.op == op::OPEN {
            let Some(node) = self.nodes.get(&(call.request, call.offset)) else {
                return Ok(plain(kind::NOT_OURS, 0));
            };
            let file = self.uapi.open((*node).into())?;
            let inode = (call.request, call.offset);
            return self.given(file, Some(inode), matches!(node, Node::Device(_)), false);
        }
        if call.op == op::STAT {
            let descriptor = calling.process.descriptor(call.descriptor)?;
            let (device, inode) = match self.files.node_of(descriptor.as_fd()) {
                Some(Some(inode)) => inode,
                Some(None) => return Ok(plain(kind::ANONYMOUS, 0)),
                None => return Ok(plain(kind::NOT_OURS, 0)),
            };
            let mut reply = Reply::of(kind::NODE, device);
            reply.parts[0].offset = inode;
            return Ok((reply, Vec::new()));
        }
        // Of one that is not open, too, the kernel says what is wrong.
        let Ok(Given::Ours(file)) = calling.descriptor(call.descriptor) else {
            return Ok(plain(kind::NOT_OURS, 0));
        };
        match call.op {
            op::IOCTL => match self
                .uapi
                .ioctl(file, call.request as u32, call.address, calling)?
            {
                Answer::Value(value) => Ok(plain(kind::VALUE, i64::from(value) as u64)),
                // The only ones that ioctls give.
                Answer::Descriptor { file, close_on_exec } => self.given(file, None, true, close_on_exec),
            },
            op::READ | op::WRITE | op::READ_VECTOR | op::WRITE_VECTOR => {
                let go = |offset| self.transfer(file, &Call { offset, ..*call }, calling);
                let bytes = match call.offset {
                    AT_POSITION => self.uapi.at_position(file, go),
                    offset => go(offset),
                };
                bytes.map(|bytes| plain(kind::VALUE, bytes))
            }
            op::MAP => self.map(file, call),
            op::LOAD | op::STORE => self.access(file, call),
            _ => Err(Errno::NOSYS),
        }
    }

    fn map(&self, file: FileId, call: &Call) -> Result<Answered, Errno> {
        let mut reply = Reply::of(kind::PARTS, 0);
        let mut descriptors = Vec::new();
        let parts = self.uapi.mappings(file, call.offset, call.bytes)?;
        for (place, part) in reply.parts.iter_mut().zip(parts) {
            *place = match part {
                Part::Memory { bytes, file, offset } => {
                    descriptors.push(file);
                    MapPart {
                        bytes,
                        offset,
                        memory: 1,
                    }
                }
                Part::Trapped { bytes } => MapPart {
                    bytes,
                    offset: 0,
                    memory: 0,
                },
            };
            reply.value += 1;
        }
        Ok((reply, descriptors))
    }

    /// A load or store of registers that are mapped.
    fn access(&self, file: FileId, call: &Call) -> Result<Answered, Errno> {
        let mut value = call.request.to_le_bytes();
        let bytes = usize::try_from(call.bytes)
            .ok()
            .and_then(|bytes| value.get_mut(..bytes));
        let bytes = bytes.ok_or(Errno::INVAL)?;
        if call.op == op::LOAD {
            self.uapi.load(file, call.offset, bytes)?;
        } else {
            self.uapi.store(file, call.offset, bytes)?;
        }
        Ok(plain(kind::VALUE, u64::from_le_bytes(value)))
    }

    /// A descriptor for the caller.
    fn given(
        &self,
        file: FileId,
        node: Option<Inode>,
        device: bool,
        close_on_exec: bool,
    ) -> Result<Answered, Errno> {
        let descriptor = self.files.descriptor(file, node)?;
        let reply = Reply {
            device: device.into(),
            ..Reply::of(kind::DESCRIPTOR, close_on_exec.into())
        };
        Ok((reply, vec![descriptor]))
    }

    /// A read or write, at its offset.
    fn transfer(&self, file: FileId, call: &Call, calling: &Calling<'_>) -> Result<u64, Errno> {
        if !matches!(call.op, op::READ | op::WRITE) {
            return self.transfer_vector(file, call, calling);
        }
        let end = call.address.checked_add(call.bytes);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            // What can't be read at all is told first. No program has such memory, however little there is to move.
            self.uapi.read(file, call.offset, &mut [])?;
            return Err(Errno::FAULT);
        }
        let call = &Call {
            bytes: call.bytes.min(LONGEST),
            ..*call
        };
        match call.op {
            op::READ => self.read(file, call, calling),
            _ => self.write(file, call, calling),
        }
    }

    /// A read or write by pieces of memory: one after the other, as the kernel does where a driver knows no such calls.
    fn transfer_vector(&self, file: FileId, call: &Call, calling: &Calling<'_>) -> Result<u64, Errno> {
        // What can't be read at all is told first.
        self.uapi.read(file, call.offset, &mut [])?;
        let op = match call.op {
            op::READ_VECTOR => op::READ,
            _ => op::WRITE,
        };
        let pieces = pieces(call, calling)?;
        if pieces.is_empty() {
            return Ok(0);
        }
        if call.request & !HIGH_PRIORITY != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let mut done = 0;
        for (address, bytes) in pieces {
            let piece = Call {
                op,
                address,
                bytes,
                offset: call.offset.wrapping_add(done),
                ..*call
            };
            match self.transfer(file, &piece, calling) {
                Ok(moved) if moved == bytes => done += moved,
                Ok(moved) => return Ok(done + moved),
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
        }
        Ok(done)
    }

    fn read(&self, file: FileId, call: &Call, calling: &Calling<'_>) -> Result<u64, Errno> {
        in_chunks(call, |chunk, address, offset| {
            let bytes = self.uapi.read(file, offset, chunk)?;
            calling.write(address, chunk.get(..bytes).unwrap_or_default())?;
            Ok(bytes)
        })
    }

    fn write(&self, file: FileId, call: &Call, calling: &Calling<'_>) -> Result<u64, Errno> {
        in_chunks(call, |chunk, address, offset| {
            calling.read(address, chunk)?;
            self.uapi.write(file, offset, chunk)
        })
    }
}

/// RWF_HIPRI, the only flag of preadv2 that the kernel lets pass for such files.
const HIGH_PRIORITY: u64 = 1;
/// Most pieces of one call (UIO_MAXIOV).
const PIECES: u64 = 1024;
/// Most bytes of one call: what the kernel cuts longer ones to (MAX_RW_COUNT).
const LONGEST: u64 = 0x7fff_f000;

/// The pieces of memory that a vector names, (address, bytes), without those that are empty.
fn pieces(call: &Call, calling: &Calling<'_>) -> Result<Vec<(u64, u64)>, Errno> {
    const EACH: usize = 16;
    if call.bytes > PIECES {
        return Err(Errno::INVAL);
    }
    let mut list = vec![0; call.bytes as usize * EACH];
    calling.read(call.address, &mut list)?;
    let mut left = LONGEST;
    let mut pieces = Vec::new();
    for piece in list.chunks_exact(EACH) {
        let word = |at: usize| {
            let word = piece.get(at..).and_then(|rest| rest.first_chunk());
            u64::from_ne_bytes(word.copied().unwrap_or_default())
        };
        let (address, bytes) = (word(0), word(8));
        if i64::try_from(bytes).is_err() {
            return Err(Errno::INVAL);
        }
        let bytes = bytes.min(left);
        left -= bytes;
        if bytes > 0 {
            pieces.push((address, bytes));
        }
    }
    Ok(pieces)
}

fn plain(kind: u32, value: u64) -> Answered {
    (Reply::of(kind, value), Vec::new())
}

/// Goes through the bytes of a read or write, as far as the first chunk that is cut short or fails; an error counts only
/// where it is the first.
fn in_chunks(
    call: &Call,
    mut go: impl FnMut(&mut [u8], u64, u64) -> Result<usize, Errno>,
) -> Result<u64, Errno> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(call.bytes).unwrap_or(CHUNK))];
    let mut done = 0;
    loop {
        let left = usize::try_from(call.bytes - done).unwrap_or(CHUNK).min(CHUNK);
        let chunk = buffer.get_mut(..left).unwrap_or_default();
        match go(
            chunk,
            call.address.wrapping_add(done),
            call.offset.wrapping_add(done),
        ) {
            Ok(bytes) if bytes == left && done + (bytes as u64) < call.bytes => done += bytes as u64,
            Ok(bytes) => return Ok(done + bytes as u64),
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
        }
    }
}

/// The last byte goes alone, once our own copies of the descriptors are closed: when the caller goes on, it alone has them,
/// and what it closes is closed.
fn send(connection: &UnixStream, reply: &Reply, descriptors: Vec<OwnedFd>) -> rustix::io::Result<()> {
    let (mut first, last) = reply.as_bytes().split_at(size_of::<Reply>() - 1);
    if descriptors.is_empty() {
        first = reply.as_bytes();
    }
    let rights: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARTS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !rights.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&rights));
    }
    sendmsg(
        connection,
        &[IoSlice::new(first)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if !descriptors.is_empty() {
        drop(descriptors);
        rustix::net::send(connection, last, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}
