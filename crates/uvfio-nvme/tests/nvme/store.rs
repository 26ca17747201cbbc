//! A backend that a test holds up, fails and watches.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use uvfio_nvme::{Backend, BackendConfig, Config, MemoryBackend, NamespaceConfig};

use super::driver::{Command, Machine, config, read_command, write_command};

/// Memory whose accesses wait while the gate is closed.
#[derive(Debug)]
pub(crate) struct Store {
    memory: MemoryBackend,
    closed: Mutex<bool>,
    opened: Condvar,
    pub(crate) waiting: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) failing: AtomicBool,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryBackend::new(8 << 20).unwrap(),
            closed: Mutex::new(false),
            opened: Condvar::new(),
            waiting: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })
    }

    pub(crate) fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }

    fn pass(&self, offset: u64) -> io::Result<()> {
        // The second half of the namespace is always fast.
        if offset < 4 << 20 {
            let mut closed = self.closed.lock().unwrap();
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while *closed {
                closed = self.opened.wait(closed).unwrap();
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if self.failing.load(Ordering::SeqCst) {
            Err(io::ErrorKind::Other.into())
        } else {
            Ok(())
        }
    }
}

impl Backend for Store {
    fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.pass(offset)?;
        self.memory.read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pass(offset)?;
        self.memory.write(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.pass(4 << 20)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, release: bool) -> io::Result<()> {
        self.pass(offset)?;
        self.memory.write_zeroes(offset, bytes, release)
    }

    fn release(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.pass(offset)?;
        self.memory.release(offset, bytes)
    }
}

pub(crate) fn over(store: &Arc<Store>) -> Config {
    let backend = BackendConfig::Other(store.clone());
    Config {
        namespaces: vec![NamespaceConfig {
            backend,
            block: 512,
            read_only: false,
        }],
        ..config()
    }
}

/// A block that is fast even while the gate is closed.
pub(crate) const FAST: u64 = (4 << 20) / 512;

#[test]
fn a_slow_queue_delays_no_other_queue() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut slow = machine.create_queue(1, 64);
    let mut fast = machine.create_queue(2, 16);
    let page = machine.allocate(1);
    store.close(true);
    for _ in 0..63 {
        machine.submit(&mut slow, read_command(1, 0, 1, page, 0));
    }
    machine.wait_for("commands that wait for the backend", || {
        store.waiting.load(Ordering::SeqCst) >= 2
    });
    for block in 0..20 {
        assert_eq!(
            machine
                .run(&mut fast, read_command(1, FAST + block, 1, page, 0))
                .status,
            0
        );
    }
    machine.identify(1, 0).unwrap();
    assert_eq!(
        machine.peek(&slow),
        None,
        "the slow queue completed while its backend waits"
    );
    store.close(false);
    for _ in 0..63 {
        assert_eq!(machine.complete(&mut slow).status, 0);
    }
}

#[test]
fn a_slow_command_is_overtaken_in_its_own_queue() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    store.close(true);
    let slow = machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("the slow command", || store.waiting.load(Ordering::SeqCst) == 1);
    for block in 0..40 {
        assert_eq!(
            machine
                .run(&mut queue, read_command(1, FAST + block, 1, page, 0))
                .status,
            0
        );
    }
    store.close(false);
    assert_eq!(machine.complete(&mut queue).cid, slow);
}

#[test]
fn the_same_identifier_twice_at_once_is_a_conflict() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    store.close(true);
    let slow = machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("the slow command", || store.waiting.load(Ordering::SeqCst) == 1);
    let before = queue.tail;
    machine.place(&mut queue, read_command(1, FAST, 1, page, 0).cid(slow));
    machine.ring(&queue, before);
    let done = machine.complete(&mut queue);
    assert_eq!((done.cid, done.status), (slow, 0x003), "{done:x?}");
    store.close(false);
    assert_eq!(machine.complete(&mut queue).status, 0);
}

#[test]
fn errors_of_the_backend_are_the_commands_errors() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    store.failing.store(true, Ordering::SeqCst);
    for (what, command, status) in [
        ("read", read_command(1, 0, 1, page, 0), 0x281),
        ("write", write_command(1, 0, 1, page, 0), 0x280),
        ("flush", Command::new(0).nsid(1), 0x280),
        ("write zeroes", Command::new(8).nsid(1), 0x280),
        ("compare", Command::new(5).nsid(1).prp(page, 0), 0x281),
    ] {
        assert_eq!(machine.run(&mut queue, command).status, status, "{what}");
    }
    store.failing.store(false, Ordering::SeqCst);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    assert_eq!(machine.nvme.statistics().media_errors, 5);
}

#[test]
fn data_is_made_durable_when_the_host_asks_for_it() {
    let store = Store::new();
    let mut machine = Machine::new(over(&store));
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    let write = write_command(1, 0, 1, page, 0);
    let mut flushes = |what: &str, machine: &mut Machine, command: Command, expected: u64| {
        let before = store.flushes.load(Ordering::SeqCst);
        assert_eq!(machine.run(&mut queue, command).status, 0, "{what}");
        assert_eq!(
            store.flushes.load(Ordering::SeqCst) - before,
            expected,
            "flushes for {what}"
        );
    };
    flushes("write", &mut machine, write, 0);
    flushes("write with FUA", &mut machine, write.dword(12, 1 << 30), 1);
    flushes(
        "write zeroes with FUA",
        &mut machine,
        Command::new(8).nsid(1).dword(12, 1 << 30),
        1,
    );
    flushes("flush", &mut machine, Command::new(0).nsid(1), 1);
    flushes("flush of all", &mut machine, Command::new(0).nsid(0xffff_ffff), 1);
    machine.admin_ok(Command::new(0x09).dword(10, 6).dword(11, 0));
    flushes("write without the cache", &mut machine, write, 1);
    let before = store.flushes.load(Ordering::SeqCst);
    machine.write_register(super::driver::reg::CC, super::driver::CC_ENABLE | 1 << 14);
    machine.wait_for("CSTS.SHST 10b", || {
        machine.register(super::driver::reg::CSTS) >> 2 & 3 == 2
    });
    assert_eq!(
        store.flushes.load(Ordering::SeqCst) - before,
        1,
        "flushes for a shutdown"
    );
}

#[test]
fn a_file_holds_what_was_written_and_flushed() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let backend = BackendConfig::File(file.try_clone().unwrap(), 1 << 20);
    let namespaces = vec![NamespaceConfig {
        backend,
        block: 512,
        read_only: false,
    }];
    let mut machine = Machine::new(Config {
        namespaces,
        ..config()
    });
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    let data: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    machine.write(page, &data);
    assert_eq!(
        machine.run(&mut queue, write_command(1, 100, 8, page, 0)).status,
        0
    );
    assert_eq!(machine.run(&mut queue, Command::new(0).nsid(1)).status, 0);
    let mut stored = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut stored, 51200).unwrap();
    assert!(stored == data, "the file holds something else");
    assert_eq!(
        machine
            .run(&mut queue, Command::new(8).nsid(1).blocks(100, 4))
            .status,
        0
    );
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut stored, 51200).unwrap();
    assert!(
        stored[..2048] == [0; 2048] && stored[2048..] == data[2048..],
        "write zeroes hit something else"
    );
    assert_eq!(file.metadata().unwrap().len(), 1 << 20, "the file's size");
}
