//! The doorbell device: it counts the stores to one register, and answers them with a message.
//!
//! BAR 0, 8 KiB:
//!
//! | offset | width | name | access | |
//! |---|---|---|---|---|
//! | 0x00 | any | DOORBELL | WO | a store of any value rings it; reads 0 |
//! | 0x04 | 4 | COUNT | RO | how often it was rung since the last reset, modulo 2^32 |
//! | 0x1000 | | | | MSI-X: table, and pending bits at 0x1800; one vector |
//!
//! A message says that COUNT has grown since the one before: several rings may have one in common, and COUNT has them
//! all before it is sent. Nothing about a store matters but that it came about, so it may come by eventfd
//! ([`uvfio_core::Doorbell`]): then a thread of the device's own wakes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use uvfio_core::{Bell, Device, DeviceError, Doorbell, Host, Width};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, ResetKind};

/// DOORBELL's offset in BAR 0.
pub const DOORBELL: u64 = 0x00;
/// COUNT's offset in BAR 0.
pub const COUNT: u64 = 0x04;
/// BAR 0's size, bytes.
pub const BAR_BYTES: u32 = 0x2000;

const NAME: &str = "notify";

/// The doorbell device.
#[derive(Debug, Default)]
pub struct Notify {
    shared: Arc<Shared>,
    user: Mutex<Option<User>>,
}

#[derive(Debug, Default)]
struct Shared {
    count: AtomicU32,
    /// Held from the moment when rings are taken from the eventfd until their message is sent: a reset comes before or
    /// after. Never taken on the front end's thread, since sending may wait for the user.
    taking: Mutex<()>,
}

#[derive(Debug)]
struct User {
    host: Host,
    /// None where the system gave no descriptors or no thread; the doorbell then comes by message only.
    waiter: Option<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl Notify {
    /// Makes one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn user(&self) -> MutexGuard<'_, Option<User>> {
        lock(&self.user)
    }

    fn bell(&self) -> Option<Arc<Bell>> {
        let user = self.user();
        let waiter = user.as_ref()?.waiter.as_ref()?;
        Some(Arc::clone(&waiter.bell))
    }

    fn clear(&self) {
        let bell = self.bell();
        let _between = lock(&self.shared.taking);
        if let Some(bell) = bell {
            let _rung_before = bell.take();
        }
        self.shared.count.store(0, Ordering::SeqCst);
    }

    fn end(&self) {
        let user = self.user().take();
        if let Some(Waiter { bell, thread }) = user.and_then(|user| user.waiter) {
            bell.end();
            // It panics nowhere; if it did, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn rung(&self, times: u64, host: &Host) {
        if times > 0 {
            self.count.fetch_add(times as u32, Ordering::SeqCst);
            host.signal(0);
        }
    }
}

impl Waiter {
    fn start(shared: Arc<Shared>, host: Host) -> std::io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let for_thread = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name(NAME.into())
            .stack_size(64 << 10)
            .spawn(move || {
                while for_thread.wait() {
                    let _between = lock(&shared.taking);
                    shared.rung(for_thread.take(), &host);
                }
            })?;
        Ok(Self { bell, thread })
    }
}

/// Every change under these locks is a plain store, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for Notify {
    fn name(&self) -> &'static str {
        NAME
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory32 {
            bytes: BAR_BYTES,
            prefetchable: false,
        };
        Blueprint {
            identity: Identity {
                vendor: 0xfef0,
                device: 0xbe11,
                revision: 0x01,
                class: [0x00, 0xff, 0x00],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 0,
            },
            bars,
            rom_bytes: 0,
            capabilities: &[
                Capability::PowerManagement { no_soft_reset: false },
                Capability::MsiX {
                    vectors: 1,
                    table: BarSpan {
                        bar: 0,
                        offset: 0x1000,
                    },
                    pba: BarSpan {
                        bar: 0,
                        offset: 0x1800,
                    },
                },
                Capability::Express {
                    flr: true,
                    integrated: false,
                },
            ],
            extended: &[],
        }
    }

    fn attach(&self, host: Host) {
        let waiter = Waiter::start(Arc::clone(&self.shared), host.clone())
            .inspect_err(
                |why| tracing::error!(%why, "notify: its doorbell has no eventfd; it comes by message"),
            )
            .ok();
        *self.user() = Some(User { host, waiter });
    }

    fn detach(&self) {
        self.end();
        self.clear();
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        match (bar, offset, width) {
            (0, COUNT, Width::B4) => self.shared.count.load(Ordering::SeqCst).into(),
            _ => 0,
        }
    }

    fn write(&self, bar: u8, offset: u64, _width: Width, _value: u64) {
        if (bar, offset) == (0, DOORBELL) {
            let host = self.user().as_ref().map(|user| user.host.clone());
            if let Some(host) = host {
                self.shared.rung(1, &host);
            }
        }
    }

    fn doorbells(&self, bar: u8) -> Vec<Doorbell> {
        let bell = self.bell().filter(|_| bar == 0);
        bell.iter()
            .map(|bell| Doorbell {
                offset: DOORBELL,
                width: None,
                value: None,
                eventfd: bell.eventfd(),
            })
            .collect()
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        self.clear();
        Ok(())
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.end();
    }
}
