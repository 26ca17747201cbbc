//! A user of a virtual device: its memory, its interrupts, and its patience.
#![allow(dead_code, clippy::expect_used)] // Each test file uses a part; a test whose ground gives way has failed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{
    Backing, Device, DmaAccess, DmaError, DmaMap, DmaMessages, DmaTicket, IrqAction, IrqData, IrqIndex,
    Policy, SetIrqs, VirtualDevice, region_index::CONFIG,
};

#[path = "../../../uvfio-core/tests/common/contested.rs"]
pub(crate) mod contested;
pub(crate) mod ioat;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const MEMORY_BYTES: u64 = 1 << 20;
pub(crate) const IOVA: u64 = 0x10_0000;

/// A user and its memory.
pub(crate) struct User {
    pub(crate) device: Arc<VirtualDevice>,
    pub(crate) memory: File,
}

impl User {
    /// A user with BAR 0 placed, memory and bus master on, and memory that is not mapped yet.
    pub(crate) fn new(device: Arc<dyn Device>, messages: Option<Arc<dyn DmaMessages>>) -> Self {
        let device = VirtualDevice::new(device, &Policy::default()).expect("a virtual device");
        let memory = rustix::fs::memfd_create("user", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .expect("a memfd");
        rustix::fs::ftruncate(&memory, MEMORY_BYTES).expect("its size");
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).expect("its seal");
        let user = Self {
            device,
            memory: memory.into(),
        };
        user.arrive(messages);
        user
    }

    /// A user comes.
    pub(crate) fn arrive(&self, messages: Option<Arc<dyn DmaMessages>>) {
        self.device.attach(messages);
        self.config(0x10, &0xfea0_0000_u32.to_le_bytes());
        self.config(0x04, &[0x06, 0x00]);
    }

    /// Maps the memory's first `bytes` at `iova`.
    pub(crate) fn map(&self, iova: u64, bytes: u64) {
        let file = self.memory.as_fd().try_clone_to_owned().expect("a duplicate");
        self.map_to(iova, bytes, Some(Backing { file, offset: 0 }));
    }

    /// Maps what is reached by message.
    pub(crate) fn map_by_message(&self, iova: u64, bytes: u64) {
        self.map_to(iova, bytes, None);
    }

    fn map_to(&self, iova: u64, bytes: u64, backing: Option<Backing>) {
        let map = DmaMap {
            iova,
            bytes,
            access: DmaAccess::all(),
            backing,
        };
        self.device.dma_map(map).expect("mapped");
    }

    pub(crate) fn config(&self, offset: u64, data: &[u8]) {
        self.device
            .write(CONFIG, offset, data)
            .expect("configuration space is written");
    }

    /// Attaches `count` eventfds to vectors 0.. of an index.
    pub(crate) fn enable(&self, index: IrqIndex, count: u32) -> Vec<OwnedFd> {
        let fds: Vec<OwnedFd> = (0..count)
            .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"))
            .collect();
        self.give(index, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        fds
    }

    /// Attaches these eventfds to vectors 0.. of an index.
    pub(crate) fn give(&self, index: IrqIndex, fds: &[BorrowedFd<'_>]) {
        let given = fds
            .iter()
            .map(|fd| Some(fd.try_clone_to_owned().expect("a duplicate")))
            .collect();
        let request = SetIrqs {
            index: index as u32,
            start: 0,
            count: fds.len() as u32,
            action: IrqAction::Trigger,
            data: IrqData::EventFd(given),
        };
        self.device.set_irqs(request).expect("interrupts are enabled");
    }

    pub(crate) fn unmask_intx(&self) {
        let request = SetIrqs {
            index: IrqIndex::Intx as u32,
            start: 0,
            count: 1,
            action: IrqAction::Unmask,
            data: IrqData::None,
        };
        self.device.set_irqs(request).expect("INTx is unmasked");
    }

    pub(crate) fn memory(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory
            .read_exact_at(&mut data, offset)
            .expect("memory is read");
        data
    }
}

#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < late, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How often an eventfd was signalled since the last time.
pub(crate) fn taken(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

#[track_caller]
pub(crate) fn arrives(fds: &[OwnedFd], vector: usize) {
    let mut counts = vec![0; fds.len()];
    until(&format!("vector {vector} arrives"), || {
        for (count, fd) in counts.iter_mut().zip(fds) {
            *count += taken(fd);
        }
        counts.iter().any(|n| *n > 0)
    });
    let expected: Vec<u64> = (0..fds.len()).map(|n| u64::from(n == vector)).collect();
    assert_eq!(counts, expected, "interrupts that arrived, by vector");
}

/// A user who never answers.
#[derive(Debug, Default)]
pub(crate) struct Silent {
    pub(crate) asked: AtomicBool,
    abandoned: Mutex<bool>,
    changed: Condvar,
}

impl Silent {
    fn wait(&self, iova: u64) -> DmaError {
        let mut abandoned = self.abandoned.lock().expect("not poisoned");
        self.asked.store(true, Ordering::SeqCst);
        while !*abandoned {
            abandoned = self.changed.wait(abandoned).expect("not poisoned");
        }
        *abandoned = false;
        DmaError::Message {
            iova,
            why: "abandoned",
        }
    }
}

impl DmaMessages for Silent {
    fn read(&self, _ticket: DmaTicket, iova: u64, _data: &mut [u8]) -> Result<(), DmaError> {
        Err(self.wait(iova))
    }

    fn write(&self, _ticket: DmaTicket, iova: u64, _data: &[u8]) -> Result<(), DmaError> {
        Err(self.wait(iova))
    }

    fn abandon(&self) {
        if self.asked.swap(false, Ordering::SeqCst) {
            *self.abandoned.lock().expect("not poisoned") = true;
            self.changed.notify_all();
        }
    }
}
