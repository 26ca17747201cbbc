//! A user with a sealed memfd for memory, and an NVMe driver in it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{
    Backing, Device, DmaAccess, DmaMap, IrqAction, IrqData, Policy, SetIrqs, VirtualDevice, region_index,
};
use uvfio_nvme::{BackendConfig, Config, InterruptConfig, NamespaceConfig, Nvme};

/// Where the user's memory begins, and how much there is.
pub(crate) const MEMORY: u64 = 0x1_0000_0000;
pub(crate) const MEMORY_BYTES: u64 = 16 << 20;
pub(crate) const PAGE: u64 = 4096;
/// An address where nothing is mapped.
pub(crate) const HOLE: u64 = 0x7000_0000_0000;

/// How long to wait for what must happen; it never does where the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) mod reg {
    pub(crate) const CAP: u64 = 0x00;
    pub(crate) const VS: u64 = 0x08;
    pub(crate) const INTMS: u64 = 0x0c;
    pub(crate) const INTMC: u64 = 0x10;
    pub(crate) const CC: u64 = 0x14;
    pub(crate) const CSTS: u64 = 0x1c;
    pub(crate) const AQA: u64 = 0x24;
    pub(crate) const ASQ: u64 = 0x28;
    pub(crate) const ACQ: u64 = 0x30;
}

/// CC as drivers write it: entries of 64 and 16 bytes, enabled.
pub(crate) const CC_ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
pub(crate) const RDY: u32 = 1;
pub(crate) const CFS: u32 = 2;

/// A submission queue entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) [u32; 16]);

impl Command {
    pub(crate) fn new(opcode: u8) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = u32::from(opcode);
        Self(dwords)
    }

    pub(crate) fn nsid(self, nsid: u32) -> Self {
        self.dword(1, nsid)
    }

    pub(crate) fn cid(mut self, cid: u16) -> Self {
        self.0[0] = self.0[0] & 0xffff | u32::from(cid) << 16;
        self
    }

    pub(crate) fn prp(self, prp1: u64, prp2: u64) -> Self {
        let (low, high) = (|v: u64| v as u32, |v: u64| (v >> 32) as u32);
        self.dword(6, low(prp1))
            .dword(7, high(prp1))
            .dword(8, low(prp2))
            .dword(9, high(prp2))
    }

    pub(crate) fn dword(mut self, number: usize, value: u32) -> Self {
        self.0[number] = value;
        self
    }

    /// SLBA and NLB (as a count).
    pub(crate) fn blocks(self, start: u64, count: u32) -> Self {
        let flags = self.0[12] & 0xffff_0000;
        self.dword(10, start as u32)
            .dword(11, (start >> 32) as u32)
            .dword(12, flags | (count - 1) & 0xffff)
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) result: u32,
    pub(crate) sq_head: u16,
    pub(crate) sq_id: u16,
    pub(crate) cid: u16,
    /// Status code type << 8 | status code.
    pub(crate) status: u16,
    pub(crate) do_not_retry: bool,
}

/// One pair of queues.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: u16,
    pub(crate) sq: u64,
    pub(crate) cq: u64,
    pub(crate) entries: u32,
    pub(crate) tail: u32,
    head: u32,
    phase: bool,
    next_cid: u16,
    /// Shadow doorbells: pages of values and of EventIdx.
    pub(crate) shadow: Option<(u64, u64)>,
}

/// The user.
pub(crate) struct Machine {
    pub(crate) nvme: Arc<Nvme>,
    pub(crate) device: Arc<VirtualDevice>,
    pub(crate) memory: File,
    /// BAR 0's memory, where doorbells are written instead of by message.
    pub(crate) bar: Option<File>,
    free: AtomicU64,
    pub(crate) admin: Queue,
}

pub(crate) fn memory_namespace(bytes: u64) -> NamespaceConfig {
    NamespaceConfig {
        backend: BackendConfig::Memory(bytes),
        block: 512,
        read_only: false,
    }
}

/// A controller with one namespace of 8 MiB.
pub(crate) fn config() -> Config {
    Config {
        queues: 4,
        ..Config::new("TEST", vec![memory_namespace(8 << 20)])
    }
}

pub(crate) fn sealed_memfd(bytes: u64) -> File {
    let file = rustix::fs::memfd_create("user", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    File::from(file)
}

impl Machine {
    /// Memory mapped, MSI-X (or whatever the configuration has) not enabled, the controller not enabled.
    pub(crate) fn cold(config: Config) -> Self {
        let nvme = Nvme::new(config).unwrap();
        let device: Arc<dyn Device> = nvme.clone();
        let device = VirtualDevice::new(device, &Policy::default()).unwrap();
        device.attach(None);
        let machine = Self::over(nvme, device);
        machine.map();
        machine
    }

    /// Nothing attached and nothing mapped.
    pub(crate) fn over(nvme: Arc<Nvme>, device: Arc<VirtualDevice>) -> Self {
        let memory = sealed_memfd(MEMORY_BYTES);
        Self {
            nvme,
            device,
            memory,
            bar: None,
            free: AtomicU64::new(MEMORY),
            admin: Queue::nowhere(),
        }
    }

    /// Maps the memory and lets the function decode and master.
    pub(crate) fn map(&self) {
        let backing = Some(Backing {
            file: OwnedFd::from(self.memory.try_clone().unwrap()),
            offset: 0,
        });
        let access = DmaAccess::READ | DmaAccess::WRITE;
        self.device
            .dma_map(DmaMap {
                iova: MEMORY,
                bytes: MEMORY_BYTES,
                access,
                backing,
            })
            .unwrap();
        self.device
            .write(region_index::CONFIG, 4, &6u16.to_le_bytes())
            .unwrap();
    }

    /// As [`Machine::cold`], and enabled.
    pub(crate) fn new(config: Config) -> Self {
        let mut machine = Self::cold(config);
        machine.enable();
        machine
    }

    pub(crate) fn enable(&mut self) {
        self.admin = Queue::at(0, self.allocate(1), self.allocate(1), 32);
        self.write_register(reg::AQA, 31 << 16 | 31);
        self.write_register64(reg::ASQ, self.admin.sq);
        self.write_register64(reg::ACQ, self.admin.cq);
        self.write_register(reg::CC, CC_ENABLE);
        self.wait_for("CSTS.RDY 1", || self.register(reg::CSTS) & (RDY | CFS) == RDY);
    }

    pub(crate) fn disable(&self) {
        self.write_register(reg::CC, CC_ENABLE & !1);
        self.wait_for("CSTS.RDY 0", || self.register(reg::CSTS) & RDY == 0);
    }

    /// Waits for a condition that must come true.
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "{what} does not come; CSTS is {:#x}",
                self.register(reg::CSTS)
            );
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    pub(crate) fn register(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(0, offset, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn register64(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.device.read(0, offset, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn write_register(&self, offset: u64, value: u32) {
        self.device.write(0, offset, &value.to_le_bytes()).unwrap();
    }

    pub(crate) fn write_register64(&self, offset: u64, value: u64) {
        self.device.write(0, offset, &value.to_le_bytes()).unwrap();
    }

    /// Zeroed pages of the user's memory, one after the other.
    pub(crate) fn allocate(&self, pages: u64) -> u64 {
        let at = self.free.fetch_add(pages * PAGE, Ordering::Relaxed);
        assert!(
            at + pages * PAGE <= MEMORY + MEMORY_BYTES,
            "the test's memory is used up"
        );
        self.write(at, &vec![0; (pages * PAGE) as usize]);
        at
    }

    /// Every page may be given out again, once the controller is disabled.
    pub(crate) fn recycle_cold(&mut self) {
        self.free = AtomicU64::new(MEMORY);
    }

    /// Every page may be given out again.
    pub(crate) fn recycle(&mut self) {
        self.disable();
        self.recycle_cold();
        self.enable();
    }

    pub(crate) fn read(&self, iova: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read_exact_at(&mut data, iova - MEMORY).unwrap();
        data
    }

    pub(crate) fn write(&self, iova: u64, data: &[u8]) {
        self.memory.write_all_at(data, iova - MEMORY).unwrap();
    }

    pub(crate) fn read32(&self, iova: u64) -> u32 {
        u32::from_le_bytes(self.read(iova, 4).try_into().unwrap())
    }

    /// Writes an entry at the tail of a queue without telling the controller.
    pub(crate) fn place(&self, queue: &mut Queue, command: Command) {
        let bytes: Vec<u8> = command.0.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        self.write(queue.sq + u64::from(queue.tail) * 64, &bytes);
        queue.tail = (queue.tail + 1) % queue.entries;
    }

    /// Tells the controller of the tail: by doorbell, or by shadow doorbell as a driver does it.
    pub(crate) fn ring(&self, queue: &Queue, before: u32) {
        let doorbell = 0x1000 + 8 * u64::from(queue.id);
        match queue.shadow {
            None => self.write_doorbell(doorbell, queue.tail),
            Some(pages) => self.ring_shadow(pages, 2 * u64::from(queue.id), before, queue.tail, doorbell),
        }
    }

    fn write_doorbell(&self, doorbell: u64, value: u32) {
        match &self.bar {
            None => self.write_register(doorbell, value),
            Some(bar) => bar.write_all_at(&value.to_le_bytes(), doorbell).unwrap(),
        }
    }

    fn ring_shadow(&self, pages: (u64, u64), index: u64, before: u32, now: u32, doorbell: u64) {
        self.write(pages.0 + 4 * index, &now.to_le_bytes());
        std::sync::atomic::fence(Ordering::SeqCst);
        let event = self.read32(pages.1 + 4 * index);
        let (event, now16, before) = (event as u16, now as u16, before as u16);
        if now16.wrapping_sub(event).wrapping_sub(1) < now16.wrapping_sub(before) {
            self.write_register(doorbell, now);
        }
    }

    /// Submits a command under a fresh identifier, which it gives.
    pub(crate) fn submit(&self, queue: &mut Queue, command: Command) -> u16 {
        let cid = queue.next_cid;
        queue.next_cid = queue.next_cid.wrapping_add(1);
        let before = queue.tail;
        self.place(queue, command.cid(cid));
        self.ring(queue, before);
        cid
    }

    /// The next completion, if there is one, taken from its queue.
    pub(crate) fn poll(&self, queue: &mut Queue) -> Option<Completion> {
        let completion = self.peek(queue)?;
        let before = queue.head;
        queue.head = (queue.head + 1) % queue.entries;
        queue.phase ^= queue.head == 0;
        let doorbell = 0x1004 + 8 * u64::from(queue.id);
        match queue.shadow {
            None => self.write_doorbell(doorbell, queue.head),
            Some(pages) => self.ring_shadow(pages, 2 * u64::from(queue.id) + 1, before, queue.head, doorbell),
        }
        Some(completion)
    }

    /// The next completion, if there is one, left where it is.
    pub(crate) fn peek(&self, queue: &Queue) -> Option<Completion> {
        let entry = self.read(queue.cq + u64::from(queue.head) * 16, 16);
        let dword = |n: usize| u32::from_le_bytes(entry[4 * n..4 * n + 4].try_into().unwrap());
        if (dword(3) >> 16 & 1 == 1) != queue.phase {
            return None;
        }
        Some(Completion {
            result: dword(0),
            sq_head: dword(2) as u16,
            sq_id: (dword(2) >> 16) as u16,
            cid: dword(3) as u16,
            status: (dword(3) >> 17 & 0x7ff) as u16,
            do_not_retry: dword(3) >> 31 == 1,
        })
    }

    pub(crate) fn complete(&self, queue: &mut Queue) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.poll(queue) {
                return completion;
            }
            assert!(
                Instant::now() < deadline,
                "no completion on queue {}; CSTS is {:#x}",
                queue.id,
                self.register(reg::CSTS)
            );
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Submits a command and gives its completion.
    pub(crate) fn run(&self, queue: &mut Queue, command: Command) -> Completion {
        let cid = self.submit(queue, command);
        let completion = self.complete(queue);
        assert_eq!(completion.cid, cid, "the completion of {command:x?} is another's");
        assert_eq!(
            completion.sq_id, queue.id,
            "the completion of {command:x?} tells another queue"
        );
        completion
    }

    pub(crate) fn admin(&mut self, command: Command) -> Completion {
        let mut queue = std::mem::replace(&mut self.admin, Queue::nowhere());
        let completion = self.run(&mut queue, command);
        self.admin = queue;
        completion
    }

    /// An admin command that must succeed; gives DW0.
    pub(crate) fn admin_ok(&mut self, command: Command) -> u32 {
        let completion = self.admin(command);
        assert_eq!(completion.status, 0, "{command:x?}");
        completion.result
    }

    /// Identify: the data.
    pub(crate) fn identify(&mut self, cns: u32, nsid: u32) -> Result<Vec<u8>, u16> {
        let page = self.allocate(1);
        let completion = self.admin(Command::new(0x06).nsid(nsid).prp(page, 0).dword(10, cns));
        if completion.status == 0 {
            Ok(self.read(page, 4096))
        } else {
            Err(completion.status)
        }
    }

    /// Creates pair `id` of I/O queues of `entries` entries, interrupting by vector `id`.
    pub(crate) fn create_queue(&mut self, id: u16, entries: u32) -> Queue {
        let pages = u64::from(entries * 64).div_ceil(PAGE);
        let queue = Queue::at(id, self.allocate(pages), self.allocate(pages), entries);
        let size = (entries - 1) << 16 | u32::from(id);
        self.admin_ok(
            Command::new(0x05)
                .prp(queue.cq, 0)
                .dword(10, size)
                .dword(11, u32::from(id) << 16 | 3),
        );
        self.admin_ok(
            Command::new(0x01)
                .prp(queue.sq, 0)
                .dword(10, size)
                .dword(11, u32::from(id) << 16 | 1),
        );
        queue
    }

    /// Enables MSI-X (index 2) or MSI (1), with an eventfd a vector.
    pub(crate) fn enable_interrupts(&self, index: u32, vectors: u32) -> Vec<OwnedFd> {
        let new = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let events: Vec<OwnedFd> = (0..vectors).map(|_| new()).collect();
        let given = events
            .iter()
            .map(|event| Some(event.try_clone().unwrap()))
            .collect();
        let request = SetIrqs {
            index,
            start: 0,
            count: vectors,
            action: IrqAction::Trigger,
            data: IrqData::EventFd(given),
        };
        self.device.set_irqs(request).unwrap();
        events
    }
}

/// How often an eventfd was signalled since it was last asked.
pub(crate) fn signals(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

impl Queue {
    pub(crate) fn nowhere() -> Self {
        Self::at(0, 0, 0, 2)
    }

    pub(crate) fn at(id: u16, sq: u64, cq: u64, entries: u32) -> Self {
        Self {
            id,
            sq,
            cq,
            entries,
            tail: 0,
            head: 0,
            phase: true,
            next_cid: 0x100,
            shadow: None,
        }
    }
}

/// MSI instead of MSI-X.
pub(crate) fn with_msi(messages: u8) -> Config {
    Config {
        interrupts: InterruptConfig::Msi { messages },
        ..config()
    }
}

pub(crate) fn read_command(nsid: u32, start: u64, count: u32, prp1: u64, prp2: u64) -> Command {
    Command::new(0x02).nsid(nsid).prp(prp1, prp2).blocks(start, count)
}

pub(crate) fn write_command(nsid: u32, start: u64, count: u32, prp1: u64, prp2: u64) -> Command {
    Command::new(0x01).nsid(nsid).prp(prp1, prp2).blocks(start, count)
}
