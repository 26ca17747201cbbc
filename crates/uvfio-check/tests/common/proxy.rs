//! A server that is broken on purpose: ours, behind a proxy that alters what passes.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use uvfio_check::Server;
use uvfio_proto::message::{HEADER_BYTES, Header};
use uvfio_proto::transport::{Blocked, Incoming, Outgoing, ReceiveError};
use zerocopy::IntoBytes;

use super::Ours;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Frame {
    /// Puts a 32-bit word into the payload, where it is long enough.
    pub(crate) fn put(&mut self, at: usize, word: u32) {
        if let Some(there) = self.payload.get_mut(at..at + 4) {
            there.copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// A 32-bit word of the payload; 0 where it ends before.
    pub(crate) fn word(&self, at: usize) -> u32 {
        self.payload
            .get(at..at + 4)
            .map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
    }

    pub(crate) fn is(&self, command: u16) -> bool {
        self.header.command == command
    }

    pub(crate) fn is_error(&self) -> bool {
        self.header.is_error()
    }

    /// Makes it a success with this payload.
    pub(crate) fn succeed(&mut self, payload: &[u8]) {
        self.header.flags = 1;
        self.header.errno = 0;
        self.payload = payload.to_vec();
    }
}

/// What a fault remembers of one connection.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) held: Vec<Frame>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) last: Vec<u8>,
    /// A command of the server's is not answered.
    pub(crate) asked: bool,
}

/// Alters what passes in one direction; what it leaves in the list goes on.
pub(crate) type Alter = fn(&mut Memory, &mut Vec<Frame>);

/// What is wrong with a server.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Alters requests.
    pub(crate) to_server: Alter,
    /// Alters replies.
    pub(crate) to_client: Alter,
    /// A header that can't be true is swallowed, and the rest waited for.
    pub(crate) believes_lies: bool,
    /// A request that did not come whole at once is lost.
    pub(crate) whole_sends_only: bool,
    /// The connection ends after an error.
    pub(crate) ends_on_error: bool,
    /// The server takes no new client after such a frame, its own or its client's.
    pub(crate) dies_of: fn(&Memory, &Frame) -> bool,
}

fn nothing(_: &mut Memory, _: &mut Vec<Frame>) {}

pub(crate) const NO_FAULT: Fault = Fault {
    to_server: nothing,
    to_client: nothing,
    believes_lies: false,
    whole_sends_only: false,
    ends_on_error: false,
    dies_of: |_, _| false,
};

/// One that alters each reply.
pub(crate) fn replies(to_client: Alter) -> Fault {
    Fault {
        to_client,
        ..NO_FAULT
    }
}

/// One that alters each request.
pub(crate) fn requests(to_server: Alter) -> Fault {
    Fault {
        to_server,
        ..NO_FAULT
    }
}

/// One that takes no new client after such a frame.
pub(crate) fn dies(dies_of: fn(&Memory, &Frame) -> bool) -> Fault {
    Fault { dies_of, ..NO_FAULT }
}

/// Longest message passed on.
const LONGEST: usize = (1 << 20) + 32;

/// A server behind a proxy.
pub(crate) struct Broken {
    path: PathBuf,
    _dir: TempDir,
}

impl Broken {
    pub(crate) fn new(ours: Ours, fault: Fault) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let dead: Arc<AtomicBool> = Arc::default();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if dead.load(Ordering::SeqCst) {
                    continue;
                }
                let server = ours.connect().expect("ours is there");
                carry(Arc::new(client), Arc::new(server), fault, &dead);
            }
        });
        Self { path, _dir: dir }
    }
}

impl Server for Broken {
    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

fn carry(client: Arc<UnixStream>, server: Arc<UnixStream>, fault: Fault, dead: &Arc<AtomicBool>) {
    let memory: Arc<Mutex<Memory>> = Arc::default();
    for (from, to, alter, requests) in [
        (Arc::clone(&client), Arc::clone(&server), fault.to_server, true),
        (server, client, fault.to_client, false),
    ] {
        let memory = Arc::clone(&memory);
        let dead = Arc::clone(dead);
        std::thread::spawn(move || {
            let mut way = Way {
                incoming: Incoming::new(Arc::clone(&from), LONGEST),
                outgoing: Outgoing::new(Arc::clone(&to)),
                from: Arc::clone(&from),
                fault,
                requests,
                dead,
            };
            way.pass(&memory, alter);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// One direction of a connection.
struct Way {
    incoming: Incoming,
    outgoing: Outgoing,
    from: Arc<UnixStream>,
    fault: Fault,
    requests: bool,
    dead: Arc<AtomicBool>,
}

impl Way {
    /// Whether the server dies of this.
    fn note(&self, memory: &Memory, frame: &Frame) {
        if (self.fault.dies_of)(memory, frame) {
            self.dead.store(true, Ordering::SeqCst);
        }
    }

    fn pass(&mut self, memory: &Mutex<Memory>, alter: Alter) {
        loop {
            if self.requests && self.fault.whole_sends_only && self.lost_a_piece() {
                continue;
            }
            let mut message = match self.incoming.next_message() {
                Ok(Some(message)) => message,
                Err(
                    ReceiveError::TooLong {
                        id, command, bytes, ..
                    }
                    | ReceiveError::TooShort { id, command, bytes },
                ) => {
                    if self.fault.believes_lies {
                        // Until the client gives up.
                        let _ = io::copy(&mut &*self.from, &mut io::sink());
                        return;
                    }
                    let header = Header {
                        id,
                        command,
                        bytes,
                        ..Header::default()
                    };
                    self.send(header.as_bytes(), &[]);
                    return;
                }
                Ok(None) | Err(_) => return,
            };
            let mut frames = vec![Frame {
                header: message.header,
                payload: self.incoming.payload(&message).to_vec(),
                fds: std::mem::take(&mut *message.fds),
            }];
            {
                let mut memory = memory.lock().expect("no panic before");
                frames.iter().for_each(|frame| self.note(&memory, frame));
                alter(&mut memory, &mut frames);
            }
            for mut frame in frames {
                // A wrong size on purpose is one that was changed.
                if frame.header.bytes == message.header.bytes {
                    frame.header.bytes = (HEADER_BYTES + frame.payload.len()) as u32;
                }
                let bytes = [frame.header.as_bytes(), &frame.payload].concat();
                self.send(&bytes, &frame.fds);
                if !self.requests && self.fault.ends_on_error && frame.is_error() {
                    return;
                }
            }
        }
    }

    /// Takes what is there if it is less than a message.
    fn lost_a_piece(&self) -> bool {
        let mut peeked = [0; 32];
        let flags = rustix::net::RecvFlags::PEEK;
        match rustix::net::recv(&*self.from, &mut peeked, flags) {
            Ok((_, got @ 1..16)) => {
                let mut piece = vec![0; got];
                io::Read::read_exact(&mut &*self.from, &mut piece).is_ok()
            }
            _ => false,
        }
    }

    fn send(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = self.outgoing.send(&[bytes, &[]], &fds, &mut || Blocked::Wait);
    }
}
