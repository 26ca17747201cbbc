//! A program that calls: this process, with descriptors of its own numbering.
#![allow(dead_code)] // Each test uses what it needs.

pub(crate) mod odd;
pub(crate) mod sys;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use uvfio_core::{Allowed, Device, Policy, SharedMapping, VirtualDevice};
use uvfio_nvme::Nvme;
use uvfio_soft::edu::Edu;
use uvfio_uapi::{Account, Answer, Caller, CountedBy, FileId, Function, Given, Node, ProcessMemory, Uapi};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An address where there is no memory.
pub(crate) const NOWHERE: u64 = 16;

/// Memory of this process, outside of Rust's.
pub(crate) struct Memory(SharedMapping);

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let file = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(bytes).expect("its size");
        Self(SharedMapping::new(file.as_fd(), 0, bytes, Allowed::ALL).expect("mapped"))
    }

    pub(crate) fn address(&self) -> u64 {
        self.0.address(0, 1).expect("it has a byte")
    }

    pub(crate) fn put(&self, at: u64, data: &[u8]) {
        self.0.copy_in(at, data).expect("within the memory");
    }

    pub(crate) fn get(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.0.copy_out(at, &mut data).expect("within the memory");
        data
    }
}

/// This process' memory, as another would reach it.
#[derive(Debug)]
pub(crate) struct Own {
    mem: File,
    lockable: AtomicU64,
    locked: Arc<AtomicU64>,
    keeps: AtomicBool,
}

/// Memory as it was when it was mapped.
#[derive(Debug)]
struct Kept {
    address: u64,
    bytes: Vec<u8>,
}

impl ProcessMemory for Kept {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        let at = (address - self.address) as usize;
        data.copy_from_slice(&self.bytes[at..at + data.len()]);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }
}

impl ProcessMemory for Own {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.mem.read_exact_at(data, address).map_err(|_| Errno::FAULT)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        self.mem.write_all_at(data, address).map_err(|_| Errno::FAULT)
    }

    fn kept(&self, address: u64, bytes: u64) -> Option<Arc<dyn ProcessMemory>> {
        if !self.keeps.load(Ordering::Relaxed) {
            return None;
        }
        let mut data = vec![0; bytes as usize];
        self.read(address, &mut data).ok()?;
        Some(Arc::new(Kept { address, bytes: data }))
    }

    fn account(&self, _: CountedBy) -> Option<Account> {
        Some(Account {
            locked: Arc::clone(&self.locked),
            limit: self.lockable.load(Ordering::Relaxed),
        })
    }
}

enum Held {
    Ours(FileId),
    Other(OwnedFd),
}

thread_local! {
    /// Where a thread's arguments stand.
    static ARENA: Memory = Memory::new(1 << 16);
}

/// The program.
pub(crate) struct Program {
    pub(crate) uapi: Arc<Uapi>,
    pub(crate) devices: Vec<Arc<VirtualDevice>>,
    own: Arc<Own>,
    held: Mutex<HashMap<i32, Held>>,
    next: AtomicI32,
    pub(crate) traps: bool,
}

/// Which devices there are.
pub(crate) enum Kind {
    Edu,
    /// With one namespace of 1 MiB in blocks of 512 bytes.
    Nvme,
    Odd,
    /// As [`Odd`](Self::Odd), with no way to reset it.
    OddWithoutReset,
    Given(Arc<dyn Device>),
}

impl Kind {
    fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Edu => Edu::new(uvfio_soft::edu::Config::default()).expect("edu's thread starts"),
            Self::Nvme => {
                let namespace = uvfio_nvme::NamespaceConfig {
                    backend: uvfio_nvme::BackendConfig::Memory(1 << 20),
                    block: 512,
                    read_only: false,
                };
                Nvme::new(uvfio_nvme::Config::new("uapi", vec![namespace])).expect("the controller starts")
            }
            Self::Odd => odd::Odd::new(),
            Self::OddWithoutReset => odd::Odd::without_reset(),
            Self::Given(device) => Arc::clone(device),
        }
    }
}

impl Program {
    /// With functions (address, group, what it is).
    pub(crate) fn with(functions: &[(&str, u32, Kind)]) -> Self {
        let mut devices = Vec::new();
        let functions = functions
            .iter()
            .map(|(address, group, kind)| {
                let device = VirtualDevice::new(kind.device(), &Policy::default()).expect("a virtual device");
                devices.push(Arc::clone(&device));
                Function {
                    address: (*address).to_owned(),
                    group: *group,
                    device,
                }
            })
            .collect();
        Self {
            uapi: Uapi::new(functions),
            devices,
            own: Arc::new(Own {
                mem: File::options()
                    .read(true)
                    .write(true)
                    .open("/proc/self/mem")
                    .expect("/proc/self/mem"),
                lockable: AtomicU64::new(u64::MAX),
                locked: Arc::default(),
                keeps: AtomicBool::new(false),
            }),
            held: Mutex::default(),
            next: AtomicI32::new(100),
            traps: false,
        }
    }

    /// With an edu at 0000:01:00.0 in group 7.
    pub(crate) fn edu() -> Self {
        Self::with(&[("0000:01:00.0", 7, Kind::Edu)])
    }

    /// How many hold this process' memory.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.own)
    }

    pub(crate) fn limit_locked_memory(&self, bytes: u64) {
        self.own.lockable.store(bytes, Ordering::Relaxed);
    }

    /// What is mapped from now on stays what it is then.
    pub(crate) fn keep_memory(&self) {
        self.own.keeps.store(true, Ordering::Relaxed);
    }

    /// Bytes that count as locked.
    pub(crate) fn locked_memory(&self) -> u64 {
        self.own.locked.load(Ordering::Relaxed)
    }

    /// Closes a file as if another thread did, after its number was looked up.
    pub(crate) fn close_behind(&self, number: i32) {
        self.uapi.close(self.file(number));
    }

    fn hold(&self, held: Held) -> i32 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.held
            .lock()
            .expect("no test thread panicked")
            .insert(number, held);
        number
    }

    /// A descriptor for something else.
    pub(crate) fn give(&self, file: OwnedFd) -> i32 {
        self.hold(Held::Other(file))
    }

    /// An eventfd, and its descriptor.
    pub(crate) fn eventfd(&self) -> (OwnedFd, i32) {
        let own = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        let number = self.give(own.try_clone().expect("a duplicate"));
        (own, number)
    }

    pub(crate) fn try_open(&self, node: Node) -> Result<i32, Errno> {
        self.uapi.open(node).map(|file| self.hold(Held::Ours(file)))
    }

    pub(crate) fn open(&self, node: Node) -> i32 {
        self.try_open(node).expect("the node opens")
    }

    pub(crate) fn file(&self, number: i32) -> FileId {
        match self.held.lock().expect("no test thread panicked").get(&number) {
            Some(Held::Ours(file)) => *file,
            _ => panic!("descriptor {number} is not a file of the interface"),
        }
    }

    pub(crate) fn close(&self, number: i32) {
        let held = self.held.lock().expect("no test thread panicked").remove(&number);
        if let Some(Held::Ours(file)) = held {
            self.uapi.close(file);
        }
    }

    /// An ioctl with a number, or with an address as such.
    pub(crate) fn ioctl_value(&self, number: i32, request: u32, argument: u64) -> Result<i32, Errno> {
        match self.uapi.ioctl(self.file(number), request, argument, self)? {
            Answer::Value(value) => Ok(value),
            Answer::Descriptor { file, close_on_exec } => {
                assert!(
                    close_on_exec,
                    "the kernel's descriptors of devices are closed on exec"
                );
                Ok(self.hold(Held::Ours(file)))
            }
        }
    }

    /// An ioctl with a structure; it holds the answer afterwards.
    pub(crate) fn ioctl(&self, number: i32, request: u32, argument: &mut [u8]) -> Result<i32, Errno> {
        ARENA.with(|arena| {
            arena.put(0, argument);
            let result = self.ioctl_value(number, request, arena.address());
            argument.copy_from_slice(&arena.get(0, argument.len()));
            result
        })
    }

    /// A container with group `group` in it and the IOMMU `kind`; (container, group).
    pub(crate) fn container(&self, group: u32, kind: u64) -> (i32, i32) {
        let container = self.open(Node::Container);
        let group = self.open(Node::Group(group));
        self.set_container(group, container)
            .expect("the group goes into the container");
        self.ioctl_value(container, sys::SET_IOMMU, kind)
            .expect("the IOMMU is set");
        (container, group)
    }

    pub(crate) fn set_container(&self, group: i32, container: i32) -> Result<i32, Errno> {
        self.ioctl(group, sys::GROUP_SET_CONTAINER, &mut container.to_ne_bytes())
    }

    pub(crate) fn device_fd(&self, group: i32, name: &str) -> Result<i32, Errno> {
        let mut name = name.as_bytes().to_vec();
        name.push(0);
        self.ioctl(group, sys::GROUP_GET_DEVICE_FD, &mut name)
    }

    /// Container, group and device of the only function of group 7.
    pub(crate) fn opened(&self) -> (i32, i32, i32) {
        let (container, group) = self.container(7, sys::TYPE1V2);
        let device = self.device_fd(group, "0000:01:00.0").expect("the device opens");
        (container, group, device)
    }

    pub(crate) fn map(
        &self,
        container: i32,
        iova: u64,
        address: u64,
        bytes: u64,
        flags: u32,
    ) -> Result<i32, Errno> {
        self.ioctl(
            container,
            sys::MAP_DMA,
            &mut sys::map(flags, address, iova, bytes),
        )
    }

    /// Unmaps; how many bytes.
    pub(crate) fn unmap(&self, container: i32, iova: u64, bytes: u64, flags: u32) -> Result<u64, Errno> {
        let mut argument = sys::unmap(flags, iova, bytes);
        self.ioctl(container, sys::UNMAP_DMA, &mut argument)?;
        Ok(sys::u64_at(&argument, 16))
    }

    pub(crate) fn read(&self, device: i32, region: u64, at: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; bytes];
        let n = self.uapi.read(self.file(device), region << 40 | at, &mut data)?;
        data.truncate(n);
        Ok(data)
    }

    pub(crate) fn write(&self, device: i32, region: u64, at: u64, data: &[u8]) -> Result<usize, Errno> {
        self.uapi.write(self.file(device), region << 40 | at, data)
    }

    pub(crate) fn read_u32(&self, device: i32, region: u64, at: u64) -> u32 {
        sys::u32_at(&self.read(device, region, at, 4).expect("read"), 0)
    }

    pub(crate) fn config_u16(&self, device: i32, at: u64) -> u16 {
        let data = self.read(device, 7, at, 2).expect("configuration space is read");
        u16::from_le_bytes([data[0], data[1]])
    }

    /// SET_IRQS with eventfds.
    pub(crate) fn set_eventfds(
        &self,
        device: i32,
        index: u32,
        start: u32,
        numbers: &[i32],
    ) -> Result<i32, Errno> {
        let mut argument = sys::irq_set(sys::TRIGGER | sys::EVENTFD, index, start, numbers.len() as u32);
        argument.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        sys::seal(&mut argument);
        self.ioctl(device, sys::SET_IRQS, &mut argument)
    }
}

impl Caller for Program {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.own.read(address, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        self.own.write(address, data)
    }

    fn descriptor(&self, number: i32) -> Result<Given, Errno> {
        match self.held.lock().expect("no test thread panicked").get(&number) {
            Some(Held::Ours(file)) => Ok(Given::Ours(*file)),
            Some(Held::Other(file)) => Ok(Given::Other(file.try_clone().expect("a duplicate"))),
            None => Err(Errno::BADF),
        }
    }

    fn memory(&self) -> Arc<dyn ProcessMemory> {
        Arc::clone(&self.own) as Arc<dyn ProcessMemory>
    }

    fn can_trap(&self) -> bool {
        self.traps
    }
}

/// What an eventfd holds; it is empty afterwards.
pub(crate) fn count(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(eventfd, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
