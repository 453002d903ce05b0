//! Classic BPF programs, checked once and then run (`linux/filter.h`; Documentation/networking/filter.rst).
#![forbid(unsafe_code)]

use abi::{Errno, SysResult};

/// Instructions of a program at most (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY: usize = 16;

/// `struct sock_filter`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl Instruction {
    /// From its eight bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = bytes;
        Self { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes([k0, k1, k2, k3]) }
    }
}

/// What a program looks at.
pub trait Data {
    /// `size` (1, 2 or 4) bytes at `offset`, as a number; `None` when they aren't there, which ends the program with 0.
    fn load(&self, offset: u32, size: u32) -> Option<u32>;

    /// Length of what is looked at.
    fn len(&self) -> u32;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a program is for: not all instructions are allowed everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Packets of a socket.
    Socket,
    /// System calls: whole aligned words of a structure of `size` bytes.
    Seccomp { size: u32 },
}

/// Operations of the arithmetic unit.
#[derive(Clone, Copy, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    Xor,
}

#[derive(Clone, Copy, Debug)]
enum Test {
    Eq,
    Gt,
    Ge,
    Set,
}

/// A second operand.
#[derive(Clone, Copy, Debug)]
enum Operand {
    K(u32),
    X,
}

/// A decoded instruction. Jumps count instructions to skip.
#[derive(Clone, Copy, Debug)]
enum Op {
    LoadImmediate(u32),
    LoadAbsolute {
        offset: u32,
        size: u32,
    },
    LoadIndirect {
        offset: u32,
        size: u32,
    },
    LoadMemory(usize),
    LoadLength,
    LoadXImmediate(u32),
    LoadXMemory(usize),
    LoadXLength,
    /// The length of an IPv4 header.
    LoadXHeader(u32),
    Store(usize),
    StoreX(usize),
    Alu(Alu, Operand),
    Negate,
    Jump(u32),
    Test(Test, Operand, u8, u8),
    Return(u32),
    ReturnA,
    ToX,
    FromX,
}

/// A program that has passed all checks.
#[derive(Clone, Debug)]
pub struct Program(Box<[Op]>);

fn slot(k: u32) -> SysResult<usize> {
    usize::try_from(k).ok().filter(|slot| *slot < MEMORY).ok_or(Errno::EINVAL)
}

fn load(code: u16, k: u32) -> SysResult<Op> {
    let size = match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => return Err(Errno::EINVAL),
    };
    Ok(match (code & 0xe0, size) {
        (0x00, 4) => Op::LoadImmediate(k),
        (0x20, _) => Op::LoadAbsolute { offset: k, size },
        (0x40, _) => Op::LoadIndirect { offset: k, size },
        (0x60, 4) => Op::LoadMemory(slot(k)?),
        (0x80, 4) => Op::LoadLength,
        _ => return Err(Errno::EINVAL),
    })
}

fn load_x(code: u16, k: u32) -> SysResult<Op> {
    Ok(match code & 0xf8 {
        0x00 => Op::LoadXImmediate(k),
        0x60 => Op::LoadXMemory(slot(k)?),
        0x80 => Op::LoadXLength,
        // Bytes.
        0xb0 => Op::LoadXHeader(k),
        _ => return Err(Errno::EINVAL),
    })
}

fn operand(code: u16, k: u32) -> Operand {
    if code & 0x08 == 0 { Operand::K(k) } else { Operand::X }
}

fn alu(code: u16, k: u32) -> SysResult<Op> {
    let operation = match code & 0xf0 {
        0x00 => Alu::Add,
        0x10 => Alu::Sub,
        0x20 => Alu::Mul,
        0x30 => Alu::Div,
        0x40 => Alu::Or,
        0x50 => Alu::And,
        0x60 => Alu::Lsh,
        0x70 => Alu::Rsh,
        0x80 if code & 0x08 == 0 => return Ok(Op::Negate),
        0x90 => Alu::Mod,
        0xa0 => Alu::Xor,
        _ => return Err(Errno::EINVAL),
    };
    let operand = operand(code, k);
    match (operation, operand) {
        (Alu::Div | Alu::Mod, Operand::K(0)) | (Alu::Lsh | Alu::Rsh, Operand::K(32..)) => Err(Errno::EINVAL),
        _ => Ok(Op::Alu(operation, operand)),
    }
}

/// `rest`: how many instructions follow.
fn jump(instruction: Instruction, rest: usize) -> SysResult<Op> {
    let Instruction { code, jt, jf, k } = instruction;
    if code & 0xf8 == 0 {
        let fits = usize::try_from(k).is_ok_and(|skip| skip < rest);
        return if fits { Ok(Op::Jump(k)) } else { Err(Errno::EINVAL) };
    }
    let test = match code & 0xf0 {
        0x10 => Test::Eq,
        0x20 => Test::Gt,
        0x30 => Test::Ge,
        0x40 => Test::Set,
        _ => return Err(Errno::EINVAL),
    };
    if usize::from(jt) >= rest || usize::from(jf) >= rest {
        return Err(Errno::EINVAL);
    }
    Ok(Op::Test(test, operand(code, k), jt, jf))
}

fn decode(instruction: Instruction, rest: usize) -> SysResult<Op> {
    let Instruction { code, k, .. } = instruction;
    if code > 0xff {
        return Err(Errno::EINVAL);
    }
    match code & 0x07 {
        0 => load(code, k),
        1 => load_x(code, k),
        2 if code == 0x02 => Ok(Op::Store(slot(k)?)),
        3 if code == 0x03 => Ok(Op::StoreX(slot(k)?)),
        4 => alu(code, k),
        5 => jump(instruction, rest),
        6 if code == 0x06 => Ok(Op::Return(k)),
        6 if code == 0x16 => Ok(Op::ReturnA),
        7 if code == 0x07 => Ok(Op::ToX),
        7 if code == 0x87 => Ok(Op::FromX),
        _ => Err(Errno::EINVAL),
    }
}

/// What seccomp(2) allows.
fn allowed(op: Op, size: u32) -> bool {
    match op {
        Op::LoadAbsolute { offset, size: width } => width == 4 && offset < size && offset.is_multiple_of(4),
        Op::LoadIndirect { .. } | Op::LoadXHeader(_) | Op::Alu(Alu::Mod, _) => false,
        _ => true,
    }
}

/// Refuses programs that read scratch memory which has not been written on every way there.
fn check_memory(ops: &[Op]) -> SysResult<()> {
    // Written words when an instruction is reached, over all ways that lead there; jumps only go forward.
    let mut reaching = vec![u16::MAX; ops.len()];
    let mut written = 0u16;
    for (at, op) in ops.iter().enumerate() {
        written &= reaching.get(at).copied().unwrap_or(0);
        let mut note = |skip: usize, written: u16| {
            if let Some(slot) = reaching.get_mut(at + 1 + skip) {
                *slot &= written;
            }
        };
        match *op {
            Op::Store(slot) | Op::StoreX(slot) => written |= 1 << slot,
            Op::LoadMemory(slot) | Op::LoadXMemory(slot) if written & 1 << slot == 0 => return Err(Errno::EINVAL),
            Op::Jump(skip) => {
                note(skip as usize, written);
                written = u16::MAX;
            }
            Op::Test(_, _, jt, jf) => {
                note(jt.into(), written);
                note(jf.into(), written);
                written = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Registers.
#[derive(Default)]
struct Machine {
    a: u32,
    x: u32,
    memory: [u32; MEMORY],
}

/// What comes after an instruction.
enum Next {
    Skip(usize),
    Done(u32),
}

impl Machine {
    fn value(&self, operand: Operand) -> u32 {
        match operand {
            Operand::K(k) => k,
            Operand::X => self.x,
        }
    }

    fn word(&self, slot: usize) -> u32 {
        self.memory.get(slot).copied().unwrap_or(0)
    }

    fn set(&mut self, slot: usize, value: u32) {
        if let Some(word) = self.memory.get_mut(slot) {
            *word = value;
        }
    }

    /// `None` for a division by zero.
    fn alu(&self, operation: Alu, operand: Operand) -> Option<u32> {
        let (a, b) = (self.a, self.value(operand));
        Some(match operation {
            Alu::Add => a.wrapping_add(b),
            Alu::Sub => a.wrapping_sub(b),
            Alu::Mul => a.wrapping_mul(b),
            Alu::Div => a.checked_div(b)?,
            Alu::Mod => a.checked_rem(b)?,
            Alu::Or => a | b,
            Alu::And => a & b,
            Alu::Xor => a ^ b,
            Alu::Lsh => a.wrapping_shl(b),
            Alu::Rsh => a.wrapping_shr(b),
        })
    }

    fn test(&self, test: Test, operand: Operand) -> bool {
        let (a, b) = (self.a, self.value(operand));
        match test {
            Test::Eq => a == b,
            Test::Gt => a > b,
            Test::Ge => a >= b,
            Test::Set => a & b != 0,
        }
    }

    /// One instruction; `None` when what it asks for isn't there.
    #[inline]
    fn step(&mut self, op: Op, data: &(impl Data + ?Sized)) -> Option<Next> {
        match op {
            Op::LoadImmediate(k) => self.a = k,
            Op::LoadAbsolute { offset, size } => self.a = data.load(offset, size)?,
            Op::LoadIndirect { offset, size } => self.a = data.load(self.x.checked_add(offset)?, size)?,
            Op::LoadMemory(slot) => self.a = self.word(slot),
            Op::LoadLength => self.a = data.len(),
            Op::LoadXImmediate(k) => self.x = k,
            Op::LoadXMemory(slot) => self.x = self.word(slot),
            Op::LoadXLength => self.x = data.len(),
            Op::LoadXHeader(offset) => self.x = (data.load(offset, 1)? & 0xf) * 4,
            Op::Store(slot) => self.set(slot, self.a),
            Op::StoreX(slot) => self.set(slot, self.x),
            Op::Alu(operation, operand) => self.a = self.alu(operation, operand)?,
            Op::Negate => self.a = self.a.wrapping_neg(),
            Op::Jump(skip) => return Some(Next::Skip(skip as usize)),
            Op::Test(test, operand, jt, jf) => {
                let skip = if self.test(test, operand) { jt } else { jf };
                return Some(Next::Skip(skip.into()));
            }
            Op::Return(k) => return Some(Next::Done(k)),
            Op::ReturnA => return Some(Next::Done(self.a)),
            Op::ToX => self.x = self.a,
            Op::FromX => self.a = self.x,
        }
        Some(Next::Skip(0))
    }
}

impl Program {
    /// Checks and decodes a program.
    ///
    /// # Errors
    /// `EINVAL` when it is empty or too long, has an instruction that isn't allowed, jumps out of itself, doesn't end in a return, or reads
    /// memory that it hasn't written.
    pub fn check(instructions: &[Instruction], purpose: Purpose) -> SysResult<Self> {
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        let mut ops = Vec::with_capacity(instructions.len());
        for (rest, instruction) in (0..instructions.len()).rev().zip(instructions) {
            let op = decode(*instruction, rest)?;
            if let Purpose::Seccomp { size } = purpose
                && !allowed(op, size)
            {
                return Err(Errno::EINVAL);
            }
            ops.push(op);
        }
        if !matches!(ops.last(), Some(Op::Return(_) | Op::ReturnA)) {
            return Err(Errno::EINVAL);
        }
        check_memory(&ops)?;
        Ok(Self(ops.into()))
    }

    /// Number of instructions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: there is a return at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs it.
    pub fn run(&self, data: &(impl Data + ?Sized)) -> u32 {
        let (mut machine, mut at) = (Machine::default(), 0usize);
        while let Some(op) = self.0.get(at) {
            match machine.step(*op, data) {
                Some(Next::Skip(skip)) => at += 1 + skip,
                Some(Next::Done(value)) => return value,
                None => return 0,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes<'a>(&'a [u8]);

    impl Data for Bytes<'_> {
        fn load(&self, offset: u32, size: u32) -> Option<u32> {
            let bytes = self.0.get(offset as usize..(offset + size) as usize)?;
            Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
        }

        fn len(&self) -> u32 {
            self.0.len() as u32
        }
    }

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn run(program: &[Instruction], data: &[u8]) -> u32 {
        Program::check(program, Purpose::Socket).unwrap().run(&Bytes(data))
    }

    #[test]
    fn arithmetic() {
        // A = 7; X = A; A = (3 + X) * 5 % 8 ^ 1, negated twice.
        let program =
            [i(0x00, 0, 0, 7), i(0x07, 0, 0, 0), i(0x00, 0, 0, 3), i(0x0c, 0, 0, 0), i(0x24, 0, 0, 5), i(0x94, 0, 0, 8)];
        let rest = [i(0xa4, 0, 0, 1), i(0x84, 0, 0, 0), i(0x84, 0, 0, 0), i(0x16, 0, 0, 0)];
        assert_eq!(run(&[&program[..], &rest].concat(), &[]), 3);
        // Division by X, which is zero, ends it.
        assert_eq!(run(&[i(0x00, 0, 0, 7), i(0x3c, 0, 0, 0), i(0x06, 0, 0, 9)], &[]), 0);
    }

    #[test]
    fn packets() {
        let packet = [0x45, 1, 2, 3, 4, 5];
        assert_eq!(run(&[i(0x28, 0, 0, 1), i(0x16, 0, 0, 0)], &packet), 0x0102);
        assert_eq!(run(&[i(0x20, 0, 0, 3), i(0x06, 0, 0, 9)], &packet), 0, "beyond the end");
        assert_eq!(run(&[i(0xb1, 0, 0, 0), i(0x87, 0, 0, 0), i(0x16, 0, 0, 0)], &packet), 20);
        assert_eq!(run(&[i(0x01, 0, 0, 2), i(0x50, 0, 0, 1), i(0x16, 0, 0, 0)], &packet), 3);
        assert_eq!(run(&[i(0x80, 0, 0, 0), i(0x16, 0, 0, 0)], &packet), 6);
    }

    #[test]
    fn jumps() {
        let program =
            |k| [i(0x00, 0, 0, k), i(0x25, 0, 1, 5), i(0x06, 0, 0, 1), i(0x15, 0, 1, 5), i(0x06, 0, 0, 2), i(0x06, 0, 0, 3)];
        assert_eq!([6, 5, 4].map(|k| run(&program(k), &[])), [1, 2, 3]);
        assert_eq!(run(&[i(0x05, 0, 0, 1), i(0x06, 0, 0, 1), i(0x06, 0, 0, 2)], &[]), 2);
    }

    #[test]
    fn what_linux_refuses() {
        let bad: &[&[Instruction]] = &[
            &[],
            &[i(0x00, 0, 0, 0)],
            &[i(0x05, 0, 0, 1), i(0x06, 0, 0, 0)],
            &[i(0x05, 0, 0, u32::MAX), i(0x06, 0, 0, 0)],
            &[i(0x15, 1, 0, 0), i(0x06, 0, 0, 0)],
            &[i(0x34, 0, 0, 0), i(0x06, 0, 0, 0)],
            &[i(0x64, 0, 0, 32), i(0x06, 0, 0, 0)],
            &[i(0x60, 0, 0, 16), i(0x06, 0, 0, 0)],
            &[i(0x60, 0, 0, 3), i(0x06, 0, 0, 0)],
            &[i(0x1006, 0, 0, 0)],
            &[i(0x0e, 0, 0, 0)],
            // Memory written on one way only.
            &[i(0x15, 0, 1, 0), i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), i(0x06, 0, 0, 0)],
        ];
        for program in bad {
            assert_eq!(Program::check(program, Purpose::Socket).err(), Some(Errno::EINVAL), "{program:?}");
        }
        let good = [i(0x15, 0, 1, 0), i(0x02, 0, 0, 3), i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), i(0x06, 0, 0, 0)];
        assert!(Program::check(&good, Purpose::Socket).is_ok());
        let seccomp = Purpose::Seccomp { size: 64 };
        for one in [i(0x20, 0, 0, 64), i(0x20, 0, 0, 2), i(0x28, 0, 0, 0), i(0x40, 0, 0, 0), i(0xb1, 0, 0, 0), i(0x94, 0, 0, 3)] {
            assert!(Program::check(&[one, i(0x06, 0, 0, 0)], seccomp).is_err(), "{one:?}");
        }
        assert!(Program::check(&[i(0x20, 0, 0, 60), i(0x06, 0, 0, 0)], seccomp).is_ok());
    }

    #[test]
    fn random_programs_end() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32
        };
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut program: Vec<_> =
                (0..next() % 8).map(|_| i(next() as u16 & 0xff, next() as u8 & 3, next() as u8 & 3, next() & 7)).collect();
            program.push(i(0x16, 0, 0, 0));
            if let Ok(program) = Program::check(&program, Purpose::Socket) {
                program.run(&Bytes(&[1, 2, 3, 4, 5, 6, 7, 8]));
                accepted += 1;
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
