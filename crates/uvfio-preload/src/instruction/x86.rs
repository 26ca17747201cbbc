//! Instructions of x86-64 that load or store.

use core::fmt::Write;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use uvfio_calls::{Call, kind, op};

use super::Outcome;
use super::registers::{Registers, mask};
use crate::ask::ask;
use crate::regions;

const PAGE: usize = 4096;
/// Bytes of the longest instruction.
const LONGEST: usize = 15;

// Bits of RFLAGS.
const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;

/// Has the decoder make its tables, for which it takes memory: not in a handler.
pub(crate) fn prepare() {
    let _ = Decoder::with_ip(64, &[0x90], 0, DecoderOptions::NONE).decode();
}

/// Does the instruction that was stopped at an access to `address`.
pub(crate) fn run(address: usize, state: &mut libc::ucontext_t) -> Outcome {
    if regions::at(address).is_none() {
        return Outcome::NotOurs;
    }
    let mut registers = Registers(state);
    let Some(instruction) = decode(registers.instruction()) else {
        return Outcome::NotOurs;
    };
    let mut access = Access {
        registers: &mut registers,
        instruction: &instruction,
        refused: false,
    };
    match access.run() {
        Some(()) => {
            if !access.repeats() {
                registers.set_instruction(instruction.next_ip());
            }
            Outcome::Done
        }
        None if access.refused => Outcome::Refused,
        None => {
            tell(&instruction);
            Outcome::NotOurs
        }
    }
}

/// Says why the program is about to get a SIGSEGV that it would not get elsewhere.
fn tell(instruction: &Instruction) {
    let mut line = Line::default();
    // What does not fit is cut off.
    let _ = writeln!(
        line,
        "uvfio: {:?} at {:#x} accesses a mapped BAR, and is not among the instructions that can do so here: moves, and \
         arithmetic of 1 to 8 bytes",
        instruction.mnemonic(),
        instruction.ip(),
    );
    let _ = rustix::io::write(
        rustix::stdio::stderr(),
        line.bytes.get(..line.length).unwrap_or_default(),
    );
}

/// A line of text, in no memory but its own.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            self.length += 1;
        }
        Ok(())
    }
}

fn decode(at: u64) -> Option<Instruction> {
    let start = usize::try_from(at).ok()?;
    // Not beyond the page: the next may not be there, unless the instruction goes on in it.
    let whole = (PAGE - start % PAGE).min(LONGEST);
    for length in [whole, LONGEST] {
        let code = core::ptr::with_exposed_provenance::<u8>(start);
        // SAFETY: the processor has just read this instruction; what is behind it lies in its page, or is part of it.
        let code = unsafe { core::slice::from_raw_parts(code, length) };
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        match decoder.last_error() {
            DecoderError::None => return Some(instruction),
            DecoderError::NoMoreBytes if length < LONGEST => {}
            _ => return None,
        }
    }
    None
}

/// An instruction and the registers that it works on.
struct Access<'a, 'b> {
    registers: &'a mut Registers<'b>,
    instruction: &'a Instruction,
    /// The supervisor has refused a load or store.
    refused: bool,
}

impl Access<'_, '_> {
    /// None where it can't be done; nothing is changed then but what was loaded and stored.
    fn run(&mut self) -> Option<()> {
        use Mnemonic as M;
        if self.instruction.is_string_instruction() {
            return self.string();
        }
        match self.instruction.mnemonic() {
            M::Mov | M::Movnti => {
                let value = self.operand(1)?;
                self.set_operand(0, value)
            }
            M::Movzx => {
                let value = self.operand(1)?;
                self.registers.set(self.instruction.op0_register(), value)
            }
            M::Movsx | M::Movsxd => {
                let bits = 64 - 8 * self.memory_bytes() as u32;
                let value = (self.operand(1)? << bits) as i64 >> bits;
                self.registers.set(self.instruction.op0_register(), value as u64)
            }
            M::Movbe => {
                let bits = 64 - 8 * self.memory_bytes() as u32;
                let value = (self.operand(1)? << bits).swap_bytes();
                self.set_operand(0, value)
            }
            M::Xchg => {
                let (first, second) = (self.operand(0)?, self.operand(1)?);
                self.set_operand(0, second)?;
                self.set_operand(1, first)
            }
            M::Add
            | M::Sub
            | M::And
            | M::Or
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Not
            | M::Neg => self.arithmetic(),
            _ => self.vector(),
        }
    }

    /// How many bytes the instruction's memory operand has.
    fn memory_bytes(&self) -> usize {
        self.instruction.memory_size().size()
    }

    /// Where the memory of an operand is.
    fn address(&self, operand: u32) -> Option<u64> {
        self.instruction
            .virtual_address(operand, 0, |register, _, _| self.registers.get(register))
    }

    /// An operand's value, of 8 bytes at most.
    fn operand(&mut self, operand: u32) -> Option<u64> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.registers.get(self.instruction.op_register(operand)),
            OpKind::Memory => self.load(self.address(operand)?, self.memory_bytes()),
            kind if is_memory_of_string(kind) => self.load(self.address(operand)?, self.memory_bytes()),
            _ => self.instruction.try_immediate(operand).ok(),
        }
    }

    fn set_operand(&mut self, operand: u32, value: u64) -> Option<()> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.registers.set(self.instruction.op_register(operand), value),
            _ => self.store(self.address(operand)?, self.memory_bytes(), value),
        }
    }

    /// Instructions that set flags by a value of 1, 2, 4 or 8 bytes.
    fn arithmetic(&mut self) -> Option<()> {
        use Mnemonic as M;
        let what = self.instruction.mnemonic();
        let bytes = self.memory_bytes();
        let (all, top) = (mask(bytes), 1 << (8 * bytes - 1));
        let first = self.operand(0)? & all;
        let second = match what {
            M::Inc | M::Dec => 1,
            M::Not => all,
            M::Neg => 0,
            _ => self.operand(1)? & all,
        };
        let (left, right) = if what == M::Neg {
            (0, first)
        } else {
            (first, second)
        };
        let result = all
            & match what {
                M::Add | M::Inc => left.wrapping_add(right),
                M::Sub | M::Dec | M::Cmp | M::Neg => left.wrapping_sub(right),
                M::And | M::Test => left & right,
                M::Or => left | right,
                _ => left ^ right,
            };
        if !matches!(what, M::Cmp | M::Test) {
            self.set_operand(0, result)?;
        }
        if what == M::Not {
            return Some(());
        }
        let (carry, overflow, adjust) = match what {
            M::Add | M::Inc => (
                result < left,
                (left ^ result) & (right ^ result) & top != 0,
                left ^ right ^ result,
            ),
            M::Sub | M::Dec | M::Cmp | M::Neg => (
                left < right,
                (left ^ right) & (left ^ result) & top != 0,
                left ^ right ^ result,
            ),
            _ => (false, false, 0),
        };
        let mut changed = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
        if matches!(what, M::Inc | M::Dec) {
            changed &= !CARRY;
        }
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let flags = flag(carry, CARRY)
            | flag((result as u8).count_ones().is_multiple_of(2), PARITY)
            | flag(adjust & 0x10 != 0, ADJUST)
            | flag(result == 0, ZERO)
            | flag(result & top != 0, SIGN)
            | flag(overflow, OVERFLOW);
        let kept = self.registers.flags() & !changed;
        self.registers.set_flags(kept | (flags & changed));
        Some(())
    }

    /// Moves between memory and vector registers.
    fn vector(&mut self) -> Option<()> {
        use Mnemonic as M;
        let high = match self.instruction.mnemonic() {
            M::Movdqa | M::Movdqu | M::Movaps | M::Movups | M::Movapd | M::Movupd | M::Lddqu | M::Movntdq => {
                false
            }
            M::Movntps | M::Movntpd | M::Movntdqa | M::Movd | M::Movq | M::Movss | M::Movsd => false,
            M::Vmovdqa | M::Vmovdqu | M::Vmovaps | M::Vmovups | M::Vmovapd | M::Vmovupd | M::Vlddqu => false,
            M::Vmovntdq | M::Vmovntps | M::Vmovntpd | M::Vmovntdqa | M::Vmovd | M::Vmovq | M::Vmovss => false,
            M::Vmovsd => false,
            M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd => true,
            M::Movlps | M::Movlpd | M::Vmovlps | M::Vmovlpd => return self.vector_part(0),
            _ => return None,
        };
        if high {
            return self.vector_part(8);
        }
        let bytes = self.memory_bytes();
        if self.instruction.op0_kind() == OpKind::Memory {
            let value = self.registers.vector(self.instruction.op1_register())?;
            return self.store_bytes(self.address(0)?, value.get(..bytes)?);
        }
        let mut value = [0; 32];
        let address = self.address(1)?;
        self.load_bytes(address, value.get_mut(..bytes)?)?;
        // Those with a VEX prefix clear what is above.
        let all = self.instruction.code().encoding() != iced_x86::EncodingKind::Legacy;
        self.registers
            .set_vector(self.instruction.op0_register(), &value, all)
    }

    /// Moves 8 bytes, which in the register are at `at`; the other 8 stay, or come from another register.
    fn vector_part(&mut self, at: usize) -> Option<()> {
        if self.instruction.op0_kind() == OpKind::Memory {
            let value = self.registers.vector(self.instruction.op1_register())?;
            return self.store_bytes(self.address(0)?, value.get(at..at + 8)?);
        }
        let vex = self.instruction.code().encoding() != iced_x86::EncodingKind::Legacy;
        let (memory, other) = if vex {
            (2, self.instruction.op1_register())
        } else {
            (1, self.instruction.op0_register())
        };
        let mut value = self.registers.vector(other)?;
        if vex {
            value.get_mut(16..)?.fill(0);
        }
        let address = self.address(memory)?;
        self.load_bytes(address, value.get_mut(at..at + 8)?)?;
        self.registers
            .set_vector(self.instruction.op0_register(), &value, vex)
    }

    /// One round of an instruction that goes through memory.
    fn string(&mut self) -> Option<()> {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => {}
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {}
            _ => return None,
        }
        let value = self.operand(1)?;
        self.set_operand(0, value)?;
        let bytes = self.memory_bytes() as u64;
        let backwards = self.registers.flags() & DIRECTION != 0;
        let step = if backwards { bytes.wrapping_neg() } else { bytes };
        for operand in 0..2 {
            let pointer = match self.instruction.op_kind(operand) {
                OpKind::MemorySegRSI => Register::RSI,
                OpKind::MemoryESRDI => Register::RDI,
                // With an address of 32 bits: nobody's BAR is there.
                kind if is_memory_of_string(kind) => return None,
                _ => continue,
            };
            let moved = self.registers.get(pointer)?.wrapping_add(step);
            self.registers.set(pointer, moved)?;
        }
        if self.instruction.has_rep_prefix() {
            let left = self.registers.get(Register::RCX)?.wrapping_sub(1);
            self.registers.set(Register::RCX, left)?;
        }
        Some(())
    }

    /// Whether the same instruction goes on.
    fn repeats(&self) -> bool {
        self.instruction.is_string_instruction()
            && self.instruction.has_rep_prefix()
            && self.registers.get(Register::RCX) != Some(0)
    }

    fn load(&mut self, address: u64, bytes: usize) -> Option<u64> {
        let mut value = [0; 8];
        self.load_bytes(address, value.get_mut(..bytes)?)?;
        Some(u64::from_le_bytes(value))
    }

    fn store(&mut self, address: u64, bytes: usize, value: u64) -> Option<()> {
        self.store_bytes(address, value.to_le_bytes().get(..bytes)?)
    }

    /// By 8 bytes, where there are more.
    fn load_bytes(&mut self, mut address: u64, data: &mut [u8]) -> Option<()> {
        for part in data.chunks_mut(8) {
            if let Some(value) = self.ask(op::LOAD, address, part.len(), 0)? {
                part.copy_from_slice(value.to_le_bytes().get(..part.len())?);
            } else {
                let from = core::ptr::with_exposed_provenance::<u8>(usize::try_from(address).ok()?);
                // SAFETY: the program's own load from memory of its own, as it asked for it: where it can't be made, it
                // is the program's fault, in both senses.
                unsafe { from.copy_to(part.as_mut_ptr(), part.len()) };
            }
            address = address.wrapping_add(part.len() as u64);
        }
        Some(())
    }

    fn store_bytes(&mut self, mut address: u64, data: &[u8]) -> Option<()> {
        for part in data.chunks(8) {
            let mut value = [0; 8];
            value.get_mut(..part.len())?.copy_from_slice(part);
            if self
                .ask(op::STORE, address, part.len(), u64::from_le_bytes(value))?
                .is_none()
            {
                let to = core::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).ok()?);
                // SAFETY: as in `load_bytes`.
                unsafe { to.copy_from(part.as_ptr(), part.len()) };
            }
            address = address.wrapping_add(part.len() as u64);
        }
        Some(())
    }

    /// Has the supervisor make a load or store, if registers are there: then what was loaded.
    fn ask(&mut self, op: u32, address: u64, bytes: usize, value: u64) -> Option<Option<u64>> {
        let at = usize::try_from(address).ok()?;
        while let Some(place) = regions::at(at) {
            let call = Call {
                op,
                descriptor: place.descriptor,
                request: value,
                bytes: bytes as u64,
                offset: place.offset,
                ..Call::default()
            };
            match ask(&call) {
                Some((reply, _)) if reply.kind == kind::VALUE => return Some(Some(reply.value)),
                _ if regions::at(at) == Some(place) => {
                    self.refused = true;
                    return None;
                }
                // Unmapped meanwhile, with the descriptor: it counts what is there now.
                _ => {}
            }
        }
        Some(None)
    }
}

fn is_memory_of_string(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}
