//! A namespace as a disk: reads, writes, flushes, one after another or many at once.

use crate::{DmaBuffer, Function};

use super::controller::{Controller, Options};
use super::error::{NvmeError, Result};
use super::queue::QueuePair;
use super::spec::{Command, Completion, PAGE, Status, io};

/// One page of a list of pages names so many.
const LIST_ENTRIES: u64 = PAGE / 8;

/// What a disk is asked for. Blocks are the disk's, of [`Disk::block_bytes`].
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Read so many bytes, a multiple of the block's.
    Read {
        /// The first block.
        block: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// Write these, a multiple of the block's.
    Write {
        /// The first block.
        block: u64,
        /// What to write there.
        data: &'a [u8],
    },
    /// Everything that was written is to last.
    Flush,
}

/// A request that is done. Its data can be copied out until it is released.
#[derive(Debug)]
#[must_use = "release it, so that its place can be used again"]
pub struct Done {
    /// What the caller called it.
    pub tag: u64,
    command: &'static str,
    status: Status,
    slot: u16,
}

impl Done {
    /// How it went.
    ///
    /// # Errors
    /// Where the controller has refused or failed the command.
    pub fn result(&self) -> Result<()> {
        if self.status.is_success() {
            Ok(())
        } else {
            Err(NvmeError::Command {
                command: self.command,
                status: self.status,
            })
        }
    }
}

/// One namespace of a controller.
pub struct Disk {
    queue: QueuePair,
    /// A place for the data of each command that may be under way, `slot_bytes` each.
    data: DmaBuffer,
    /// A page for each: the list of the pages of its data but the first.
    lists: DmaBuffer,
    slot_bytes: u64,
    /// By slot, which is also the command's identifier: what is under way.
    under_way: Vec<Option<(u64, &'static str)>>,
    free: Vec<u16>,
    namespace: u32,
    blocks: u64,
    block_bytes: u64,
    pub(crate) controller: Controller,
}

impl Disk {
    /// Opens the first namespace of the controller that this function is.
    ///
    /// # Errors
    /// Where the function is no controller that this driver can run, has no namespace, or allows fewer commands at once
    /// than the options want.
    pub fn open(function: Function, options: Options) -> Result<Self> {
        let mut controller = Controller::open(function, options)?;
        let namespace = controller
            .namespaces()?
            .first()
            .copied()
            .ok_or_else(|| NvmeError::Unfit("it has no namespace".into()))?;
        let (blocks, block_bytes) = controller.namespace_size(namespace)?;
        let most = controller.identity().transfer_bytes.unwrap_or(u64::MAX);
        let slot_bytes = options
            .transfer_bytes
            .min(most)
            .min(LIST_ENTRIES * PAGE)
            .next_multiple_of(PAGE);
        let queue = controller.io_queue()?;
        let depth = u64::from(options.depth.max(1));
        let function = controller.function();
        let data = function.dma_buffer(depth * slot_bytes)?;
        let lists = function.dma_buffer(depth * PAGE)?;
        for slot in 0..depth {
            for page in 1..slot_bytes / PAGE {
                let at = slot * PAGE + (page - 1) * 8;
                lists.write(at, data.iova() + slot * slot_bytes + page * PAGE)?;
            }
        }
        Ok(Self {
            queue,
            data,
            lists,
            slot_bytes,
            under_way: vec![None; depth as usize],
            free: (0..depth as u16).rev().collect(),
            namespace,
            blocks,
            block_bytes,
            controller,
        })
    }

    /// The controller that it is a namespace of.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The disk's size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A block's size in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// The longest read or write of one command, bytes.
    #[must_use]
    pub fn transfer_bytes(&self) -> usize {
        self.slot_bytes as usize
    }

    /// Whether another request can be started.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Starts a request of at most [`transfer_bytes`](Self::transfer_bytes), which the caller calls `tag`. The controller
    /// is told of it by [`submit`](Self::submit).
    ///
    /// # Errors
    /// Where there is no room ([`has_room`](Self::has_room)), or the length is none of a transfer's.
    pub fn start(&mut self, request: Request<'_>, tag: u64) -> Result<()> {
        let (name, opcode) = match request {
            Request::Read { .. } => ("Read", io::READ),
            Request::Write { .. } => ("Write", io::WRITE),
            Request::Flush => ("Flush", io::FLUSH),
        };
        let mut command = Command::new(opcode, self.namespace);
        let blocks = match request {
            Request::Read { block, bytes } => Some((block, self.count(bytes)?, bytes)),
            Request::Write { block, data } => Some((block, self.count(data.len())?, data.len())),
            Request::Flush => None,
        };
        let full = || NvmeError::Request("every place is taken; finish a request first".into());
        let slot = self.free.last().copied().ok_or_else(full)?;
        if let Some((block, count, bytes)) = blocks {
            command = command.blocks(block, count).data(self.pages(slot, bytes as u64));
        }
        if let Request::Write { data, .. } = request {
            self.data.write_bytes(u64::from(slot) * self.slot_bytes, data)?;
        }
        if !self.queue.push(&command.id(slot))? {
            return Err(full());
        }
        self.free.pop();
        if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
            *place = Some((tag, name));
        }
        Ok(())
    }

    /// Tells the controller of everything that was started.
    ///
    /// # Errors
    /// Where the function does not answer.
    pub fn submit(&mut self) -> Result<()> {
        self.queue.ring(self.controller.shadow())
    }

    /// Waits until some request is done.
    ///
    /// # Errors
    /// Where none is done within 30 seconds, or the controller breaks the specification.
    pub fn finish(&mut self) -> Result<Done> {
        let shadow = self.controller.shadow();
        let queue = &mut self.queue;
        let completion = self
            .controller
            .waiter()
            .wait("a read, write or flush", || queue.pop(shadow))?;
        self.done(&completion)
    }

    /// A request that is done already, if one is.
    ///
    /// # Errors
    /// Where the controller breaks the specification.
    pub fn try_finish(&mut self) -> Result<Option<Done>> {
        let completion = self.queue.pop(self.controller.shadow())?;
        completion.map(|completion| self.done(&completion)).transpose()
    }

    /// Takes what this completes off the list of what is under way.
    fn done(&mut self, completion: &Completion) -> Result<Done> {
        let place = self.under_way.get_mut(usize::from(completion.id));
        let Some((tag, command)) = place.and_then(Option::take) else {
            let what = format!("command {} is complete, and was not started", completion.id);
            return Err(NvmeError::Broken(what));
        };
        Ok(Done {
            tag,
            command,
            status: completion.status,
            slot: completion.id,
        })
    }

    /// Copies the first bytes of what was read.
    ///
    /// # Errors
    /// Where `data` is longer than a transfer can be.
    pub fn copy_out(&self, done: &Done, data: &mut [u8]) -> Result<()> {
        Ok(self
            .data
            .read_bytes(u64::from(done.slot) * self.slot_bytes, data)?)
    }

    /// Its place can be used again.
    #[allow(clippy::needless_pass_by_value)] // it can't be used any more
    pub fn release(&mut self, done: Done) {
        let Done { slot, .. } = done;
        // One from before a reset may have been given a second time.
        let idle = self.under_way.get(usize::from(slot)).is_some_and(Option::is_none);
        if idle && !self.free.contains(&slot) {
            self.free.push(slot);
        }
    }

    /// Reads from a block on; the length is a multiple of the block's.
    ///
    /// # Errors
    /// The first of what [`start`](Self::start), [`finish`](Self::finish) or the controller says of a part.
    pub fn read(&mut self, block: u64, data: &mut [u8]) -> Result<()> {
        let piece = self.transfer_bytes();
        let per_piece = self.slot_bytes / self.block_bytes;
        let lengths: Vec<usize> = data.chunks(piece).map(<[u8]>::len).collect();
        let mut pieces: Vec<_> = data.chunks_mut(piece).collect();
        self.run(
            lengths.len(),
            |n| Request::Read {
                block: block + n as u64 * per_piece,
                bytes: lengths.get(n).copied().unwrap_or_default(),
            },
            |disk, done| match usize::try_from(done.tag).ok().and_then(|n| pieces.get_mut(n)) {
                Some(into) => disk.copy_out(done, into),
                None => Ok(()),
            },
        )
    }

    /// Writes from a block on; the length is a multiple of the block's.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, block: u64, data: &[u8]) -> Result<()> {
        let pieces: Vec<_> = data.chunks(self.transfer_bytes()).collect();
        let per_piece = self.slot_bytes / self.block_bytes;
        self.run(
            pieces.len(),
            |n| Request::Write {
                block: block + n as u64 * per_piece,
                data: pieces.get(n).copied().unwrap_or_default(),
            },
            |_, _| Ok(()),
        )
    }

    /// Makes everything that was written last.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn flush(&mut self) -> Result<()> {
        self.run(1, |_| Request::Flush, |_, _| Ok(()))
    }

    /// Resets the controller. What was under way is lost; the disk can be used on.
    ///
    /// # Errors
    /// Where the controller does not become ready again.
    pub fn reset(&mut self) -> Result<()> {
        self.controller.reset()?;
        self.controller.create(&mut self.queue)?;
        self.under_way.fill(None);
        self.free = (0..self.under_way.len() as u16).rev().collect();
        Ok(())
    }

    /// Carries out `count` requests, as many at once as there is room; the first failure is given once all are done.
    fn run<'a>(
        &mut self,
        count: usize,
        request: impl Fn(usize) -> Request<'a>,
        mut then: impl FnMut(&Self, &Done) -> Result<()>,
    ) -> Result<()> {
        let (mut started, mut finished) = (0, 0);
        let mut result = Ok(());
        while finished < started || (started < count && result.is_ok()) {
            while started < count && result.is_ok() && self.has_room() {
                match self.start(request(started), started as u64) {
                    Ok(()) => started += 1,
                    Err(error) => result = Err(error),
                }
            }
            self.submit()?;
            if finished == started {
                break;
            }
            let done = self.finish()?;
            finished += 1;
            let went = done.result().and_then(|()| then(self, &done));
            self.release(done);
            result = result.and(went);
        }
        result
    }

    /// How many blocks these bytes are.
    fn count(&self, bytes: usize) -> Result<u32> {
        let blocks = bytes as u64 / self.block_bytes;
        if bytes == 0 || bytes as u64 > self.slot_bytes || !(bytes as u64).is_multiple_of(self.block_bytes) {
            return Err(NvmeError::Request(format!(
                "{bytes} bytes are not a transfer: it has 1 to {} bytes, in blocks of {}",
                self.slot_bytes, self.block_bytes
            )));
        }
        Ok(blocks as u32)
    }

    /// PRP1 and PRP2 of a slot's data (section 4.3): the first page, and the second or the list of the others.
    fn pages(&self, slot: u16, bytes: u64) -> (u64, u64) {
        let first = self.data.iova() + u64::from(slot) * self.slot_bytes;
        match bytes.div_ceil(PAGE) {
            0 | 1 => (first, 0),
            2 => (first, first + PAGE),
            _ => (first, self.lists.iova() + u64::from(slot) * PAGE),
        }
    }
}
