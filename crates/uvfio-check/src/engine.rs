//! A device whose DMA can be commanded, and the client's side of DMA by message: commands come in, and a case answers
//! them as it likes. The one device that is known is QEMU's `edu` (QEMU, docs/specs/edu.rst), anybody's.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Instant;

use uvfio_proto::message::{Command, DmaAccess, Kind};
use zerocopy::FromBytes;

use crate::case::{Bench, Step, fail, hold, not_applicable};
use crate::facts::{CONFIG, Facts};
use crate::payload::{USUAL_JSON, access, bytes_of, dma_map_as, dma_unmap, message, refusal};
use crate::session::Session;
use crate::wire::Message;

/// The command register of configuration space (PCI 3.0, 6.2.2), and its bits Memory Space and Bus Master.
const COMMAND: u64 = 4;
const MEMORY: u16 = 2;
const MASTER: u16 = 4;

/// edu's vendor and device.
const EDU: [u16; 2] = [0x1234, 0x11e8];
/// edu's registers of DMA, in BAR 0.
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// Where edu's own buffer lies, for a transfer's other end, and its size, bytes.
const BUFFER: u64 = 0x4_0000;
pub(crate) const BUFFER_BYTES: u64 = 4096;

/// Which way data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From memory to the device, by DMA_READ.
    In,
    /// From the device to memory, by DMA_WRITE.
    Out,
}

/// A command of the server's, in a form that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: u16,
    pub(crate) way: Way,
    pub(crate) iova: u64,
    pub(crate) count: u64,
    /// What is to be written; nothing of a DMA_READ.
    pub(crate) data: Vec<u8>,
    wants_reply: bool,
}

impl Asked {
    /// The command's number.
    pub(crate) fn command(&self) -> u16 {
        match self.way {
            Way::In => Command::DmaRead as u16,
            Way::Out => Command::DmaWrite as u16,
        }
    }

    /// The payload's fixed part, which the reply repeats.
    pub(crate) fn fixed(&self) -> Vec<u8> {
        bytes_of(&DmaAccess {
            iova: self.iova,
            count: self.count,
        })
    }

    /// One past its last byte.
    pub(crate) fn end(&self) -> u128 {
        u128::from(self.iova) + u128::from(self.count)
    }

    /// The right reply: for DMA_READ with these data.
    pub(crate) fn reply(&self, data: &[u8]) -> Vec<u8> {
        message(
            self.id,
            self.command(),
            Kind::REPLY,
            &[&self.fixed(), data].concat(),
        )
    }
}

/// A session with a device whose DMA is commanded. Bus mastering is on, nothing is mapped.
pub(crate) struct Driven {
    pub(crate) session: Session,
}

impl Driven {
    /// Drives the device over a session of its own.
    pub(crate) fn open(bench: &Bench<'_>) -> Step<Self> {
        Self::open_with(bench, USUAL_JSON)
    }

    /// The same, with these version data.
    pub(crate) fn open_with(bench: &Bench<'_>, json: &str) -> Step<Self> {
        known(bench.facts()?)?;
        let mut session = Session::open(bench.link()?, json)?;
        session.keep_commands();
        let mut driven = Self { session };
        driven.master(true)?;
        Ok(driven)
    }

    /// Switches bus mastering.
    pub(crate) fn master(&mut self, on: bool) -> Step {
        let value = if on { MEMORY | MASTER } else { MEMORY };
        self.write(CONFIG, COMMAND, &value.to_ne_bytes())
    }

    /// Maps memory that can be read and written, by message.
    pub(crate) fn map(&mut self, iova: u64, bytes: u64) -> Step {
        self.map_as(3, iova, bytes, None)
    }

    /// Maps memory: with these flags, and a file if there is one.
    pub(crate) fn map_as(&mut self, flags: u32, iova: u64, bytes: u64, file: Option<&OwnedFd>) -> Step {
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        let request = dma_map_as(32, flags, 0, iova, bytes);
        self.session.done_with(Command::DmaMap, &request, &fds, 0)?;
        Ok(())
    }

    /// Unmaps memory.
    pub(crate) fn unmap(&mut self, iova: u64, bytes: u64) -> Step {
        self.session
            .done(Command::DmaUnmap, &dma_unmap(iova, bytes), &[])?;
        Ok(())
    }

    /// Starts a transfer between the beginning of the device's buffer and memory.
    pub(crate) fn start(&mut self, way: Way, iova: u64, count: u64) -> Step {
        let (source, destination, command) = match way {
            Way::In => (iova, BUFFER, 1_u64),
            Way::Out => (BUFFER, iova, 3),
        };
        for (register, value) in [
            (SOURCE, source),
            (DESTINATION, destination),
            (COUNT, count),
            (DMA_COMMAND, command),
        ] {
            self.write(0, register, &value.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Whether a transfer is under way.
    fn runs(&mut self) -> Step<bool> {
        let request = access(0, DMA_COMMAND, 8, &[]);
        let reply = self.session.done(Command::RegionRead, &request, &[])?;
        match reply.payload.get(request.len()..).and_then(<[_]>::first) {
            Some(low) => Ok(low & 1 != 0),
            None => fail("edu's register of the DMA command could not be read"),
        }
    }

    /// The next command of the server's; waits for it.
    pub(crate) fn asked(&mut self) -> Step<Asked> {
        read(&self.session.next_command()?)
    }

    /// Waits until the transfer is over, and gives what was asked for meanwhile, each answered by `answer`.
    pub(crate) fn until_done(
        &mut self,
        bench: &Bench<'_>,
        mut answer: impl FnMut(&Asked) -> Option<Vec<u8>>,
    ) -> Step<Vec<Asked>> {
        let late = Instant::now() + bench.patience().reply;
        let mut all = Vec::new();
        loop {
            // Before the commands: those that came before the end came with this reply at the latest.
            let runs = self.runs()?;
            while let Some(got) = self.session.kept_command() {
                let asked = read(&got)?;
                if let Some(reply) = answer(&asked) {
                    self.send(&asked, &reply)?;
                }
                all.push(asked);
            }
            if !runs {
                return Ok(all);
            }
            if Instant::now() >= late {
                return fail(format!(
                    "the transfer has not ended within {:?}",
                    bench.patience().reply
                ));
            }
            std::thread::yield_now();
        }
    }

    /// A whole transfer, in which every read is answered with bytes of `memory`, which begins at `base`, and every
    /// write is carried out in it. What goes outside is refused.
    pub(crate) fn transfer(
        &mut self,
        bench: &Bench<'_>,
        (way, iova, count): (Way, u64, u64),
        base: u64,
        memory: &mut [u8],
    ) -> Step<Vec<Asked>> {
        self.start(way, iova, count)?;
        self.until_done(bench, |asked| Some(carry_out(asked, base, memory)))
    }

    /// Sends a reply, where one is wanted.
    pub(crate) fn send(&self, asked: &Asked, reply: &[u8]) -> Step {
        if asked.wants_reply {
            self.session.link.send(reply, &[])?;
        }
        Ok(())
    }

    /// Nothing is asked for (any more), even some time later; the session goes on.
    pub(crate) fn quiet(&mut self, after: &str) -> Step {
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.session.check_alive()?;
        match self.session.kept_command() {
            None => Ok(()),
            Some(got) => fail(format!("after {after} came {got}")),
        }
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Step {
        let request = access(region, offset, data.len() as u32, data);
        self.session.done(Command::RegionWrite, &request, &[])?;
        Ok(())
    }
}

/// Whether the kit can make the device do DMA.
fn known(facts: &Facts) -> Step {
    if facts.identity == Some(EDU) && facts.bytes(0) > DMA_COMMAND + 8 {
        Ok(())
    } else {
        not_applicable("only edu's DMA can be commanded, and this is another device")
    }
}

/// Answers a command from a piece of memory.
fn carry_out(asked: &Asked, base: u64, memory: &mut [u8]) -> Vec<u8> {
    const EINVAL: u32 = 22;
    let place = asked.iova.checked_sub(base).and_then(|start| {
        let start = usize::try_from(start).ok()?;
        memory.get_mut(start..start.checked_add(usize::try_from(asked.count).ok()?)?)
    });
    match (place, asked.way) {
        (Some(place), Way::In) => asked.reply(place),
        (Some(place), Way::Out) => {
            place.copy_from_slice(&asked.data);
            asked.reply(&[])
        }
        (None, _) => refusal(asked.id, asked.command(), EINVAL),
    }
}

/// Reads a command of the server's, which has the form of a DMA_READ or a DMA_WRITE.
fn read(got: &Message) -> Step<Asked> {
    let header = got.header;
    let way = match Command::from_number(header.command) {
        Some(Command::DmaRead) => Way::In,
        Some(Command::DmaWrite) => Way::Out,
        _ => return fail(format!("no command that servers send: {got}")),
    };
    // A write may want no reply; a read without one is for nothing.
    let posted = way == Way::Out && header.no_reply();
    hold(header.flags == if posted { 0x10 } else { 0 }, || {
        format!("flags that no such command has: {got}")
    })?;
    hold(header.errno == 0, || format!("a command with an error: {got}"))?;
    hold(got.fds.is_empty(), || {
        format!("a command of DMA with descriptors: {got}")
    })?;
    let Ok((fixed, data)) = DmaAccess::read_from_prefix(&got.payload) else {
        return fail(format!("too short for address and count: {got}"));
    };
    hold(fixed.count > 0, || format!("a transfer of nothing: {got}"))?;
    let due = if way == Way::Out { fixed.count } else { 0 };
    hold(data.len() as u64 == due, || {
        format!("{} bytes of data, count {}: {got}", data.len(), fixed.count)
    })?;
    Ok(Asked {
        id: header.id,
        way,
        iova: fixed.iova,
        count: fixed.count,
        data: data.to_vec(),
        wants_reply: !posted,
    })
}

/// A file of shared memory with these contents.
pub(crate) fn file_of(data: &[u8]) -> Step<OwnedFd> {
    let memory = crate::cases::memory(data.len() as u64)?;
    rustix::io::pwrite(&memory, data, 0).map_err(io::Error::from)?;
    Ok(memory)
}
