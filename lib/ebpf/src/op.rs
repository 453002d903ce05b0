//! Decoded instructions.

use abi::Errno;

use crate::{Instruction, Refusal};

/// The registers that programs may write, and the one that points to the stack's end.
pub const REGISTERS: usize = 11;
pub const FRAME: u8 = 10;

/// Operations of the arithmetic unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    SignedDiv,
    Or,
    And,
    Lsh,
    Rsh,
    Arsh,
    Neg,
    Mod,
    SignedMod,
    Xor,
    Mov,
    /// Moves the low bits, extending their sign.
    MovSigned(u8),
    /// Keeps the low bits.
    Truncate(u8),
    /// Keeps the low bits, bytes in the other order.
    Swap(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    SignedGt,
    SignedGe,
    SignedLt,
    SignedLe,
    Set,
}

/// A second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Imm(i32),
    Reg(u8),
}

/// A decoded instruction. Places are numbers of instructions. `wide`: of 64 bits rather than 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Alu {
        op: Alu,
        wide: bool,
        dst: u8,
        src: Operand,
    },
    Const {
        dst: u8,
        value: u64,
    },
    /// The second half of a constant.
    Rest,
    Load {
        size: u8,
        signed: bool,
        dst: u8,
        src: u8,
        off: i16,
    },
    Store {
        size: u8,
        dst: u8,
        off: i16,
        value: Operand,
    },
    Jump {
        to: u32,
    },
    Branch {
        test: Test,
        wide: bool,
        dst: u8,
        src: Operand,
        to: u32,
    },
    Exit,
}

/// Classes of instructions.
const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;

/// Modes of loads and stores.
const MEM: u8 = 0x60;
const MEMSX: u8 = 0x80;
const ATOMIC: u8 = 0xc0;

type Decoded<T> = Result<T, (&'static str, Errno)>;

const fn bad<T>(why: &'static str) -> Decoded<T> {
    Err((why, Errno::EINVAL))
}

fn size_of(code: u8) -> u8 {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

/// A register that is read.
fn read(register: u8) -> Decoded<u8> {
    if usize::from(register) < REGISTERS { Ok(register) } else { bad("no such register") }
}

/// A register that is written.
fn write(register: u8) -> Decoded<u8> {
    if register == FRAME { Err(("frame pointer is read only", Errno::EACCES)) } else { read(register) }
}

fn operand(i: Instruction) -> Decoded<Operand> {
    match (i.code & 0x08 != 0, i.src, i.imm) {
        (true, src, 0) => Ok(Operand::Reg(read(src)?)),
        (false, 0, imm) => Ok(Operand::Imm(imm)),
        _ => bad("reserved fields are used"),
    }
}

fn alu(i: Instruction, wide: bool) -> Decoded<Op> {
    let dst = write(i.dst)?;
    let unary = |op| if i.src == 0 && i.off == 0 { Ok(op) } else { bad("reserved fields are used") };
    let op = match (i.code & 0xf0, i.off) {
        (0x80, _) => {
            if i.code & 0x08 != 0 || i.imm != 0 {
                return bad("reserved fields are used");
            }
            return Ok(Op::Alu { op: unary(Alu::Neg)?, wide, dst, src: Operand::Imm(0) });
        }
        (0xd0, _) => {
            let bits = u8::try_from(i.imm).ok().filter(|bits| matches!(bits, 16 | 32 | 64));
            let bits = bits.ok_or(("no such width", Errno::EINVAL))?;
            // To little endian, which is ours, to big endian, or always the other way round.
            let op = match (i.code & 0x08 != 0, wide) {
                (false, false) => Alu::Truncate(bits),
                (true, false) | (false, true) => Alu::Swap(bits),
                (true, true) => return bad("reserved fields are used"),
            };
            return Ok(Op::Alu { op: unary(op)?, wide: true, dst, src: Operand::Imm(0) });
        }
        (0x30, 1) => Alu::SignedDiv,
        (0x90, 1) => Alu::SignedMod,
        (0xb0, 8 | 16) if i.code & 0x08 != 0 => Alu::MovSigned(if i.off == 8 { 8 } else { 16 }),
        (0xb0, 32) if i.code & 0x08 != 0 && wide => Alu::MovSigned(32),
        (_, off) if off != 0 => return bad("reserved fields are used"),
        (0x00, _) => Alu::Add,
        (0x10, _) => Alu::Sub,
        (0x20, _) => Alu::Mul,
        (0x30, _) => Alu::Div,
        (0x40, _) => Alu::Or,
        (0x50, _) => Alu::And,
        (0x60, _) => Alu::Lsh,
        (0x70, _) => Alu::Rsh,
        (0x90, _) => Alu::Mod,
        (0xa0, _) => Alu::Xor,
        (0xb0, _) => Alu::Mov,
        (0xc0, _) => Alu::Arsh,
        _ => return bad("no such operation"),
    };
    let src = operand(i)?;
    let width = if wide { 64 } else { 32 };
    match (op, src) {
        (Alu::Div | Alu::SignedDiv | Alu::Mod | Alu::SignedMod, Operand::Imm(0)) => bad("division by zero"),
        (Alu::Lsh | Alu::Rsh | Alu::Arsh, Operand::Imm(by)) if !(0..width).contains(&by) => bad("shift by too much"),
        _ => Ok(Op::Alu { op, wide, dst, src }),
    }
}

/// The place that is `by` after the next instruction.
fn target(at: usize, by: i32, len: usize) -> Decoded<u32> {
    let Ok(skip) = usize::try_from(by) else { return bad("jumps backwards") };
    let to = at.checked_add(1).and_then(|next| next.checked_add(skip)).filter(|to| *to < len);
    to.and_then(|to| u32::try_from(to).ok()).ok_or(("jumps out of range", Errno::EINVAL))
}

fn jump(i: Instruction, wide: bool, at: usize, len: usize) -> Decoded<Op> {
    let test = match i.code & 0xf0 {
        0x00 => {
            let (by, unused) = if wide { (i.off.into(), i.imm) } else { (i.imm, i.off.into()) };
            if i.code & 0x08 != 0 || i.dst != 0 || i.src != 0 || unused != 0 {
                return bad("reserved fields are used");
            }
            return Ok(Op::Jump { to: target(at, by, len)? });
        }
        0x80 => return bad("unknown function"),
        0x90 => {
            let plain = wide && i == Instruction { code: i.code & !0x08, ..Instruction::default() };
            return if plain { Ok(Op::Exit) } else { bad("reserved fields are used") };
        }
        0x10 => Test::Eq,
        0x20 => Test::Gt,
        0x30 => Test::Ge,
        0x40 => Test::Set,
        0x50 => Test::Ne,
        0x60 => Test::SignedGt,
        0x70 => Test::SignedGe,
        0xa0 => Test::Lt,
        0xb0 => Test::Le,
        0xc0 => Test::SignedLt,
        0xd0 => Test::SignedLe,
        _ => return bad("no such jump"),
    };
    Ok(Op::Branch { test, wide, dst: read(i.dst)?, src: operand(i)?, to: target(at, i.off.into(), len)? })
}

fn load(i: Instruction) -> Decoded<Op> {
    let (size, mode) = (size_of(i.code), i.code & 0xe0);
    if i.imm != 0 {
        return bad("reserved fields are used");
    }
    let signed = match mode {
        MEM => false,
        MEMSX if size < 8 => true,
        _ => return bad("no such load"),
    };
    Ok(Op::Load { size, signed, dst: write(i.dst)?, src: read(i.src)?, off: i.off })
}

fn store(i: Instruction) -> Decoded<Op> {
    let from_register = i.code & 0x07 == STX;
    match i.code & 0xe0 {
        MEM => {}
        ATOMIC if from_register => return bad("no atomic operations"),
        _ => return bad("no such store"),
    }
    let value = match (from_register, i.src, i.imm) {
        (true, src, 0) => Operand::Reg(read(src)?),
        (false, 0, imm) => Operand::Imm(imm),
        _ => return bad("reserved fields are used"),
    };
    Ok(Op::Store { size: size_of(i.code), dst: read(i.dst)?, off: i.off, value })
}

/// A constant of 64 bits, the upper half of which stands in the next instruction.
fn constant(i: Instruction, next: Option<Instruction>) -> Decoded<Op> {
    if i.code != 0x18 || i.off != 0 {
        return bad("no such load");
    }
    let Some(Instruction { code: 0, dst: 0, src: 0, off: 0, imm: high }) = next else { return bad("half a constant") };
    if i.src != 0 {
        return bad("no maps and other programs");
    }
    let value = u64::from(high.cast_unsigned()) << 32 | u64::from(i.imm.cast_unsigned());
    Ok(Op::Const { dst: write(i.dst)?, value })
}

/// Decodes a whole program.
pub fn decode(source: &[Instruction]) -> Result<Vec<Op>, Refusal> {
    let mut ops = Vec::with_capacity(source.len());
    let mut all = source.iter().copied().enumerate();
    while let Some((at, i)) = all.next() {
        let op = match i.code & 0x07 {
            LD => constant(i, source.get(at + 1).copied()),
            LDX => load(i),
            ST | STX => store(i),
            ALU => alu(i, false),
            ALU64 => alu(i, true),
            JMP => jump(i, true, at, source.len()),
            JMP32 => jump(i, false, at, source.len()),
            _ => bad("no such class"),
        };
        let op = op.map_err(|(why, errno)| Refusal { at, why, errno })?;
        ops.push(op);
        if matches!(op, Op::Const { .. }) {
            all.next();
            ops.push(Op::Rest);
        }
    }
    Ok(ops)
}
