//! Controller registers in BAR 0 (section 3.1).

/// CAP: controller capabilities, 8 bytes (3.1.1).
pub(crate) const CAP: u64 = 0x00;
/// The upper half of CAP.
pub(crate) const CAP_HIGH: u64 = 0x04;
/// VS: version (3.1.2).
pub(crate) const VS: u64 = 0x08;
/// INTMS: interrupt mask set (3.1.3).
pub(crate) const INTMS: u64 = 0x0c;
/// INTMC: interrupt mask clear (3.1.4).
pub(crate) const INTMC: u64 = 0x10;
/// CC: controller configuration (3.1.5).
pub(crate) const CC: u64 = 0x14;
/// CSTS: controller status (3.1.6).
pub(crate) const CSTS: u64 = 0x1c;
/// AQA: admin queue attributes (3.1.8).
pub(crate) const AQA: u64 = 0x24;
/// ASQ: admin submission queue base address, 8 bytes (3.1.9).
pub(crate) const ASQ: u64 = 0x28;
/// The upper half of ASQ.
pub(crate) const ASQ_HIGH: u64 = 0x2c;
/// ACQ: admin completion queue base address, 8 bytes (3.1.10).
pub(crate) const ACQ: u64 = 0x30;
/// The upper half of ACQ.
pub(crate) const ACQ_HIGH: u64 = 0x34;
/// The first doorbell; with CAP.DSTRD 0 they lie 4 bytes apart (3.1.24, 3.1.25).
pub(crate) const DOORBELLS: u64 = 0x1000;
/// Bytes from one doorbell to the next: CAP.DSTRD is 0.
pub(crate) const DOORBELL_STRIDE: u64 = 4;

/// VS of a controller that complies to 1.4.0.
pub(crate) const VERSION_1_4: u32 = 0x0001_0400;

/// Entries of the largest queue (CAP.MQES + 1).
pub(crate) const MAX_QUEUE_ENTRIES: u32 = 4096;
/// Entries of the smallest queue (3.1.8).
pub(crate) const MIN_QUEUE_ENTRIES: u32 = 2;
/// Memory page size: CAP.MPSMIN and CAP.MPSMAX allow 4 KiB only.
pub(crate) const PAGE: u64 = 4096;

/// CAP's value.
///
/// MQES; CQR, queues are contiguous; AMS none but round robin; TO in units of 500 ms; DSTRD 0; no subsystem
/// reset; the NVM command set; pages of 4 KiB only.
pub(crate) const CAP_VALUE: u64 = {
    let mqes = MAX_QUEUE_ENTRIES as u64 - 1;
    let contiguous_queues_required = 1 << 16;
    let timeout_20s = 40 << 24;
    let nvm_command_set = 1 << 37;
    mqes | contiguous_queues_required | timeout_20s | nvm_command_set
};

/// Bits of AQA that exist: ASQS and ACQS.
pub(crate) const AQA_WRITABLE: u32 = 0x0fff_0fff;
/// Bits of ASQ and ACQ that exist: page-aligned addresses.
pub(crate) const QUEUE_BASE_WRITABLE: u64 = !(PAGE - 1);

/// CC's value (3.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cc(pub(crate) u32);

impl Cc {
    /// Bits that exist: EN, CSS, MPS, AMS, SHN, IOSQES, IOCQES.
    pub(crate) const WRITABLE: u32 = 0x00ff_fff1;

    /// EN: enable.
    pub(crate) fn enable(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS: I/O command set selected; 0 is NVM.
    pub(crate) fn command_set(self) -> u32 {
        self.0 >> 4 & 0x7
    }

    /// MPS: memory page size, 2^(12 + MPS) bytes.
    pub(crate) fn page_size(self) -> u32 {
        self.0 >> 7 & 0xf
    }

    /// AMS: arbitration mechanism selected; 0 is round robin.
    pub(crate) fn arbitration(self) -> u32 {
        self.0 >> 11 & 0x7
    }

    /// SHN: shutdown notification; 0 none, 1 normal, 2 abrupt.
    pub(crate) fn shutdown(self) -> u32 {
        self.0 >> 14 & 0x3
    }

    /// IOSQES: I/O submission queue entry size, 2^n bytes.
    pub(crate) fn sq_entry_size(self) -> u32 {
        self.0 >> 16 & 0xf
    }

    /// IOCQES: I/O completion queue entry size, 2^n bytes.
    pub(crate) fn cq_entry_size(self) -> u32 {
        self.0 >> 20 & 0xf
    }
}

/// IOSQES and the required and maximum sizes in Identify: 64 bytes.
pub(crate) const SQ_ENTRY_SIZE: u32 = 6;
/// IOCQES and the required and maximum sizes in Identify: 16 bytes.
pub(crate) const CQ_ENTRY_SIZE: u32 = 4;

bitflags::bitflags! {
    /// CSTS (3.1.6); SHST apart.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Csts: u32 {
        /// Ready.
        const RDY = 1;
        /// Controller fatal status.
        const CFS = 1 << 1;
        /// SHST: shutdown processing occurring.
        const SHUTTING_DOWN = 1 << 2;
        /// SHST: shutdown processing complete.
        const SHUT_DOWN = 2 << 2;
    }
}
