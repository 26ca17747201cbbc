//! Descriptors and registers of the DMA engine of a user who may say anything.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{Backing, DmaAccess, DmaMap, Policy, VirtualDevice, region_index};
use uvfio_soft::ioat::{
    COMMAND_RESET, ChannelReg, Config, DESCRIPTOR_COMPLETION, Ioat, STATE_HALTED, STATE_IDLE,
};

use super::bytes::Bytes;

const MEMORY: u64 = 0x1_0000_0000;
const MEMORY_BYTES: u64 = 1 << 18;
const DESCRIPTORS: u64 = 16;
const CHANNELS: u8 = 2;

/// What never comes ends the run as a finding.
const PATIENCE: Duration = Duration::from_secs(20);

struct Machine {
    device: Arc<VirtualDevice>,
    memory: File,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let ioat = Ioat::new(Config { channels: CHANNELS }).expect("ioat");
        let device = VirtualDevice::new(ioat, &Policy::default()).expect("a device");
        device.attach(None);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory: File = rustix::fs::memfd_create("user", flags).expect("a memfd").into();
        rustix::fs::ftruncate(&memory, MEMORY_BYTES).expect("its size");
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).expect("its seals");
        let map = DmaMap {
            iova: MEMORY,
            bytes: MEMORY_BYTES,
            access: DmaAccess::READ | DmaAccess::WRITE,
            backing: Some(Backing {
                file: memory.try_clone().expect("a descriptor").into(),
                offset: 0,
            }),
        };
        device.dma_map(map).expect("a mapping");
        Machine { device, memory }
    })
}

impl Machine {
    fn write(&self, offset: u64, bytes: &[u8]) {
        self.device.write(0, offset, bytes).expect("a register");
    }

    fn status(&self, channel: u8) -> u64 {
        let mut bytes = [0; 8];
        let offset = ChannelReg::Status.offset(channel);
        self.device.read(0, offset, &mut bytes).expect("CHANSTS");
        u64::from_le_bytes(bytes)
    }

    fn describe(&self, place: u64, descriptor: &[u8; 64]) {
        self.memory.write_all_at(descriptor, place * 64).expect("memory");
    }

    /// Rings a chain that begins at the first descriptor.
    fn begin(&self, channel: u8, count: u16) {
        let completion = MEMORY + MEMORY_BYTES - 64;
        self.write(
            ChannelReg::CompletionAddress.offset(channel),
            &completion.to_le_bytes(),
        );
        self.write(ChannelReg::ChainAddress.offset(channel), &MEMORY.to_le_bytes());
        self.write(ChannelReg::Count.offset(channel), &count.to_le_bytes());
    }
}

fn descriptor(words: [u64; 4]) -> [u8; 64] {
    let mut descriptor = [0; 64];
    for (to, word) in descriptor.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    descriptor
}

/// A descriptor of the user's: its size and control as they come, with small addresses in memory.
fn any_descriptor(data: &mut Bytes<'_>) -> [u8; 64] {
    let first = data.u64();
    let address = |address: u64| {
        if address < 1 << 32 {
            MEMORY + address % MEMORY_BYTES
        } else {
            address
        }
    };
    let (source, destination) = (address(data.u64()), address(data.u64()));
    let next = match data.u8() {
        255 => data.u64(),
        place => MEMORY + u64::from(place) % DESCRIPTORS * 64,
    };
    descriptor([first, source, destination, next])
}

/// Carries out what the bytes say; afterwards the device can be reset, and each channel copies.
pub fn run(data: &[u8]) {
    let mut data = Bytes(data);
    let machine = machine();
    machine
        .device
        .write(region_index::CONFIG, 4, &6_u16.to_le_bytes())
        .expect("COMMAND");
    for _ in 0..64 {
        if !data.more() {
            break;
        }
        let what = data.u8();
        let channel = what >> 7;
        match what % 8 {
            0..=3 => machine.describe(u64::from(data.u8()) % DESCRIPTORS, &any_descriptor(&mut data)),
            4 => machine.begin(channel, data.u16()),
            5 => machine.write(ChannelReg::Command.offset(channel), &[data.u8()]),
            6 => {
                let offset = u64::from(data.u8()) * 4;
                machine.write(offset, &data.u32().to_le_bytes());
            }
            _ => {
                let mut bytes = [0; 4];
                let offset = u64::from(data.u8()) * 4;
                machine.device.read(0, offset, &mut bytes).expect("a register");
            }
        }
    }
    machine.device.reset(PATIENCE).expect("a reset");
    for channel in 0..CHANNELS {
        assert_eq!(machine.status(channel), STATE_HALTED, "CHANSTS after the reset");
        let control = u64::from(DESCRIPTOR_COMPLETION) << 32;
        let (from, to) = (MEMORY + 0x1000, MEMORY + 0x2000);
        machine.describe(0, &descriptor([control | 0x1000, from, to, MEMORY]));
        machine.begin(channel, 1);
        let late = Instant::now() + PATIENCE;
        while machine.status(channel) != MEMORY | STATE_IDLE {
            let status = machine.status(channel);
            assert!(
                Instant::now() < late,
                "a copy does not end; CHANSTS is {status:#x}"
            );
            std::thread::yield_now();
        }
        let page = |at| {
            let mut page = [0; 0x1000];
            machine.memory.read_exact_at(&mut page, at).expect("memory");
            page
        };
        assert!(page(0x1000) == page(0x2000), "what was copied");
        machine.write(ChannelReg::Command.offset(channel), &[COMMAND_RESET]);
    }
}
