//! A server that says and does whatever it is told to, which shares no code with the project; and what users ask.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use uvfio_core::{IrqAction, IrqData, IrqIndex, SetIrqs};
use uvfio_remote::{Patience, Remote, RemoteError};

/// Commands of the protocol.
pub(crate) mod command {
    pub(crate) const VERSION: u16 = 1;
    pub(crate) const DMA_MAP: u16 = 2;
    pub(crate) const DMA_UNMAP: u16 = 3;
    pub(crate) const GET_INFO: u16 = 4;
    pub(crate) const GET_REGION_INFO: u16 = 5;
    pub(crate) const GET_IRQ_INFO: u16 = 7;
    pub(crate) const SET_IRQS: u16 = 8;
    pub(crate) const REGION_READ: u16 = 9;
    pub(crate) const REGION_WRITE: u16 = 10;
    pub(crate) const DMA_READ: u16 = 11;
    pub(crate) const DMA_WRITE: u16 = 12;
    pub(crate) const RESET: u16 = 13;
}

/// What it does instead of answering as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Silence,
    /// The answer up to its middle, and then nothing.
    Half,
    /// The same, and then it closes.
    HalfAndClose,
    Close,
    WrongId,
    WrongCommand,
    /// A message that is neither command nor reply.
    OtherKind,
    /// A payload that lacks its last byte; of one that has none, a header that does.
    Short,
    /// A size that no message has.
    Huge,
    /// One that has no room for the header.
    Tiny,
    Garbage,
    /// The answer, a byte now and then.
    Drip,
    /// Commands of its own, without end, and no answer.
    Flood,
    /// None: it reads memory, and answers at once.
    ReadsMemory,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::Silence,
        Self::Half,
        Self::HalfAndClose,
        Self::Close,
        Self::WrongId,
        Self::WrongCommand,
        Self::OtherKind,
        Self::Short,
        Self::Huge,
        Self::Tiny,
        Self::Garbage,
        Self::Drip,
        Self::Flood,
    ];
}

/// What it says of its function.
#[derive(Clone, Debug)]
pub(crate) struct Says {
    pub(crate) version: (u16, u16),
    pub(crate) regions: u32,
    /// Sizes by region.
    pub(crate) bytes: [u64; 9],
    pub(crate) vectors: [u32; 5],
    pub(crate) config: Vec<u8>,
}

impl Default for Says {
    /// A function with a BAR of 4 KiB of memory, one of 64 bits of 8 KiB, and MSI-X.
    fn default() -> Self {
        let mut config = vec![0; 256];
        config[..4].copy_from_slice(&[0x34, 0x12, 0x0e, 0x0b]);
        config[6] = 0x10; // Status: there are capabilities.
        config[0x14] = 4; // BAR 1 has 64 bits.
        config[0x34] = 0x40;
        config[0x40..0x4c].copy_from_slice(&[0x11, 0, 3, 0, 0, 8, 0, 0, 0, 0xc, 0, 0]);
        let mut bytes = [0; 9];
        (bytes[0], bytes[1], bytes[7]) = (0x1000, 0x2000, 256);
        Self {
            version: (0, 1),
            regions: 9,
            bytes,
            vectors: [1, 0, 4, 0, 0],
            config,
        }
    }
}

/// A message that came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) id: u16,
    pub(crate) command: u16,
    pub(crate) flags: u32,
    pub(crate) errno: u32,
    pub(crate) payload: Vec<u8>,
}

struct Shared {
    says: Says,
    fault: Mutex<Option<(u16, Fault)>>,
    refuses: Mutex<Option<(u16, u32)>>,
    /// Its answers to accesses of registers, and what they hold.
    config: Mutex<Vec<u8>>,
    registers: Mutex<Vec<u8>>,
    stream: Mutex<Option<UnixStream>>,
}

/// The server.
pub(crate) struct Hostile {
    pub(crate) path: PathBuf,
    shared: Arc<Shared>,
    /// What came, in order.
    pub(crate) came: Receiver<Came>,
    _folder: tempfile::TempDir,
}

/// Long for a server in the same process, and short for those that never answer.
pub(crate) const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(5),
    reset: Duration::from_secs(5),
};

impl Hostile {
    /// Listens, and serves the first who comes.
    pub(crate) fn new(says: Says) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let shared = Arc::new(Shared {
            fault: Mutex::default(),
            refuses: Mutex::default(),
            config: Mutex::new(says.config.clone()),
            registers: Mutex::new(vec![0; 0x2000]),
            stream: Mutex::default(),
            says,
        });
        let (told, came) = channel();
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            *served.stream.lock().expect("the stream") = Some(stream.try_clone().expect("a descriptor"));
            serve(stream, &served, &told);
            // Whoever waits for it sees its end.
            *served.stream.lock().expect("the stream") = None;
        });
        Self {
            path,
            shared,
            came,
            _folder: folder,
        }
    }

    /// It does `fault` at the next `command`.
    pub(crate) fn fault(&self, command: u16, fault: Fault) {
        *self.shared.fault.lock().expect("the fault") = Some((command, fault));
    }

    /// It refuses each `command` with an error number.
    pub(crate) fn refuse(&self, command: u16, errno: u32) {
        *self.shared.refuses.lock().expect("the refusal") = Some((command, errno));
    }

    pub(crate) fn connect(&self) -> Result<Arc<Remote>, RemoteError> {
        Remote::connect(&self.path, PATIENCE)
    }

    /// Sends a message nobody asked for.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let stream = self.shared.stream.lock().expect("the stream");
        let mut stream = stream.as_ref().expect("a client");
        stream.write_all(bytes).expect("sent");
    }

    /// Closes the connection.
    pub(crate) fn close(&self) {
        let stream = self.shared.stream.lock().expect("the stream");
        let stream = stream.as_ref().expect("a client");
        stream.shutdown(std::net::Shutdown::Both).expect("closed");
    }

    /// A register of its configuration space, as it has it.
    pub(crate) fn config(&self, at: usize) -> u8 {
        self.shared.config.lock().expect("the registers")[at]
    }

    /// Sets one.
    pub(crate) fn set_config(&self, at: usize, value: u8) {
        self.shared.config.lock().expect("the registers")[at] = value;
    }

    /// The next message that came which is a `command`; others before it are passed over.
    pub(crate) fn next(&self, command: u16) -> Came {
        loop {
            let came = self
                .came
                .recv_timeout(Duration::from_secs(20))
                .expect("a message");
            if came.command == command {
                return came;
            }
        }
    }
}

/// A message: header and payload.
pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let bytes = 16 + payload.len() as u32;
    let mut message = Vec::new();
    message.extend(id.to_ne_bytes());
    message.extend(command.to_ne_bytes());
    message.extend(bytes.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message
}

/// The payload of DMA_READ, and what DMA_WRITE begins with.
pub(crate) fn dma(iova: u64, count: u64) -> Vec<u8> {
    [iova.to_ne_bytes(), count.to_ne_bytes()].concat()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn serve(mut stream: UnixStream, shared: &Shared, told: &Sender<Came>) {
    loop {
        let mut header = [0; 16];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let mut payload = vec![0; u32_at(&header, 4) as usize - 16];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        let came = Came {
            id: u16::from_ne_bytes([header[0], header[1]]),
            command: u16::from_ne_bytes([header[2], header[3]]),
            flags: u32_at(&header, 8),
            errno: u32_at(&header, 12),
            payload,
        };
        let _ = told.send(came.clone());
        if came.flags & 0xf != 0 {
            continue;
        }
        let mut answer = message(came.id, came.command, 1, &answer(shared, &came));
        if let Some((_, errno)) = refusal(shared, came.command) {
            answer.truncate(16);
            answer[4..12].copy_from_slice(&[16, 0, 0, 0, 0x21, 0, 0, 0]);
            answer[12..].copy_from_slice(&errno.to_ne_bytes());
        }
        let fault = shared
            .fault
            .lock()
            .expect("the fault")
            .take_if(|(at, _)| *at == came.command);
        let done = match fault {
            Some((_, fault)) => misbehave(fault, &mut stream, answer),
            None => stream.write_all(&answer),
        };
        if done.is_err() {
            return;
        }
    }
}

fn refusal(shared: &Shared, command: u16) -> Option<(u16, u32)> {
    shared
        .refuses
        .lock()
        .expect("the refusal")
        .filter(|(at, _)| *at == command)
}

/// The payload of a good answer.
fn answer(shared: &Shared, came: &Came) -> Vec<u8> {
    let says = &shared.says;
    let asked = &came.payload;
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<_>>()
    };
    match came.command {
        command::VERSION => {
            let mut payload = Vec::new();
            payload.extend(says.version.0.to_ne_bytes());
            payload.extend(says.version.1.to_ne_bytes());
            payload.extend(b"{\"capabilities\":{\"max_msg_fds\":1}}\0");
            payload
        }
        command::GET_INFO => words(&[16, 3, says.regions, 5]),
        command::GET_REGION_INFO => {
            let index = u32_at(asked, 8);
            let bytes = says.bytes.get(index as usize).copied().unwrap_or(0);
            let mut payload = words(&[32, 3, index, 0]);
            payload.extend(bytes.to_ne_bytes());
            payload.extend([0; 8]);
            payload
        }
        command::GET_IRQ_INFO => {
            let index = u32_at(asked, 8);
            words(&[
                16,
                1,
                index,
                says.vectors.get(index as usize).copied().unwrap_or(0),
            ])
        }
        command::REGION_READ | command::REGION_WRITE => {
            let (at, count) = (u64_at(asked, 0) as usize, u32_at(asked, 12) as usize);
            let registers = if u32_at(asked, 8) == 7 {
                &shared.config
            } else {
                &shared.registers
            };
            let mut registers = registers.lock().expect("the registers");
            let mut payload = asked[..16].to_vec();
            if came.command == command::REGION_READ {
                payload.extend(&registers[at..at + count]);
            } else {
                registers[at..at + count].copy_from_slice(&asked[16..]);
            }
            payload
        }
        command::DMA_UNMAP => asked.clone(),
        command::RESET => {
            // All is forgotten.
            shared
                .config
                .lock()
                .expect("the registers")
                .clone_from(&says.config);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn misbehave(fault: Fault, stream: &mut UnixStream, mut answer: Vec<u8>) -> std::io::Result<()> {
    let closed = || Err(std::io::ErrorKind::ConnectionAborted.into());
    let half = answer.len() / 2;
    match fault {
        Fault::Silence => return Ok(()),
        Fault::Half => return stream.write_all(&answer[..half]),
        Fault::HalfAndClose => {
            stream.write_all(&answer[..half])?;
            return closed();
        }
        Fault::Close => return closed(),
        Fault::WrongId => answer[0] ^= 1,
        Fault::WrongCommand => answer[2] ^= 0x40,
        Fault::OtherKind => answer[8] = 7,
        Fault::Short => {
            answer.pop();
            let bytes = answer.len() as u32;
            answer[4..8].copy_from_slice(&bytes.to_ne_bytes());
        }
        Fault::Huge => answer[4..8].fill(0xff),
        Fault::Tiny => answer[4..8].copy_from_slice(&3_u32.to_ne_bytes()),
        Fault::Garbage => answer = vec![0xa5; 5000],
        Fault::Drip => {
            // Slow is what it is; nothing waits for it.
            for byte in answer {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_secs(1));
            }
            return Ok(());
        }
        Fault::ReadsMemory => stream.write_all(&message(9, command::DMA_READ, 0, &dma(0x1000, 4)))?,
        Fault::Flood => loop {
            stream.write_all(&message(9, command::DMA_READ, 0, &dma(0x1000, 4096)))?;
        },
    }
    stream.write_all(&answer)
}

/// A request that gives the vectors of an index, from the first on, these eventfds.
pub(crate) fn irqs(index: IrqIndex, eventfds: Vec<Option<OwnedFd>>) -> SetIrqs {
    SetIrqs {
        index: index as u32,
        start: 0,
        count: eventfds.len() as u32,
        action: IrqAction::Trigger,
        data: IrqData::EventFd(eventfds),
    }
}

pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}
