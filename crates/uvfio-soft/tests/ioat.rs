//! Intel's DMA engine as its user sees it: through a virtual device, with descriptors in memory and interrupts.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::os::unix::fs::FileExt;

use common::ioat::{DESTINATION, Descriptor, Driver, RUN, SOURCE};
use common::{IOVA, PATIENCE, arrives, taken, until};
use uvfio_core::{IrqIndex, region_index::CONFIG};
use uvfio_soft::ioat::{
    COMMAND_SUSPEND, CONTROL_IN_USE, CONTROL_INTERRUPT_DISABLED, ChannelReg, Config, DESCRIPTOR_NULL,
    DeviceReg, INTERRUPT_ASSERTED, INTERRUPT_MASTER, INTERRUPT_STATUS, INTERRUPT_VECTORS, Ioat, STATE_ACTIVE,
    STATE_HALTED, STATE_IDLE, STATE_SUSPENDED,
};

mod common;

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
fn numbers_of_channels_that_cannot_be_are_refused_in_a_sentence() {
    for channels in [0, 9, 255] {
        let error = Ioat::new(Config { channels }).expect_err("refused").to_string();
        assert_eq!(
            error,
            format!("ioat: {channels} channels are not possible; give it 1 to 8")
        );
    }
}

/// As DPDK's driver does it, by the numbers in its header: probe, start, an error, recovery, stop, start.
#[test]
fn a_polling_driver_probes_starts_recovers_and_stops() {
    const CHANCTRL: u64 = 0x80;
    const CHANCMD: u64 = 0x84;
    const DMACOUNT: u64 = 0x86;
    const CHANSTS: u64 = 0x88;
    const CHAINADDR: u64 = 0x90;
    const CHANCMP: u64 = 0x98;
    const CHANERR: u64 = 0xa8;
    let driver = Driver::new(1);
    let data = driver.fill_source();
    let ring = Driver::address(0, 0);
    let completion = || driver.completion(0);
    let start = |chain: u64| {
        driver.put::<8>(CHAINADDR, chain);
        driver.put::<8>(CHANCMP, IOVA + 0x1_0000);
        driver.put::<2>(CHANCTRL, 0x0c);
    };

    assert_eq!(driver.get::<2>(CHANCTRL) & 0x100, 0, "locked by nobody");
    assert_eq!(driver.get::<4>(CHANERR), 0);
    driver.put::<1>(CHANCMD, 0x04);
    driver.put::<1>(CHANCMD, 0x20);
    until("the reset ends", || driver.get::<1>(CHANCMD) & 0x20 == 0);
    driver.write_ring(
        0,
        &[
            Descriptor::copy(SOURCE, DESTINATION, 64),
            Descriptor {
                source: 0,
                ..Descriptor::copy(0, DESTINATION, 64)
            },
            Descriptor::copy(SOURCE + 1, DESTINATION + 64, 64),
            Descriptor::fill(7, DESTINATION + 128, 64),
        ],
    );
    start(ring);
    assert_eq!(driver.get::<8>(CHANSTS), 4, "armed");
    driver.put::<2>(DMACOUNT, 4);
    until("the status says that it halted", || completion() & 7 == 3);
    assert_eq!(
        completion(),
        ring | 3,
        "the descriptor before the one that failed"
    );
    assert_eq!(driver.get::<4>(CHANERR), 1, "source address");

    driver.put::<4>(CHANERR, 1);
    driver.put::<1>(CHANCMD, 0x20);
    start(ring + 2 * 64);
    assert_eq!(driver.get::<8>(CHANSTS), 4, "armed, and nothing completed");
    driver.put::<2>(DMACOUNT, 2);
    until("the last is done", || completion() & !7 == ring + 3 * 64);
    assert_eq!(driver.memory(DESTINATION, 64), data.get(..64).expect("as much"));
    assert_eq!(
        driver.memory(DESTINATION + 64, 64),
        data.get(1..65).expect("as much")
    );
    assert_eq!(
        driver.memory(DESTINATION + 128, 64),
        [7, 0, 0, 0, 0, 0, 0, 0].repeat(8)
    );

    until("it is idle", || driver.get::<8>(CHANSTS) & 7 == 1);
    driver.put::<1>(CHANCMD, 0x04);
    assert_eq!(driver.get::<8>(CHANSTS) & 7, 2, "suspended");
    start(ring);
    assert_eq!(driver.get::<8>(CHANSTS), 4, "armed again");
}
