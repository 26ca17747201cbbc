//! A driver of the DMA engine.

use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use uvfio_core::{DmaMessages, IrqIndex};
use uvfio_soft::ioat::{
    COMMAND_RESET, CONTROL_ANY_ERROR_ABORTS, CONTROL_ERROR_COMPLETION, CONTROL_ERROR_INTERRUPT,
    CONTROL_INTERRUPT_DISABLED, ChannelReg, Config, DESCRIPTOR_COMPLETION, DESCRIPTOR_INTERRUPT,
    DESCRIPTOR_NULL, DeviceReg, INTERRUPT_MASTER, INTERRUPT_VECTORS, Ioat, OPERATION_FILL, STATE_ACTIVE,
    STATE_IDLE, STATE_MASK,
};

use super::{IOVA, MEMORY_BYTES, User, until};

/// Where things lie in memory, as offsets.
pub(crate) const RINGS: u64 = 0;
pub(crate) const RING_BYTES: u64 = 0x4000;
pub(crate) const COMPLETIONS: u64 = 0x1_0000;
pub(crate) const SOURCE: u64 = 0x2_0000;
pub(crate) const DESTINATION: u64 = 0x8_0000;
/// Nothing is mapped here.
pub(crate) const NOWHERE: u64 = 0x7000_0000;
/// As drivers set it: tell errors, and by interrupt.
pub(crate) const RUN: u16 = CONTROL_INTERRUPT_DISABLED
    | CONTROL_ERROR_COMPLETION
    | CONTROL_ANY_ERROR_ABORTS
    | CONTROL_ERROR_INTERRUPT;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) bytes: u32,
    pub(crate) control: u32,
    pub(crate) source: u64,
    pub(crate) destination: u64,
    pub(crate) next: u64,
}

impl Descriptor {
    /// A copy within memory, by offsets, that writes its completion.
    pub(crate) fn copy(source: u64, destination: u64, bytes: u32) -> Self {
        Self {
            bytes,
            control: DESCRIPTOR_COMPLETION,
            source: IOVA + source,
            destination: IOVA + destination,
            next: 0,
        }
    }

    pub(crate) fn fill(pattern: u64, destination: u64, bytes: u32) -> Self {
        Self {
            control: DESCRIPTOR_COMPLETION | OPERATION_FILL,
            source: pattern,
            ..Self::copy(0, destination, bytes)
        }
    }

    pub(crate) fn null() -> Self {
        Self {
            control: DESCRIPTOR_NULL | DESCRIPTOR_COMPLETION,
            source: 0,
            destination: 0,
            ..Self::copy(0, 0, 1)
        }
    }

    pub(crate) fn interrupting(mut self) -> Self {
        self.control |= DESCRIPTOR_INTERRUPT;
        self
    }

    pub(crate) fn raw(&self) -> [u8; 64] {
        let mut raw = [0; 64];
        raw[0..4].copy_from_slice(&self.bytes.to_le_bytes());
        raw[4..8].copy_from_slice(&self.control.to_le_bytes());
        raw[8..16].copy_from_slice(&self.source.to_le_bytes());
        raw[16..24].copy_from_slice(&self.destination.to_le_bytes());
        raw[24..32].copy_from_slice(&self.next.to_le_bytes());
        raw
    }
}

/// A driver.
pub(crate) struct Driver(pub(crate) User);

impl Deref for Driver {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}

impl Driver {
    /// With its memory at [`IOVA`].
    pub(crate) fn new(channels: u8) -> Self {
        let driver = Self::bare(channels, None);
        driver.map(IOVA, MEMORY_BYTES);
        driver
    }

    pub(crate) fn bare(channels: u8, messages: Option<Arc<dyn DmaMessages>>) -> Self {
        let ioat = Ioat::new(Config { channels }).expect("its threads start");
        Self(User::new(ioat, messages))
    }

    pub(crate) fn get<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        let part = data.get_mut(..N).expect("a width");
        self.device.read(0, offset, part).expect("BAR 0 is read");
        u64::from_le_bytes(data)
    }

    pub(crate) fn put<const N: usize>(&self, offset: u64, value: u64) {
        let data = value.to_le_bytes();
        let part = data.get(..N).expect("a width");
        self.device.write(0, offset, part).expect("BAR 0 is written");
    }

    /// As Linux writes them: in halves.
    pub(crate) fn put_halves(&self, offset: u64, value: u64) {
        self.put::<4>(offset, value & 0xffff_ffff);
        self.put::<4>(offset + 4, value >> 32);
    }

    pub(crate) fn status(&self, channel: u8) -> u64 {
        self.get::<8>(ChannelReg::Status.offset(channel))
    }

    pub(crate) fn state(&self, channel: u8) -> u64 {
        self.status(channel) & STATE_MASK
    }

    pub(crate) fn error(&self, channel: u8) -> u32 {
        self.get::<4>(ChannelReg::Error.offset(channel)) as u32
    }

    pub(crate) fn control(&self, channel: u8, value: u16) {
        self.put::<2>(ChannelReg::Control.offset(channel), value.into());
    }

    pub(crate) fn command(&self, channel: u8, value: u8) {
        self.put::<1>(ChannelReg::Command.offset(channel), value.into());
    }

    pub(crate) fn ring_doorbell(&self, channel: u8, count: u16) {
        self.put::<2>(ChannelReg::Count.offset(channel), count.into());
    }

    /// The address of a channel's descriptor.
    pub(crate) fn address(channel: u8, index: usize) -> u64 {
        IOVA + RINGS + RING_BYTES * u64::from(channel) + 64 * index as u64
    }

    pub(crate) fn write_descriptor(&self, address: u64, descriptor: &Descriptor) {
        self.memory
            .write_all_at(&descriptor.raw(), address - IOVA)
            .expect("memory is written");
    }

    /// Writes a ring, the last descriptor followed by the first.
    pub(crate) fn write_ring(&self, channel: u8, descriptors: &[Descriptor]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            let next = Self::address(channel, (index + 1) % descriptors.len());
            self.write_descriptor(Self::address(channel, index), &Descriptor { next, ..*descriptor });
        }
    }

    /// Makes a channel ready for its ring.
    pub(crate) fn arm(&self, channel: u8) {
        self.control(channel, RUN);
        let completion = IOVA + COMPLETIONS + 64 * u64::from(channel);
        self.put_halves(ChannelReg::CompletionAddress.offset(channel), completion);
        self.put_halves(
            ChannelReg::ChainAddress.offset(channel),
            Self::address(channel, 0),
        );
    }

    /// Works a ring off once, from its beginning.
    pub(crate) fn run(&self, channel: u8, descriptors: &[Descriptor]) {
        self.write_ring(channel, descriptors);
        self.arm(channel);
        self.ring_doorbell(channel, descriptors.len() as u16);
        self.ends(channel);
    }

    #[track_caller]
    pub(crate) fn ends(&self, channel: u8) {
        until("the chain ends", || self.state(channel) != STATE_ACTIVE);
    }

    /// What stands at CHANCMP.
    pub(crate) fn completion(&self, channel: u8) -> u64 {
        let data = self.memory(COMPLETIONS + 64 * u64::from(channel), 8);
        u64::from_le_bytes(data.try_into().expect("8 bytes"))
    }

    pub(crate) fn fill_source(&self) -> Vec<u8> {
        let data: Vec<u8> = (0..DESTINATION - SOURCE).map(|n| (n % 251) as u8 + 1).collect();
        self.memory
            .write_all_at(&data, SOURCE)
            .expect("memory is written");
        data
    }

    /// A copy works, on a channel in whatever state.
    #[track_caller]
    pub(crate) fn still_copies(&self, channel: u8) {
        let data = self.fill_source();
        self.memory
            .write_all_at(&[0; 100], DESTINATION)
            .expect("memory is written");
        self.command(channel, COMMAND_RESET);
        until("the channel's reset ends", || {
            self.get::<1>(ChannelReg::Command.offset(channel)) == 0
        });
        self.put::<4>(ChannelReg::Error.offset(channel), u32::MAX.into());
        self.run(channel, &[Descriptor::copy(SOURCE, DESTINATION, 100)]);
        assert_eq!(self.status(channel), Self::address(channel, 0) | STATE_IDLE);
        assert_eq!(self.memory(DESTINATION, 100), data.get(..100).expect("as much"));
    }

    pub(crate) fn enable_messages(&self, channels: u32) -> Vec<std::os::fd::OwnedFd> {
        let fds = self.enable(IrqIndex::MsiX, channels);
        let control = INTERRUPT_MASTER | INTERRUPT_VECTORS;
        self.put::<1>(DeviceReg::InterruptControl.offset(), control.into());
        fds
    }
}
