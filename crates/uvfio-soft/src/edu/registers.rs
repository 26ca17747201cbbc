//! edu's registers: a plain value. No thread, no lock, no user: see `engine` for these.

use uvfio_core::Width;

/// Size of BAR 0 in bytes.
pub const BAR_BYTES: u32 = 1 << 20;
/// Where the DMA buffer lies in the device's own address space (not in the BAR).
pub const BUFFER_AT: u64 = 0x4_0000;
/// Size of the DMA buffer in bytes.
pub const BUFFER_BYTES: usize = 4096;

/// Status: a factorial is being computed.
pub const STATUS_COMPUTING: u32 = 0x01;
/// Status: raise an interrupt when the factorial is done.
pub const STATUS_INTERRUPT: u32 = 0x80;
/// Interrupt status: a factorial is done.
pub const INTERRUPT_FACTORIAL: u32 = 0x001;
/// Interrupt status: a DMA transfer is done.
pub const INTERRUPT_DMA: u32 = 0x100;
/// DMA command: start; reads 1 while the transfer runs.
pub const COMMAND_RUN: u64 = 0x01;
/// DMA command: from the device's buffer to memory; without it the other way.
pub const COMMAND_FROM_DEVICE: u64 = 0x02;
/// DMA command: raise [`INTERRUPT_DMA`] when done.
pub const COMMAND_INTERRUPT: u64 = 0x04;

const IDENTIFICATION: u32 = 0x0100_00ed;

/// A register of BAR 0, by its byte offset. Those below 0x80 have 4 bytes and are accessed by 4; the others have
/// 8 and are accessed by 8, or by 4 at the register's own offset (the upper half then reads away, and is written 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reg {
    /// Identification, read-only: 0xRRrr00ed, major and minor version.
    Identification = 0x00,
    /// Liveness check: reads the inverse of what was written.
    Liveness = 0x04,
    /// Factorial: a write starts the computation, a read gives the result modulo 2^32 once the status says so.
    Factorial = 0x08,
    /// Status: [`STATUS_COMPUTING`] (read-only), [`STATUS_INTERRUPT`].
    Status = 0x20,
    /// Interrupt status, read-only: the values raised and not yet acknowledged.
    InterruptStatus = 0x24,
    /// Interrupt raise, write-only: the value is or-ed into the interrupt status.
    InterruptRaise = 0x60,
    /// Interrupt acknowledge, write-only: the value's bits are cleared from the interrupt status.
    InterruptAcknowledge = 0x64,
    /// DMA source address.
    DmaSource = 0x80,
    /// DMA destination address.
    DmaDestination = 0x88,
    /// DMA byte count.
    DmaCount = 0x90,
    /// DMA command: [`COMMAND_RUN`], [`COMMAND_FROM_DEVICE`], [`COMMAND_INTERRUPT`].
    DmaCommand = 0x98,
}

impl Reg {
    const ALL: [Self; 11] = [
        Self::Identification,
        Self::Liveness,
        Self::Factorial,
        Self::Status,
        Self::InterruptStatus,
        Self::InterruptRaise,
        Self::InterruptAcknowledge,
        Self::DmaSource,
        Self::DmaDestination,
        Self::DmaCount,
        Self::DmaCommand,
    ];

    /// The register's byte offset in BAR 0.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self as u64
    }

    /// The register at exactly `offset`, if it may be accessed by `width`.
    fn at(offset: u64, width: Width) -> Option<Self> {
        let allowed = match width {
            Width::B4 => true,
            Width::B8 => offset >= Self::DmaSource.offset(),
            Width::B1 | Width::B2 => false,
        };
        Self::ALL.into_iter().find(|r| allowed && r.offset() == offset)
    }
}

/// A DMA transfer as it was commanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dma {
    pub(super) source: u64,
    pub(super) destination: u64,
    pub(super) count: u64,
    pub(super) command: u64,
}

/// Which part of the buffer a transfer touches, and where in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// First byte in the buffer; `at + bytes` is at most [`BUFFER_BYTES`].
    pub(super) at: usize,
    /// How many.
    pub(super) bytes: usize,
    /// The address in memory, before the mask.
    pub(super) iova: u64,
    /// From the buffer to memory.
    pub(super) from_device: bool,
}

impl Dma {
    /// Checks the transfer against the buffer.
    pub(super) fn transfer(self) -> Result<Transfer, OutsideBuffer> {
        let from_device = self.command & COMMAND_FROM_DEVICE != 0;
        let (inside, iova) = if from_device {
            (self.source, self.destination)
        } else {
            (self.destination, self.source)
        };
        let outside = OutsideBuffer {
            at: inside,
            bytes: self.count,
        };
        let at = usize::try_from(inside.checked_sub(BUFFER_AT).ok_or(outside)?).map_err(|_| outside)?;
        let bytes = usize::try_from(self.count).map_err(|_| outside)?;
        match at.checked_add(bytes) {
            Some(end) if end <= BUFFER_BYTES => Ok(Transfer {
                at,
                bytes,
                iova,
                from_device,
            }),
            _ => Err(outside),
        }
    }
}

/// A transfer that does not lie within the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "DMA command (BAR 0, 0x98): {bytes} bytes at {at:#x} leave the buffer, 4096 bytes at 0x40000; nothing moved"
)]
pub(super) struct OutsideBuffer {
    at: u64,
    bytes: u64,
}

/// What a write makes happen beyond the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    None,
    /// There is work for the thread.
    Work,
    /// Interrupt status changed by a raise: send this message.
    Raised(u16),
    /// Interrupt status changed by an acknowledgement.
    Acknowledged,
}

/// All that the device holds.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    liveness: u32,
    pub(super) factorial: u32,
    pub(super) computing: bool,
    interrupt_when_done: bool,
    pub(super) interrupt_status: u32,
    pub(super) dma: Dma,
    pub(super) buffer: Box<[u8; BUFFER_BYTES]>,
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            liveness: 0,
            factorial: 0,
            computing: false,
            interrupt_when_done: false,
            interrupt_status: 0,
            dma: Dma::default(),
            buffer: Box::new([0; BUFFER_BYTES]),
        }
    }

    pub(super) fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(register) = Reg::at(offset, width) else {
            return u64::MAX;
        };
        match register {
            Reg::Identification => u64::from(IDENTIFICATION),
            Reg::Liveness => u64::from(self.liveness),
            Reg::Factorial => u64::from(self.factorial),
            Reg::Status => u64::from(self.status()),
            Reg::InterruptStatus => u64::from(self.interrupt_status),
            Reg::InterruptRaise | Reg::InterruptAcknowledge => u64::MAX,
            Reg::DmaSource => self.dma.source,
            Reg::DmaDestination => self.dma.destination,
            Reg::DmaCount => self.dma.count,
            Reg::DmaCommand => self.dma.command,
        }
    }

    pub(super) fn write(&mut self, offset: u64, width: Width, value: u64) -> Consequence {
        let Some(register) = Reg::at(offset, width) else {
            return Consequence::None;
        };
        let value = if width == Width::B4 {
            value & u64::from(u32::MAX)
        } else {
            value
        };
        let low = value as u32;
        let running = self.dma.command & COMMAND_RUN != 0;
        match register {
            Reg::Identification | Reg::InterruptStatus => {}
            Reg::Liveness => self.liveness = !low,
            Reg::Factorial if self.computing => {}
            Reg::Factorial => {
                self.factorial = low;
                self.computing = true;
                return Consequence::Work;
            }
            Reg::Status => self.interrupt_when_done = low & STATUS_INTERRUPT != 0,
            Reg::InterruptRaise => return self.raise(low),
            Reg::InterruptAcknowledge => {
                self.interrupt_status &= !low;
                return Consequence::Acknowledged;
            }
            _ if running => {}
            Reg::DmaSource => self.dma.source = value,
            Reg::DmaDestination => self.dma.destination = value,
            Reg::DmaCount => self.dma.count = value,
            Reg::DmaCommand if value & COMMAND_RUN != 0 => {
                self.dma.command = value;
                return Consequence::Work;
            }
            Reg::DmaCommand => {}
        }
        Consequence::None
    }

    /// Raises interrupt bits. A raise of nothing while nothing is raised does nothing.
    pub(super) fn raise(&mut self, value: u32) -> Consequence {
        self.interrupt_status |= value;
        if self.interrupt_status == 0 {
            Consequence::None
        } else {
            Consequence::Raised(message_of(value))
        }
    }

    /// A factorial is done.
    pub(super) fn factorial_done(&mut self, result: u32) -> Consequence {
        self.factorial = result;
        self.computing = false;
        if self.interrupt_when_done {
            self.raise(INTERRUPT_FACTORIAL)
        } else {
            Consequence::None
        }
    }

    /// A transfer has ended; `completed` unless it was refused.
    pub(super) fn dma_done(&mut self, completed: bool) -> Consequence {
        let command = self.dma.command;
        self.dma.command &= !COMMAND_RUN;
        if completed && command & COMMAND_INTERRUPT != 0 {
            self.raise(INTERRUPT_DMA)
        } else {
            Consequence::None
        }
    }

    fn status(&self) -> u32 {
        let computing = if self.computing { STATUS_COMPUTING } else { 0 };
        computing
            | if self.interrupt_when_done {
                STATUS_INTERRUPT
            } else {
                0
            }
    }
}

/// Which message a raise sends: its lowest set bit modulo the number of messages; message 0 for a raise of nothing.
pub(super) fn message_of(value: u32) -> u16 {
    if value == 0 {
        0
    } else {
        (value.trailing_zeros() % u32::from(super::MESSAGES)) as u16
    }
}

/// `n` factorial modulo 2^32. From 34 on it is 0, so this is at most 34 steps.
pub(super) fn factorial(n: u32) -> u32 {
    (1..=n)
        .try_fold(1_u32, |product, k| {
            Some(product.wrapping_mul(k)).filter(|p| *p != 0)
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_of_a_width_that_a_register_has_not_read_ones_and_write_nothing() {
        let mut registers = Registers::new();
        for (offset, width) in [
            (0x04, Width::B1),
            (0x04, Width::B2),
            (0x00, Width::B8),
            (0x20, Width::B8),
            (0x84, Width::B4),
            (0x80, Width::B2),
            (0x0c, Width::B4),
            (0x4_0000, Width::B8),
        ] {
            assert_eq!(
                registers.write(offset, width, 0x55),
                Consequence::None,
                "{width:?} write at {offset:#x}"
            );
            assert_eq!(
                registers.read(offset, width),
                u64::MAX,
                "{width:?} read at {offset:#x}"
            );
        }
        assert_eq!(
            registers.read(0x04, Width::B4),
            0,
            "liveness after writes of the wrong width"
        );
        assert_eq!(registers.dma, Dma::default());
    }

    #[test]
    fn liveness_reads_the_inverse() {
        let mut registers = Registers::new();
        registers.write(0x04, Width::B4, 0x1234_5678);
        assert_eq!(registers.read(0x04, Width::B4), 0xedcb_a987);
    }

    #[test]
    fn a_factorial_wraps_and_ends_at_zero() {
        for (n, expected) in [
            (0, 1),
            (1, 1),
            (5, 120),
            (12, 479_001_600),
            (13, 1_932_053_504),
            (34, 0),
        ] {
            assert_eq!(factorial(n), expected, "{n}!");
        }
        assert_eq!(factorial(33), 0x8000_0000, "the last factorial that is not 0");
        assert_eq!(factorial(u32::MAX), 0);
    }

    #[test]
    fn the_lowest_bit_of_a_raise_chooses_the_message() {
        for (value, message) in [
            (1, 0),
            (2, 1),
            (0x80, 7),
            (0x100, 0),
            (0x8000_0000, 7),
            (0x30, 4),
            (0, 0),
        ] {
            assert_eq!(message_of(value), message, "raise of {value:#x}");
        }
    }

    #[test]
    fn a_raise_of_nothing_while_nothing_is_raised_sends_nothing() {
        let mut registers = Registers::new();
        assert_eq!(registers.write(0x60, Width::B4, 0), Consequence::None);
        assert_eq!(registers.write(0x60, Width::B4, 4), Consequence::Raised(2));
        assert_eq!(registers.write(0x60, Width::B4, 0), Consequence::Raised(0));
        assert_eq!(registers.read(0x24, Width::B4), 4);
        assert_eq!(registers.write(0x64, Width::B4, 4), Consequence::Acknowledged);
        assert_eq!(registers.read(0x24, Width::B4), 0);
    }

    #[test]
    fn nothing_about_a_running_transfer_can_be_changed() {
        let mut registers = Registers::new();
        registers.write(0x80, Width::B8, 0x1000);
        registers.write(0x88, Width::B8, BUFFER_AT);
        registers.write(0x90, Width::B8, 16);
        assert_eq!(registers.write(0x98, Width::B4, COMMAND_RUN), Consequence::Work);
        let before = registers.dma;
        for offset in [0x80, 0x88, 0x90, 0x98] {
            assert_eq!(
                registers.write(offset, Width::B8, 0xffff),
                Consequence::None,
                "write at {offset:#x}"
            );
        }
        assert_eq!(registers.dma, before);
    }

    #[test]
    fn transfers_outside_the_buffer_are_refused() {
        let end = BUFFER_AT + BUFFER_BYTES as u64;
        for (inside, count, fits) in [
            (BUFFER_AT, 4096, true),
            (BUFFER_AT, 4097, false),
            (BUFFER_AT - 1, 1, false),
            (end - 1, 1, true),
            (end - 1, 2, false),
            (end, 0, true),
            (end, 1, false),
            (0, u64::MAX, false),
            (u64::MAX, 1, false),
            (BUFFER_AT, u64::MAX, false),
        ] {
            let to_device = Dma {
                source: 0,
                destination: inside,
                count,
                command: COMMAND_RUN,
            };
            let from_device = Dma {
                source: inside,
                destination: 0,
                count,
                command: COMMAND_RUN | COMMAND_FROM_DEVICE,
            };
            assert_eq!(to_device.transfer().is_ok(), fits, "{count} bytes to {inside:#x}");
            assert_eq!(
                from_device.transfer().is_ok(),
                fits,
                "{count} bytes from {inside:#x}"
            );
        }
    }
}
