//! The DMA engine reads descriptors ahead, and no driver can tell but by the time.
#![allow(clippy::expect_used)] // A test whose ground gives way has failed.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock};

use common::ioat::{DESTINATION, Descriptor, Driver, SOURCE};
use common::{IOVA, MEMORY_BYTES};
use uvfio_core::{DmaError, DmaMessages, DmaTicket};
use uvfio_soft::ioat::STATE_IDLE;

/// Memory that is reached by message, and remembers what was read.
#[derive(Debug, Default)]
struct Remembering {
    memory: OnceLock<File>,
    reads: Mutex<Vec<(u64, usize)>>,
}

impl DmaMessages for Remembering {
    fn begin(&self, _first: u64, _last: u64) -> DmaTicket {
        DmaTicket(0)
    }

    fn read(&self, _ticket: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let mut reads = self.reads.lock().expect("no thread panicked");
        reads.push((iova, data.len()));
        let memory = self.memory.get().expect("the driver has memory");
        memory.read_exact_at(data, iova - IOVA).expect("memory is read");
        Ok(())
    }

    fn write(&self, _ticket: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let memory = self.memory.get().expect("the driver has memory");
        memory.write_all_at(data, iova - IOVA).expect("memory is written");
        Ok(())
    }

    fn abandon(&self) {}
}

/// A fill of 8 bytes, the `at`th in the destination.
fn fill(pattern: u64, at: u64) -> Descriptor {
    Descriptor::fill(pattern, DESTINATION + 8 * at, 8)
}

fn filled(driver: &Driver, at: u64) -> u64 {
    let data = driver.memory(DESTINATION + 8 * at, 8);
    u64::from_le_bytes(data.try_into().expect("8 bytes"))
}

/// Writes one over a ring's descriptor, which leads where it led.
fn overwrite(driver: &Driver, index: usize, next: usize, descriptor: Descriptor) {
    let next = Driver::address(0, next);
    driver.write_descriptor(Driver::address(0, index), &Descriptor { next, ..descriptor });
}

#[test]
fn a_ring_is_read_by_the_page_as_far_as_the_doorbell_was_rung() {
    let memory = Arc::new(Remembering::default());
    let driver = Driver::bare(1, Some(Arc::clone(&memory) as Arc<dyn DmaMessages>));
    let own = driver.memory.try_clone().expect("a duplicate");
    memory.memory.set(own).expect("it is set once");
    driver.map_by_message(IOVA, MEMORY_BYTES);
    driver.write_ring(0, &(0..100).map(|n| fill(n + 1, n)).collect::<Vec<_>>());
    driver.arm(0);
    driver.ring_doorbell(0, 70);
    driver.ends(0);
    assert_eq!(driver.status(0), Driver::address(0, 69) | STATE_IDLE);
    let reads = std::mem::take(&mut *memory.reads.lock().expect("no thread panicked"));
    let expected = [(0, 32), (32, 32), (64, 6)];
    assert_eq!(
        reads,
        expected.map(|(first, count)| (Driver::address(0, first), 64 * count)),
        "what was read of the ring"
    );
    assert_eq!((filled(&driver, 69), filled(&driver, 70)), (70, 0));
}

#[test]
fn a_descriptor_behind_the_count_can_be_changed() {
    let driver = Driver::new(1);
    driver.write_ring(0, &[fill(1, 0), fill(2, 1), fill(3, 2)]);
    driver.arm(0);
    driver.ring_doorbell(0, 2);
    driver.ends(0);
    overwrite(&driver, 2, 0, fill(33, 2));
    driver.ring_doorbell(0, 3);
    driver.ends(0);
    assert_eq!([0, 1, 2].map(|at| filled(&driver, at)), [1, 2, 33]);
}

#[test]
fn a_descriptor_that_is_worked_off_can_be_another_one_the_next_time_round() {
    let driver = Driver::new(1);
    driver.write_ring(0, &[fill(1, 0), fill(2, 1)]);
    driver.arm(0);
    for round in 0_u64..4 {
        driver.ring_doorbell(0, 2 * round as u16 + 2);
        driver.ends(0);
        assert_eq!(
            [0, 1].map(|at| filled(&driver, at)),
            [10 * round + 1, 10 * round + 2]
        );
        overwrite(&driver, 0, 1, fill(10 * round + 11, 0));
        overwrite(&driver, 1, 0, fill(10 * round + 12, 1));
    }
}

/// By the chain's order 3 comes second: when only one more is rung for, nobody may have looked at 1.
#[test]
fn of_a_chain_that_leads_elsewhere_what_lies_behind_is_not_used() {
    let driver = Driver::new(1);
    for (index, next) in [(0, 3), (1, 2), (3, 4), (4, 1)] {
        overwrite(&driver, index, next, fill(index as u64 + 1, index as u64));
    }
    driver.arm(0);
    driver.ring_doorbell(0, 3);
    driver.ends(0);
    overwrite(&driver, 1, 2, fill(22, 1));
    driver.ring_doorbell(0, 4);
    driver.ends(0);
    assert_eq!([0, 3, 4, 1].map(|at| filled(&driver, at)), [1, 4, 5, 22]);
}

#[test]
fn a_chain_that_is_begun_anew_is_read_anew() {
    let driver = Driver::new(1);
    for round in 1..4 {
        driver.run(0, &[fill(round, 0), fill(round + 10, 1)]);
        assert_eq!([0, 1].map(|at| filled(&driver, at)), [round, round + 10]);
    }
}

#[test]
fn what_waited_for_bus_mastering_is_read_when_it_is_on() {
    let driver = Driver::new(1);
    let data = driver.fill_source();
    driver.write_ring(0, &[fill(1, 0), fill(2, 1), fill(3, 2)]);
    driver.arm(0);
    driver.ring_doorbell(0, 1);
    driver.ends(0);
    driver.config(0x04, &[0x02, 0x00]);
    driver.ring_doorbell(0, 3);
    overwrite(&driver, 1, 2, Descriptor::copy(SOURCE, DESTINATION + 8, 8));
    driver.config(0x04, &[0x06, 0x00]);
    driver.ends(0);
    assert_eq!(driver.memory(DESTINATION + 8, 8), data[..8]);
    assert_eq!(filled(&driver, 2), 3);
}
