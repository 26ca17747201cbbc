//! Shadow doorbells (Doorbell Buffer Config).

use super::driver::{Command, Machine, PAGE, Queue, config, read_command, reg};
use super::store::{FAST, Store, over};
use std::sync::atomic::Ordering;
use std::time::Duration;
use uvfio_nvme::{Config, PollConfig, Statistics};

/// Offers and configures shadow doorbells for queues that exist and will be.
fn configure(machine: &mut Machine, queues: &mut [&mut Queue]) -> (u64, u64) {
    let identify = machine.identify(1, 0).unwrap();
    assert_eq!(identify[257] & 1, 1, "OACS bit 8");
    let pages = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x7c).prp(pages.0, pages.1));
    for queue in queues {
        queue.shadow = Some(pages);
    }
    pages
}

#[test]
fn commands_complete_by_shadow_doorbells_whatever_the_depth() {
    for depth in [1, 2, 5, 31] {
        let mut machine = Machine::new(config());
        let mut queue = machine.create_queue(1, 32);
        configure(&mut machine, &mut [&mut queue]);
        let page = machine.allocate(1);
        let mut in_flight = 0;
        let (mut submitted, mut completed) = (0, 0);
        while completed < 2000 {
            while in_flight < depth && submitted < 2000 {
                machine.submit(&mut queue, read_command(1, submitted % 1000, 1, page, 0));
                submitted += 1;
                in_flight += 1;
            }
            assert_eq!(machine.complete(&mut queue).status, 0, "depth {depth}");
            completed += 1;
            in_flight -= 1;
        }
        assert_eq!(
            machine.poll(&mut queue),
            None,
            "depth {depth}: a completion too many"
        );
    }
}

/// Runs reads, `depth` at a time, with a pause after each completion; gives what was counted meanwhile, of a queue of
/// 64 entries: `polls`, `polls_in_vain` and the doorbells.
fn count(poll: PollConfig, depth: u64, commands: u64, pause: Duration) -> Statistics {
    let mut machine = Machine::cold(Config { poll, ..config() });
    // With the line the controller has to know of each head at once.
    let _events = machine.enable_interrupts(2, 5);
    machine.enable();
    let mut queue = machine.create_queue(1, 64);
    configure(&mut machine, &mut [&mut queue]);
    let page = machine.allocate(1);
    let before = machine.nvme.statistics();
    let mut submitted = 0;
    for completed in 0..commands {
        while submitted < commands.min(completed + depth) {
            machine.submit(&mut queue, read_command(1, submitted % 1000, 8, page, 0));
            submitted += 1;
        }
        assert_eq!(machine.complete(&mut queue).status, 0);
        std::thread::sleep(pause);
    }
    let after = machine.nvme.statistics();
    Statistics {
        doorbell_messages: after.doorbell_messages - before.doorbell_messages,
        submission_doorbells: after.submission_doorbells - before.submission_doorbells,
        completion_doorbells: after.completion_doorbells - before.completion_doorbells,
        polls: after.polls - before.polls,
        polls_in_vain: after.polls_in_vain - before.polls_in_vain,
        ..Statistics::default()
    }
}

#[test]
fn a_host_that_submits_within_the_while_sends_few_doorbells() {
    // Far longer than the pauses, so that a machine with other things to do makes no difference.
    let poll = PollConfig::Adaptive {
        most: Duration::from_millis(50),
    };
    for depth in [1, 32] {
        let counted = count(poll, depth, 1000, Duration::from_micros(100));
        assert!(
            counted.submission_doorbells < 100,
            "depth {depth}, 1000 commands: {counted:?}"
        );
    }
}

#[test]
fn a_host_whose_commands_come_late_is_not_waited_for() {
    let most = Duration::from_micros(50);
    let counted = count(PollConfig::Adaptive { most }, 1, 100, 40 * most);
    assert!(counted.polls <= 8, "100 commands: {counted:?}");
    assert_eq!(counted.submission_doorbells, 100, "{counted:?}");
}

#[test]
fn bus_mastering_may_be_switched_off_while_a_drained_queue_is_polled() {
    let poll = PollConfig::Adaptive {
        most: Duration::from_millis(20),
    };
    let mut machine = Machine::new(Config { poll, ..config() });
    let mut queue = machine.create_queue(1, 16);
    configure(&mut machine, &mut [&mut queue]);
    let page = machine.allocate(1);
    for round in 0..10 {
        for block in 0..20 {
            assert_eq!(
                machine.run(&mut queue, read_command(1, block, 1, page, 0)).status,
                0
            );
        }
        let command = uvfio_core::region_index::CONFIG;
        machine.device.write(command, 4, &2u16.to_le_bytes()).unwrap();
        // Longer than the poll.
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(machine.register(reg::CSTS), 1, "round {round}: CSTS");
        machine.device.write(command, 4, &6u16.to_le_bytes()).unwrap();
    }
}

#[test]
fn bus_mastering_may_be_switched_off_as_soon_as_a_completion_is_seen() {
    // Interrupts go by the line, for which the shadow head is looked at behind each completion.
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    configure(&mut machine, &mut [&mut queue]);
    let page = machine.allocate(1);
    let config = uvfio_core::region_index::CONFIG;
    for round in 0..1000 {
        let completion = machine.run(&mut queue, read_command(1, round % 20, 1, page, 0));
        machine.device.write(config, 4, &2u16.to_le_bytes()).unwrap();
        assert_eq!(completion.status, 0);
        assert_eq!(machine.register(reg::CSTS), 1, "round {round}: CSTS");
        machine.device.write(config, 4, &6u16.to_le_bytes()).unwrap();
    }
}

#[test]
fn without_polling_each_command_of_a_host_that_waits_is_rung_for() {
    for poll in [PollConfig::Never, PollConfig::Adaptive { most: Duration::ZERO }] {
        let counted = count(poll, 1, 100, Duration::from_millis(1));
        assert_eq!(
            (counted.submission_doorbells, counted.polls),
            (100, 0),
            "{counted:?}"
        );
    }
}

#[test]
fn completions_are_hardly_ever_rung_for_as_long_as_there_is_room() {
    for depth in [1, 32] {
        let counted = count(PollConfig::default(), depth, 1000, Duration::ZERO);
        // Where the controller is held up, the host can pass the event index that it has left: one that rings then is right.
        assert!(
            counted.completion_doorbells <= 10,
            "depth {depth}, 1000 commands, a queue of 64: {counted:?}"
        );
    }
}

#[test]
fn a_busy_controller_is_not_rung() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 64);
    configure(&mut machine, &mut [&mut queue]);
    let page = machine.allocate(1);
    store.close(true);
    for _ in 0..8 {
        machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    }
    machine.wait_for("every thread to be busy", || {
        store.waiting.load(Ordering::SeqCst) == 4
    });
    let before = machine.nvme.statistics().submission_doorbells;
    for block in 0..50 {
        machine.submit(&mut queue, read_command(1, FAST + block, 1, page, 0));
    }
    assert_eq!(
        machine.nvme.statistics().submission_doorbells,
        before,
        "doorbells while all threads are busy"
    );
    store.close(false);
    for _ in 0..58 {
        assert_eq!(machine.complete(&mut queue).status, 0);
    }
}

#[test]
fn queues_made_later_use_the_shadow_too() {
    let mut machine = Machine::new(config());
    let pages = configure(&mut machine, &mut []);
    let page = machine.allocate(1);
    for _ in 0..3 {
        let mut queue = machine.create_queue(2, 16);
        queue.shadow = Some(pages);
        for block in 0..100 {
            assert_eq!(
                machine.run(&mut queue, read_command(1, block, 1, page, 0)).status,
                0
            );
        }
        machine.admin_ok(Command::new(0x00).dword(10, 2));
        machine.admin_ok(Command::new(0x04).dword(10, 2));
    }
}

#[test]
fn queues_that_have_run_go_on_where_they_are() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    for block in 0..21 {
        assert_eq!(
            machine.run(&mut queue, read_command(1, block, 1, page, 0)).status,
            0
        );
    }
    configure(&mut machine, &mut [&mut queue]);
    for block in 0..100 {
        assert_eq!(
            machine.run(&mut queue, read_command(1, block, 1, page, 0)).status,
            0
        );
    }
}

#[test]
fn a_full_completion_queue_goes_on_when_the_shadow_head_moves() {
    let mut machine = Machine::new(config());
    // 31 commands, a completion queue of 4.
    let (cq, sq) = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x05).prp(cq, 0).dword(10, 3 << 16 | 1).dword(11, 1));
    machine.admin_ok(
        Command::new(0x01)
            .prp(sq, 0)
            .dword(10, 31 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    let mut submission = Queue::at(1, sq, cq, 32);
    let mut completion = Queue::at(1, sq, cq, 4);
    configure(&mut machine, &mut [&mut submission, &mut completion]);
    let page = machine.allocate(1);
    for _ in 0..20 {
        for _ in 0..31 {
            machine.submit(&mut submission, read_command(1, 0, 1, page, 0));
        }
        for _ in 0..31 {
            assert_eq!(machine.complete(&mut completion).status, 0);
        }
    }
}

#[test]
fn pages_that_can_not_be_are_refused() {
    let mut machine = Machine::new(config());
    machine.identify(1, 0).unwrap();
    let page = machine.allocate(2);
    for (what, prp1, prp2, status) in [
        ("PRP1 with an offset", page + 8, page + PAGE, 0x013),
        ("PRP2 with an offset", page, page + PAGE + 8, 0x013),
        ("the same page twice", page, page, 0x002),
    ] {
        assert_eq!(
            machine.admin(Command::new(0x7c).prp(prp1, prp2)).status,
            status,
            "{what}"
        );
    }
}

#[test]
fn a_shadow_tail_that_can_not_be_is_an_event_and_the_queue_lives() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    let pages = configure(&mut machine, &mut [&mut queue]);
    let mut admin = std::mem::replace(&mut machine.admin, Queue::nowhere());
    let request = machine.submit(&mut admin, Command::new(0x0c));
    machine.write(pages.0 + 8, &16u32.to_le_bytes());
    machine.write_register(0x1008, 0);
    let event = machine.complete(&mut admin);
    assert_eq!((event.cid, event.result), (request, 0x01_0100), "{event:x?}");
    machine.admin = admin;
    let page = machine.allocate(1);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
}

#[test]
fn a_reset_ends_shadow_doorbells() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    configure(&mut machine, &mut [&mut queue]);
    machine.disable();
    machine.enable();
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    for _ in 0..40 {
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    }
    assert_eq!(machine.register(reg::CSTS) & 2, 0, "CSTS.CFS");
}
