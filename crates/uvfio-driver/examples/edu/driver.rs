//! The driver: what edu's registers mean, and nothing about how they are reached.

use std::time::Duration;

use uvfio_driver::{Bar, DmaBuffer, DriverError, Function, Interrupts, IrqKind, Result};

// ANCHOR: registers
/// Registers, as byte offsets in BAR 0.
mod register {
    pub(super) const IDENTIFICATION: u64 = 0x00;
    pub(super) const LIVENESS: u64 = 0x04;
    pub(super) const FACTORIAL: u64 = 0x08;
    pub(super) const STATUS: u64 = 0x20;
    pub(super) const INTERRUPT_STATUS: u64 = 0x24;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    pub(super) const DMA_SOURCE: u64 = 0x80;
    pub(super) const DMA_DESTINATION: u64 = 0x88;
    pub(super) const DMA_COUNT: u64 = 0x90;
    pub(super) const DMA_COMMAND: u64 = 0x98;
}

/// STATUS: raise an interrupt when the factorial is done.
const STATUS_INTERRUPT: u32 = 1 << 7;
/// DMA_COMMAND: start.
const DMA_START: u64 = 1 << 0;
/// DMA_COMMAND: from the device's buffer to memory.
const DMA_TO_MEMORY: u64 = 1 << 1;
/// DMA_COMMAND: raise an interrupt when done.
const DMA_INTERRUPT: u64 = 1 << 2;
/// INTERRUPT_STATUS: a factorial is done.
const FACTORIAL_DONE: u32 = 0x001;
/// INTERRUPT_STATUS: a transfer is done.
const DMA_DONE: u32 = 0x100;
/// Where the device's own buffer begins in its address space, and its length in bytes.
const DEVICE_BUFFER: u64 = 0x4_0000;
const DEVICE_BUFFER_BYTES: usize = 4096;
/// The device drives 28 address bits.
const LAST_ADDRESS: u64 = (1 << 28) - 1;
// ANCHOR_END: registers

/// How long the device may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

// ANCHOR: open
/// An edu device. Dropping it gives it back.
pub(crate) struct Edu {
    interrupts: Interrupts,
    memory: DmaBuffer,
    registers: Bar,
    function: Function,
}

impl Edu {
    /// Takes the device into use.
    pub(crate) fn open(function: Function) -> Result<Self> {
        let identity = function.identity()?;
        if (identity.vendor, identity.device) != (0x1234, 0x11e8) {
            let what = format!("{:04x}:{:04x} is not an edu", identity.vendor, identity.device);
            return Err(DriverError::Device(what));
        }
        let registers = function.bar(0)?;
        function.set_dma_limit(LAST_ADDRESS);
        function.set_bus_master(true)?;
        let memory = function.dma_buffer(DEVICE_BUFFER_BYTES as u64)?;
        let interrupts = function.interrupts(IrqKind::Msi, 1)?;
        let edu = Self {
            interrupts,
            memory,
            registers,
            function,
        };
        edu.check_liveness()?;
        Ok(edu)
    }
    // ANCHOR_END: open

    // ANCHOR: read
    /// The device's version, as in "1.0".
    pub(crate) fn version(&self) -> Result<String> {
        let id: u32 = self.registers.read(register::IDENTIFICATION)?;
        Ok(format!("{}.{}", id >> 24, id >> 16 & 0xff))
    }

    /// The liveness register reads the inverse of what was written.
    fn check_liveness(&self) -> Result<()> {
        const PATTERN: u32 = 0x1234_5678;
        self.registers.write(register::LIVENESS, PATTERN)?;
        let read: u32 = self.registers.read(register::LIVENESS)?;
        if read != !PATTERN {
            let what = format!("liveness reads {read:#x} after {PATTERN:#x}");
            return Err(DriverError::Device(what));
        }
        Ok(())
    }
    // ANCHOR_END: read

    // ANCHOR: interrupt
    /// n!, modulo 2^32, computed by the device.
    pub(crate) fn factorial(&mut self, n: u32) -> Result<u32> {
        self.registers.write(register::STATUS, STATUS_INTERRUPT)?;
        self.registers.write(register::FACTORIAL, n)?;
        self.wait_for(FACTORIAL_DONE)?;
        self.registers.read(register::FACTORIAL)
    }

    /// Waits until the device reports `cause`, and acknowledges it.
    fn wait_for(&self, cause: u32) -> Result<()> {
        loop {
            if self.interrupts.wait(0, Some(PATIENCE))? == 0 {
                return Err(DriverError::TimedOut {
                    what: "edu's interrupt",
                    patience: PATIENCE,
                });
            }
            let causes: u32 = self.registers.read(register::INTERRUPT_STATUS)?;
            self.registers.write(register::INTERRUPT_ACKNOWLEDGE, causes)?;
            if causes & cause != 0 {
                return Ok(());
            }
        }
    }
    // ANCHOR_END: interrupt

    // ANCHOR: dma
    /// Copies bytes into the device's buffer and back, both ways by DMA.
    pub(crate) fn copy_through_device(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        let bytes = data.len() as u64;
        self.memory.write_bytes(0, data)?;
        self.transfer(self.memory.iova(), DEVICE_BUFFER, bytes, DMA_START)?;
        self.memory.write_bytes(0, &vec![0; data.len()])?;
        self.transfer(
            DEVICE_BUFFER,
            self.memory.iova(),
            bytes,
            DMA_START | DMA_TO_MEMORY,
        )?;
        let mut back = vec![0; data.len()];
        self.memory.read_bytes(0, &mut back)?;
        Ok(back)
    }

    fn transfer(&self, from: u64, to: u64, bytes: u64, command: u64) -> Result<()> {
        self.registers.write(register::DMA_SOURCE, from)?;
        self.registers.write(register::DMA_DESTINATION, to)?;
        self.registers.write(register::DMA_COUNT, bytes)?;
        self.registers
            .write(register::DMA_COMMAND, command | DMA_INTERRUPT)?;
        self.wait_for(DMA_DONE)
    }
    // ANCHOR_END: dma

    // ANCHOR: reset
    /// Resets the device. It can be used on: its registers are as at power-on, interrupts and memory as before.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.function.reset()?;
        // What came before the reset means nothing after it.
        self.interrupts.poll(0)?;
        self.check_liveness()
    }
    // ANCHOR_END: reset
}
