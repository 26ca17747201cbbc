//! Feature identifiers and the Select field (section 5.21.1, 5.14).

pub(crate) const ARBITRATION: u8 = 0x01;
pub(crate) const POWER_MANAGEMENT: u8 = 0x02;
pub(crate) const TEMPERATURE_THRESHOLD: u8 = 0x04;
pub(crate) const ERROR_RECOVERY: u8 = 0x05;
pub(crate) const VOLATILE_WRITE_CACHE: u8 = 0x06;
pub(crate) const NUMBER_OF_QUEUES: u8 = 0x07;
pub(crate) const INTERRUPT_COALESCING: u8 = 0x08;
pub(crate) const INTERRUPT_VECTOR: u8 = 0x09;
pub(crate) const WRITE_ATOMICITY: u8 = 0x0a;
pub(crate) const ASYNC_EVENT: u8 = 0x0b;
pub(crate) const TIMESTAMP: u8 = 0x0e;

/// SEL: the current value (5.14).
pub(crate) const SELECT_CURRENT: u32 = 0;
/// SEL: the default value.
pub(crate) const SELECT_DEFAULT: u32 = 1;
/// SEL: the saved value; nothing is saveable, so it is the default.
pub(crate) const SELECT_SAVED: u32 = 2;
/// SEL: what can be done with the feature.
pub(crate) const SELECT_CAPABILITIES: u32 = 3;
/// Capabilities in DW0: changeable, neither saveable nor of a namespace.
pub(crate) const CHANGEABLE: u32 = 1 << 2;
/// SV: save, in CDW10 of Set Features (5.21).
pub(crate) const CDW10_SAVE: u32 = 1 << 31;
