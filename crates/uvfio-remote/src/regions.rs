//! Accesses to regions: checked once, and made as wide as the kernel makes them.

use std::ops::Range;
use std::sync::atomic::Ordering;

use uvfio_core::AccessError;
use uvfio_core::region_index::{CONFIG, ROM};
use uvfio_pci::Bar;
use uvfio_pci::tables::{header, power};

use crate::link::Unanswered;
use crate::remote::Remote;

/// The widest access to a BAR, and to a register of configuration space, in bytes: the kernel's.
const WIDEST: usize = 8;
const WIDEST_CONFIG: usize = 4;

impl Remote {
    /// How long the region is that an access of `bytes` bytes at `offset` lies within.
    fn check(&self, region: u32, offset: u64, bytes: usize) -> Result<(), AccessError> {
        let have = self.declared.region(region)?.bytes;
        let bytes = bytes as u64;
        match offset.checked_add(bytes) {
            Some(end) if end <= have => Ok(()),
            _ => Err(AccessError::OutOfRange {
                region,
                offset,
                bytes,
                have,
            }),
        }
    }

    pub(crate) fn read_region(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.check(region, offset, data.len())?;
        if !self.answers_now(region) {
            data.fill(0xff);
            return Ok(());
        }
        match region {
            // Whole: reads of neither have side effects.
            CONFIG | ROM => self.read_piece(region, offset, data),
            _ => {
                for piece in pieces(offset, data.len(), WIDEST) {
                    let at = offset + piece.start as u64;
                    self.read_piece(region, at, data.get_mut(piece).unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    fn read_piece(&self, region: u32, offset: u64, data: &mut [u8]) {
        match self.link.ask(|client| client.read(region, offset, data)) {
            Ok(()) => {}
            Err(Unanswered::Gone) => data.fill(0xff),
            Err(Unanswered::Refused(errno)) => {
                self.note(region, offset, errno);
                data.fill(0xff);
            }
        }
    }

    pub(crate) fn write_region(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.check(region, offset, data.len())?;
        if !self.answers_now(region) || region == ROM {
            return Ok(());
        }
        let widest = if region == CONFIG { WIDEST_CONFIG } else { WIDEST };
        for piece in pieces(offset, data.len(), widest) {
            let at = offset + piece.start as u64;
            let piece = data.get(piece).unwrap_or_default();
            if region == CONFIG {
                self.write_config(at as u16, piece);
            } else {
                self.write_piece(region, at, piece);
            }
        }
        Ok(())
    }

    pub(crate) fn write_piece(&self, region: u32, offset: u64, data: &[u8]) {
        if let Err(Unanswered::Refused(errno)) = self.link.ask(|client| client.write(region, offset, data)) {
            self.note(region, offset, errno);
        }
    }

    /// Says once that the server refused an access: a program may make any number.
    fn note(&self, region: u32, offset: u64, errno: rustix::io::Errno) {
        if !self.noted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                device = self.name, region, offset = format_args!("{offset:#x}"), %errno,
                "the server refused an access; this one and others read all ones, without another word"
            );
        }
    }

    /// A register of configuration space, at most four bytes of one dword. A function level reset is made by request,
    /// which tells when it is done.
    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut data = data.to_vec();
        let resets = self.take_reset(offset, &mut data);
        let slept = !self.switches.awake.load(Ordering::Acquire);
        self.write_piece(CONFIG, offset.into(), &data);
        self.look_at_switches();
        if slept && self.switches.awake.load(Ordering::Acquire) {
            // PCI Power Management 1.2, 5.6.1: nobody may access it earlier. The kernel waits, too.
            std::thread::sleep(power_up());
        }
        if resets && let Err(error) = self.reset_function(self.patience.reset) {
            tracing::error!(%error, "a function level reset by register");
        }
    }

    /// What the function does, as its registers have it by now.
    pub(crate) fn look_at_switches(&self) {
        let mut command = [0; 2];
        let at = header::BUS_MASTER.register;
        if !self.read_switch(at, &mut command) {
            return;
        }
        let command = u32::from(u16::from_le_bytes(command));
        self.switches
            .memory
            .store(header::MEMORY.extract(command) != 0, Ordering::Release);
        self.switches
            .io
            .store(header::IO.extract(command) != 0, Ordering::Release);
        let mut awake = self.power_at.is_none() || self.switches.awake.load(Ordering::Acquire);
        if let Some(at) = self.power_at {
            let mut state = [0; 2];
            if self.read_switch(at + power::STATE.register, &mut state) {
                awake = power::STATE.extract(u16::from_le_bytes(state).into()) == 0;
            }
        }
        self.switches.awake.store(awake, Ordering::Release);
        self.reach
            .set_bus_master(awake && header::BUS_MASTER.extract(command) != 0);
    }

    /// Reads a register that tells what the function does, and says whether it could. The ones of a refused read would
    /// turn all of it on.
    fn read_switch(&self, register: u16, data: &mut [u8; 2]) -> bool {
        let offset = register.into();
        match self.link.ask(|client| client.read(CONFIG, offset, data)) {
            Ok(()) => !self.link.is_gone(),
            Err(Unanswered::Gone) => false,
            Err(Unanswered::Refused(errno)) => {
                self.note(CONFIG, offset, errno);
                false
            }
        }
    }

    /// Whether a region answers now; a device that is gone is not asked.
    fn answers_now(&self, region: u32) -> bool {
        !self.link.is_gone() && self.region_answers(region)
    }

    /// Whether a region answers, by COMMAND and the power state.
    pub(crate) fn region_answers(&self, region: u32) -> bool {
        let switches = &self.switches;
        let memory = || switches.memory.load(Ordering::Acquire) && switches.awake.load(Ordering::Acquire);
        let bar = |bar| self.declared.layout.bar(bar);
        match region {
            CONFIG => true,
            // Read for a ROM BAR of somebody else's making: without its enable bit, and where there is no memory BAR
            // without any.
            ROM => memory() || !(0..6).any(|n| matches!(bar(n), Bar::Memory32 { .. } | Bar::Memory64 { .. })),
            0..ROM => match bar(region as u8) {
                Bar::None => false,
                Bar::Io { .. } => {
                    switches.io.load(Ordering::Acquire) && switches.awake.load(Ordering::Acquire)
                }
                Bar::Memory32 { .. } | Bar::Memory64 { .. } => memory(),
            },
            _ => false,
        }
    }
}

/// How long a function takes from D3hot to D0.
fn power_up() -> std::time::Duration {
    std::time::Duration::from_millis(10)
}

/// An access of `len` bytes at `offset` as naturally aligned ones of `widest` bytes at most, a power of two.
fn pieces(offset: u64, len: usize, widest: usize) -> impl Iterator<Item = Range<usize>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset.wrapping_add(done as u64);
        let mut bytes = widest;
        while bytes > left || !at.is_multiple_of(bytes as u64) {
            bytes /= 2;
        }
        let piece = done..done + bytes;
        done += bytes;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_made_of_naturally_aligned_ones() {
        let of = |offset, len, widest| {
            pieces(offset, len, widest)
                .map(|piece| piece.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(0, 8, 8), [8]);
        assert_eq!(of(4, 8, 8), [4, 4]);
        assert_eq!(of(1, 8, 8), [1, 2, 4, 1]);
        assert_eq!(of(0, 8, 4), [4, 4]);
        assert_eq!(of(6, 3, 4), [2, 1]);
        assert_eq!(of(7, 0, 4), [0; 0]);
    }
}
