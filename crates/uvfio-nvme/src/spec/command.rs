//! Submission and completion queue entries, opcodes and the fields of their dwords (sections 4.2, 4.6, 5, 6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Submission queue entry (4.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Sqe {
    /// OPC.
    pub(crate) opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub(crate) flags: u8,
    /// CID.
    pub(crate) cid: U16,
    /// NSID.
    pub(crate) nsid: U32,
    /// Dwords 2 and 3.
    pub(crate) reserved: [U32; 2],
    /// MPTR.
    pub(crate) metadata: U64,
    /// PRP entry 1.
    pub(crate) prp1: U64,
    /// PRP entry 2.
    pub(crate) prp2: U64,
    /// Command dwords 10 to 15.
    pub(crate) dwords: [U32; 6],
}

/// Bytes of a submission queue entry.
pub(crate) const SQE_BYTES: usize = size_of::<Sqe>();

impl Sqe {
    /// CDW10.
    pub(crate) fn cdw10(&self) -> u32 {
        self.dwords[0].get()
    }

    /// CDW11.
    pub(crate) fn cdw11(&self) -> u32 {
        self.dwords[1].get()
    }

    /// CDW12.
    pub(crate) fn cdw12(&self) -> u32 {
        self.dwords[2].get()
    }

    /// CDW13.
    pub(crate) fn cdw13(&self) -> u32 {
        self.dwords[3].get()
    }

    /// SLBA: CDW10 and CDW11 of the commands that name a range of blocks.
    pub(crate) fn start_block(&self) -> u64 {
        u64::from(self.cdw11()) << 32 | u64::from(self.cdw10())
    }

    /// NLB as a count: CDW12 bits 15:0, which are 0's based.
    pub(crate) fn blocks(&self) -> u64 {
        u64::from(self.cdw12() & 0xffff) + 1
    }

    /// Whether the command is fused with another, or points to data by SGL.
    pub(crate) fn is_fused_or_sgl(&self) -> bool {
        self.flags & 0xc3 != 0
    }
}

/// FUA: force unit access, in CDW12 of Write (6.15).
pub(crate) const CDW12_FUA: u32 = 1 << 30;
/// DEAC: deallocate, in CDW12 of Write Zeroes (6.16).
pub(crate) const CDW12_DEALLOCATE: u32 = 1 << 25;
/// AD: deallocate, in CDW11 of Dataset Management (6.7).
pub(crate) const CDW11_DEALLOCATE: u32 = 1 << 2;
/// NSID that means every namespace.
pub(crate) const NSID_ALL: u32 = 0xffff_ffff;

/// Completion queue entry (4.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Cqe {
    /// DW0: the command's own.
    pub(crate) result: U32,
    /// DW1.
    pub(crate) reserved: U32,
    /// SQHD.
    pub(crate) sq_head: U16,
    /// SQID.
    pub(crate) sq_id: U16,
    /// CID.
    pub(crate) cid: U16,
    /// Phase tag in bit 0, status field above.
    pub(crate) status: U16,
}

/// Bytes of a completion queue entry.
pub(crate) const CQE_BYTES: usize = size_of::<Cqe>();

/// Admin opcodes (figure 139).
pub(crate) mod admin {
    pub(crate) const DELETE_SQ: u8 = 0x00;
    pub(crate) const CREATE_SQ: u8 = 0x01;
    pub(crate) const GET_LOG_PAGE: u8 = 0x02;
    pub(crate) const DELETE_CQ: u8 = 0x04;
    pub(crate) const CREATE_CQ: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const ABORT: u8 = 0x08;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(crate) const GET_FEATURES: u8 = 0x0a;
    pub(crate) const ASYNC_EVENT: u8 = 0x0c;
    pub(crate) const DOORBELL_BUFFER: u8 = 0x7c;

    /// What the controller supports, Doorbell Buffer Config apart.
    pub(crate) const SUPPORTED: &[u8] = &[
        DELETE_SQ,
        CREATE_SQ,
        GET_LOG_PAGE,
        DELETE_CQ,
        CREATE_CQ,
        IDENTIFY,
        ABORT,
        SET_FEATURES,
        GET_FEATURES,
        ASYNC_EVENT,
    ];
}

/// Opcodes of the NVM command set (figure 346).
pub(crate) mod nvm {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const COMPARE: u8 = 0x05;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;

    /// What the controller supports, and whether it changes a namespace's content.
    pub(crate) const SUPPORTED: &[(u8, bool)] = &[
        (FLUSH, false),
        (WRITE, true),
        (READ, false),
        (COMPARE, false),
        (WRITE_ZEROES, true),
        (DATASET_MANAGEMENT, true),
    ];
}

/// One range of Dataset Management (6.7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DatasetRange {
    /// Context attributes, hints only.
    pub(crate) attributes: U32,
    /// Length in blocks.
    pub(crate) blocks: U32,
    /// First block.
    pub(crate) start: U64,
}

/// Bytes of a range of Dataset Management.
pub(crate) const DATASET_RANGE_BYTES: usize = size_of::<DatasetRange>();
/// The most ranges of one command (NR is 8 bits, 0's based).
pub(crate) const DATASET_RANGES: usize = 256;
