//! The educational device: a liveness check, a factorial, interrupts on demand, and a 4 KiB DMA buffer.
//!
//! The programming interface is that of QEMU's `edu` (QEMU, docs/specs/edu.rst), so that a driver written for the
//! one runs on the other. What is the same: identity 1234:11e8, BAR 0 of 1 MiB, every register, the access widths,
//! the rule that nothing about a DMA transfer can be changed while it runs, and that with one message granted every
//! interrupt is that message.
//!
//! What differs:
//!
//! | | QEMU's | here |
//! |---|---|---|
//! | MSI | 1 message | 8 messages: a raise of value v sends message (lowest set bit of v) mod 8 |
//! | other capabilities | none | power management, PCI Express with FLR |
//! | a DMA transfer | starts 100 ms after the command | starts at once |
//! | a transfer outside the buffer | ends the machine | moves nothing, raises nothing, is logged; bit 0 of the command clears |
//! | an access of a width that a register hasn't | differs by path | reads all ones, writes nothing |
//!
//! Factorials and DMA run on a thread of the device's own, never on the one that carries register accesses.

mod engine;
mod registers;

use std::sync::Arc;

use uvfio_core::{Device, DeviceError, Host, Width};
use uvfio_pci::{Bar, Blueprint, Capability, Identity, ResetKind};

use engine::Engine;
pub use registers::{
    BAR_BYTES, BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, COMMAND_INTERRUPT, COMMAND_RUN, INTERRUPT_DMA,
    INTERRUPT_FACTORIAL, Reg, STATUS_COMPUTING, STATUS_INTERRUPT,
};

/// MSI messages that the device can send.
pub const MESSAGES: u8 = 8;

/// What can be chosen about an [`Edu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address bits that the device drives; others are cut off, with a line in the debug log.
    pub dma_mask: u64,
}

impl Default for Config {
    /// 28 bits, as QEMU's.
    fn default() -> Self {
        Self {
            dma_mask: (1 << 28) - 1,
        }
    }
}

/// The educational device.
#[derive(Debug)]
pub struct Edu {
    engine: Engine,
}

impl Edu {
    /// Makes one, with its thread.
    ///
    /// # Errors
    /// Where the thread can't be started.
    pub fn new(config: Config) -> Result<Arc<Self>, DeviceError> {
        let engine = Engine::start(config.dma_mask).map_err(|e| DeviceError {
            device: NAME,
            what: format!(
                "its thread could not be started ({e}); raise the limit on threads and start again"
            ),
        })?;
        Ok(Arc::new(Self { engine }))
    }
}

const NAME: &str = "edu";

impl Device for Edu {
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
                vendor: 0x1234,
                device: 0x11e8,
                revision: 0x10,
                class: [0x00, 0xff, 0x00],
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &[
                Capability::PowerManagement { no_soft_reset: false },
                Capability::Msi {
                    messages: MESSAGES,
                    wide: true,
                    maskable: false,
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
        self.engine.attach(host);
    }

    fn detach(&self) {
        self.engine.detach();
    }

    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        if bar == 0 {
            self.engine.read(offset, width)
        } else {
            0
        }
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        if bar == 0 {
            self.engine.write(offset, width, value);
        }
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        self.engine.reset();
        Ok(())
    }
}
