//! Resets under load, and users that come and go.

use std::sync::atomic::Ordering;

use super::driver::{Command, Machine, PATIENCE, RDY, config, read_command, reg, write_command};
use super::store::{FAST, Store, over};
use uvfio_core::ResetProgress;

/// Fills a page with a mark and sees that nobody writes to it.
const MARK: [u8; 4096] = [0xc3; 4096];

#[test]
fn a_controller_reset_does_not_wait_for_the_backend_and_late_data_go_nowhere() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    store.close(true);
    machine.write(page, &MARK);
    for _ in 0..8 {
        machine.submit(&mut queue, read_command(1, 0, 8, page, 0));
    }
    machine.wait_for("commands in the backend", || {
        store.waiting.load(Ordering::SeqCst) >= 2
    });
    machine.disable();
    store.close(false);
    machine.wait_for("the backend to be left", || {
        store.waiting.load(Ordering::SeqCst) == 0
    });
    machine.enable();
    let mut again = machine.create_queue(1, 16);
    let other = machine.allocate(1);
    for block in 0..32 {
        assert_eq!(
            machine
                .run(&mut again, read_command(1, FAST + block, 8, other, 0))
                .status,
            0
        );
    }
    assert!(
        machine.read(page, 4096) == MARK,
        "data of before the reset came after it"
    );
    assert_eq!(
        machine.peek(&queue),
        None,
        "a completion of before the reset came after it"
    );
}

#[test]
fn a_function_reset_does_not_wait_for_the_backend_either() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    for round in 0..3 {
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        machine.write(page, &MARK);
        store.close(true);
        for _ in 0..4 {
            machine.submit(&mut queue, read_command(1, 0, 8, page, 0));
        }
        machine.wait_for("commands in the backend", || {
            store.waiting.load(Ordering::SeqCst) >= 1
        });
        let progress = machine.device.reset(PATIENCE).unwrap();
        assert_eq!(progress, ResetProgress::Done, "round {round}");
        assert_eq!(machine.register(reg::CSTS) & RDY, 0, "round {round}");
        store.close(false);
        machine.wait_for("the backend to be left", || {
            store.waiting.load(Ordering::SeqCst) == 0
        });
        assert!(
            machine.read(page, 4096) == MARK,
            "round {round}: data of before the reset came after it"
        );
        machine.enable();
    }
}

#[test]
fn a_write_of_before_a_reset_does_not_land_on_one_of_after() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    for reset in ["CC.EN", "FLR", "deletion", "the next user"] {
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        machine.write(page, &[1; 4096]);
        store.close(true);
        machine.submit(&mut queue, write_command(1, 0, 8, page, 0));
        machine.wait_for("the write in the backend", || {
            store.waiting.load(Ordering::SeqCst) == 1
        });
        match reset {
            "CC.EN" => machine.disable(),
            "FLR" => drop(machine.device.reset(PATIENCE).unwrap()),
            "deletion" => drop(machine.admin_ok(Command::new(0x00).dword(10, 1))),
            _ => {
                machine.device.detach().unwrap();
                machine.device.attach(None);
                machine.map();
            }
        }
        if reset != "deletion" {
            machine.enable();
        }
        let mut queue = machine.create_queue(2, 16);
        machine.write(page, &[2; 4096]);
        let cid = machine.submit(&mut queue, write_command(1, 0, 8, page, 0));
        // Admin commands go on meanwhile.
        for _ in 0..3 {
            machine.identify(1, 0).unwrap();
        }
        let waiting = store.waiting.load(Ordering::SeqCst);
        assert_eq!(
            waiting, 1,
            "{reset}: writes in the backend, of before the reset and of after"
        );
        store.close(false);
        let done = machine.complete(&mut queue);
        assert_eq!((done.cid, done.status), (cid, 0), "{reset}");
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
        assert!(
            machine.read(page, 4096) == [2; 4096],
            "{reset}: the block holds what was written before the reset"
        );
        machine.recycle();
    }
}

#[test]
fn resets_under_load_leave_a_working_controller_and_no_traces() {
    let mut machine = Machine::new(config());
    for round in 0..30 {
        let mut queues: Vec<_> = (1..=4).map(|id| machine.create_queue(id, 32)).collect();
        let page = machine.allocate(1);
        for _ in 0..7 {
            for queue in &mut queues {
                machine.submit(queue, read_command(1, 0, 8, page, 0));
                machine.submit(queue, write_command(1, 8, 8, page, 0));
            }
        }
        if round % 2 == 0 {
            machine.disable();
        } else {
            machine.device.reset(PATIENCE).unwrap();
        }
        // From here on nothing may be written.
        for queue in &queues {
            machine.write(queue.cq, &[0; 512]);
        }
        machine.write(page, &MARK);
        machine.enable();
        machine.identify(1, 0).unwrap();
        assert!(
            machine.read(page, 4096) == MARK,
            "round {round}: data came after the reset"
        );
        for queue in &queues {
            let entries = machine.read(queue.cq, 512);
            assert!(
                entries.iter().all(|b| *b == 0),
                "round {round}: completions came after the reset"
            );
        }
        // Memory is given out anew for each round.
        machine.recycle();
    }
}

#[test]
fn deleting_a_queue_completes_its_commands_once_as_aborted() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    machine.write(page, &MARK);
    store.close(true);
    let cid = machine.submit(&mut queue, read_command(1, 0, 8, page, 0));
    machine.wait_for("the command in the backend", || {
        store.waiting.load(Ordering::SeqCst) == 1
    });
    machine.admin_ok(Command::new(0x00).dword(10, 1));
    let done = machine.complete(&mut queue);
    assert_eq!((done.cid, done.status), (cid, 0x008), "{done:x?}");
    store.close(false);
    machine.wait_for("the backend to be left", || {
        store.waiting.load(Ordering::SeqCst) == 0
    });
    // The thread is back when its queue serves again.
    machine.admin_ok(
        Command::new(0x01)
            .prp(queue.sq, 0)
            .dword(10, 15 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    machine.write(queue.sq, &[0; 1024]);
    queue.tail = 0;
    let other = machine.allocate(1);
    for block in 0..32 {
        assert_eq!(
            machine
                .run(&mut queue, read_command(1, FAST + block, 1, other, 0))
                .status,
            0
        );
    }
    assert!(machine.read(page, 4096) == MARK, "data of a deleted queue came");
}

#[test]
fn a_second_user_finds_a_fresh_controller_and_the_firsts_blocks() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    machine.write(page, &[0x77; 4096]);
    assert_eq!(machine.run(&mut queue, write_command(1, 0, 8, page, 0)).status, 0);
    machine.admin_ok(Command::new(0x09).dword(10, 6).dword(11, 0));
    machine.device.detach().unwrap();
    machine.device.attach(None);
    machine.map();
    assert_eq!(machine.register(reg::CSTS), 0);
    assert_eq!(machine.register(reg::AQA), 0);
    machine.enable();
    assert_eq!(
        machine.admin_ok(Command::new(0x0a).dword(10, 6)),
        1,
        "the write cache is on by default"
    );
    let mut queue = machine.create_queue(1, 16);
    machine.write(page, &[0; 4096]);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
    assert!(machine.read(page, 4096) == [0x77; 4096], "blocks are kept");
}

#[test]
fn memory_unmapped_under_load_is_not_touched_and_a_reset_mends_the_controller() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 64);
    let page = machine.allocate(1);
    store.close(true);
    for _ in 0..60 {
        machine.submit(&mut queue, read_command(1, 0, 8, page, 0));
    }
    machine.wait_for("commands in the backend", || {
        store.waiting.load(Ordering::SeqCst) >= 1
    });
    machine
        .device
        .dma_unmap(super::driver::MEMORY, super::driver::MEMORY_BYTES)
        .unwrap();
    machine.write(page, &MARK);
    store.close(false);
    // Not even a completion can be told.
    machine.wait_for("CSTS.CFS", || machine.register(reg::CSTS) & 2 != 0);
    assert!(machine.read(page, 4096) == MARK, "data came after the unmap");
    assert_eq!(machine.peek(&queue), None, "a completion came after the unmap");
    machine.disable();
    machine.map();
    machine.enable();
    let mut queue = machine.create_queue(1, 64);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
}

#[test]
fn bus_master_off_stops_the_controller() {
    let mut machine = Machine::new(config());
    machine.device.set_bus_master(false);
    let mut admin = std::mem::replace(&mut machine.admin, super::driver::Queue::nowhere());
    machine.submit(&mut admin, Command::new(0x06));
    machine.wait_for("CSTS.CFS", || machine.register(reg::CSTS) & 2 != 0);
    machine.device.set_bus_master(true);
    machine.disable();
    machine.enable();
    machine.identify(1, 0).unwrap();
}
