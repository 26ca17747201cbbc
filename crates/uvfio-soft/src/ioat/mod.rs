//! Intel's DMA engine (I/OAT, QuickData, CBDMA) as it is in Sky Lake servers: 8086:2021, version 3.3.
//!
//! Drivers put 64-byte descriptors in memory, chained by address, and ring DMACOUNT with their number; the device
//! copies or fills, and writes the address of the last completed one to memory. Linux's `ioatdma` and DPDK's
//! `dma_ioat` run on it.
//!
//! What differs:
//!
//! | | Intel's | here |
//! |---|---|---|
//! | channels | 1 a function | 1 to 8 |
//! | descriptors | copy, fill, XOR, P+Q, DIF, by generation | copy and fill; others end the chain with a control error |
//! | direct cache access, interrupt delay, priorities | yes | the registers read 0 |
//! | CHANERR_INT in configuration space | logs errors again | reads 0 |
//! | FLR | no | yes |
//! | CHAINADDR while a chain runs | undefined | ignored |
//!
//! Each channel works on a thread of its own, never on the one that carries register accesses.

mod ahead;
mod channel;
mod descriptor;
mod engine;
mod map;
mod registers;

use std::sync::Arc;

use uvfio_core::{Device, DeviceError, Host, Width};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Extended, Identity, ResetKind};

pub use descriptor::{
    DESCRIPTOR_BYTES, DESCRIPTOR_COMPLETION, DESCRIPTOR_INTERRUPT, DESCRIPTOR_NULL, OPERATION_COPY,
    OPERATION_FILL,
};
use engine::Engine;
pub use map::{
    BAR_BYTES, CAPABILITY, CHANNEL_BYTES, COMMAND_RESET, COMMAND_SUSPEND, CONTROL_ANY_ERROR_ABORTS,
    CONTROL_ERROR_COMPLETION, CONTROL_ERROR_INTERRUPT, CONTROL_IN_USE, CONTROL_INTERRUPT_DISABLED,
    ChannelReg, DeviceReg, ERROR_CHAIN_ADDRESS, ERROR_COMMAND, ERROR_COMPLETION_ADDRESS,
    ERROR_DESCRIPTOR_CONTROL, ERROR_DESTINATION_ADDRESS, ERROR_LENGTH, ERROR_NEXT_ADDRESS,
    ERROR_NEXT_ALIGNMENT, ERROR_READ_DATA, ERROR_SOURCE_ADDRESS, ERROR_WRITE_DATA, INTERRUPT_ASSERTED,
    INTERRUPT_MASTER, INTERRUPT_STATUS, INTERRUPT_VECTORS, MSIX_PBA_AT, MSIX_TABLE_AT, STATE_ACTIVE,
    STATE_ARMED, STATE_HALTED, STATE_IDLE, STATE_MASK, STATE_SUSPENDED, TRANSFER_CAPACITY, VERSION,
};

/// The most channels that an [`Ioat`] can have.
pub const MAX_CHANNELS: u8 = 8;

/// What can be chosen about an [`Ioat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Channels, 1 to [`MAX_CHANNELS`], each with a thread and an MSI-X vector.
    pub channels: u8,
}

impl Default for Config {
    /// One channel, as a function of Intel's has.
    fn default() -> Self {
        Self { channels: 1 }
    }
}

/// The DMA engine.
#[derive(Debug)]
pub struct Ioat {
    engine: Engine,
    capabilities: [Capability<'static>; 3],
}

const NAME: &str = "ioat";

impl Ioat {
    /// Makes one, with its threads.
    ///
    /// # Errors
    /// Where the number of channels is not possible, or a thread can't be started.
    pub fn new(config: Config) -> Result<Arc<Self>, DeviceError> {
        let error = |what| DeviceError { device: NAME, what };
        if !(1..=MAX_CHANNELS).contains(&config.channels) {
            return Err(error(format!(
                "{} channels are not possible; give it 1 to {MAX_CHANNELS}",
                config.channels
            )));
        }
        let engine = Engine::start(config.channels).map_err(|e| {
            error(format!(
                "its threads could not be started ({e}); raise the limit on threads and start again"
            ))
        })?;
        let span = |offset| BarSpan { bar: 0, offset };
        let capabilities = [
            Capability::MsiX {
                vectors: config.channels.into(),
                table: span(MSIX_TABLE_AT),
                pba: span(MSIX_PBA_AT),
            },
            Capability::Express {
                flr: true,
                integrated: false,
            },
            Capability::PowerManagement { no_soft_reset: true },
        ];
        Ok(Arc::new(Self { engine, capabilities }))
    }
}

impl Device for Ioat {
    fn name(&self) -> &'static str {
        NAME
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory64 {
            bytes: BAR_BYTES,
            prefetchable: false,
        };
        Blueprint {
            identity: Identity {
                vendor: 0x8086,
                device: 0x2021,
                revision: 0x04,
                class: [0x08, 0x80, 0x00],
                subsystem_vendor: 0x8086,
                subsystem: 0x0000,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &self.capabilities,
            extended: &[Extended::Aer],
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

    fn bus_master_changed(&self, on: bool) {
        if on {
            self.engine.bus_master_on();
        }
    }
}
