//! Intel's DMA engine and users who are careless or worse: bad descriptors, circles, and no answers.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::ioat::{DESTINATION, Descriptor, Driver, NOWHERE, RUN, SOURCE};
use common::{IOVA, MEMORY_BYTES, PATIENCE, Silent, arrives, until};
use proptest::prelude::*;
use uvfio_core::{DmaMessages, ResetProgress};
use uvfio_soft::ioat::{
    COMMAND_RESET, COMMAND_SUSPEND, CONTROL_ERROR_INTERRUPT, ChannelReg, ERROR_CHAIN_ADDRESS, ERROR_COMMAND,
    ERROR_COMPLETION_ADDRESS, ERROR_DESCRIPTOR_CONTROL, ERROR_DESTINATION_ADDRESS, ERROR_LENGTH,
    ERROR_NEXT_ADDRESS, ERROR_NEXT_ALIGNMENT, ERROR_SOURCE_ADDRESS, OPERATION_FILL, STATE_ACTIVE,
    STATE_ARMED, STATE_HALTED, STATE_IDLE, STATE_MASK, STATE_SUSPENDED,
};

mod common;

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
