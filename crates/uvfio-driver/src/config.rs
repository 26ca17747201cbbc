//! Configuration space: by offset, and by the fields of the tables.

use std::sync::Arc;

use uvfio_pci::tables::{header, power};
use uvfio_pci::{Access, Field, Placed, PowerState, Table};

use crate::bounds::check;
use crate::function::Shared;
use crate::transport::CONFIG_REGION;
use crate::{DriverError, Place, Result, Word};

/// A function's configuration space.
#[derive(Clone)]
pub struct Config {
    shared: Arc<Shared>,
}

/// Where a capability lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityAt {
    /// Byte offset in configuration space.
    pub offset: u16,
    /// Capability ID (8 bits) or extended capability ID (16 bits).
    pub id: u16,
    /// Whether it is of the extended chain.
    pub extended: bool,
    /// The table that describes it; [`uvfio_pci::tables::UNKNOWN`] or its extended sister where there is none.
    pub table: &'static Table,
}

impl Config {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many bytes there are: 256 or 4096.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.config_bytes
    }

    /// Reads a word at a multiple of its size.
    ///
    /// # Errors
    /// Where the offset is outside or misaligned, or the other side did not answer.
    pub fn read<W: Word>(&self, offset: u16) -> Result<W> {
        let offset = u64::from(offset);
        check(Place::Config, offset, W::BYTES as u64, self.bytes(), true)?;
        let mut bytes = [0; 8];
        let used = bytes.get_mut(..W::BYTES).unwrap_or_default();
        self.shared.transport().read(CONFIG_REGION, offset, used)?;
        Ok(W::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes a word at a multiple of its size.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<W: Word>(&self, offset: u16, value: W) -> Result<()> {
        let offset = u64::from(offset);
        check(Place::Config, offset, W::BYTES as u64, self.bytes(), true)?;
        let bytes = value.to_u64().to_le_bytes();
        let used = bytes.get(..W::BYTES).unwrap_or_default();
        let answering = &self.shared.answering;
        let write = || self.shared.transport().write(CONFIG_REGION, offset, used);
        answering.changed_by(write, || self.bars_answer())
    }

    /// From now on keeps track of whether BARs answer.
    pub(crate) fn watch_memory(&self) -> Result<()> {
        self.shared.answering.watch(|| self.bars_answer())
    }

    /// Whether BARs answer: memory is on in COMMAND, and the function is in D0.
    fn bars_answer(&self) -> Result<bool> {
        let awake = match self.find(&power::POWER) {
            Some(power) => power.get(&power::STATE)? == PowerState::D0 as u32,
            None => true,
        };
        Ok(awake && self.need(&header::HEADER)?.get(&header::MEMORY)? == 1)
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_bytes(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        let offset = u64::from(offset);
        check(Place::Config, offset, data.len() as u64, self.bytes(), false)?;
        self.shared.transport().read(CONFIG_REGION, offset, data)
    }

    /// The function's capabilities, those of the extended chain after the others.
    #[must_use]
    pub fn capabilities(&self) -> Vec<CapabilityAt> {
        let mut found = self.shared.capabilities.clone();
        found.sort_by_key(|capability| (capability.extended, capability.offset));
        found
    }

    /// The structure that `table` describes, where the function has it; with several, the first.
    #[must_use]
    pub fn find(&self, table: &'static Table) -> Option<Structure> {
        let placed = self
            .shared
            .layout
            .placed()
            .find(|placed| std::ptr::eq(placed.table, table))?;
        Some(Structure {
            config: self.clone(),
            placed,
        })
    }

    /// As [`find`](Self::find), for structures that a driver can't do without.
    ///
    /// # Errors
    /// Where the function has it not.
    pub fn need(&self, table: &'static Table) -> Result<Structure> {
        self.find(table).ok_or(DriverError::NoCapability(table.name))
    }
}

/// A structure of configuration space, or a part of one, at its place: read and written by the fields of its table.
#[derive(Clone)]
pub struct Structure {
    config: Config,
    placed: Placed,
}

impl Structure {
    /// The table.
    #[must_use]
    pub fn table(&self) -> &'static Table {
        self.placed.table
    }

    /// Byte offset in configuration space.
    #[must_use]
    pub fn offset(&self) -> u16 {
        self.placed.offset
    }

    /// Reads a field of this structure's table; the value is shifted down to bit 0.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn get(&self, field: &Field) -> Result<u32> {
        Ok(field.extract(self.register(field)?))
    }

    /// Writes a field and leaves the register's others as they are: those that a 1 clears are written 0.
    ///
    /// # Errors
    /// Where the value has bits outside the field; else as [`Config::write`].
    pub fn set(&self, field: &Field, value: u32) -> Result<()> {
        let placed = value.checked_shl(u32::from(field.lsb)).unwrap_or_default();
        if field.extract(placed) != value {
            return Err(DriverError::FieldValue {
                field: field.name,
                value,
            });
        }
        let kept = self.register(field)? & !field.mask() & !self.cleared_by_ones(field);
        let register = kept | placed;
        let at = self.at(field)?;
        match field.bytes {
            1 => self.config.write(at, register as u8),
            2 => self.config.write(at, register as u16),
            _ => self.config.write(at, register),
        }
    }

    /// The register of a field.
    fn register(&self, field: &Field) -> Result<u32> {
        let at = self.at(field)?;
        Ok(match field.bytes {
            1 => self.config.read::<u8>(at)?.into(),
            2 => self.config.read::<u16>(at)?.into(),
            _ => self.config.read::<u32>(at)?,
        })
    }

    fn at(&self, field: &Field) -> Result<u16> {
        self.placed
            .offset
            .checked_add(field.register)
            .ok_or(DriverError::OutOfBounds {
                place: Place::Config,
                offset: u64::from(self.placed.offset) + u64::from(field.register),
                bytes: field.bytes.into(),
                have: self.config.bytes(),
            })
    }

    /// The bits of a field's register in which a 1 clears something.
    fn cleared_by_ones(&self, field: &Field) -> u32 {
        self.placed
            .table
            .fields
            .iter()
            .filter(|other| other.register == field.register && other.bytes == field.bytes)
            .filter(|other| matches!(other.access, Access::Rw1c | Access::Rw1cs))
            .fold(0, |mask, other| mask | other.mask())
    }
}
