//! The device's registers: a plain value. No thread, no lock, no user: see `engine` for these.

use uvfio_core::Width;

use super::channel::{Channel, Consequence, Job, Outcome};
use super::map::{
    CAPABILITY, CHANNEL, CHANNEL_BYTES, DEVICE, DeviceReg, INTERRUPT_ASSERTED, INTERRUPT_MASTER,
    INTERRUPT_STATUS, INTERRUPT_VECTORS, Lane, TRANSFER_CAPACITY, VERSION, touched,
};

/// What an access or a job's end makes happen beyond the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// There is a job for a thread.
    pub(super) work: bool,
    /// The level of INTx has changed.
    pub(super) level: bool,
    /// The MSI-X vectors to signal, one bit each.
    pub(super) vectors: u32,
}

/// All that the device holds.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    interrupt_control: u8,
    attention: u32,
    pub(super) channels: Vec<Channel>,
}

impl Registers {
    pub(super) fn new(channels: u8) -> Self {
        Self {
            interrupt_control: 0,
            attention: 0,
            channels: (0..channels).map(|_| Channel::new()).collect(),
        }
    }

    /// Back to power-on; jobs under way are abandoned.
    pub(super) fn power_on(&mut self) {
        self.interrupt_control = 0;
        self.attention = 0;
        self.channels.iter_mut().for_each(Channel::power_on);
    }

    /// The level of INTx.
    pub(super) fn asserted(&self) -> bool {
        self.interrupt_control & INTERRUPT_MASTER != 0 && self.attention != 0
    }

    /// Reads; bytes of no register read 0.
    pub(super) fn read(&mut self, offset: u64, width: Width) -> (u64, Effects) {
        let before = self.asserted();
        let mut value = 0;
        let channel = self.channel_number(offset);
        if let Some(channel) = channel.and_then(|number| self.channels.get_mut(number)) {
            for (register, lane, shift) in touched(CHANNEL, offset % CHANNEL_BYTES, width, 0) {
                value |= shift.there(channel.read(register, lane) & lane.mask);
            }
        } else {
            for (register, lane, shift) in touched(DEVICE, offset, width, 0) {
                value |= shift.there(self.read_own(register, lane) & lane.mask);
            }
        }
        let effects = Effects {
            level: self.asserted() != before,
            ..Effects::default()
        };
        (value, effects)
    }

    pub(super) fn write(&mut self, offset: u64, width: Width, value: u64) -> Effects {
        let before = self.asserted();
        let mut effects = Effects::default();
        let Some(number) = self.channel_number(offset) else {
            for (register, lane, _) in touched(DEVICE, offset, width, value) {
                effects.vectors |= self.write_own(register, lane);
            }
            effects.level = self.asserted() != before;
            return effects;
        };
        for (register, lane, _) in touched(CHANNEL, offset % CHANNEL_BYTES, width, value) {
            let Some(channel) = self.channels.get_mut(number) else {
                break;
            };
            match channel.write(register, lane) {
                Consequence::None => {}
                Consequence::Work => effects.work = true,
                Consequence::Interrupt => effects.vectors |= self.interrupt(number),
            }
        }
        effects.level = self.asserted() != before;
        effects
    }

    /// Puts the outcome of a channel's job into the registers; see [`Channel::finish`].
    pub(super) fn finish(&mut self, number: usize, job: &Job, outcome: Outcome, again: bool) -> Effects {
        let before = self.asserted();
        let consequence = self
            .channels
            .get_mut(number)
            .map_or(Consequence::None, |channel| channel.finish(job, outcome, again));
        let vectors = match consequence {
            Consequence::Interrupt => self.interrupt(number),
            Consequence::None | Consequence::Work => 0,
        };
        Effects {
            work: false,
            level: self.asserted() != before,
            vectors,
        }
    }

    /// Which channel's block an offset lies in.
    fn channel_number(&self, offset: u64) -> Option<usize> {
        let number = usize::try_from((offset / CHANNEL_BYTES).checked_sub(1)?).ok()?;
        (number < self.channels.len()).then_some(number)
    }

    fn read_own(&mut self, register: DeviceReg, lane: Lane) -> u64 {
        match register {
            DeviceReg::ChannelCount => self.channels.len() as u64,
            DeviceReg::TransferCapacity => TRANSFER_CAPACITY.into(),
            DeviceReg::InterruptControl => {
                let status = if self.attention == 0 { 0 } else { INTERRUPT_STATUS };
                let asserted = if self.asserted() { INTERRUPT_ASSERTED } else { 0 };
                let value = self.interrupt_control | status | asserted;
                self.interrupt_control &= !INTERRUPT_MASTER;
                value.into()
            }
            DeviceReg::Attention => {
                let value = u64::from(self.attention);
                self.attention &= !(lane.mask as u32);
                value
            }
            DeviceReg::Version => VERSION.into(),
            DeviceReg::Capability => CAPABILITY.into(),
        }
    }

    fn write_own(&mut self, register: DeviceReg, lane: Lane) -> u32 {
        if register != DeviceReg::InterruptControl {
            return 0;
        }
        let was = self.interrupt_control & INTERRUPT_MASTER != 0;
        self.interrupt_control = lane.bits as u8 & (INTERRUPT_MASTER | INTERRUPT_VECTORS);
        // What came while the master switch was off is told now.
        if !was && self.asserted() {
            self.vectors(self.attention)
        } else {
            0
        }
    }

    /// A channel interrupts; the vectors to signal.
    fn interrupt(&mut self, number: usize) -> u32 {
        if !self.channels.get_mut(number).is_some_and(Channel::interrupt) {
            return 0;
        }
        let bit = 1 << number;
        self.attention |= bit;
        if self.asserted() { self.vectors(bit) } else { 0 }
    }

    /// The vectors of some channels.
    fn vectors(&self, channels: u32) -> u32 {
        if self.interrupt_control & INTERRUPT_VECTORS != 0 {
            channels
        } else {
            1
        }
    }
}
