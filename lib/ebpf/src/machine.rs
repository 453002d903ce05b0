//! Runs programs.

use crate::op::{Alu, FRAME, Op, Operand, REGISTERS, Test};
use crate::{DeviceAccess, STACK};

/// Where programs find things: numbers that mean nothing elsewhere.
const CONTEXT_AT: u64 = 1 << 32;
const STACK_AT: u64 = 2 << 32;

fn sign_extend(value: u64, bits: u8) -> u64 {
    let shift = 64 - u32::from(bits.min(64));
    ((value << shift).cast_signed() >> shift).cast_unsigned()
}

fn low(value: u64, bits: u8) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

fn wide_alu(op: Alu, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b).unwrap_or(0),
        Alu::SignedDiv => {
            if sb == 0 {
                0
            } else {
                sa.wrapping_div(sb).cast_unsigned()
            }
        }
        Alu::Mod => a.checked_rem(b).unwrap_or(a),
        Alu::SignedMod => {
            if sb == 0 {
                a
            } else {
                sa.wrapping_rem(sb).cast_unsigned()
            }
        }
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.wrapping_shl((b & 63) as u32),
        Alu::Rsh => a.wrapping_shr((b & 63) as u32),
        Alu::Arsh => sa.wrapping_shr((b & 63) as u32).cast_unsigned(),
        Alu::Neg => a.wrapping_neg(),
        Alu::Mov => b,
        Alu::MovSigned(bits) => sign_extend(b, bits),
        Alu::Truncate(bits) => low(a, bits),
        Alu::Swap(bits) => a.swap_bytes() >> (64 - u32::from(bits.min(64))),
    }
}

/// Of the low halves, which are numbers of 32 bits (RFC 9669, section 4.1): where signs or what is shifted in count they are extended.
fn narrow_alu(op: Alu, a: u64, b: u64) -> u64 {
    let (a, b) = (low(a, 32), low(b, 32));
    let signed = |value| sign_extend(value, 32);
    let result = match op {
        Alu::SignedDiv | Alu::SignedMod => wide_alu(op, signed(a), signed(b)),
        Alu::Lsh | Alu::Rsh => wide_alu(op, a, b & 31),
        Alu::Arsh => wide_alu(op, signed(a), b & 31),
        _ => wide_alu(op, a, b),
    };
    low(result, 32)
}

/// What an operation comes to.
pub fn alu(op: Alu, wide: bool, a: u64, b: u64) -> u64 {
    if wide { wide_alu(op, a, b) } else { narrow_alu(op, a, b) }
}

fn test(test: Test, wide: bool, a: u64, b: u64) -> bool {
    let bits = if wide { 64 } else { 32 };
    let (a, b) = (low(a, bits), low(b, bits));
    let (sa, sb) = (sign_extend(a, bits).cast_signed(), sign_extend(b, bits).cast_signed());
    match test {
        Test::Eq => a == b,
        Test::Ne => a != b,
        Test::Gt => a > b,
        Test::Ge => a >= b,
        Test::Lt => a < b,
        Test::Le => a <= b,
        Test::SignedGt => sa > sb,
        Test::SignedGe => sa >= sb,
        Test::SignedLt => sa < sb,
        Test::SignedLe => sa <= sb,
        Test::Set => a & b != 0,
    }
}

/// An immediate as a number.
pub fn extended(imm: i32) -> u64 {
    i64::from(imm).cast_unsigned()
}

struct Machine {
    registers: [u64; REGISTERS],
    stack: [u8; STACK],
    context: [u8; 12],
}

impl Machine {
    fn new(access: DeviceAccess) -> Self {
        let mut context = [0; 12];
        let words = [access.access_type, access.major, access.minor];
        for (place, word) in context.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let mut new = Self { registers: [0; REGISTERS], stack: [0; STACK], context };
        new.set(1, CONTEXT_AT);
        new.set(FRAME, STACK_AT + STACK as u64);
        new
    }

    fn get(&self, register: u8) -> u64 {
        self.registers.get(usize::from(register)).copied().unwrap_or(0)
    }

    fn set(&mut self, register: u8, value: u64) {
        if let Some(place) = self.registers.get_mut(usize::from(register)) {
            *place = value;
        }
    }

    fn value(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Imm(imm) => extended(imm),
            Operand::Reg(register) => self.get(register),
        }
    }

    /// Bytes at an address; `None` where there are none.
    fn load(&self, address: u64, size: u8) -> Option<u64> {
        let (memory, at): (&[u8], _) = match address.checked_sub(STACK_AT) {
            Some(at) => (&self.stack, at),
            None => (&self.context, address.checked_sub(CONTEXT_AT)?),
        };
        let at = usize::try_from(at).ok()?;
        let bytes = memory.get(at..at.checked_add(size.into())?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn store(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        let at = usize::try_from(address.checked_sub(STACK_AT)?).ok()?;
        let bytes = self.stack.get_mut(at..at.checked_add(size.into())?)?;
        bytes.copy_from_slice(value.to_le_bytes().get(..bytes.len())?);
        Some(())
    }

    fn address(&self, base: u8, off: i16) -> u64 {
        self.get(base).wrapping_add(i64::from(off).cast_unsigned())
    }

    /// One instruction: where to go on. `None` at what a verified program doesn't do.
    fn step(&mut self, op: Op, at: usize) -> Option<usize> {
        let next = at + 1;
        match op {
            Op::Alu { op, wide, dst, src } => self.set(dst, alu(op, wide, self.get(dst), self.value(src))),
            Op::Const { dst, value } => self.set(dst, value),
            Op::Rest => {}
            Op::Load { size, signed, dst, src, off } => {
                let value = self.load(self.address(src, off), size)?;
                self.set(dst, if signed { sign_extend(value, size * 8) } else { value });
            }
            Op::Store { size, dst, off, value } => self.store(self.address(dst, off), size, self.value(value))?,
            Op::Jump { to } => return Some(to as usize),
            Op::Branch { test: kind, wide, dst, src, to } => {
                return Some(if test(kind, wide, self.get(dst), self.value(src)) { to as usize } else { next });
            }
            Op::Exit => return None,
        }
        Some(next)
    }
}

/// What a program says; `None` if it does what it may not. As jumps only go forward, it ends.
fn result(ops: &[Op], access: DeviceAccess) -> Option<u64> {
    let (mut machine, mut at) = (Machine::new(access), 0);
    loop {
        let op = *ops.get(at)?;
        if op == Op::Exit {
            return Some(machine.get(0));
        }
        // Whatever the verifier has overlooked: never back.
        at = machine.step(op, at).filter(|next| *next > at)?;
    }
}

/// What a program says; 0 if it does what the verifier should have refused.
pub fn run(ops: &[Op], access: DeviceAccess) -> u64 {
    result(ops, access).unwrap_or(0)
}

/// Whether a program does nothing that it may not, and says 0 or 1.
#[cfg(test)]
pub fn ends_well(ops: &[Op], access: DeviceAccess) -> bool {
    matches!(result(ops, access), Some(0 | 1))
}
