//! A pair of queues, and how the controller is told of them.

use std::sync::atomic::{Ordering, fence};

use crate::{Bar, DmaBuffer, Function};

use super::error::{NvmeError, Result};
use super::spec::{CQE_BYTES, Capabilities, Command, Completion, SQE_BYTES, register};

/// A submission queue and its completion queue, of the same number and length.
pub(crate) struct QueuePair {
    id: u16,
    entries: u32,
    submission: DmaBuffer,
    completion: DmaBuffer,
    /// Where the next command goes.
    tail: u32,
    /// How far the controller has read, as far as it has told.
    read_by_controller: u32,
    /// Where the next completion comes.
    head: u32,
    /// The phase tag of a completion that is new.
    phase: bool,
    tail_bell: Doorbell,
    head_bell: Doorbell,
}

impl QueuePair {
    /// Memory for a pair; the controller does not know of it yet.
    pub(crate) fn new(
        function: &Function,
        registers: &Bar,
        capabilities: Capabilities,
        id: u16,
        entries: u32,
    ) -> Result<Self> {
        let stride = capabilities.doorbell_stride();
        let bell = |index: u64| Doorbell {
            registers: registers.clone().posted(),
            register: register::DOORBELLS + index * stride,
            shadow_at: index * stride,
            last: 0,
        };
        let first = 2 * u64::from(id);
        Ok(Self {
            id,
            entries,
            submission: function.dma_buffer(u64::from(entries) * SQE_BYTES)?,
            completion: function.dma_buffer(u64::from(entries) * CQE_BYTES)?,
            tail: 0,
            read_by_controller: 0,
            head: 0,
            phase: true,
            tail_bell: bell(first),
            head_bell: bell(first + 1),
        })
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    pub(crate) fn submission_iova(&self) -> u64 {
        self.submission.iova()
    }

    pub(crate) fn completion_iova(&self) -> u64 {
        self.completion.iova()
    }

    /// As new: for a controller that has been reset.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let zeros = vec![0; self.completion.bytes() as usize];
        self.completion.write_bytes(0, &zeros)?;
        (self.tail, self.read_by_controller, self.head, self.phase) = (0, 0, 0, true);
        self.tail_bell.last = 0;
        self.head_bell.last = 0;
        Ok(())
    }

    /// Puts a command into the queue without telling the controller; says whether there was room.
    pub(crate) fn push(&mut self, command: &Command) -> Result<bool> {
        let next = (self.tail + 1) % self.entries;
        if next == self.read_by_controller {
            return Ok(false);
        }
        self.submission
            .write_bytes(u64::from(self.tail) * SQE_BYTES, &command.bytes())?;
        self.tail = next;
        Ok(true)
    }

    /// Tells the controller of the commands that were pushed.
    pub(crate) fn ring(&mut self, shadow: Option<&Shadow>) -> Result<()> {
        self.tail_bell.ring(self.tail, shadow)
    }

    /// The next completion, if it has come.
    pub(crate) fn pop(&mut self, shadow: Option<&Shadow>) -> Result<Option<Completion>> {
        let completion = Completion::read(&self.completion, self.head)?;
        if completion.phase != self.phase {
            return Ok(None);
        }
        let read = u32::from(completion.queue_head);
        if read >= self.entries {
            let what = format!("SQHD of queue {} is {read}, of {} entries", self.id, self.entries);
            return Err(NvmeError::Broken(what));
        }
        self.read_by_controller = read;
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        self.head_bell.ring(self.head, shadow)?;
        Ok(Some(completion))
    }
}

/// One doorbell.
struct Doorbell {
    /// Writes here need no answer.
    registers: Bar,
    register: u64,
    /// Where its shadow is in the shadow page.
    shadow_at: u64,
    /// What was told last.
    last: u32,
}

impl Doorbell {
    fn ring(&mut self, value: u32, shadow: Option<&Shadow>) -> Result<()> {
        let before = std::mem::replace(&mut self.last, value);
        if before == value {
            return Ok(());
        }
        if let Some(shadow) = shadow
            && !shadow.wakes(self.shadow_at, before, value)?
        {
            return Ok(());
        }
        Ok(self.registers.write(self.register, value)?)
    }
}

/// Shadow doorbells (Doorbell Buffer Config, section 5.7): the controller reads the doorbells from memory, and asks in
/// a second page to be told by register, for when it has gone to sleep.
pub(crate) struct Shadow {
    pub(crate) values: DmaBuffer,
    pub(crate) events: DmaBuffer,
}

impl Shadow {
    /// Writes a shadow doorbell, and says whether the register must be written too: when the controller's EventIdx lies
    /// among the values from `before` (exclusive of what it has seen) to `now`.
    fn wakes(&self, at: u64, before: u32, now: u32) -> Result<bool> {
        self.values.write(at, now)?;
        // The controller writes its EventIdx and then looks at the value once more; here it is the other way round. Of
        // two such stores and loads, one side must see the other's.
        fence(Ordering::SeqCst);
        let event: u32 = self.events.read(at)?;
        let since_event = (now as u16).wrapping_sub(event as u16).wrapping_sub(1);
        Ok(since_event < (now as u16).wrapping_sub(before as u16))
    }
}
