//! One channel's registers: a plain value. Descriptors are worked off elsewhere, one [`Job`] at a time.

use super::map::{
    COMMAND_RESET, COMMAND_SUSPEND, COMPATIBILITY, CONTROL_ANY_ERROR_ABORTS, CONTROL_ERROR_COMPLETION,
    CONTROL_ERROR_INTERRUPT, CONTROL_IN_USE, CONTROL_INTERRUPT_DISABLED, ChannelReg, ERROR_COMMAND, Lane,
    STATE_ACTIVE, STATE_ARMED, STATE_HALTED, STATE_IDLE, STATE_SUSPENDED,
};

/// The bits of CHANCTRL that are stored and do no more than what they say.
const CONTROL_STORED: u16 = CONTROL_ERROR_COMPLETION | CONTROL_ANY_ERROR_ABORTS | CONTROL_ERROR_INTERRUPT;
/// The bits of CHANERR that there are.
const ERRORS: u32 = 0x1fff;
/// The bits of CHANCMP that are 0.
const COMPLETION_ALIGNMENT: u64 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum State {
    Active = STATE_ACTIVE,
    Idle = STATE_IDLE,
    Suspended = STATE_SUSPENDED,
    Halted = STATE_HALTED,
    Armed = STATE_ARMED,
}

/// What an access makes happen beyond the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    None,
    /// There is a job.
    Work,
    /// The channel wants to interrupt.
    Interrupt,
}

/// A descriptor to work off, with all that it needs of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    epoch: u64,
    /// The descriptor's address.
    pub(super) address: u64,
    /// Whether the address is CHAINADDR's, not a former descriptor's.
    pub(super) first: bool,
    /// How many descriptors of the chain may be read, this one included: those that DMACOUNT has rung for.
    pub(super) rung: u16,
    /// CHANCMP.
    pub(super) completion: u64,
    /// What to write there once it is done.
    pub(super) when_done: u64,
    /// What to write there if it fails, if anything.
    pub(super) when_failed: Option<u64>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done {
        next: u64,
        interrupt: bool,
    },
    /// With `ERROR_*` bits.
    Failed(u32),
    /// To be done once bus mastering is on; or abandoned.
    Undone,
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// Another one after each reset: a job of before it is not this channel's any more.
    epoch: u64,
    /// A job is under way, of this epoch or of a former one.
    busy: bool,
    /// The job under way is of a former epoch.
    abandoned: bool,
    /// The next job waits for bus mastering.
    waits: bool,
    /// Where to go once the job under way has ended.
    stop: Option<State>,
    state: State,
    control: u16,
    in_use: bool,
    interrupt_disabled: bool,
    interrupt_pending: bool,
    chain: u64,
    next: u64,
    first: bool,
    count: u16,
    done: u16,
    /// The address of the last completed descriptor.
    completed: u64,
    completion: u64,
    error: u32,
    error_mask: u32,
}

impl Job {
    /// Whether no reset has come between, and no new CHAINADDR.
    pub(super) fn follows(&self, former: &Self) -> bool {
        self.epoch == former.epoch && !self.first
    }
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            epoch: 0,
            busy: false,
            abandoned: false,
            waits: false,
            stop: None,
            state: State::Halted,
            control: 0,
            in_use: false,
            interrupt_disabled: false,
            interrupt_pending: false,
            chain: 0,
            next: 0,
            first: false,
            count: 0,
            done: 0,
            completed: 0,
            completion: 0,
            error: 0,
            error_mask: 0,
        }
    }

    /// Back to power-on.
    pub(super) fn power_on(&mut self) {
        *self = Self {
            epoch: self.epoch.wrapping_add(1),
            busy: self.busy,
            abandoned: self.busy,
            ..Self::new()
        };
    }

    /// As the command does it: the chain is forgotten; control, errors and their mask stay.
    fn reset(&mut self) {
        let (control, in_use, interrupt_disabled) = (self.control, self.in_use, self.interrupt_disabled);
        let (error, error_mask) = (self.error, self.error_mask);
        self.power_on();
        (self.control, self.in_use, self.interrupt_disabled) = (control, in_use, interrupt_disabled);
        (self.error, self.error_mask) = (error, error_mask);
    }

    /// Reads a register of which at least the bytes in `lane` are wanted.
    pub(super) fn read(&mut self, register: ChannelReg, lane: Lane) -> u64 {
        match register {
            ChannelReg::Control => {
                let value = self.control
                    | if self.in_use { CONTROL_IN_USE } else { 0 }
                    | if self.interrupt_disabled {
                        CONTROL_INTERRUPT_DISABLED
                    } else {
                        0
                    };
                self.in_use |= lane.mask & u64::from(CONTROL_IN_USE) != 0;
                value.into()
            }
            ChannelReg::Compatibility => COMPATIBILITY.into(),
            // Suspending shows in the state alone, resetting here.
            ChannelReg::Command if self.abandoned => COMMAND_RESET.into(),
            ChannelReg::Command => 0,
            ChannelReg::Count => self.count.into(),
            ChannelReg::Status => self.completed | self.state as u64,
            ChannelReg::ChainAddress => self.chain,
            ChannelReg::CompletionAddress => self.completion,
            ChannelReg::CurrentDescriptor => self.next,
            ChannelReg::Error => self.error.into(),
            ChannelReg::ErrorMask => self.error_mask.into(),
        }
    }

    pub(super) fn write(&mut self, register: ChannelReg, lane: Lane) -> Consequence {
        let merge = |old: u64| old & !lane.mask | lane.bits;
        match register {
            ChannelReg::Compatibility | ChannelReg::Status | ChannelReg::CurrentDescriptor => {}
            ChannelReg::Control => {
                self.control = merge(self.control.into()) as u16 & CONTROL_STORED;
                if lane.mask & u64::from(CONTROL_IN_USE) != 0 && lane.bits & u64::from(CONTROL_IN_USE) == 0 {
                    self.in_use = false;
                }
                if lane.bits & u64::from(CONTROL_INTERRUPT_DISABLED) != 0 {
                    self.interrupt_disabled = false;
                    if std::mem::take(&mut self.interrupt_pending) {
                        return Consequence::Interrupt;
                    }
                }
            }
            ChannelReg::Command => return self.command(lane.bits as u8),
            ChannelReg::Count => {
                self.count = merge(self.count.into()) as u16;
                if matches!(self.state, State::Armed | State::Idle) && self.count != self.done {
                    self.state = State::Active;
                    return Consequence::Work;
                }
            }
            // The chain under way is not changed under the thread that works it off.
            ChannelReg::ChainAddress if self.state == State::Active => {}
            ChannelReg::ChainAddress => {
                self.chain = merge(self.chain);
                (self.next, self.first) = (self.chain, true);
                (self.count, self.done, self.completed) = (0, 0, 0);
                self.state = State::Armed;
            }
            ChannelReg::CompletionAddress => {
                self.completion = merge(self.completion) & !COMPLETION_ALIGNMENT;
            }
            ChannelReg::Error => self.error &= !(lane.bits as u32),
            ChannelReg::ErrorMask => self.error_mask = merge(self.error_mask.into()) as u32 & ERRORS,
        }
        Consequence::None
    }

    fn command(&mut self, command: u8) -> Consequence {
        match command {
            0 => {}
            COMMAND_RESET => self.reset(),
            COMMAND_SUSPEND => self.halt(State::Suspended),
            _ => {
                self.halt(State::Halted);
                return self.fail(ERROR_COMMAND);
            }
        }
        Consequence::None
    }

    /// Stops the chain, once the job under way has ended.
    fn halt(&mut self, state: State) {
        if self.state == State::Halted {
        } else if self.busy {
            self.stop = Some(state);
        } else {
            self.state = state;
        }
    }

    fn fail(&mut self, errors: u32) -> Consequence {
        self.error |= errors;
        if self.control & CONTROL_ERROR_INTERRUPT != 0 && self.error & !self.error_mask != 0 {
            Consequence::Interrupt
        } else {
            Consequence::None
        }
    }

    /// Whether there is a job to take.
    fn has_job(&self) -> bool {
        !self.busy && !self.waits && self.state == State::Active
    }

    /// Takes the next job.
    pub(super) fn take(&mut self) -> Option<Job> {
        if !self.has_job() {
            return None;
        }
        self.busy = true;
        let last = self.count == self.done.wrapping_add(1);
        let state = if last { STATE_IDLE } else { STATE_ACTIVE };
        Some(Job {
            epoch: self.epoch,
            address: self.next,
            first: self.first,
            rung: self.count.wrapping_sub(self.done),
            completion: self.completion,
            when_done: self.next | state,
            when_failed: (self.control & CONTROL_ERROR_COMPLETION != 0)
                .then_some(self.completed | STATE_HALTED),
        })
    }

    /// Whether a job is still wanted.
    pub(super) fn wants(&self, job: &Job) -> bool {
        self.epoch == job.epoch
    }

    /// Goes on with what waits for bus mastering.
    pub(super) fn go_on(&mut self) {
        self.waits = false;
    }

    /// Puts a job's outcome into the registers, unless it was abandoned. `again`: bus mastering has been switched on
    /// since the job began.
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome, again: bool) -> Consequence {
        (self.busy, self.abandoned) = (false, false);
        let stop = self.stop.take();
        if let Some(state) = stop {
            self.state = state;
        }
        if !self.wants(job) {
            return Consequence::None;
        }
        match outcome {
            Outcome::Done { next, interrupt } => {
                (self.completed, self.next, self.first) = (job.address, next, false);
                self.done = self.done.wrapping_add(1);
                if stop.is_none() && self.done == self.count {
                    self.state = State::Idle;
                }
                if interrupt {
                    return Consequence::Interrupt;
                }
            }
            Outcome::Failed(errors) => {
                self.state = State::Halted;
                return self.fail(errors);
            }
            Outcome::Undone => self.waits = !again,
        }
        Consequence::None
    }

    /// Interrupts, or remembers that it would. Says whether it does.
    pub(super) fn interrupt(&mut self) -> bool {
        if self.interrupt_disabled {
            self.interrupt_pending = true;
            return false;
        }
        self.interrupt_disabled = true;
        true
    }
}
