//! Status of a completed command (section 4.6.1).

/// Status code type and status code, with "do not retry".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Status(u16);

impl Status {
    const fn of(code_type: u16, code: u16) -> Self {
        Self(code_type << 8 | code)
    }

    /// The same command would fail again, so the host need not try.
    const fn for_good(code_type: u16, code: u16) -> Self {
        Self(code_type << 8 | code | 1 << 14)
    }

    /// The status field as it stands above the phase tag: SC 7:0, SCT 10:8, CRD, More, DNR 14.
    pub(crate) const fn field(self) -> u16 {
        self.0
    }

    /// Whether the command succeeded.
    pub(crate) const fn is_success(self) -> bool {
        self.0 == 0
    }

    // Generic command status (figure 126).
    pub(crate) const SUCCESS: Self = Self::of(0, 0x00);
    pub(crate) const INVALID_OPCODE: Self = Self::for_good(0, 0x01);
    pub(crate) const INVALID_FIELD: Self = Self::for_good(0, 0x02);
    pub(crate) const COMMAND_ID_CONFLICT: Self = Self::for_good(0, 0x03);
    pub(crate) const DATA_TRANSFER_ERROR: Self = Self::of(0, 0x04);
    pub(crate) const INTERNAL_ERROR: Self = Self::of(0, 0x06);
    pub(crate) const ABORT_REQUESTED: Self = Self::of(0, 0x07);
    pub(crate) const ABORTED_SQ_DELETION: Self = Self::of(0, 0x08);
    pub(crate) const INVALID_NAMESPACE: Self = Self::for_good(0, 0x0b);
    pub(crate) const COMMAND_SEQUENCE_ERROR: Self = Self::for_good(0, 0x0c);
    pub(crate) const INVALID_PRP_OFFSET: Self = Self::for_good(0, 0x13);
    pub(crate) const NAMESPACE_WRITE_PROTECTED: Self = Self::for_good(0, 0x20);
    // Generic command status of the NVM command set (figure 127).
    pub(crate) const LBA_OUT_OF_RANGE: Self = Self::for_good(0, 0x80);
    pub(crate) const CAPACITY_EXCEEDED: Self = Self::of(0, 0x81);

    // Command specific status (figure 128).
    pub(crate) const INVALID_COMPLETION_QUEUE: Self = Self::for_good(1, 0x00);
    pub(crate) const INVALID_QUEUE_ID: Self = Self::for_good(1, 0x01);
    pub(crate) const INVALID_QUEUE_SIZE: Self = Self::for_good(1, 0x02);
    pub(crate) const ASYNC_EVENT_LIMIT: Self = Self::for_good(1, 0x05);
    pub(crate) const INVALID_INTERRUPT_VECTOR: Self = Self::for_good(1, 0x08);
    pub(crate) const INVALID_LOG_PAGE: Self = Self::for_good(1, 0x09);
    pub(crate) const INVALID_QUEUE_DELETION: Self = Self::for_good(1, 0x0c);
    pub(crate) const FEATURE_NOT_SAVEABLE: Self = Self::for_good(1, 0x0d);

    // Media and data integrity errors (figure 130).
    pub(crate) const WRITE_FAULT: Self = Self::of(2, 0x80);
    pub(crate) const UNRECOVERED_READ_ERROR: Self = Self::of(2, 0x81);
    pub(crate) const COMPARE_FAILURE: Self = Self::for_good(2, 0x85);
}
