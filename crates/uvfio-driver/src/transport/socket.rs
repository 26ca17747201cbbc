//! vfio-user, over a UNIX socket: `uvfio serve`, or anybody's server.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use uvfio_proto::message::{DmaMapFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientError};

use super::{IrqKind, Owner, Region, Transport};
use crate::{DriverError, Result};

/// A connection to a vfio-user server.
pub struct Socket {
    client: Client,
}

impl Socket {
    /// Connects to the server that listens at `path`.
    ///
    /// # Errors
    /// Where there is none, or it speaks no version in common.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            client: Client::connect(path.as_ref()).map_err(because("connecting"))?,
        })
    }

    /// Uses a socket that is connected already.
    ///
    /// # Errors
    /// Where the server speaks no version in common.
    pub fn over(stream: UnixStream) -> Result<Self> {
        Ok(Self {
            client: Client::new(stream).map_err(because("connecting"))?,
        })
    }

    /// Waits at most this long for each answer from now on; half a minute until then. Not zero.
    ///
    /// # Errors
    /// The system's.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        self.client
            .set_patience(patience)
            .map_err(because("setting a time-out"))
    }
}

fn because(what: &'static str) -> impl Fn(ClientError) -> DriverError {
    move |error| match error {
        ClientError::Refused { errno, .. } => DriverError::Refused {
            what,
            why: errno.to_string(),
            errno: i32::try_from(errno.0).unwrap_or_default(),
        },
        ClientError::Closed => DriverError::Closed { what },
        ClientError::TimedOut { patience, .. } => DriverError::TimedOut { what, patience },
        ClientError::Io(source) => DriverError::System { what, source },
        error @ (ClientError::Protocol { .. }
        | ClientError::Version(_)
        | ClientError::Receive(_)
        | ClientError::Caller { .. }) => DriverError::Protocol {
            what,
            why: error.to_string(),
        },
    }
}

impl Transport for Socket {
    fn resettable(&mut self) -> Result<bool> {
        Ok(self
            .client
            .info()
            .map_err(because("what the device is"))?
            .resettable)
    }

    fn region(&mut self, index: u32) -> Result<Region> {
        let region = self.client.region_info(index).map_err(because("a region"))?;
        Ok(Region {
            bytes: region.bytes,
            mappable: region
                .areas
                .iter()
                .map(|area| (area.offset, area.bytes))
                .collect(),
            owner: region.memory.as_ref().map(Owner::of).unwrap_or_default(),
            memory: region.memory,
            file_offset: region.offset,
        })
    }

    fn vectors(&mut self, kind: IrqKind) -> Result<u32> {
        let info = self
            .client
            .irq_info(kind as u32)
            .map_err(because("a kind of interrupt"))?;
        Ok(info.count)
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        self.client.read(region, offset, data).map_err(because("a read"))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.client
            .write(region, offset, data)
            .map_err(because("a write"))
    }

    fn write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.client
            .write_posted(region, offset, data)
            .map_err(because("a posted write"))
    }

    fn enable_vectors(&mut self, kind: IrqKind, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.client
            .set_eventfds(kind as u32, SetIrqsFlags::TRIGGER, 0, eventfds)
            .map_err(because("interrupts"))
    }

    fn disable_vectors(&mut self, kind: IrqKind) -> Result<()> {
        let flags = SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER;
        self.client
            .set_irqs(kind as u32, flags, 0, 0, &[])
            .map_err(because("disabling interrupts"))
    }

    fn mask_intx(&mut self, masked: bool) -> Result<()> {
        let action = if masked {
            SetIrqsFlags::MASK
        } else {
            SetIrqsFlags::UNMASK
        };
        self.client
            .set_irqs(IrqKind::Intx as u32, SetIrqsFlags::NONE | action, 0, 1, &[])
            .map_err(because("masking INTx"))
    }

    fn map(&mut self, iova: u64, bytes: u64, file: BorrowedFd<'_>) -> Result<()> {
        self.client
            .dma_map(
                iova,
                bytes,
                DmaMapFlags::READ | DmaMapFlags::WRITE,
                Some((file, 0)),
            )
            .map_err(because("a DMA mapping"))
    }

    fn unmap(&mut self, iova: u64, bytes: u64) -> Result<()> {
        self.client
            .dma_unmap(iova, bytes)
            .map_err(because("a DMA unmapping"))
    }

    fn reset(&mut self) -> Result<()> {
        self.client.reset().map_err(because("a reset"))
    }

    fn usable_iova(&mut self) -> Result<Option<Vec<(u64, u64)>>> {
        let ranges = self
            .client
            .iova_ranges()
            .map_err(because("the usable ranges of IOVAs"))?;
        Ok(ranges.map(|ranges| ranges.iter().map(|range| (range.first, range.last)).collect()))
    }
}
