//! edu as its user sees it: through a virtual device, with configuration space, interrupts and DMA.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::contested::Contested;
use common::{IOVA, MEMORY_BYTES, PATIENCE, Silent, User, arrives, taken, until};
use uvfio_core::{DmaMessages, IrqAction, IrqData, IrqIndex, ResetProgress, SetIrqs, region_index::CONFIG};
use uvfio_soft::edu::{
    BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, COMMAND_INTERRUPT, COMMAND_RUN, Config, Edu, INTERRUPT_DMA,
    INTERRUPT_FACTORIAL, Reg, STATUS_COMPUTING, STATUS_INTERRUPT,
};

mod common;

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
    fn new() -> Self {
        let driver = Self::bare(Config::default(), None);
        driver.map(IOVA, MEMORY_BYTES);
        driver
    }

    fn bare(config: Config, messages: Option<Arc<dyn DmaMessages>>) -> Self {
        Self(User::new(
            Edu::new(config).expect("edu's thread starts"),
            messages,
        ))
    }

    fn read(&self, register: Reg) -> u32 {
        let mut data = [0; 4];
        self.device
            .read(0, register.offset(), &mut data)
            .expect("BAR 0 is read");
        u32::from_le_bytes(data)
    }

    fn write(&self, register: Reg, value: u64) {
        let data = value.to_le_bytes();
        let wide = register.offset() >= Reg::DmaSource.offset();
        let data = if wide { &data[..] } else { &data[..4] };
        self.device
            .write(0, register.offset(), data)
            .expect("BAR 0 is written");
    }

    fn start_dma(&self, source: u64, destination: u64, count: u64, flags: u64) {
        self.write(Reg::DmaSource, source);
        self.write(Reg::DmaDestination, destination);
        self.write(Reg::DmaCount, count);
        self.write(Reg::DmaCommand, COMMAND_RUN | flags);
    }

    fn dma(&self, source: u64, destination: u64, count: u64, flags: u64) {
        self.start_dma(source, destination, count, flags);
        until("the DMA command's run bit clears", || {
            u64::from(self.read(Reg::DmaCommand)) & COMMAND_RUN == 0
        });
    }

    /// What the device's buffer holds, fetched by DMA.
    fn buffer(&self) -> Vec<u8> {
        self.dma(
            BUFFER_AT,
            IOVA + 0x8_0000,
            BUFFER_BYTES as u64,
            COMMAND_FROM_DEVICE,
        );
        self.memory(0x8_0000, BUFFER_BYTES)
    }

    fn fill_buffer(&self) -> Vec<u8> {
        let data: Vec<u8> = (0..BUFFER_BYTES).map(|n| (n % 253) as u8 + 1).collect();
        self.memory.write_all_at(&data, 0).expect("memory is written");
        self.dma(IOVA, BUFFER_AT, BUFFER_BYTES as u64, 0);
        data
    }
}

#[test]
fn its_identity_and_registers_are_those_of_qemus() {
    let driver = Driver::new();
    let mut ids = [0; 4];
    driver
        .device
        .read(CONFIG, 0, &mut ids)
        .expect("configuration space is read");
    assert_eq!(ids, [0x34, 0x12, 0xe8, 0x11], "vendor and device ID");
    assert_eq!(
        driver.device.region_info(0).expect("BAR 0").bytes,
        1 << 20,
        "bytes of BAR 0"
    );
    assert_eq!(driver.read(Reg::Identification), 0x0100_00ed);
    driver.write(Reg::Liveness, 0x1234_5678);
    assert_eq!(driver.read(Reg::Liveness), 0xedcb_a987);
}

#[test]
fn each_of_eight_messages_reaches_its_own_eventfd() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    for message in 0..8 {
        driver.write(Reg::InterruptRaise, 1 << message);
        arrives(&fds, message);
    }
    assert_eq!(driver.read(Reg::InterruptStatus), 0xff);
}

#[test]
fn a_message_waits_for_bus_mastering() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    driver.config(0x04, &[0x02, 0x00]);
    driver.write(Reg::InterruptRaise, 1 << 3);
    // What a request triggers needs no bus mastering, and goes the same way: 3 would have been delivered before it.
    let request = SetIrqs {
        index: IrqIndex::Msi as u32,
        start: 7,
        count: 1,
        action: IrqAction::Trigger,
        data: IrqData::None,
    };
    driver.device.set_irqs(request).expect("7 is triggered");
    arrives(&fds, 7);
    driver.config(0x04, &[0x06, 0x00]);
    arrives(&fds, 3);
}

#[test]
fn with_one_message_granted_every_interrupt_is_that_message() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 1);
    for bit in [0, 1, 7, 8, 31] {
        driver.write(Reg::InterruptRaise, 1 << bit);
        arrives(&fds, 0);
    }
}

#[test]
fn intx_stays_asserted_until_every_bit_is_acknowledged() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Intx, 1);
    driver.write(Reg::InterruptRaise, 0x3);
    arrives(&fds, 0);
    driver.write(Reg::InterruptAcknowledge, 0x1);
    driver.unmask_intx();
    arrives(&fds, 0);
    driver.write(Reg::InterruptAcknowledge, 0x2);
    driver.unmask_intx();
    let mut status = [0; 2];
    driver
        .device
        .read(CONFIG, 0x06, &mut status)
        .expect("STATUS is read");
    assert_eq!(
        status[0] & 0x08,
        0,
        "STATUS bit 3 (interrupt) with nothing raised"
    );
    assert_eq!(taken(&fds[0]), 0, "interrupts after everything was acknowledged");
}

#[test]
fn a_factorial_is_computed_and_raises_its_interrupt_if_asked() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    driver.write(Reg::Status, u64::from(STATUS_INTERRUPT));
    driver.write(Reg::Factorial, 10);
    arrives(&fds, 0);
    assert_eq!(driver.read(Reg::Factorial), 3_628_800, "10!");
    assert_eq!(driver.read(Reg::InterruptStatus), INTERRUPT_FACTORIAL);
    assert_eq!(
        driver.read(Reg::Status),
        STATUS_INTERRUPT,
        "status once it is done"
    );

    driver.write(Reg::Status, 0);
    driver.write(Reg::Factorial, u64::from(u32::MAX));
    until("a factorial without interrupt ends", || {
        driver.read(Reg::Status) & STATUS_COMPUTING == 0
    });
    assert_eq!(driver.read(Reg::Factorial), 0, "4294967295! modulo 2^32");
    assert!(
        fds.iter().all(|fd| taken(fd) == 0),
        "an interrupt that was not asked for"
    );
}

#[test]
fn dma_goes_both_ways_and_raises_its_interrupt_if_asked() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    let data = driver.fill_buffer();
    assert_eq!(
        driver.read(Reg::InterruptStatus),
        0,
        "interrupt status without interrupt asked"
    );
    driver.dma(
        BUFFER_AT + 16,
        IOVA + 0x4_0000,
        100,
        COMMAND_FROM_DEVICE | COMMAND_INTERRUPT,
    );
    arrives(&fds, 0);
    assert_eq!(driver.read(Reg::InterruptStatus), INTERRUPT_DMA);
    assert_eq!(
        driver.memory(0x4_0000, 100),
        data[16..116],
        "bytes fetched from the buffer"
    );
    assert_eq!(driver.memory(0x4_0000 - 8, 8), [0; 8], "bytes before them");
    assert_eq!(driver.memory(0x4_0000 + 100, 8), [0; 8], "bytes after them");
}

#[test]
fn a_transfer_outside_the_buffer_moves_nothing_and_raises_nothing() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    let data = driver.fill_buffer();
    for (inside, count) in [
        (BUFFER_AT, 4097),
        (BUFFER_AT - 1, 2),
        (BUFFER_AT + 4095, 2),
        (0, 8),
        (u64::MAX, 8),
    ] {
        driver.dma(IOVA + 0x1000, inside, count, COMMAND_INTERRUPT);
        driver.dma(
            inside,
            IOVA + 0x2000,
            count,
            COMMAND_FROM_DEVICE | COMMAND_INTERRUPT,
        );
        assert_eq!(
            driver.memory(0x2000, 8192),
            [0; 8192],
            "memory after {count} bytes from {inside:#x}"
        );
    }
    assert_eq!(driver.buffer(), data, "the buffer after transfers outside it");
    assert_eq!(driver.read(Reg::InterruptStatus), 0);
    assert!(
        fds.iter().all(|fd| taken(fd) == 0),
        "an interrupt of a refused transfer"
    );
}

#[test]
fn without_bus_master_or_a_mapping_no_data_move_but_the_transfer_ends() {
    let driver = Driver::new();
    let data = driver.fill_buffer();
    driver.dma(IOVA + MEMORY_BYTES, BUFFER_AT, 8, 0);
    driver.config(0x04, &[0x02, 0x00]);
    driver.dma(IOVA + 0x1000, BUFFER_AT, 8, 0);
    driver.dma(BUFFER_AT, IOVA + 0x1000, 8, COMMAND_FROM_DEVICE);
    driver.config(0x04, &[0x06, 0x00]);
    assert_eq!(
        driver.memory(0x1000, 8),
        [0; 8],
        "memory after a transfer with bus master off"
    );
    assert_eq!(
        driver.buffer(),
        data,
        "the buffer after transfers that reached no memory"
    );
}

#[test]
fn a_user_who_blocks_the_devices_thread_in_intx_still_reaches_the_registers() {
    let driver = Arc::new(Driver::new());
    let line = Contested::new();
    driver.give(IrqIndex::Intx, &[line.file.as_fd()]);
    let (accesses, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let user = {
        let (driver, accesses, stop) = (driver.clone(), accesses.clone(), stop.clone());
        std::thread::spawn(move || {
            driver.write(Reg::Status, STATUS_INTERRUPT.into());
            while !stop.load(Ordering::SeqCst) {
                driver.write(Reg::InterruptAcknowledge, u32::MAX.into());
                driver.unmask_intx();
                driver.write(Reg::Factorial, 1);
                // Not without end: the device's thread may be blocked by now.
                let _done = (0..1000).any(|_| driver.read(Reg::Status) & STATUS_COMPUTING == 0);
                accesses.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    line.until_blocked(|| ());
    let before = accesses.load(Ordering::SeqCst);
    until("accesses go on while the device's thread is blocked", || {
        accesses.load(Ordering::SeqCst) > before + 100
    });
    stop.store(true, Ordering::SeqCst);
    user.join().expect("the user's thread ends");
    driver.device.detach().expect("the device comes back");
}

#[test]
fn address_bits_above_the_mask_are_cut_off() {
    let driver = Driver::new();
    let data = driver.fill_buffer();
    driver.dma(BUFFER_AT, (1 << 28) | (IOVA + 0x4000), 8, COMMAND_FROM_DEVICE);
    assert_eq!(driver.memory(0x4000, 8), data[..8]);

    let wide = Driver::bare(Config { dma_mask: u64::MAX }, None);
    wide.map((1 << 40) + IOVA, MEMORY_BYTES);
    wide.memory
        .write_all_at(&[0xa5; 8], 0)
        .expect("memory is written");
    wide.dma((1 << 40) + IOVA, BUFFER_AT, 8, 0);
    wide.dma(BUFFER_AT, (1 << 40) + IOVA + 0x4000, 8, COMMAND_FROM_DEVICE);
    assert_eq!(
        wide.memory(0x4000, 8),
        [0xa5; 8],
        "8 bytes by an address past 28 bits"
    );
}

#[test]
fn a_function_level_reset_forgets_everything_but_configuration() {
    let driver = Driver::new();
    let fds = driver.enable(IrqIndex::Msi, 8);
    driver.fill_buffer();
    driver.write(Reg::Liveness, 1);
    driver.write(Reg::InterruptRaise, 4);
    arrives(&fds, 2);
    assert_eq!(
        driver.device.reset(PATIENCE).expect("it is reset"),
        ResetProgress::Done
    );
    assert_eq!(driver.read(Reg::Liveness), 0);
    assert_eq!(driver.read(Reg::InterruptStatus), 0);
    assert_eq!(driver.buffer(), [0; BUFFER_BYTES], "the buffer after a reset");
    driver.write(Reg::InterruptRaise, 8);
    arrives(&fds, 3);
}

#[test]
fn the_next_user_finds_nothing_of_the_last() {
    let driver = Driver::new();
    driver.fill_buffer();
    driver.write(Reg::Liveness, 1);
    driver.device.detach().expect("it comes back");
    driver.arrive(None);
    driver.map(IOVA, MEMORY_BYTES);
    assert_eq!(driver.read(Reg::Liveness), 0);
    assert_eq!(driver.buffer(), [0; BUFFER_BYTES], "the buffer of the next user");
}

#[test]
fn a_user_who_never_answers_holds_up_neither_accesses_nor_a_reset() {
    let silent = Arc::new(Silent::default());
    let driver = Driver::bare(
        Config::default(),
        Some(Arc::clone(&silent) as Arc<dyn DmaMessages>),
    );
    driver.map_by_message(IOVA, MEMORY_BYTES);
    driver.start_dma(BUFFER_AT, IOVA, 8, COMMAND_FROM_DEVICE | COMMAND_INTERRUPT);
    until("the device asks for memory", || {
        silent.asked.load(Ordering::SeqCst)
    });
    assert_eq!(
        driver.read(Reg::Identification),
        0x0100_00ed,
        "a register while DMA waits"
    );
    assert_eq!(
        driver.read(Reg::DmaCommand) & 1,
        1,
        "the command's run bit while DMA waits"
    );
    assert_eq!(
        driver.device.reset(PATIENCE).expect("it is reset"),
        ResetProgress::Done
    );
    assert_eq!(driver.read(Reg::DmaCommand), 0, "the command after the reset");
    assert_eq!(
        driver.read(Reg::InterruptStatus),
        0,
        "an interrupt of before the reset"
    );
}
