//! NVMe commands, doorbells and registers of a user who may say anything.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Backing, Device, DmaAccess, DmaMap, Policy, VirtualDevice, region_index};
use uvfio_nvme::{BackendConfig, Config, NamespaceConfig, Nvme};

use super::bytes::Bytes;

const PAGE: u64 = 4096;
/// Memory that commands reach.
const MEMORY: u64 = 0x1_0000_0000;
const MEMORY_BYTES: u64 = 1 << 20;
/// Queues, where commands reach only by chance.
const QUEUES: u64 = 0x5000_0000_0000;
const QUEUE_PAGES: u64 = 8;
const ENTRIES: u32 = 32;

const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const CC_ENABLE: u32 = 4 << 20 | 6 << 16 | 1;

/// What never comes ends the run as a finding.
const PATIENCE: Duration = Duration::from_secs(20);

struct Machine {
    device: Arc<VirtualDevice>,
    memory: File,
    queues: File,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let namespace = NamespaceConfig {
            backend: BackendConfig::Memory(1 << 20),
            block: 512,
            read_only: false,
        };
        let config = Config {
            queues: 4,
            ..Config::new("FUZZ", vec![namespace])
        };
        let nvme: Arc<dyn Device> = Nvme::new(config).expect("nvme");
        let device = VirtualDevice::new(nvme, &Policy::default()).expect("a device");
        device.attach(None);
        let machine = Machine {
            device,
            memory: memory(MEMORY_BYTES),
            queues: memory(QUEUE_PAGES * PAGE),
        };
        for (iova, bytes, file) in [
            (MEMORY, MEMORY_BYTES, &machine.memory),
            (QUEUES, QUEUE_PAGES * PAGE, &machine.queues),
        ] {
            let backing = Backing {
                file: file.try_clone().expect("a descriptor").into(),
                offset: 0,
            };
            let map = DmaMap {
                iova,
                bytes,
                access: DmaAccess::READ | DmaAccess::WRITE,
                backing: Some(backing),
            };
            machine.device.dma_map(map).expect("a mapping");
        }
        machine
    })
}

fn memory(bytes: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("user", flags).expect("a memfd");
    rustix::fs::ftruncate(&file, bytes).expect("its size");
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).expect("its seals");
    file.into()
}

impl Machine {
    fn register(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(0, offset, &mut bytes).expect("a register");
        u32::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, value: u32) {
        self.device
            .write(0, offset, &value.to_le_bytes())
            .expect("a register");
    }

    fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        let late = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < late,
                "{what} does not come; CSTS is {:#x}",
                self.register(CSTS)
            );
            std::thread::yield_now();
        }
    }

    /// From whatever state to enabled, with empty queues.
    fn enable(&self) {
        self.device
            .write(region_index::CONFIG, 4, &6_u16.to_le_bytes())
            .expect("COMMAND");
        self.write(CC, 0);
        self.wait("CSTS.RDY 0", || self.register(CSTS) & 1 == 0);
        let zeros = vec![0; (QUEUE_PAGES * PAGE) as usize];
        self.queues.write_all_at(&zeros, 0).expect("memory");
        self.write(0x24, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        for (register, address) in [(0x28, QUEUES), (0x30, QUEUES + PAGE)] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(CC, CC_ENABLE);
        self.wait("CSTS.RDY 1", || self.register(CSTS) & 1 == 1);
    }

    fn submit(&self, queue: u64, place: u32, command: &[u8; 64]) {
        let at = 2 * queue * PAGE + u64::from(place) * 64;
        self.queues.write_all_at(command, at).expect("memory");
    }

    /// Waits for the completion in a place of the first pass through a queue.
    fn completed(&self, queue: u64, place: u32) -> u16 {
        let at = (2 * queue + 1) * PAGE + u64::from(place) * 16;
        let entry = || {
            let mut entry = [0; 16];
            self.queues.read_exact_at(&mut entry, at).expect("memory");
            entry
        };
        self.wait("a completion", || entry()[14] & 1 == 1);
        let entry = entry();
        u16::from_le_bytes([entry[14], entry[15]]) >> 1
    }
}

fn command(opcode: u8, prp1: u64, dword10: u32, dword11: u32) -> [u8; 64] {
    let mut command = [0; 64];
    command[0] = opcode;
    command[24..32].copy_from_slice(&prp1.to_le_bytes());
    command[40..44].copy_from_slice(&dword10.to_le_bytes());
    command[44..48].copy_from_slice(&dword11.to_le_bytes());
    command
}

/// A command of the user's: its bytes, with small addresses in memory.
fn any_command(data: &mut Bytes<'_>) -> [u8; 64] {
    let mut command = [0; 64];
    let length = usize::from(data.u8()) % 65;
    let bytes = data.take(length);
    command[..bytes.len()].copy_from_slice(bytes);
    for at in [24, 32] {
        let address = u64::from_le_bytes(command[at..at + 8].try_into().expect("eight bytes"));
        if address != 0 && address < 1 << 24 {
            command[at..at + 8].copy_from_slice(&(MEMORY + address % MEMORY_BYTES).to_le_bytes());
        }
    }
    command
}

/// Carries out what the bytes say; afterwards the controller can be enabled again, and identifies itself.
pub fn run(data: &[u8]) {
    let mut data = Bytes(data);
    let machine = machine();
    machine.enable();
    // A pair of queues to begin with.
    machine.submit(
        0,
        0,
        &command(0x05, QUEUES + 3 * PAGE, (ENTRIES - 1) << 16 | 1, 1),
    );
    machine.submit(
        0,
        1,
        &command(0x01, QUEUES + 2 * PAGE, (ENTRIES - 1) << 16 | 1, 1 << 16 | 1),
    );
    machine.write(0x1000, 2);
    for place in 0..2 {
        assert_eq!(
            machine.completed(0, place),
            0,
            "creating the pair of queues, command {place}"
        );
    }
    let mut tails = [2, 0];
    for _ in 0..64 {
        if !data.more() {
            break;
        }
        let what = data.u8();
        match what % 8 {
            0..=4 => {
                let queue = usize::from(what % 8 > 2);
                machine.submit(queue as u64, tails[queue], &any_command(&mut data));
                tails[queue] = (tails[queue] + 1) % ENTRIES;
                if what & 0x80 == 0 {
                    machine.write(0x1000 + 8 * queue as u64, tails[queue]);
                }
            }
            // Completions are taken.
            5 => machine.write(
                0x1004 + 8 * u64::from(what >> 3 & 1),
                u32::from(data.u8()) % ENTRIES,
            ),
            6 => machine.write(0x1000 + 4 * u64::from(data.u8() % 16), data.u32()),
            _ => {
                let register = u64::from(data.u8() % 16) * 4;
                machine.write(register, data.u32());
            }
        }
        let _ = machine.register(CSTS);
    }
    // PRP lists of the next run are what this one left, or these.
    let rest = data.take(4096);
    machine.memory.write_all_at(rest, 0).expect("memory");
    machine.enable();
    let mut identify = command(0x06, MEMORY, 1, 0);
    identify[4] = 0;
    machine.submit(0, 0, &identify);
    machine.write(0x1000, 1);
    assert_eq!(machine.completed(0, 0), 0, "Identify after all that");
}
