//! The commands that a server sends, DMA_READ and DMA_WRITE: one after the other, to what the client has mapped, and to
//! what it has not; and what is known of the right answer to each.

use uvfio_proto::message::{Command, DmaAccess, DmaMapFlags, HeaderFlags, Kind};
use zerocopy::IntoBytes;

use super::device::Device;
use super::judge::Judge;
use crate::payload::message;
use crate::wire::Message;

/// The id of the first command; each has its own.
const FIRST_ID: u16 = 0xd3a0;
/// Bytes that are asked for at once.
const BYTES: u64 = 8;

/// What is tried; each once, as soon as the client's mappings allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Memory is read.
    Read,
    /// Two pieces are read at once.
    Both,
    /// Memory that lies in a file is read.
    File,
    /// What was read is written, each bit inverted.
    Write,
    /// And read.
    ReadBack,
    /// And written as it was.
    Restore,
    /// Memory that can only be read is written.
    ReadOnly,
    /// What lies after all mappings is read.
    Outside,
    /// A mapping is read over its end.
    OverEnd,
    /// All memory and more is read.
    Most,
}

const STEPS: [Step; 10] = [
    Step::Read,
    Step::Both,
    Step::File,
    Step::Write,
    Step::ReadBack,
    Step::Restore,
    Step::ReadOnly,
    Step::Outside,
    Step::OverEnd,
    Step::Most,
];

/// What is right as an answer.
#[derive(Clone, Debug)]
enum Right {
    /// As many bytes as were asked for, or an error.
    Whole,
    /// These bytes, or an error.
    Bytes(Vec<u8>),
    /// What the client's file had there before, if it has it still, or an error.
    File(Vec<u8>),
    /// An error.
    Refusal,
}

/// A command that is to be sent: the rule, the access, the data of a write, and what is right.
type Plan = (&'static str, DmaAccess, Vec<u8>, Right);

/// A command that is not answered yet.
#[derive(Debug)]
struct Open {
    id: u16,
    step: Step,
    rule: &'static str,
    command: Command,
    access: DmaAccess,
    right: Right,
}

/// The commands.
#[derive(Debug)]
pub(super) struct Probes {
    left: Vec<Step>,
    open: Vec<Open>,
    next_id: u16,
    /// Where it was read, and what.
    read: Option<(u64, Vec<u8>)>,
    /// It was written.
    written: bool,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            left: STEPS.to_vec(),
            open: Vec::new(),
            next_id: FIRST_ID,
            read: None,
            written: false,
        }
    }
}

impl Probes {
    /// What is to be sent now: nothing before all that was sent is answered.
    pub(super) fn next(&mut self, device: &Device) -> Vec<Vec<u8>> {
        if !self.open.is_empty() {
            return Vec::new();
        }
        let found = self
            .left
            .iter()
            .enumerate()
            .find_map(|(at, &step)| Some((at, self.plan(step, device)?)));
        let Some((at, plan)) = found else {
            return Vec::new();
        };
        let step = self.left.remove(at);
        let mut messages = Vec::new();
        for (rule, access, data, right) in plan {
            let command = if data.is_empty() {
                Command::DmaRead
            } else {
                Command::DmaWrite
            };
            let payload = [access.as_bytes(), &data].concat();
            messages.push(message(self.next_id, command as u16, 0, &payload));
            self.open.push(Open {
                id: self.next_id,
                step,
                rule,
                command,
                access,
                right,
            });
            self.next_id = self.next_id.wrapping_add(1);
        }
        messages
    }

    /// What a step sends, where it can be tried.
    fn plan(&self, step: Step, device: &Device) -> Option<Vec<Plan>> {
        let both = DmaMapFlags::READ | DmaMapFlags::WRITE;
        let at = |iova| DmaAccess { iova, count: BYTES };
        let again = || {
            let (iova, bytes) = self.read.as_ref()?;
            device.allows(*iova, BYTES, both).then_some((*iova, bytes))
        };
        let inverted = |bytes: &[u8]| bytes.iter().map(|byte| !byte).collect::<Vec<u8>>();
        Some(match step {
            Step::Read => {
                let map = device
                    .mapping(both)
                    .or_else(|| device.mapping(DmaMapFlags::READ))?;
                vec![("client.dma_read", at(map.iova), vec![], Right::Whole)]
            }
            Step::Both => {
                let map = device.mapping(DmaMapFlags::READ)?;
                let second = at(map.iova + (map.bytes - BYTES));
                vec![
                    ("client.dma_both", at(map.iova), vec![], Right::Whole),
                    ("client.dma_both", second, vec![], Right::Whole),
                ]
            }
            Step::File => {
                let (iova, bytes) = device.mapping_of_file(BYTES as usize)?;
                vec![("client.dma_data", at(iova), vec![], Right::File(bytes))]
            }
            Step::Write => {
                let (iova, bytes) = again()?;
                vec![("client.dma_write", at(iova), inverted(bytes), Right::Whole)]
            }
            Step::ReadBack if self.written => {
                let (iova, bytes) = again()?;
                let right = Right::Bytes(inverted(bytes));
                vec![("client.dma_data", at(iova), vec![], right)]
            }
            Step::Restore if self.written => {
                let (iova, bytes) = again()?;
                vec![("client.dma_write", at(iova), bytes.clone(), Right::Whole)]
            }
            Step::ReadBack | Step::Restore => return None,
            Step::ReadOnly => {
                let map = device.read_only()?;
                let data = vec![0xee; BYTES as usize];
                vec![("client.dma_read_only", at(map.iova), data, Right::Refusal)]
            }
            Step::Outside => vec![("client.dma_outside", at(device.free()?), vec![], Right::Refusal)],
            Step::OverEnd => {
                let access = at(device.free()? - BYTES / 2);
                vec![("client.dma_outside", access, vec![], Right::Refusal)]
            }
            Step::Most => {
                let access = DmaAccess {
                    iova: device.mapping(DmaMapFlags::READ)?.iova,
                    count: u64::MAX,
                };
                vec![("client.dma_outside", access, vec![], Right::Refusal)]
            }
        })
    }

    /// Judges a reply of the client's.
    pub(super) fn answer(&mut self, judge: &mut Judge, got: &Message, device: &Device) {
        let at = self.open.iter().position(|open| open.id == got.header.id);
        let Some(at) = at else {
            judge.see("client.unasked", || Err(got.to_string()));
            return;
        };
        let open = self.open.remove(at);
        judge.see("client.unasked", || Ok(()));
        judge.see(open.rule, || self.check(&open, got, device));
    }

    fn check(&mut self, open: &Open, got: &Message, device: &Device) -> Result<(), String> {
        let of = |what: String| format!("{} of {:x?}: {what}", open.command.name(), open.access);
        let odd = || Err(of(got.to_string()));
        let known = Kind::REPLY | HeaderFlags::ERROR.bits();
        if got.header.command != open.command as u16 || got.header.flags & !known != 0 || !got.fds.is_empty()
        {
            return odd();
        }
        if got.header.is_error() {
            return if got.payload.is_empty() { Ok(()) } else { odd() };
        }
        if matches!(open.right, Right::Refusal) {
            return Err(of("it succeeded".into()));
        }
        let fixed = open.access.as_bytes();
        if open.command == Command::DmaWrite {
            // The text's table has a count of 4 bytes there.
            if got.payload != fixed && Some(&*got.payload) != fixed.get(..12) {
                return odd();
            }
            self.written = true;
            return Ok(());
        }
        let data = match got.payload.split_at_checked(fixed.len()) {
            Some((head, data)) if head == fixed && data.len() as u64 == open.access.count => data,
            _ => return odd(),
        };
        // What the client has unmapped meanwhile is its own again.
        if !device.allows(open.access.iova, open.access.count, DmaMapFlags::READ) {
            return Ok(());
        }
        if open.step == Step::Read {
            self.read = Some((open.access.iova, data.to_vec()));
        }
        let expected = match &open.right {
            Right::Bytes(bytes) => Some(bytes.clone()),
            Right::File(before) => device
                .file_bytes(open.access.iova, data.len())
                .filter(|now| now == before),
            Right::Whole | Right::Refusal => None,
        };
        match expected {
            Some(expected) if expected != data => {
                Err(of(format!("{data:x?} came, and there is {expected:x?}")))
            }
            _ => Ok(()),
        }
    }
}
