//! What a descriptor asks for. Its 64 bytes are the user's, so every one of them may be anything.

use super::map::{
    ERROR_DESCRIPTOR_CONTROL, ERROR_DESTINATION_ADDRESS, ERROR_LENGTH, ERROR_SOURCE_ADDRESS,
    TRANSFER_CAPACITY,
};

/// Size of a descriptor in bytes; its address is a multiple of it.
pub const DESCRIPTOR_BYTES: usize = 64;

/// Descriptor control: interrupt when it is done.
pub const DESCRIPTOR_INTERRUPT: u32 = 1 << 0;
/// Descriptor control: write the status at CHANCMP when it is done.
pub const DESCRIPTOR_COMPLETION: u32 = 1 << 3;
/// Descriptor control: of a copy, move nothing.
pub const DESCRIPTOR_NULL: u32 = 1 << 5;
/// Descriptor control: operation, copy.
pub const OPERATION_COPY: u32 = 0x00 << OPERATION_SHIFT;
/// Descriptor control: operation, fill with the 8 bytes that stand in the source's place.
pub const OPERATION_FILL: u32 = 0x01 << OPERATION_SHIFT;

const OPERATION_SHIFT: u32 = 24;
const OPERATION_MASK: u32 = 0xff << OPERATION_SHIFT;

/// A descriptor's data movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Null,
    Copy {
        source: u64,
        destination: u64,
        bytes: u32,
    },
    Fill {
        pattern: [u8; 8],
        destination: u64,
        bytes: u32,
    },
}

/// A descriptor, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    control: u32,
    bytes: u32,
    source: u64,
    destination: u64,
    /// The address of the next.
    pub(super) next: u64,
}

impl Descriptor {
    pub(super) fn new(raw: &[u8; DESCRIPTOR_BYTES]) -> Self {
        let (words, _) = raw.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let first = word();
        Self {
            bytes: first as u32,
            control: (first >> 32) as u32,
            source: word(),
            destination: word(),
            next: word(),
        }
    }

    /// Whether an interrupt is wanted.
    pub(super) fn interrupts(&self) -> bool {
        self.control & DESCRIPTOR_INTERRUPT != 0
    }

    /// Whether the status is to be written.
    pub(super) fn completes(&self) -> bool {
        self.control & DESCRIPTOR_COMPLETION != 0
    }

    /// What to move, or the `ERROR_*` bits that say why not.
    pub(super) fn operation(&self) -> Result<Operation, u32> {
        if self.bytes == 0 || self.bytes > 1 << TRANSFER_CAPACITY {
            return Err(ERROR_LENGTH);
        }
        let fits = |address: u64| address.checked_add(u64::from(self.bytes) - 1).is_some();
        let destination = if fits(self.destination) {
            Ok(self.destination)
        } else {
            Err(ERROR_DESTINATION_ADDRESS)
        };
        match self.control & OPERATION_MASK {
            OPERATION_COPY if self.control & DESCRIPTOR_NULL != 0 => Ok(Operation::Null),
            OPERATION_COPY if !fits(self.source) => Err(ERROR_SOURCE_ADDRESS),
            OPERATION_COPY => Ok(Operation::Copy {
                source: self.source,
                destination: destination?,
                bytes: self.bytes,
            }),
            OPERATION_FILL => Ok(Operation::Fill {
                pattern: self.source.to_le_bytes(),
                destination: destination?,
                bytes: self.bytes,
            }),
            _ => Err(ERROR_DESCRIPTOR_CONTROL),
        }
    }
}
