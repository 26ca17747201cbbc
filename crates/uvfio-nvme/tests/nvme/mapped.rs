//! Doorbells as mapped memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::driver::{
    Command, Machine, PATIENCE, Queue, config, memory_namespace, read_command, reg, write_command,
};
use super::store::{FAST, Store, over};
use uvfio_core::{GoneReason, ResetProgress};
use uvfio_nvme::{Config, PollConfig};

/// The doorbells' page in BAR 0.
const PAGE: std::ops::Range<u64> = 0x1000..0x2000;

fn always() -> Config {
    Config {
        poll: PollConfig::Always,
        ..config()
    }
}

/// BAR 0's memory.
fn bar(machine: &Machine) -> File {
    let info = machine.device.region_info(0).unwrap();
    assert_eq!(
        info.mappable,
        [(PAGE.start, PAGE.end - PAGE.start)],
        "what can be mapped"
    );
    File::from(info.memory.unwrap())
}

/// An enabled controller whose driver has its doorbells mapped.
fn machine() -> Machine {
    let mut machine = Machine::cold(always());
    machine.bar = Some(bar(&machine));
    machine.enable();
    machine
}

fn doorbells(bar: &File) -> Vec<u8> {
    let mut bytes = vec![0; (PAGE.end - PAGE.start) as usize];
    bar.read_exact_at(&mut bytes, PAGE.start).unwrap();
    bytes
}

fn ring(bar: &File, doorbell: u64, value: u32) {
    bar.write_all_at(&value.to_le_bytes(), PAGE.start + 4 * doorbell)
        .unwrap();
}

/// Writes blocks, reads them back elsewhere, and compares.
fn check_data(machine: &mut Machine, queue: &mut Queue) {
    let (from, to) = (machine.allocate(1), machine.allocate(1));
    for round in 0..50_u32 {
        let data: Vec<u8> = (0..4096_u32)
            .map(|n| (n.wrapping_mul(round + 7) >> 3) as u8)
            .collect();
        machine.write(from, &data);
        machine.write(to, &[0; 4096]);
        let block = u64::from(round) * 8;
        assert_eq!(machine.run(queue, write_command(1, block, 8, from, 0)).status, 0);
        assert_eq!(machine.run(queue, read_command(1, block, 8, to, 0)).status, 0);
        assert!(machine.read(to, 4096) == data, "round {round}: other data");
    }
}

#[test]
fn nothing_can_be_mapped_unless_the_doorbells_are_always_polled() {
    for poll in [PollConfig::default(), PollConfig::Never] {
        let machine = Machine::cold(Config { poll, ..config() });
        let info = machine.device.region_info(0).unwrap();
        assert!(info.memory.is_none(), "{poll:?}");
        assert!(info.mappable.is_empty(), "{poll:?}: {:?}", info.mappable);
    }
}

#[test]
fn commands_complete_without_a_message() {
    let mut machine = machine();
    let mut queues = [machine.create_queue(1, 8), machine.create_queue(4, 64)];
    for queue in &mut queues {
        check_data(&mut machine, queue);
    }
    let page = machine.allocate(1);
    for _ in 0..20 {
        for queue in &mut queues {
            for _ in 0..7 {
                machine.submit(queue, read_command(1, 0, 8, page, 0));
            }
        }
        for queue in &mut queues {
            for _ in 0..7 {
                assert_eq!(machine.complete(queue).status, 0);
            }
        }
    }
    let statistics = machine.nvme.statistics();
    assert_eq!(statistics.doorbell_messages, 0, "{statistics:?}");
}

#[test]
fn a_slow_command_keeps_nobody_from_the_doorbells() {
    let store = Store::new();
    let mut machine = Machine::cold(Config {
        poll: PollConfig::Always,
        ..over(&store)
    });
    machine.bar = Some(bar(&machine));
    machine.enable();
    let mut queues = [machine.create_queue(1, 16), machine.create_queue(2, 16)];
    let page = machine.allocate(1);
    for round in 0..5 {
        // Quick ones first, so that the next is taken to be quick as well.
        for block in 0..100 {
            let command = read_command(1, FAST + block, 1, page, 0);
            assert_eq!(machine.run(&mut queues[0], command).status, 0);
        }
        store.close(true);
        let slow = machine.submit(&mut queues[0], read_command(1, 0, 1, page, 0));
        machine.wait_for("the slow command in the backend", || {
            store.waiting.load(Ordering::SeqCst) == 1
        });
        for queue in &mut queues {
            for block in 0..20 {
                let done = machine.run(queue, read_command(1, FAST + block, 1, page, 0));
                assert_eq!(done.status, 0, "round {round}");
            }
        }
        machine.identify(1, 0).unwrap();
        store.close(false);
        assert_eq!(machine.complete(&mut queues[0]).cid, slow, "round {round}");
    }
}

#[test]
fn shadow_doorbells_are_not_offered_beside_mapped_ones() {
    let mut machine = machine();
    let identify = machine.identify(1, 0).unwrap();
    assert_eq!(identify[257] & 1, 0, "OACS bit 8");
    let pages = (machine.allocate(1), machine.allocate(1));
    assert_eq!(
        machine.admin(Command::new(0x7c).prp(pages.0, pages.1)).status,
        0x001
    );
}

#[test]
fn a_doorbell_by_message_lands_in_the_memory_and_works() {
    let mut machine = Machine::new(always());
    let bar = bar(&machine);
    let mut queue = machine.create_queue(1, 16);
    check_data(&mut machine, &mut queue);
    let page = machine.allocate(1);
    let tail = queue.tail;
    machine.run(&mut queue, read_command(1, 0, 8, page, 0));
    let wanted = (tail + 1) % 16;
    assert_eq!(
        doorbells(&bar)[8..12],
        wanted.to_le_bytes(),
        "doorbell of queue 1's tail"
    );
    assert_eq!(machine.register(0x1008), wanted, "the same by message");
    assert!(machine.nvme.statistics().doorbell_messages > 200);
}

#[test]
fn a_value_that_can_not_be_is_an_event_and_the_queue_lives() {
    let mut machine = machine();
    let bar = bar(&machine);
    let mut queue = machine.create_queue(1, 16);
    for (doorbell, value, event) in [(2, 16, 0x01_0100), (3, 9, 0x01_0100), (2 * 3, 1, 0x01_0000)] {
        let mut admin = std::mem::replace(&mut machine.admin, Queue::nowhere());
        let request = machine.submit(&mut admin, Command::new(0x0c));
        ring(&bar, doorbell, value);
        let completion = machine.complete(&mut admin);
        machine.admin = admin;
        assert_eq!(
            (completion.cid, completion.result),
            (request, event),
            "doorbell {doorbell} = {value}: {completion:x?}"
        );
        // Reads the error log, so that the next event of its type is told.
        let page = machine.allocate(1);
        machine.admin_ok(
            Command::new(0x02)
                .nsid(u32::MAX)
                .prp(page, 0)
                .dword(10, 15 << 16 | 1),
        );
        check_data(&mut machine, &mut queue);
    }
}

#[test]
fn doorbells_that_are_rung_at_random_harm_only_their_own_controller() {
    let mut machine = machine();
    let bar = bar(&machine);
    machine.create_queue(1, 16);
    machine.create_queue(2, 64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            while !stop.load(Ordering::Relaxed) {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let value = (random >> 40) as u32;
                let value = if random >> 33 & 1 == 0 {
                    value & 0x3f
                } else {
                    value | value << 16
                };
                ring(&bar, (random >> 34 & 0x3f) % 10, value);
            }
        });
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            // Registers are answered all the while.
            assert_eq!(machine.register(reg::VS), 0x0001_0400);
        }
        // With the doorbells rung on, too.
        machine.write_register(reg::CC, 0);
        machine.wait_for("CSTS.RDY 0", || machine.register(reg::CSTS) & 1 == 0);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(machine.device.reset(PATIENCE).unwrap(), ResetProgress::Done);
    machine.recycle_cold();
    machine.enable();
    let mut queue = machine.create_queue(1, 16);
    check_data(&mut machine, &mut queue);
}

#[test]
fn a_reset_clears_the_doorbells_and_the_controller_works_again() {
    let mut machine = machine();
    let bar = bar(&machine);
    for round in 0..5 {
        let mut queue = machine.create_queue(1, 16);
        check_data(&mut machine, &mut queue);
        assert!(
            doorbells(&bar).iter().any(|byte| *byte != 0),
            "round {round}: nothing was rung"
        );
        machine.disable();
        assert!(
            doorbells(&bar).iter().all(|byte| *byte == 0),
            "round {round}: a doorbell is not 0 after CC.EN 0"
        );
        machine.recycle_cold();
        machine.enable();
    }
}

#[test]
fn a_queue_that_is_made_again_begins_with_its_doorbells_at_zero() {
    let mut machine = machine();
    for round in 0..20 {
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        for _ in 0..3 + round % 5 {
            assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
        }
        machine.admin_ok(Command::new(0x00).dword(10, 1));
        machine.admin_ok(Command::new(0x04).dword(10, 1));
    }
}

#[test]
fn the_next_user_has_memory_of_its_own() {
    let mut machine = machine();
    let first = bar(&machine);
    let mut queue = machine.create_queue(1, 16);
    check_data(&mut machine, &mut queue);
    machine.device.detach().unwrap();
    assert!(
        machine.device.region_info(0).unwrap().memory.is_none(),
        "without a user"
    );
    machine.device.attach(None);
    let second = bar(&machine);
    assert!(
        doorbells(&second).iter().all(|byte| *byte == 0),
        "memory of the user of before"
    );
    machine.bar = Some(second);
    machine.recycle_cold();
    machine.map();
    machine.enable();
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    for value in 1..15 {
        // The one who has left goes on ringing.
        ring(&first, 2, value);
        ring(&first, 0, value);
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
    }
    check_data(&mut machine, &mut queue);
}

#[test]
fn the_memory_of_a_controller_that_is_gone_reads_ones() {
    let mut machine = machine();
    let bar = bar(&machine);
    let mut queue = machine.create_queue(1, 16);
    check_data(&mut machine, &mut queue);
    machine.device.gone(GoneReason::Unplugged, false);
    assert!(doorbells(&bar).iter().all(|byte| *byte == 0xff));
}

#[test]
fn the_line_falls_when_the_head_is_written_to_memory() {
    let mut machine = machine();
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    let asserted = |machine: &Machine| {
        let mut status = [0; 2];
        let region = uvfio_core::region_index::CONFIG;
        machine.device.read(region, 6, &mut status).unwrap();
        // STATUS bit 3: interrupt status.
        u16::from_le_bytes(status) & 8 != 0
    };
    for _ in 0..10 {
        machine.submit(&mut queue, read_command(1, 0, 8, page, 0));
        machine.wait_for("the line to rise", || asserted(&machine));
        machine.complete(&mut queue);
        machine.wait_for("the line to fall", || !asserted(&machine));
    }
}

#[test]
fn every_queue_of_a_controller_with_the_most_is_watched() {
    let mut machine = Machine::cold(Config {
        poll: PollConfig::Always,
        queues: 64,
        ..Config::new("TEST", vec![memory_namespace(8 << 20)])
    });
    machine.bar = Some(bar(&machine));
    machine.enable();
    for id in [1, 31, 64] {
        let mut queue = machine.create_queue(id, 16);
        check_data(&mut machine, &mut queue);
    }
}
