//! What a controller costs that has nothing to do: its threads do not wake. Alone in its process, whose threads it
//! looks at.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test's helpers may

#[path = "nvme/driver.rs"]
#[allow(dead_code)] // The other tests need more of it.
mod driver;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use driver::{Command, Machine, PATIENCE, config, read_command};
use uvfio_nvme::{Config, PollConfig};

/// How often each of the controller's threads has gone to sleep, or been sent to.
fn switches() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(path.join(file));
        // Of a controller of before, that is just ending.
        let (Ok(name), Ok(status)) = (read("comm"), read("status")) else {
            continue;
        };
        if name.starts_with("nvme-") {
            let switched = status
                .lines()
                .filter(|line| line.contains("ctxt_switches"))
                .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum();
            all.insert(format!("{} {}", name.trim(), path.display()), switched);
        }
    }
    all
}

/// Waits until no thread of the controller's has run for a tenth of a second, a hundred times the pause of whoever
/// guards something.
fn becomes_idle(what: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut before = switches();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let after = switches();
        // A thread has its name a moment after it has begun.
        if after == before && after.len() > 4 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: threads run on, with this many switches: {before:?}, then {after:?}"
        );
        before = after;
    }
}

#[test]
fn a_controller_with_nothing_to_do_sleeps() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 64);
    machine.identify(1, 0).unwrap();
    let pages = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x7c).prp(pages.0, pages.1));
    queue.shadow = Some(pages);
    let page = machine.allocate(1);
    for block in 0..1000 {
        assert_eq!(
            machine.run(&mut queue, read_command(1, block, 8, page, 0)).status,
            0
        );
    }
    assert!(machine.nvme.statistics().polls > 0, "it was polled");
    becomes_idle("adaptive, after 1000 commands");
    drop(machine);

    let always = Config {
        poll: PollConfig::Always,
        ..config()
    };
    let mut machine = Machine::cold(always);
    becomes_idle("always, not enabled");
    machine.enable();
    let mut queue = machine.create_queue(1, 64);
    let page = machine.allocate(1);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 8, page, 0)).status, 0);
    machine.disable();
    becomes_idle("always, disabled");
    machine.enable();
    machine.create_queue(1, 64);
    machine
        .device
        .write(uvfio_core::region_index::CONFIG, 4, &2u16.to_le_bytes())
        .unwrap();
    becomes_idle("always, bus mastering off");
}
