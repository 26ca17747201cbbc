//! The worker's own memory: it is limited, and a user who takes all that it may have does not reach the limit.
#![allow(clippy::expect_used)] // A test whose ground gives way has failed.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uvfio_core::region_index::CONFIG;
use uvfio_proto::message::{DmaMapFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientMemory, Errno};

mod common;

use common::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// All mappings that a user may have.
const MAPPINGS: u64 = 65_535;

/// All files among them.
const FILES: u64 = 32_768;

/// Pairs of I/O queues: as many as a controller has.
const QUEUES: u16 = 64;

const PAGE: u64 = 4096;

/// Where the user's own memory is mapped, and where memory that is reached by message.
const RAM: u64 = 1 << 32;
const RAM_BYTES: u64 = 4 << 20;
const BY_MESSAGE: u64 = 2 << 32;
const BY_MESSAGE_BYTES: u64 = 1 << 20;

/// The worker's memory.
fn memory_of(server: &Server) -> Memory {
    let folder = format!("/proc/{}", server.worker().as_raw_nonzero());
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("its figures");
    let line = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a line of that name").trim().to_owned()
    };
    let limits = line(&read("limits"), "Max data size");
    let used = line(&read("status"), "VmData:");
    Memory {
        limit: limits
            .split_whitespace()
            .next()
            .and_then(|soft| soft.parse().ok()),
        hard: limits
            .split_whitespace()
            .nth(1)
            .and_then(|hard| hard.parse().ok()),
        used: used
            .strip_suffix(" kB")
            .and_then(|text| text.parse::<u64>().ok())
            .expect("a number")
            * 1024,
    }
}

/// Bytes that a process has to itself; limits are none where there is none.
#[derive(Debug)]
struct Memory {
    limit: Option<u64>,
    hard: Option<u64>,
    used: u64,
}

/// Memory that is reached by message: one page of zeroes everywhere.
struct Zeroes;

impl ClientMemory for Zeroes {
    fn read(&mut self, _iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, _iova: u64, _data: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
}

/// A driver that is good for one thing: to keep every queue busy. All queues lie in RAM: page 0 and 1 are the admin
/// queues, page 2 is a list of pages, 2 q + 2 and 2 q + 3 are I/O queues q.
struct Driver<'a> {
    user: &'a mut Client,
    ram: &'a OwnedFd,
    admin: u32,
}

impl Driver<'_> {
    const ENTRIES: u16 = 64;
    const COMMANDS: u16 = 16;

    fn register(&mut self, offset: u64, value: &[u8]) {
        self.user.write(0, offset, value).expect("a register is written");
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        rustix::io::pwrite(self.ram, bytes, at).expect("RAM is written");
    }

    /// Whether completion `at` of the queue at `page` is there; with success.
    fn done(&self, page: u64, at: u16) -> bool {
        let mut entry = [0; 16];
        rustix::io::pread(self.ram, &mut entry, page * PAGE + 16 * u64::from(at)).expect("RAM is read");
        let status = u16::from_le_bytes([entry[14], entry[15]]);
        assert_eq!(
            status >> 1,
            0,
            "status of completion {at} of the queue at page {page}"
        );
        status & 1 == 1
    }

    fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        let late = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < late, "{what}: not after {PATIENCE:?}");
            self.user
                .serve_incoming(Duration::from_millis(1))
                .expect("messages are answered");
        }
    }

    fn enable(&mut self) {
        // Memory accesses and bus master.
        self.user.write(CONFIG, 4, &[6, 0]).expect("COMMAND is written");
        self.register(0x24, &0x003f_003f_u32.to_le_bytes());
        self.register(0x28, &RAM.to_le_bytes());
        self.register(0x30, &(RAM + PAGE).to_le_bytes());
        self.register(0x14, &0x0046_0001_u32.to_le_bytes());
        self.until("the controller is ready", |driver| {
            let mut status = [0; 4];
            driver.user.read(0, 0x1c, &mut status).expect("CSTS is read");
            status[0] & 1 == 1
        });
    }

    fn command(opcode: u8, id: u16, dwords: &[(usize, u64)]) -> [u8; 64] {
        let mut entry = [0; 64];
        entry[0] = opcode;
        entry[2..4].copy_from_slice(&id.to_le_bytes());
        for (at, value) in dwords {
            entry[4 * at..4 * at + 8].copy_from_slice(&value.to_le_bytes());
        }
        entry
    }

    fn admin(&mut self, opcode: u8, prp: u64, dwords: u64) {
        let slot = self.admin % 64;
        // The second time round the phase is another; there are three commands for each 64 entries at most.
        assert!(self.admin < 200, "too many commands");
        let phase = self.admin / 64 % 2;
        self.put(
            u64::from(slot) * 64,
            &Self::command(opcode, slot as u16, &[(6, prp), (10, dwords)]),
        );
        self.admin += 1;
        self.register(0x1000, &(self.admin % 64).to_le_bytes());
        self.until("an admin command", |driver| {
            let mut entry = [0; 16];
            rustix::io::pread(driver.ram, &mut entry, PAGE + 16 * u64::from(slot)).expect("RAM is read");
            let status = u16::from_le_bytes([entry[14], entry[15]]);
            let there = u32::from(status & 1) != phase;
            assert!(
                !there || status >> 1 == 0,
                "status {status:#x} of command {opcode:#x}"
            );
            there
        });
        self.register(0x1004, &(self.admin % 64).to_le_bytes());
    }

    fn make_queues(&mut self) {
        let count = u64::from(QUEUES - 1);
        self.admin(0x09, 0, 7 | (count | count << 16) << 32);
        let size = u64::from(Self::ENTRIES - 1) << 16;
        for queue in 1..=u64::from(QUEUES) {
            // Interrupts on, by the vector of the same number.
            let place = RAM + (2 * queue + 2) * PAGE;
            self.admin(0x05, place, queue | size | (3 | queue << 16) << 32);
            self.admin(0x01, place + PAGE, queue | size | (1 | queue << 16) << 32);
        }
    }

    /// Reads 32 KiB by each of many commands of all queues at once, into memory that is reached by message.
    fn read_everywhere(&mut self) {
        for at in 0..8 {
            self.put(2 * PAGE + 8 * at, &(BY_MESSAGE + (at + 1) * PAGE).to_le_bytes());
        }
        for queue in 1..=u64::from(QUEUES) {
            for id in 0..Self::COMMANDS {
                let mut entry = Self::command(0x02, id, &[(6, BY_MESSAGE), (8, RAM + 2 * PAGE), (12, 63)]);
                entry[4] = 1;
                self.put((2 * queue + 3) * PAGE + 64 * u64::from(id), &entry);
            }
        }
        for queue in 1..=u64::from(QUEUES) {
            self.register(0x1000 + 8 * queue, &u32::from(Self::COMMANDS).to_le_bytes());
        }
        self.until("all reads", |driver| {
            (1..=u64::from(QUEUES)).all(|queue| (0..Self::COMMANDS).all(|id| driver.done(2 * queue + 2, id)))
        });
    }
}

fn memory(bytes: u64) -> OwnedFd {
    let file = memfd_create("ram", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&file, bytes).expect("made long");
    file
}

/// Maps pages one by one until nothing more is let through: first of files of their own, then of one file.
fn fill_the_quota(user: &mut Client, ram: &OwnedFd) {
    let access = DmaMapFlags::READ | DmaMapFlags::WRITE;
    // Every second page, so that no two are one.
    let place = |number: u64| (3 << 32) + 2 * number * PAGE;
    for number in 2..MAPPINGS {
        let own = (number <= FILES).then(|| memory(PAGE));
        let file = own.as_ref().unwrap_or(ram);
        user.dma_map(place(number), PAGE, access, Some((file.as_fd(), 0)))
            .expect("within the quota");
    }
    user.dma_map(place(MAPPINGS), PAGE, access, Some((ram.as_fd(), 0)))
        .expect_err("beyond the quota");
    user.dma_unmap(place(MAPPINGS), PAGE)
        .expect("its refusal is forgotten");
}

#[test]
fn a_user_who_takes_all_that_it_may_have_is_served_within_the_workers_memory_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("nvme.sock");
    let server = Server::start(
        &[&format!("nvme,mem=1M,queues={QUEUES}")],
        &socket,
        Stdio::inherit(),
    );
    let before = memory_of(&server);
    let limit = before.limit.expect("a limit");
    assert_eq!(before.hard, Some(limit), "the limit can't be raised again");

    let mut user = Client::connect(&socket).expect("attached");
    user.set_memory(Box::new(Zeroes));
    let ram = memory(RAM_BYTES);
    let access = DmaMapFlags::READ | DmaMapFlags::WRITE;
    user.dma_map(RAM, RAM_BYTES, access, Some((ram.as_fd(), 0)))
        .expect("RAM");
    user.dma_map(BY_MESSAGE, BY_MESSAGE_BYTES, access, None)
        .expect("memory by message");
    fill_the_quota(&mut user, &ram);
    let vectors = user.irq_info(2).expect("MSI-X").count;
    let eventfds: Vec<_> = (0..vectors)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"))
        .collect();
    let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    user.set_eventfds(2, SetIrqsFlags::TRIGGER, 0, &borrowed)
        .expect("eventfds");

    let mut driver = Driver {
        user: &mut user,
        ram: &ram,
        admin: 0,
    };
    driver.enable();
    driver.make_queues();
    driver.read_everywhere();

    let full = memory_of(&server);
    eprintln!("before: {before:?}; full: {full:?}");
    let grown = full.used.saturating_sub(before.used);
    assert!(grown > 1 << 20, "nothing was taken: {grown} bytes more");
    assert!(
        grown * 2 <= limit - before.used,
        "less than half of what a worker may take must do: it took {grown} of {} bytes",
        limit - before.used
    );
    let mut identity = [0; 4];
    user.read(CONFIG, 0, &mut identity).expect("still served");
    assert_ne!(identity, [0xff; 4], "the device is gone");
}
