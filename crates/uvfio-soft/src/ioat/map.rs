//! Where the registers lie, as data: the device's own at the beginning of BAR 0, and a block of the same registers
//! for each channel behind them.
//!
//! An access of any width finds the registers that it touches, and each of them sees only its own bytes: drivers
//! write the two halves of an address one after the other, or both at once.

use uvfio_core::Width;

/// Size of BAR 0 in bytes.
pub const BAR_BYTES: u64 = 0x4000;
/// Where the MSI-X table lies in BAR 0.
pub const MSIX_TABLE_AT: u32 = 0x2000;
/// Where the MSI-X pending bits lie in BAR 0.
pub const MSIX_PBA_AT: u32 = 0x3000;
/// Where the first channel's registers lie in BAR 0, and how many bytes each channel's take.
pub const CHANNEL_BYTES: u64 = 0x80;

/// A register of the whole device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceReg {
    /// CHANCNT, read-only: the number of channels.
    ChannelCount,
    /// XFERCAP, read-only: the most bytes of one descriptor, as a power of two.
    TransferCapacity,
    /// INTRCTRL: `INTERRUPT_*`. A read clears [`INTERRUPT_MASTER`].
    InterruptControl,
    /// ATTNSTATUS: one bit for each channel that has interrupted. A read clears it.
    Attention,
    /// CBVER, read-only: major and minor version, four bits each.
    Version,
    /// DMACAPABILITY, read-only: what descriptors may ask for beyond a copy.
    Capability,
}

/// A register of a channel; offsets count from the channel's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelReg {
    /// CHANCTRL: `CONTROL_*`. A read of its upper byte sets [`CONTROL_IN_USE`].
    Control,
    /// DMA_COMP, read-only: the versions that drivers may take it for.
    Compatibility,
    /// CHANCMD: `COMMAND_*`.
    Command,
    /// DMACOUNT: the number of descriptors in the chain since CHAINADDR was written, modulo 2^16; the doorbell.
    Count,
    /// CHANSTS, read-only: the address of the last completed descriptor, and the state (`STATE_*`).
    Status,
    /// CHAINADDR: the address of the chain's first descriptor. A write sets DMACOUNT to 0 and arms the channel.
    ChainAddress,
    /// CHANCMP: where the status is written on completion, a multiple of 8.
    CompletionAddress,
    /// CDAR, read-only: the address of the next descriptor.
    CurrentDescriptor,
    /// CHANERR, write 1 to clear: `ERROR_*`.
    Error,
    /// CHANERRMSK: errors that raise no interrupt.
    ErrorMask,
}

/// One register's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<R> {
    pub(super) register: R,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

const fn row<R: Copy>(register: R, offset: u64, bytes: u64) -> Row<R> {
    Row {
        register,
        offset,
        bytes,
    }
}

pub(super) const DEVICE: &[Row<DeviceReg>] = &[
    row(DeviceReg::ChannelCount, 0x00, 1),
    row(DeviceReg::TransferCapacity, 0x01, 1),
    row(DeviceReg::InterruptControl, 0x03, 1),
    row(DeviceReg::Attention, 0x04, 4),
    row(DeviceReg::Version, 0x08, 1),
    row(DeviceReg::Capability, 0x10, 4),
];

pub(super) const CHANNEL: &[Row<ChannelReg>] = &[
    row(ChannelReg::Control, 0x00, 2),
    row(ChannelReg::Compatibility, 0x02, 2),
    row(ChannelReg::Command, 0x04, 1),
    row(ChannelReg::Count, 0x06, 2),
    row(ChannelReg::Status, 0x08, 8),
    row(ChannelReg::ChainAddress, 0x10, 8),
    row(ChannelReg::CompletionAddress, 0x18, 8),
    row(ChannelReg::CurrentDescriptor, 0x20, 8),
    row(ChannelReg::Error, 0x28, 4),
    row(ChannelReg::ErrorMask, 0x2c, 4),
];

impl DeviceReg {
    /// The register's byte offset in BAR 0.
    #[must_use]
    pub fn offset(self) -> u64 {
        place(DEVICE, self)
    }
}

impl ChannelReg {
    /// The byte offset in BAR 0 of channel `channel`'s register.
    #[must_use]
    pub fn offset(self, channel: u8) -> u64 {
        CHANNEL_BYTES * (u64::from(channel) + 1) + place(CHANNEL, self)
    }
}

fn place<R: Copy + PartialEq>(rows: &[Row<R>], register: R) -> u64 {
    // Every register has a row; a test holds it.
    rows.iter()
        .find(|row| row.register == register)
        .map_or(0, |row| row.offset)
}

/// Master interrupt enable; cleared when the register is read.
pub const INTERRUPT_MASTER: u8 = 1 << 0;
/// Read-only: a channel has its bit in ATTNSTATUS.
pub const INTERRUPT_STATUS: u8 = 1 << 1;
/// Read-only: [`INTERRUPT_STATUS`] and [`INTERRUPT_MASTER`]; the level of INTx.
pub const INTERRUPT_ASSERTED: u8 = 1 << 2;
/// Each channel has its own MSI-X vector; without it all have vector 0.
pub const INTERRUPT_VECTORS: u8 = 1 << 3;

/// The channel has interrupted, and does so again only once 1 was written here.
pub const CONTROL_INTERRUPT_DISABLED: u16 = 1 << 0;
/// An error writes the status to memory.
pub const CONTROL_ERROR_COMPLETION: u16 = 1 << 2;
/// Any error ends the chain. Stored only: here every error does.
pub const CONTROL_ANY_ERROR_ABORTS: u16 = 1 << 3;
/// An error interrupts.
pub const CONTROL_ERROR_INTERRUPT: u16 = 1 << 4;
/// Somebody has read this register since it was last written 0.
pub const CONTROL_IN_USE: u16 = 1 << 8;

/// Stop after the descriptor under way.
pub const COMMAND_SUSPEND: u8 = 1 << 2;
/// Forget the chain; reads 1 until the descriptor under way has been abandoned.
pub const COMMAND_RESET: u8 = 1 << 5;

/// State in CHANSTS and in what is written at CHANCMP.
pub const STATE_MASK: u64 = 0x7;
/// Descriptors are being worked off.
pub const STATE_ACTIVE: u64 = 0;
/// All that DMACOUNT names are done.
pub const STATE_IDLE: u64 = 1;
/// Suspended by command.
pub const STATE_SUSPENDED: u64 = 2;
/// By reset or by an error.
pub const STATE_HALTED: u64 = 3;
/// CHAINADDR is written, DMACOUNT not yet.
pub const STATE_ARMED: u64 = 4;

/// The source's memory can't be reached.
pub const ERROR_SOURCE_ADDRESS: u32 = 1 << 0;
/// The destination's memory can't be reached.
pub const ERROR_DESTINATION_ADDRESS: u32 = 1 << 1;
/// The next descriptor's memory can't be reached.
pub const ERROR_NEXT_ADDRESS: u32 = 1 << 2;
/// The next descriptor's address is no multiple of 64.
pub const ERROR_NEXT_ALIGNMENT: u32 = 1 << 3;
/// CHAINADDR is no multiple of 64, or its memory can't be reached.
pub const ERROR_CHAIN_ADDRESS: u32 = 1 << 4;
/// CHANCMD was written what is no command.
pub const ERROR_COMMAND: u32 = 1 << 5;
/// The source is mapped, and reading it failed.
pub const ERROR_READ_DATA: u32 = 1 << 8;
/// The destination is mapped, and writing it failed.
pub const ERROR_WRITE_DATA: u32 = 1 << 9;
/// The descriptor's operation is none that DMACAPABILITY offers.
pub const ERROR_DESCRIPTOR_CONTROL: u32 = 1 << 10;
/// The descriptor's size is 0 or more than XFERCAP allows.
pub const ERROR_LENGTH: u32 = 1 << 11;
/// The status could not be written at CHANCMP.
pub const ERROR_COMPLETION_ADDRESS: u32 = 1 << 12;

/// XFERCAP's value: 1 MiB.
pub const TRANSFER_CAPACITY: u8 = 20;
/// CBVER's value: 3.3.
pub const VERSION: u8 = 0x33;
/// DMACAPABILITY's value: block fill.
pub const CAPABILITY: u32 = 1 << 6;
/// DMA_COMP's value: versions 2 and 3.
pub(super) const COMPATIBILITY: u16 = 0x6;

/// Some bytes of a register: those that an access touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// Which bits of the register.
    pub(super) mask: u64,
    /// Their values, where they are written.
    pub(super) bits: u64,
}

/// The registers of `rows` that an access touches, with the bytes of each. `shift` puts a value read into its place
/// in the access.
pub(super) fn touched<R: Copy>(
    rows: &'static [Row<R>],
    offset: u64,
    width: Width,
    value: u64,
) -> impl Iterator<Item = (R, Lane, Shift)> {
    let all = ones(width as u64);
    rows.iter()
        .filter(move |row| row.offset < offset + width as u64 && offset < row.offset + row.bytes)
        .map(move |row| {
            let shift = if offset >= row.offset {
                Shift::Down(8 * (offset - row.offset))
            } else {
                Shift::Up(8 * (row.offset - offset))
            };
            let mask = shift.back(all) & ones(row.bytes);
            let bits = shift.back(value & all) & mask;
            (row.register, Lane { mask, bits }, shift)
        })
}

/// From a register's bits to an access's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shift {
    Up(u64),
    Down(u64),
}

impl Shift {
    /// From the register to the access.
    pub(super) fn there(self, bits: u64) -> u64 {
        match self {
            Self::Up(by) => bits << by,
            Self::Down(by) => bits >> by,
        }
    }

    /// From the access to the register.
    fn back(self, bits: u64) -> u64 {
        match self {
            Self::Up(by) => bits >> by,
            Self::Down(by) => bits << by,
        }
    }
}

/// As many bytes of ones, 8 at most.
fn ones(bytes: u64) -> u64 {
    if bytes >= 8 {
        u64::MAX
    } else {
        (1 << (8 * bytes)) - 1
    }
}
