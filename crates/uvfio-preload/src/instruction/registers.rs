//! The processor's registers, as the kernel keeps them for a signal's handler.

use iced_x86::Register;
use libc::{
    REG_EFL, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX,
    REG_RCX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP,
};

/// Where the kernel keeps the general registers, by their numbers in instructions.
const GENERAL: [i32; 16] = [
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
    REG_R12, REG_R13, REG_R14, REG_R15,
];

// In the area that FXSAVE and XSAVE write (Intel SDM, volume 1, 10.5.1 and 13.4).
const XMM: usize = 160;
const YMM_HIGH: usize = 576;
const XSTATE_BV: usize = 512;
/// Where the kernel says that more than FXSAVE's area is there, and how: a number, the size of all, which parts.
const MAGIC: usize = 464;
const MAGIC_XSTATE: u32 = 0x4650_5853;
const FEATURES: usize = 472;
/// Bits of XSTATE_BV.
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;

/// The registers of the thread that was stopped.
pub(super) struct Registers<'a>(pub(super) &'a mut libc::ucontext_t);

impl Registers<'_> {
    pub(super) fn instruction(&self) -> u64 {
        self.general(REG_RIP)
    }

    pub(super) fn set_instruction(&mut self, address: u64) {
        self.set_general(REG_RIP, address);
    }

    pub(super) fn flags(&self) -> u64 {
        self.general(REG_EFL)
    }

    pub(super) fn set_flags(&mut self, flags: u64) {
        self.set_general(REG_EFL, flags);
    }

    fn general(&self, index: i32) -> u64 {
        let registers = &self.0.uc_mcontext.gregs;
        registers.get(index as usize).map_or(0, |value| *value as u64)
    }

    fn set_general(&mut self, index: i32, value: u64) {
        if let Some(register) = self.0.uc_mcontext.gregs.get_mut(index as usize) {
            *register = value as i64;
        }
    }

    /// A general register, or a part of one; for segments, where they begin, if that is at 0.
    pub(super) fn get(&self, register: Register) -> Option<u64> {
        if matches!(
            register,
            Register::ES | Register::CS | Register::SS | Register::DS
        ) {
            return Some(0);
        }
        let (index, shift) = place(register)?;
        Some((self.general(index) >> shift) & mask(register.size()))
    }

    /// Sets a general register, or a part of one, as instructions do: 32 bits clear the others.
    pub(super) fn set(&mut self, register: Register, value: u64) -> Option<()> {
        let (index, shift) = place(register)?;
        let kept = match register.size() {
            4 | 8 => 0,
            size => self.general(index) & !(mask(size) << shift),
        };
        self.set_general(index, kept | (value & mask(register.size())) << shift);
        Some(())
    }

    /// The low 32 bytes of a vector register.
    pub(super) fn vector(&self, register: Register) -> Option<[u8; 32]> {
        let number = vector_number(register)?;
        let mut value = [0; 32];
        let (low, high) = value.split_at_mut(16);
        self.copy_out(XMM + number * 16, low)?;
        if self.has(AVX) && self.in_use() & AVX != 0 {
            self.copy_out(YMM_HIGH + number * 16, high)?;
        }
        Some(value)
    }

    /// Sets the low 16 bytes of a vector register, and with `all` the next 16, too.
    pub(super) fn set_vector(&mut self, register: Register, value: &[u8; 32], all: bool) -> Option<()> {
        let number = vector_number(register)?;
        let (low, high) = value.split_at(16);
        self.copy_in(XMM + number * 16, low)?;
        let mut used = SSE;
        if all && self.has(AVX) {
            if self.in_use() & AVX == 0 {
                // What is not in use is not there: all of it is zero once it is.
                self.copy_in(YMM_HIGH, &[0; 256])?;
            }
            self.copy_in(YMM_HIGH + number * 16, high)?;
            used |= AVX;
        }
        if self.extended() {
            let used = self.in_use() | used;
            self.copy_in(XSTATE_BV, &used.to_le_bytes())?;
        }
        Some(())
    }

    fn extended(&self) -> bool {
        let mut magic = [0; 4];
        self.copy_out(MAGIC, &mut magic).is_some() && u32::from_le_bytes(magic) == MAGIC_XSTATE
    }

    /// Whether the kernel has kept a part.
    fn has(&self, part: u64) -> bool {
        let mut features = [0; 8];
        self.extended()
            && self.copy_out(FEATURES, &mut features).is_some()
            && u64::from_le_bytes(features) & part != 0
    }

    /// Parts that are not as at the beginning.
    fn in_use(&self) -> u64 {
        let mut used = [0; 8];
        self.copy_out(XSTATE_BV, &mut used);
        u64::from_le_bytes(used)
    }

    fn saved(&self) -> Option<*mut u8> {
        let saved = self.0.uc_mcontext.fpregs;
        (!saved.is_null()).then_some(saved.cast())
    }

    fn copy_out(&self, at: usize, data: &mut [u8]) -> Option<()> {
        let from = self.saved()?.wrapping_add(at);
        // SAFETY: the kernel keeps FXSAVE's 512 bytes there; what lies behind them is read only where it says that it is
        // there (`extended`), and then to the end of the AVX part at most.
        unsafe { from.copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
        Some(())
    }

    fn copy_in(&mut self, at: usize, data: &[u8]) -> Option<()> {
        let to = self.saved()?.wrapping_add(at);
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        Some(())
    }
}

/// Where a general register, or a part of one, is: which, and from which bit on.
fn place(register: Register) -> Option<(i32, u32)> {
    let high = matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    );
    if !register.is_gpr() {
        return None;
    }
    let number = register.full_register().number();
    Some((*GENERAL.get(number)?, if high { 8 } else { 0 }))
}

fn vector_number(register: Register) -> Option<usize> {
    (register.is_xmm() || register.is_ymm())
        .then(|| register.number())
        .filter(|number| *number < 16)
}

/// The low bits that so many bytes have.
pub(super) fn mask(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        bytes if bytes >= 8 => u64::MAX,
        bytes => (1 << (bytes * 8)) - 1,
    }
}
