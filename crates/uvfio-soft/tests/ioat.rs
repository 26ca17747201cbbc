//! Intel's DMA engine as its user sees it: through a virtual device, with descriptors in memory and interrupts.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{IOVA, MEMORY_BYTES, PATIENCE, Silent, User, arrives, taken, until};
use proptest::prelude::*;
use uvfio_core::{DmaMessages, IrqIndex, ResetProgress, region_index::CONFIG};
use uvfio_soft::ioat::{
    COMMAND_RESET, COMMAND_SUSPEND, CONTROL_ANY_ERROR_ABORTS, CONTROL_ERROR_COMPLETION,
    CONTROL_ERROR_INTERRUPT, CONTROL_IN_USE, CONTROL_INTERRUPT_DISABLED, ChannelReg, Config,
    DESCRIPTOR_COMPLETION, DESCRIPTOR_INTERRUPT, DESCRIPTOR_NULL, DeviceReg, ERROR_CHAIN_ADDRESS,
    ERROR_COMMAND, ERROR_COMPLETION_ADDRESS, ERROR_DESCRIPTOR_CONTROL, ERROR_DESTINATION_ADDRESS,
    ERROR_LENGTH, ERROR_NEXT_ADDRESS, ERROR_NEXT_ALIGNMENT, ERROR_SOURCE_ADDRESS, INTERRUPT_ASSERTED,
    INTERRUPT_MASTER, INTERRUPT_STATUS, INTERRUPT_VECTORS, Ioat, OPERATION_FILL, STATE_ACTIVE, STATE_ARMED,
    STATE_HALTED, STATE_IDLE, STATE_MASK, STATE_SUSPENDED,
};

mod common;

/// Where things lie in memory, as offsets.
const RINGS: u64 = 0;
const RING_BYTES: u64 = 0x4000;
const COMPLETIONS: u64 = 0x1_0000;
const SOURCE: u64 = 0x2_0000;
const DESTINATION: u64 = 0x8_0000;
/// Nothing is mapped here.
const NOWHERE: u64 = 0x7000_0000;
/// As drivers set it: tell errors, and by interrupt.
const RUN: u16 = CONTROL_INTERRUPT_DISABLED
    | CONTROL_ERROR_COMPLETION
    | CONTROL_ANY_ERROR_ABORTS
    | CONTROL_ERROR_INTERRUPT;

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    bytes: u32,
    control: u32,
    source: u64,
    destination: u64,
    next: u64,
}

impl Descriptor {
    /// A copy within memory, by offsets, that writes its completion.
    fn copy(source: u64, destination: u64, bytes: u32) -> Self {
        Self {
            bytes,
            control: DESCRIPTOR_COMPLETION,
            source: IOVA + source,
            destination: IOVA + destination,
            next: 0,
        }
    }

    fn fill(pattern: u64, destination: u64, bytes: u32) -> Self {
        Self {
            control: DESCRIPTOR_COMPLETION | OPERATION_FILL,
            source: pattern,
            ..Self::copy(0, destination, bytes)
        }
    }

    fn null() -> Self {
        Self {
            control: DESCRIPTOR_NULL | DESCRIPTOR_COMPLETION,
            source: 0,
            destination: 0,
            ..Self::copy(0, 0, 1)
        }
    }

    fn interrupting(mut self) -> Self {
        self.control |= DESCRIPTOR_INTERRUPT;
        self
    }

    fn raw(&self) -> [u8; 64] {
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
struct Driver(User);

impl Deref for Driver {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}

impl Driver {
    /// With its memory at [`IOVA`].
    fn new(channels: u8) -> Self {
        let driver = Self::bare(channels, None);
        driver.map(IOVA, MEMORY_BYTES);
        driver
    }

    fn bare(channels: u8, messages: Option<Arc<dyn DmaMessages>>) -> Self {
        let ioat = Ioat::new(Config { channels }).expect("its threads start");
        Self(User::new(ioat, messages))
    }

    fn get<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        let part = data.get_mut(..N).expect("a width");
        self.device.read(0, offset, part).expect("BAR 0 is read");
        u64::from_le_bytes(data)
    }

    fn put<const N: usize>(&self, offset: u64, value: u64) {
        let data = value.to_le_bytes();
        let part = data.get(..N).expect("a width");
        self.device.write(0, offset, part).expect("BAR 0 is written");
    }

    /// As Linux writes them: in halves.
    fn put_halves(&self, offset: u64, value: u64) {
        self.put::<4>(offset, value & 0xffff_ffff);
        self.put::<4>(offset + 4, value >> 32);
    }

    fn status(&self, channel: u8) -> u64 {
        self.get::<8>(ChannelReg::Status.offset(channel))
    }

    fn state(&self, channel: u8) -> u64 {
        self.status(channel) & STATE_MASK
    }

    fn error(&self, channel: u8) -> u32 {
        self.get::<4>(ChannelReg::Error.offset(channel)) as u32
    }

    fn control(&self, channel: u8, value: u16) {
        self.put::<2>(ChannelReg::Control.offset(channel), value.into());
    }

    fn command(&self, channel: u8, value: u8) {
        self.put::<1>(ChannelReg::Command.offset(channel), value.into());
    }

    fn ring_doorbell(&self, channel: u8, count: u16) {
        self.put::<2>(ChannelReg::Count.offset(channel), count.into());
    }

    /// The address of a channel's descriptor.
    fn address(channel: u8, index: usize) -> u64 {
        IOVA + RINGS + RING_BYTES * u64::from(channel) + 64 * index as u64
    }

    fn write_descriptor(&self, address: u64, descriptor: &Descriptor) {
        self.memory
            .write_all_at(&descriptor.raw(), address - IOVA)
            .expect("memory is written");
    }

    /// Writes a ring, the last descriptor followed by the first.
    fn write_ring(&self, channel: u8, descriptors: &[Descriptor]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            let next = Self::address(channel, (index + 1) % descriptors.len());
            self.write_descriptor(Self::address(channel, index), &Descriptor { next, ..*descriptor });
        }
    }

    /// Makes a channel ready for its ring.
    fn arm(&self, channel: u8) {
        self.control(channel, RUN);
        let completion = IOVA + COMPLETIONS + 64 * u64::from(channel);
        self.put_halves(ChannelReg::CompletionAddress.offset(channel), completion);
        self.put_halves(
            ChannelReg::ChainAddress.offset(channel),
            Self::address(channel, 0),
        );
    }

    /// Works a ring off once, from its beginning.
    fn run(&self, channel: u8, descriptors: &[Descriptor]) {
        self.write_ring(channel, descriptors);
        self.arm(channel);
        self.ring_doorbell(channel, descriptors.len() as u16);
        self.ends(channel);
    }

    #[track_caller]
    fn ends(&self, channel: u8) {
        until("the chain ends", || self.state(channel) != STATE_ACTIVE);
    }

    /// What stands at CHANCMP.
    fn completion(&self, channel: u8) -> u64 {
        let data = self.memory(COMPLETIONS + 64 * u64::from(channel), 8);
        u64::from_le_bytes(data.try_into().expect("8 bytes"))
    }

    fn fill_source(&self) -> Vec<u8> {
        let data: Vec<u8> = (0..DESTINATION - SOURCE).map(|n| (n % 251) as u8 + 1).collect();
        self.memory
            .write_all_at(&data, SOURCE)
            .expect("memory is written");
        data
    }

    /// A copy works, on a channel in whatever state.
    #[track_caller]
    fn still_copies(&self, channel: u8) {
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

    fn enable_messages(&self, channels: u32) -> Vec<std::os::fd::OwnedFd> {
        let fds = self.enable(IrqIndex::MsiX, channels);
        let control = INTERRUPT_MASTER | INTERRUPT_VECTORS;
        self.put::<1>(DeviceReg::InterruptControl.offset(), control.into());
        fds
    }
}

#[test]
fn it_is_what_drivers_of_8086_2021_look_for() {
    let driver = Driver::new(2);
    let mut header = [0; 12];
    driver
        .device
        .read(CONFIG, 0, &mut header)
        .expect("configuration space is read");
    assert_eq!(header[..4], [0x86, 0x80, 0x21, 0x20], "vendor and device ID");
    assert_eq!(
        header[9..],
        [0x00, 0x80, 0x08],
        "class code: other system peripheral"
    );
    assert_eq!(driver.device.region_info(0).expect("BAR 0").bytes, 0x4000);
    // By the numbers in drivers' own headers.
    assert_eq!(driver.get::<1>(0x00), 2, "CHANCNT");
    assert_eq!(driver.get::<1>(0x01), 20, "XFERCAP");
    assert_eq!(driver.get::<1>(0x08), 0x33, "CBVER");
    assert_eq!(driver.get::<4>(0x10), 0x40, "DMACAPABILITY: block fill");
    assert_eq!(driver.get::<2>(0x14), 0, "DCAOFFSET");
    for block in [0x80, 0x100] {
        assert_eq!(driver.get::<8>(block + 0x08), 3, "CHANSTS at power-on: halted");
        driver.put::<8>(block + 0x10, 0x1_2345_6780);
        assert_eq!(driver.get::<8>(block + 0x10), 0x1_2345_6780, "CHAINADDR");
        assert_eq!(driver.get::<8>(block + 0x08), 4, "CHANSTS with a chain: armed");
        driver.put::<8>(block + 0x18, 0x1_2345_678f);
        assert_eq!(driver.get::<8>(block + 0x18), 0x1_2345_6788, "CHANCMP");
    }
    assert_eq!(
        driver.get::<8>(0x180 + 0x08),
        0,
        "CHANSTS of a channel that there is not"
    );
}

#[test]
fn copies_of_every_alignment_arrive_and_touch_nothing_else() {
    let driver = Driver::new(1);
    let data = driver.fill_source();
    for (from, to, bytes) in [
        (0, 0, 1),
        (1, 2, 7),
        (3, 5, 4096),
        (0, 0, 65536),
        (7, 9, 65537),
        (0, 1, 300_000),
    ] {
        driver
            .memory
            .write_all_at(&[0; 0x8_0000], DESTINATION)
            .expect("memory is written");
        driver.run(0, &[Descriptor::copy(SOURCE + from, DESTINATION + to, bytes)]);
        let what = format!("{bytes} bytes from {from} to {to}");
        assert_eq!(driver.error(0), 0, "CHANERR after {what}");
        let (from, to, bytes) = (from as usize, to as usize, bytes as usize);
        let mut expected = vec![0; to];
        expected.extend(data.get(from..from + bytes).expect("as much"));
        expected.resize(0x8_0000, 0);
        assert!(driver.memory(DESTINATION, 0x8_0000) == expected, "{what}");
        assert_eq!(
            driver.completion(0),
            Driver::address(0, 0) | STATE_IDLE,
            "after {what}"
        );
    }
}

#[test]
fn a_fill_repeats_its_eight_bytes_from_the_destinations_first() {
    let driver = Driver::new(1);
    let pattern = 0xfedc_ba98_7654_3210_u64;
    for bytes in [1_u32, 8, 50, 89, 4096, 65536 + 13] {
        driver
            .memory
            .write_all_at(&[0; 0x2_0000], DESTINATION)
            .expect("memory is written");
        driver.run(0, &[Descriptor::fill(pattern, DESTINATION + 3, bytes)]);
        let mut expected = vec![0; 3];
        expected.extend(pattern.to_le_bytes().iter().cycle().take(bytes as usize));
        expected.resize(0x2_0000, 0);
        assert!(
            driver.memory(DESTINATION, 0x2_0000) == expected,
            "a fill of {bytes} bytes"
        );
    }
}

#[test]
fn a_ring_goes_round_as_the_count_is_raised_past_its_wrap() {
    let driver = Driver::new(1);
    driver.write_ring(0, &[Descriptor::null(); 7]);
    driver.arm(0);
    let mut count = 0_usize;
    for _ in 0..90 {
        count += 1000;
        driver.ring_doorbell(0, count as u16);
        driver.ends(0);
        let last = Driver::address(0, (count - 1) % 7) | STATE_IDLE;
        assert_eq!(driver.status(0), last, "CHANSTS after {count} descriptors");
        assert_eq!(
            driver.completion(0),
            last,
            "what is written after {count} descriptors"
        );
    }
}

#[test]
fn only_descriptors_that_ask_write_the_status() {
    let driver = Driver::new(1);
    let silent = Descriptor {
        control: DESCRIPTOR_NULL,
        ..Descriptor::null()
    };
    driver.run(0, &[Descriptor::null(), silent]);
    assert_eq!(driver.completion(0), Driver::address(0, 0) | STATE_ACTIVE);
    assert_eq!(driver.status(0), Driver::address(0, 1) | STATE_IDLE);
}

#[test]
fn each_channel_sends_its_own_message_once_until_it_is_rearmed() {
    let driver = Driver::new(4);
    let fds = driver.enable_messages(4);
    for channel in [2, 0, 3, 1] {
        driver.run(channel, &[Descriptor::null().interrupting()]);
        arrives(&fds, channel.into());
        assert_eq!(
            driver.get::<2>(ChannelReg::Control.offset(channel)) as u16 & CONTROL_INTERRUPT_DISABLED,
            CONTROL_INTERRUPT_DISABLED,
            "channel {channel} has interrupted"
        );
        driver.ring_doorbell(channel, 2);
        driver.ends(channel);
        driver.ring_doorbell(channel, 3);
        driver.ends(channel);
        assert_eq!(
            fds.iter().map(taken).sum::<u64>(),
            0,
            "before the channel is rearmed"
        );
        driver.control(channel, RUN);
        arrives(&fds, channel.into());
        driver.control(channel, RUN);
        assert_eq!(fds.iter().map(taken).sum::<u64>(), 0, "nothing is left to tell");
    }
    assert_eq!(driver.get::<4>(DeviceReg::Attention.offset()), 0xf, "ATTNSTATUS");
    assert_eq!(
        driver.get::<4>(DeviceReg::Attention.offset()),
        0,
        "ATTNSTATUS once it was read"
    );
}

#[test]
fn without_vector_control_every_channel_has_vector_0() {
    let driver = Driver::new(2);
    let fds = driver.enable(IrqIndex::MsiX, 2);
    driver.put::<1>(DeviceReg::InterruptControl.offset(), INTERRUPT_MASTER.into());
    driver.run(1, &[Descriptor::null().interrupting()]);
    arrives(&fds, 0);
}

#[test]
fn intx_follows_attention_and_the_master_switch() {
    let driver = Driver::new(2);
    let fds = driver.enable(IrqIndex::Intx, 1);
    let control = DeviceReg::InterruptControl.offset();
    driver.run(1, &[Descriptor::null().interrupting()]);
    assert_eq!(
        driver.get::<1>(control),
        u64::from(INTERRUPT_STATUS),
        "INTRCTRL, master off"
    );
    assert_eq!(taken(&fds[0]), 0, "INTx with the master off");
    driver.put::<1>(control, INTERRUPT_MASTER.into());
    arrives(&fds, 0);
    // As a driver's handler: reading the control switches the master off, reading attention clears it.
    let all = INTERRUPT_MASTER | INTERRUPT_STATUS | INTERRUPT_ASSERTED;
    assert_eq!(
        driver.get::<1>(control),
        u64::from(all),
        "INTRCTRL while INTx is asserted"
    );
    assert_eq!(
        driver.get::<1>(control),
        u64::from(INTERRUPT_STATUS),
        "INTRCTRL read again"
    );
    assert_eq!(driver.get::<4>(DeviceReg::Attention.offset()), 0b10, "ATTNSTATUS");
    driver.put::<1>(control, all.into());
    driver.unmask_intx();
    assert_eq!(taken(&fds[0]), 0, "INTx once attention is cleared");
    driver.control(1, RUN);
    driver.ring_doorbell(1, 2);
    arrives(&fds, 0);
}

#[test]
fn in_use_is_given_to_the_first_reader_until_somebody_writes_0() {
    let driver = Driver::new(1);
    let control = ChannelReg::Control.offset(0);
    let in_use = u64::from(CONTROL_IN_USE);
    assert_eq!(driver.get::<2>(control) & in_use, 0);
    assert_eq!(driver.get::<2>(control) & in_use, in_use);
    driver.control(0, RUN | CONTROL_IN_USE);
    assert_eq!(driver.get::<2>(control) & in_use, in_use);
    driver.control(0, 0);
    assert_eq!(driver.get::<2>(control) & in_use, 0);
}

/// Runs a good descriptor and then `bad`; the second must end the chain with `error`.
#[track_caller]
fn fails(driver: &Driver, bad: Descriptor, error: u32) {
    driver.run(0, &[Descriptor::copy(SOURCE, DESTINATION, 8), bad]);
    assert_eq!(driver.error(0), error, "CHANERR of {bad:x?}");
    let halted = Driver::address(0, 0) | STATE_HALTED;
    assert_eq!(driver.status(0), halted, "CHANSTS after {bad:x?}");
    assert_eq!(driver.completion(0), halted, "what is written after {bad:x?}");
    driver.still_copies(0);
}

#[test]
fn a_bad_descriptor_ends_the_chain_with_its_error_and_the_channel_can_be_used_again() {
    let driver = Driver::new(1);
    let copy = Descriptor::copy(SOURCE, DESTINATION, 64);
    for (change, error) in [
        (Descriptor { bytes: 0, ..copy }, ERROR_LENGTH),
        (
            Descriptor {
                bytes: (1 << 20) + 1,
                ..copy
            },
            ERROR_LENGTH,
        ),
        (
            Descriptor {
                bytes: u32::MAX,
                ..copy
            },
            ERROR_LENGTH,
        ),
        (
            Descriptor {
                bytes: 0,
                ..Descriptor::null()
            },
            ERROR_LENGTH,
        ),
        (
            Descriptor {
                source: NOWHERE,
                ..copy
            },
            ERROR_SOURCE_ADDRESS,
        ),
        (
            Descriptor {
                source: u64::MAX,
                ..copy
            },
            ERROR_SOURCE_ADDRESS,
        ),
        (
            Descriptor {
                source: IOVA + MEMORY_BYTES - 8,
                ..copy
            },
            ERROR_SOURCE_ADDRESS,
        ),
        (
            Descriptor {
                destination: NOWHERE,
                ..copy
            },
            ERROR_DESTINATION_ADDRESS,
        ),
        (
            Descriptor {
                destination: u64::MAX - 3,
                ..copy
            },
            ERROR_DESTINATION_ADDRESS,
        ),
        (
            Descriptor {
                destination: NOWHERE,
                ..Descriptor::fill(7, 0, 64)
            },
            ERROR_DESTINATION_ADDRESS,
        ),
        (
            Descriptor {
                control: 0x8700_0000,
                ..copy
            },
            ERROR_DESCRIPTOR_CONTROL,
        ),
        (
            Descriptor {
                control: 0x8900_0000,
                ..copy
            },
            ERROR_DESCRIPTOR_CONTROL,
        ),
        (
            Descriptor {
                control: u32::MAX,
                ..copy
            },
            ERROR_DESCRIPTOR_CONTROL,
        ),
    ] {
        fails(&driver, change, error);
    }
}

#[test]
fn a_chain_that_leads_nowhere_ends_with_its_error() {
    let driver = Driver::new(1);
    for (next, error) in [
        (NOWHERE, ERROR_NEXT_ADDRESS),
        (0, ERROR_NEXT_ADDRESS),
        (u64::MAX - 63, ERROR_NEXT_ADDRESS),
        (Driver::address(0, 1) + 32, ERROR_NEXT_ALIGNMENT),
        (u64::MAX, ERROR_NEXT_ALIGNMENT),
    ] {
        let first = Descriptor {
            next,
            ..Descriptor::null()
        };
        driver.write_descriptor(Driver::address(0, 0), &first);
        driver.arm(0);
        driver.ring_doorbell(0, 2);
        driver.ends(0);
        assert_eq!(driver.error(0), error, "CHANERR after next = {next:#x}");
        assert_eq!(driver.status(0), Driver::address(0, 0) | STATE_HALTED);
        driver.still_copies(0);
    }
    for chain in [NOWHERE, 0, Driver::address(0, 0) + 8, u64::MAX] {
        driver.arm(0);
        driver.put::<8>(ChannelReg::ChainAddress.offset(0), chain);
        driver.ring_doorbell(0, 1);
        driver.ends(0);
        assert_eq!(
            driver.error(0),
            ERROR_CHAIN_ADDRESS,
            "CHANERR of CHAINADDR {chain:#x}"
        );
        assert_eq!(driver.completion(0), STATE_HALTED, "nothing was completed");
        driver.still_copies(0);
    }
}

#[test]
fn a_status_that_cannot_be_written_halts_the_channel() {
    let driver = Driver::new(1);
    driver.write_ring(0, &[Descriptor::null()]);
    driver.arm(0);
    driver.put::<8>(ChannelReg::CompletionAddress.offset(0), NOWHERE);
    driver.ring_doorbell(0, 1);
    driver.ends(0);
    assert_eq!(driver.error(0), ERROR_COMPLETION_ADDRESS);
    assert_eq!(driver.status(0), STATE_HALTED);
    driver.still_copies(0);
}

#[test]
fn an_error_interrupts_where_it_is_enabled_and_not_masked() {
    let driver = Driver::new(1);
    let fds = driver.enable_messages(1);
    let bad = Descriptor {
        bytes: 0,
        ..Descriptor::null()
    };
    driver.run(0, &[bad]);
    arrives(&fds, 0);
    driver.put::<4>(ChannelReg::Error.offset(0), u32::MAX.into());
    driver.put::<4>(ChannelReg::ErrorMask.offset(0), ERROR_LENGTH.into());
    driver.run(0, &[bad]);
    assert_eq!(driver.error(0), ERROR_LENGTH);
    driver.put::<4>(ChannelReg::Error.offset(0), u32::MAX.into());
    driver.put::<4>(ChannelReg::ErrorMask.offset(0), 0);
    driver.control(0, RUN & !CONTROL_ERROR_INTERRUPT);
    driver.put::<8>(ChannelReg::ChainAddress.offset(0), NOWHERE);
    driver.ring_doorbell(0, 1);
    driver.ends(0);
    driver.command(0, COMMAND_SUSPEND | COMMAND_RESET);
    assert_eq!(driver.error(0), ERROR_CHAIN_ADDRESS | ERROR_COMMAND);
    // Whatever was sent has arrived once a later one has.
    driver.put::<4>(ChannelReg::Error.offset(0), u32::MAX.into());
    driver.run(0, &[Descriptor::null().interrupting()]);
    arrives(&fds, 0);
}

#[test]
fn while_bus_master_is_off_a_chain_waits_and_can_be_stopped() {
    let driver = Driver::new(1);
    let data = driver.fill_source();
    let fds = driver.enable_messages(1);
    for round in 0..3 {
        driver.config(0x04, &[0x02, 0x00]);
        driver
            .memory
            .write_all_at(&[0; 8], DESTINATION)
            .expect("memory is written");
        driver.write_ring(0, &[Descriptor::copy(SOURCE, DESTINATION, 8).interrupting()]);
        driver.arm(0);
        driver.ring_doorbell(0, 1);
        assert_eq!(driver.status(0), STATE_ACTIVE, "CHANSTS in round {round}");
        if round == 0 {
            driver.command(0, COMMAND_SUSPEND);
            until("it is suspended", || driver.state(0) == STATE_SUSPENDED);
            continue;
        }
        if round == 1 {
            driver.device.reset(PATIENCE).expect("it is reset");
            assert_eq!(driver.status(0), STATE_HALTED);
            let control = INTERRUPT_MASTER | INTERRUPT_VECTORS;
            driver.put::<1>(DeviceReg::InterruptControl.offset(), control.into());
            continue;
        }
        assert_eq!(driver.memory(DESTINATION, 8), [0; 8]);
        driver.config(0x04, &[0x06, 0x00]);
        arrives(&fds, 0);
        driver.ends(0);
        assert_eq!(driver.memory(DESTINATION, 8), data.get(..8).expect("as much"));
    }
    assert_eq!(driver.error(0), 0);
}

#[test]
fn a_chain_in_a_circle_is_stopped_by_suspend_by_reset_and_by_function_level_reset() {
    let driver = Driver::new(2);
    // As many megabytes as the count has room for: nobody waits for that.
    let round = [Descriptor::copy(SOURCE, DESTINATION, 0x6_0000); 2];
    let start = || {
        driver.write_ring(0, &round);
        driver.arm(0);
        driver.ring_doorbell(0, u16::MAX);
        until("the circle turns", || driver.status(0) > STATE_MASK);
        assert_eq!(driver.state(0), STATE_ACTIVE);
        driver.put::<8>(ChannelReg::ChainAddress.offset(0), NOWHERE);
        assert_eq!(
            driver.get::<8>(ChannelReg::ChainAddress.offset(0)),
            Driver::address(0, 0),
            "CHAINADDR after a write while the chain runs"
        );
    };
    start();
    driver.command(0, COMMAND_SUSPEND);
    until("it is suspended", || driver.state(0) == STATE_SUSPENDED);
    driver.ring_doorbell(0, 1);
    assert_eq!(
        driver.state(0),
        STATE_SUSPENDED,
        "the count alone does not resume it"
    );
    driver.arm(0);
    assert_eq!(driver.status(0), STATE_ARMED, "CHAINADDR does");

    start();
    driver.still_copies(1);
    driver.still_copies(0);

    start();
    let reset = driver.device.reset(PATIENCE).expect("it is reset");
    assert_eq!(reset, ResetProgress::Done);
    for channel in 0..2 {
        assert_eq!(driver.status(channel), STATE_HALTED);
        assert_eq!(driver.get::<8>(ChannelReg::ChainAddress.offset(channel)), 0);
        assert_eq!(driver.get::<8>(ChannelReg::CompletionAddress.offset(channel)), 0);
        driver.still_copies(channel);
    }
}

#[test]
fn an_unmap_of_the_destination_ends_a_running_chain_with_an_error() {
    let driver = Driver::new(1);
    let driver_memory = 0x5000_0000;
    driver.map(driver_memory, MEMORY_BYTES);
    let copy = Descriptor {
        destination: driver_memory + DESTINATION,
        ..Descriptor::copy(SOURCE, 0, 0x6_0000)
    };
    driver.write_ring(0, &[copy; 2]);
    driver.arm(0);
    driver.ring_doorbell(0, u16::MAX);
    until("the circle turns", || driver.status(0) > STATE_MASK);
    driver
        .device
        .dma_unmap(driver_memory, MEMORY_BYTES)
        .expect("it is unmapped");
    driver.ends(0);
    assert_eq!(driver.error(0), ERROR_DESTINATION_ADDRESS);
    driver.still_copies(0);
}

#[test]
fn the_next_user_finds_nothing_of_the_last() {
    let driver = Driver::new(1);
    driver.run(0, &[Descriptor::null().interrupting()]);
    driver.put::<4>(ChannelReg::ErrorMask.offset(0), 0x3ff);
    driver.device.detach().expect("it comes back");
    driver.arrive(None);
    for offset in (0x80..0x100).step_by(8).filter(|offset| *offset != 0x88) {
        let expected = if offset == 0x80 { 0x6_0000 } else { 0 };
        assert_eq!(driver.get::<8>(offset), expected, "BAR 0, {offset:#x}");
    }
    assert_eq!(driver.status(0), STATE_HALTED);
    assert_eq!(driver.get::<4>(DeviceReg::Attention.offset()), 0);
}

#[test]
fn a_user_who_never_answers_holds_up_neither_accesses_nor_a_reset() {
    let silent = Arc::new(Silent::default());
    let driver = Driver::bare(1, Some(Arc::clone(&silent) as Arc<dyn DmaMessages>));
    driver.map_by_message(IOVA, MEMORY_BYTES);
    driver.arm(0);
    driver.ring_doorbell(0, 1);
    until("the device asks for memory", || {
        silent.asked.load(Ordering::SeqCst)
    });
    assert_eq!(driver.state(0), STATE_ACTIVE, "the state while DMA waits");
    driver.command(0, COMMAND_RESET);
    assert_eq!(
        driver.get::<1>(ChannelReg::Command.offset(0)),
        u64::from(COMMAND_RESET),
        "the channel's reset while DMA waits"
    );
    assert_eq!(driver.state(0), STATE_HALTED);
    let reset = driver.device.reset(PATIENCE).expect("it is reset");
    assert_eq!(reset, ResetProgress::Done);
    assert_eq!(driver.get::<1>(ChannelReg::Command.offset(0)), 0);
    assert_eq!(driver.error(0), 0, "CHANERR after the reset");
}

#[test]
fn numbers_of_channels_that_cannot_be_are_refused_in_a_sentence() {
    for channels in [0, 9, 255] {
        let error = Ioat::new(Config { channels }).expect_err("refused").to_string();
        assert_eq!(
            error,
            format!("ioat: {channels} channels are not possible; give it 1 to 8")
        );
    }
}

/// A descriptor as a careless or hostile user might write it: often nearly right.
fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        6 => (0..MEMORY_BYTES).prop_map(|at| IOVA + at),
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ];
    let next = prop_oneof![
        8 => (0..8_usize).prop_map(|index| Driver::address(0, index)),
        1 => any::<u64>(),
        1 => (0..MEMORY_BYTES).prop_map(|at| IOVA + at),
    ];
    let bytes = prop_oneof![6 => 0..70_000_u32, 1 => any::<u32>()];
    let control = prop_oneof![
        4 => (0..64_u32).prop_map(|bits| bits),
        2 => (0..64_u32).prop_map(|bits| bits | OPERATION_FILL),
        1 => any::<u32>(),
    ];
    (bytes, control, address.clone(), address, next).prop_map(
        |(bytes, control, source, destination, next)| Descriptor {
            bytes,
            control,
            source,
            destination,
            next,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the chain and whatever the accesses, the device is there afterwards and works after a reset.
    #[test]
    fn no_chain_and_no_access_harms_the_device(
        descriptors in proptest::collection::vec(any_descriptor(), 8),
        accesses in proptest::collection::vec((0..0x200_u64, 0..4_u32, any::<u64>(), any::<bool>()), 0..60),
        count in any::<u16>(),
    ) {
        let driver = Driver::new(2);
        for (index, descriptor) in descriptors.iter().enumerate() {
            driver.write_descriptor(Driver::address(0, index), descriptor);
        }
        driver.arm(0);
        driver.ring_doorbell(0, count);
        for (offset, width, value, write) in accesses {
            let bytes = 1 << width;
            let offset = offset / bytes * bytes;
            match (write, bytes) {
                (true, 1) => driver.put::<1>(offset, value),
                (true, 2) => driver.put::<2>(offset, value),
                (true, 4) => driver.put::<4>(offset, value),
                (true, _) => driver.put::<8>(offset, value),
                (false, 1) => drop(driver.get::<1>(offset)),
                (false, 2) => drop(driver.get::<2>(offset)),
                (false, 4) => drop(driver.get::<4>(offset)),
                (false, _) => drop(driver.get::<8>(offset)),
            }
        }
        let reset = driver.device.reset(PATIENCE).expect("it is reset");
        prop_assert_eq!(reset, ResetProgress::Done);
        for channel in 0..2 {
            prop_assert_eq!(driver.status(channel), STATE_HALTED);
            driver.still_copies(channel);
        }
    }

    /// A chain of good descriptors does what the same written down plainly does, in its order.
    #[test]
    fn chains_move_what_they_say_in_their_order(
        moves in proptest::collection::vec((any::<bool>(), 0..0x4_0000_u64, 0..0x4_0000_u64, 1..70_000_u32), 1..20),
    ) {
        let driver = Driver::new(1);
        driver.fill_source();
        let mut expected = driver.memory(SOURCE, (MEMORY_BYTES - SOURCE) as usize);
        let mut descriptors = Vec::new();
        for (fill, from, to, bytes) in moves {
            // Apart from each other: what overlaps is moved by chunks, which is the device's own business.
            let (from, to) = (from % 0x3_0000, 0x6_0000 + to);
            let (start, end) = (to as usize, to as usize + bytes as usize);
            let data: Vec<u8> = if fill {
                descriptors.push(Descriptor::fill(from, SOURCE + to, bytes));
                from.to_le_bytes().iter().copied().cycle().take(bytes as usize).collect()
            } else {
                descriptors.push(Descriptor::copy(SOURCE + from, SOURCE + to, bytes));
                expected.get(from as usize..from as usize + bytes as usize).expect("as much").to_vec()
            };
            expected.get_mut(start..end).expect("as much").copy_from_slice(&data);
        }
        driver.run(0, &descriptors);
        prop_assert_eq!(driver.error(0), 0);
        prop_assert_eq!(driver.completion(0), Driver::address(0, descriptors.len() - 1) | STATE_IDLE);
        prop_assert!(driver.memory(SOURCE, expected.len()) == expected, "memory after {:x?}", descriptors);
    }
}
