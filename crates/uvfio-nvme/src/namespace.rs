//! Namespaces: blocks over a backend.

use std::sync::Arc;

use crate::backend::{Backend, FileBackend, MemoryBackend};
use crate::config::{BackendConfig, NamespaceConfig, NvmeError};
use crate::identity::Identifiers;
use crate::spec::status::Status;

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) backend: Arc<dyn Backend>,
    /// Blocks.
    pub(crate) blocks: u64,
    /// log2 of a block's bytes.
    pub(crate) block_shift: u8,
    pub(crate) read_only: bool,
    pub(crate) identifiers: Identifiers,
}

/// A range of a namespace in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Namespace {
    /// Makes namespace `number`, counted from 1, of the controller with this serial number.
    pub(crate) fn new(number: usize, serial: &str, config: NamespaceConfig) -> Result<Self, NvmeError> {
        let block_shift = match config.block {
            512 => 9,
            4096 => 12,
            block => {
                return Err(NvmeError::Block {
                    namespace: number,
                    block,
                });
            }
        };
        let sized = |bytes: u64| {
            let whole =
                bytes != 0 && bytes.is_multiple_of(u64::from(config.block)) && i64::try_from(bytes).is_ok();
            if whole {
                Ok(bytes)
            } else {
                Err(NvmeError::Size {
                    namespace: number,
                    bytes,
                    block: config.block,
                })
            }
        };
        let backend: Arc<dyn Backend> = match config.backend {
            BackendConfig::File(file, bytes) => Arc::new(FileBackend::new(file, sized(bytes)?)),
            BackendConfig::Memory(bytes) => {
                let memory = MemoryBackend::new(sized(bytes)?);
                Arc::new(memory.map_err(|source| NvmeError::Memory {
                    namespace: number,
                    bytes,
                    source,
                })?)
            }
            BackendConfig::Other(other) => {
                sized(other.bytes())?;
                other
            }
        };
        let blocks = backend.bytes() >> block_shift;
        let identifiers = Identifiers::new(serial, number);
        Ok(Self {
            backend,
            blocks,
            block_shift,
            read_only: config.read_only,
            identifiers,
        })
    }

    /// The bytes of `blocks` blocks from `start` on, if the namespace has them.
    pub(crate) fn extent(&self, start: u64, blocks: u64) -> Result<Extent, Status> {
        match start.checked_add(blocks) {
            Some(end) if end <= self.blocks => Ok(Extent {
                offset: start << self.block_shift,
                bytes: blocks << self.block_shift,
            }),
            _ => Err(Status::LBA_OUT_OF_RANGE),
        }
    }

    /// Refuses a change of a read-only namespace.
    pub(crate) fn writable(&self) -> Result<(), Status> {
        if self.read_only {
            Err(Status::NAMESPACE_WRITE_PROTECTED)
        } else {
            Ok(())
        }
    }
}
