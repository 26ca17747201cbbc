//! One command of a client's: what is checked of it, and what carries it out.

use uvfio_core::VirtualDevice;
use zerocopy::FromBytes;

use super::reply::Reply;
use super::{Limits, Session, regions};
use crate::error::Refusal;
use crate::message::Command;
use crate::transport::Descriptors;

/// What serves a command: its payload, its descriptors, and the reply to fill.
pub(super) struct Request<'a> {
    pub(super) device: &'a VirtualDevice,
    pub(super) limits: &'a Limits,
    pub(super) session: &'a Session,
    pub(super) command: Command,
    pub(super) payload: &'a [u8],
    pub(super) fds: Descriptors,
    pub(super) reply: &'a mut Reply,
}

impl Request<'_> {
    /// The payload's fixed part and the rest.
    pub(super) fn read<T: FromBytes>(&self, rule: &'static str) -> Result<(T, &[u8]), Refusal> {
        T::read_from_prefix(self.payload).map_err(|_| self.wrong_length(rule))
    }

    pub(super) fn wrong_length(&self, rule: &'static str) -> Refusal {
        Refusal::length(self.command, self.payload, rule)
    }

    pub(super) fn field(&self, field: &'static str, value: impl Into<u64>, rule: &'static str) -> Refusal {
        Refusal::field(self.command, field, value, rule)
    }

    /// Checks the field that says how long a reply may be, or how long the request is.
    pub(super) fn check_argsz(&self, argsz: u32, least: usize, rule: &'static str) -> Result<(), Refusal> {
        if (argsz as usize) < least {
            Err(self.field("argsz", argsz, rule))
        } else {
            Ok(())
        }
    }

    /// Does what the command asks, and fills the reply.
    pub(super) fn carry_out(mut self) -> Result<(), Refusal> {
        match self.command {
            Command::Version => Err(Refusal::VersionAgain),
            Command::DmaMap => self.dma_map(),
            Command::DmaUnmap => self.dma_unmap(),
            Command::GetInfo => self.get_info(),
            Command::GetRegionInfo => self.get_region_info(),
            Command::GetRegionIoFds => self.get_region_io_fds(),
            Command::GetIrqInfo => self.get_irq_info(),
            Command::SetIrqs => self.set_irqs(),
            Command::RegionRead => regions::read(self.device, self.limits, self.payload, self.reply),
            Command::RegionWrite => regions::write(self.device, self.limits, self.payload, self.reply),
            Command::RegionWriteMulti => self.region_write_multi(),
            Command::Reset => self.reset(),
            Command::Feature => self.feature(),
            Command::DmaRead | Command::DmaWrite => Err(Refusal::WrongWay(self.command)),
            Command::MigrationRead | Command::MigrationWrite => Err(Refusal::NoMigration(self.command)),
        }
    }

    #[inline(never)]
    fn reset(&mut self) -> Result<(), Refusal> {
        if !self.payload.is_empty() {
            return Err(self.wrong_length("a reset has none"));
        }
        if !self.device.resettable() {
            return Err(Refusal::NotResettable);
        }
        // Under way counts as done for the client: the model answers it until the device is back.
        self.device.reset(self.limits.reset_patience)?;
        Ok(())
    }
}
