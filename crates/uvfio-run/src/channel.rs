//! What the supervisor and the program's parent tell each other: a line of JSON each, over a stream socket.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tree::{Node, Tree};

/// From the program's parent, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInside {
    /// The tree is in its place: nodes with their device and inode numbers, and the number of the descriptor, in that
    /// process, of the socket that listens.
    Placed {
        nodes: Vec<(Node, u64, u64)>,
        listener: i32,
    },
    /// From the process that is about to be the program, where calls are caught by a filter: the number of its
    /// descriptor where they are told. It waits for a byte.
    Listener { process: i32, listener: i32 },
    /// The program runs.
    Started { process: i32 },
    /// It has ended, with this status of `wait`.
    Ended { status: i32 },
    /// It could not be started.
    NotStarted(String),
    /// What must come before could not be done.
    Failed(String),
}

/// To the program's parent, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInside {
    /// What is to be put in place.
    Tree(Tree),
    /// The program can be started.
    Go(Go),
}

/// How the program is started.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Go {
    /// Its environment variables beside ours.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether its calls are caught by a filter; then the first number of devices' descriptors.
    pub(crate) filter: Option<i32>,
}

/// An end of the socket.
#[derive(Debug)]
pub(crate) struct Channel {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Channel {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        let writer = socket.try_clone()?;
        Ok(Self {
            reader: BufReader::new(socket),
            writer,
        })
    }

    pub(crate) fn tell(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.writer.write_all(&line)
    }

    /// The next message. That there will be none is an error of kind [`io::ErrorKind::UnexpectedEof`].
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Lets a process go on that waits for a byte.
    pub(crate) fn say(&mut self) -> io::Result<()> {
        self.writer.write_all(b"\n")
    }

    /// The socket itself, for whoever waits until the other end closes it.
    pub(crate) fn socket(&self) -> io::Result<UnixStream> {
        self.writer.try_clone()
    }
}
