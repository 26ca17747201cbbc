//! Numbers of the NVM Express Base Specification 1.4, as far as this driver uses them.

use crate::{DmaBuffer, Result};

/// Registers, as byte offsets in BAR 0 (section 3.1).
pub(crate) mod register {
    /// Controller capabilities, 8 bytes.
    pub(crate) const CAP: u64 = 0x00;
    /// Version.
    pub(crate) const VS: u64 = 0x08;
    /// Controller configuration.
    pub(crate) const CC: u64 = 0x14;
    /// Controller status.
    pub(crate) const CSTS: u64 = 0x1c;
    /// Admin queue attributes.
    pub(crate) const AQA: u64 = 0x24;
    /// Admin submission queue base address, 8 bytes.
    pub(crate) const ASQ: u64 = 0x28;
    /// Admin completion queue base address, 8 bytes.
    pub(crate) const ACQ: u64 = 0x30;
    /// The first doorbell.
    pub(crate) const DOORBELLS: u64 = 0x1000;
}

/// Class code of a controller with the NVM Express interface: base class, sub-class, programming interface.
pub(crate) const CLASS: [u8; 3] = [0x01, 0x08, 0x02];

/// CC: enabled, entries of 64 (2^6) and 16 (2^4) bytes, pages of 4 KiB, the NVM command set.
pub(crate) const CC_ENABLED: u32 = 4 << 20 | 6 << 16 | 1;
/// CSTS.RDY.
pub(crate) const CSTS_READY: u32 = 1 << 0;
/// CSTS.CFS: the controller has failed.
pub(crate) const CSTS_FATAL: u32 = 1 << 1;

/// The memory page that this driver uses, bytes (CC.MPS 0).
pub(crate) const PAGE: u64 = 4096;
/// A submission queue entry, bytes.
pub(crate) const SQE_BYTES: u64 = 64;
/// A completion queue entry, bytes.
pub(crate) const CQE_BYTES: u64 = 16;

/// Opcodes of admin commands (section 5).
pub(crate) mod admin {
    pub(crate) const CREATE_SQ: u8 = 0x01;
    pub(crate) const CREATE_CQ: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(crate) const DOORBELL_BUFFER: u8 = 0x7c;
    pub(crate) const FORMAT: u8 = 0x80;
}

/// Opcodes of the NVM command set (section 6).
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
}

/// Identify: a namespace, the controller, the list of active namespaces (CNS, section 5.15).
pub(crate) mod cns {
    pub(crate) const NAMESPACE: u32 = 0;
    pub(crate) const CONTROLLER: u32 = 1;
    pub(crate) const ACTIVE: u32 = 2;
}

/// The last number that a namespace can have (section 6.1).
pub(crate) const LAST_NAMESPACE: u32 = 0xffff_fffe;

/// The feature that says how many queues there are (section 5.21.1.7).
pub(crate) const NUMBER_OF_QUEUES: u32 = 0x07;
/// OACS bit 1: Format NVM.
pub(crate) const OACS_FORMAT: u16 = 1 << 1;
/// Format NVM, dword 10, Secure Erase Settings: user data erase (section 5.23).
pub(crate) const ERASE_USER_DATA: u32 = 1 << 9;
/// OACS bit 8: Doorbell Buffer Config.
pub(crate) const OACS_DOORBELL_BUFFER: u16 = 1 << 8;

/// CAP (section 3.1.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities(pub(crate) u64);

impl Capabilities {
    /// MQES: entries of the largest queue.
    pub(crate) fn queue_entries(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// TO: how long the controller may take to become ready, in milliseconds.
    pub(crate) fn ready_millis(self) -> u64 {
        (self.0 >> 24 & 0xff) * 500
    }

    /// DSTRD: bytes from one doorbell to the next.
    pub(crate) fn doorbell_stride(self) -> u64 {
        4 << (self.0 >> 32 & 0xf)
    }

    /// MPSMIN: the smallest memory page, bytes.
    pub(crate) fn smallest_page(self) -> u64 {
        PAGE << (self.0 >> 48 & 0xf)
    }
}

/// A submission queue entry (section 4.2), by dwords.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command([u32; 16]);

impl Command {
    /// A command on a namespace; 0 where it is on none.
    pub(crate) fn new(opcode: u8, namespace: u32) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = opcode.into();
        dwords[1] = namespace;
        Self(dwords)
    }

    /// Where the data are.
    pub(crate) fn data(mut self, (prp1, prp2): (u64, u64)) -> Self {
        self.0[6] = prp1 as u32;
        self.0[7] = (prp1 >> 32) as u32;
        self.0[8] = prp2 as u32;
        self.0[9] = (prp2 >> 32) as u32;
        self
    }

    /// Command dwords 10 to 12.
    pub(crate) fn parameters(mut self, cdw10: u32, cdw11: u32, cdw12: u32) -> Self {
        self.0[10] = cdw10;
        self.0[11] = cdw11;
        self.0[12] = cdw12;
        self
    }

    /// The blocks of a read or write: first, and how many (1 to 65536).
    pub(crate) fn blocks(self, first: u64, count: u32) -> Self {
        self.parameters(first as u32, (first >> 32) as u32, count.wrapping_sub(1) & 0xffff)
    }

    /// The command's identifier.
    pub(crate) fn id(mut self, id: u16) -> Self {
        self.0[0] = self.0[0] & 0xffff | u32::from(id) << 16;
        self
    }

    /// As it lies in memory.
    pub(crate) fn bytes(&self) -> [u8; SQE_BYTES as usize] {
        let mut bytes = [0; SQE_BYTES as usize];
        for (to, dword) in bytes.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }
}

/// A completion queue entry (section 4.6).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// Dword 0: the command's own.
    pub(crate) result: u32,
    /// SQHD: how far the controller has read the submission queue.
    pub(crate) queue_head: u16,
    /// Which command.
    pub(crate) id: u16,
    pub(crate) status: Status,
    /// The phase tag: changes each time that the controller comes round.
    pub(crate) phase: bool,
}

impl Completion {
    /// Reads entry number `slot` of a queue. The dword with the phase tag is read first: once the phase is the new one,
    /// the others are the new ones too.
    pub(crate) fn read(queue: &DmaBuffer, slot: u32) -> Result<Self> {
        let at = u64::from(slot) * CQE_BYTES;
        let last: u32 = queue.read(at + 12)?;
        let third: u32 = queue.read(at + 8)?;
        Ok(Self {
            result: queue.read(at)?,
            queue_head: third as u16,
            id: last as u16,
            status: Status((last >> 17) as u16),
            phase: last >> 16 & 1 != 0,
        })
    }
}

/// The status field of a completion (section 4.6.1): code in bits 7:0, its type in bits 10:8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub(crate) u16);

impl Status {
    /// Whether the command was carried out: code and type are both 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, code) = (self.0 >> 8 & 0x7, self.0 & 0xff);
        let name = match (kind, code) {
            (0, 0x01) => "invalid opcode",
            (0, 0x02) => "invalid field",
            (0, 0x04) => "data transfer error",
            (0, 0x0b) => "invalid namespace",
            (0, 0x20) => "namespace is write protected",
            (0, 0x80) => "LBA out of range",
            _ => "see the specification, section 4.6.1",
        };
        write!(f, "status {kind}/{code:#04x} ({name})")
    }
}
