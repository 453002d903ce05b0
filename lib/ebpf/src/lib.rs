//! eBPF programs that decide who may use a device: verified once, then run (RFC 9669; bpf(2); Documentation/bpf/verifier.rst).
#![forbid(unsafe_code)]

mod machine;
mod op;
mod tag;
#[cfg(test)]
mod tests;
mod verify;

use abi::Errno;
use op::Op;

/// Instructions of a program at most (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub const MAX_INSTRUCTIONS: usize = 1_000_000;
/// Bytes of an instruction.
pub const INSTRUCTION: usize = 8;
/// Bytes of the stack (`MAX_BPF_STACK`).
const STACK: usize = 512;

/// An instruction as it is written down (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    pub off: i16,
    pub imm: i32,
}

impl Instruction {
    /// From its eight bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; INSTRUCTION]) -> Self {
        let [code, registers, o0, o1, i0, i1, i2, i3] = bytes;
        Self {
            code,
            dst: registers & 0xf,
            src: registers >> 4,
            off: i16::from_le_bytes([o0, o1]),
            imm: i32::from_le_bytes([i0, i1, i2, i3]),
        }
    }

    /// Its eight bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; INSTRUCTION] {
        let ([o0, o1], [i0, i1, i2, i3]) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [self.code, self.dst & 0xf | self.src << 4, o0, o1, i0, i1, i2, i3]
    }
}

/// What a program looks at: somebody's wish to use a device (`struct bpf_cgroup_dev_ctx`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// `BPF_DEVCG_ACC_*`, above 16 bits of `BPF_DEVCG_DEV_*`.
    pub access_type: u32,
    pub major: u32,
    pub minor: u32,
}

/// Why a program is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The instruction.
    pub at: usize,
    pub why: &'static str,
    pub errno: Errno,
}

/// A program that has been verified.
#[derive(Debug)]
pub struct Program {
    ops: Box<[Op]>,
    source: Box<[Instruction]>,
    tag: [u8; 8],
}

impl Program {
    /// Decodes and verifies a program.
    ///
    /// # Errors
    /// `E2BIG` for none and too many instructions, and for jumps that are too entangled; `EINVAL` for instructions that don't exist or that
    /// devices' programs may not use, ways out of the program or backwards, code that can't be reached, and results other than 0 and 1; `EACCES`
    /// for reading what nothing was written to, and for access to memory that isn't there or isn't to be written.
    pub fn check(source: &[Instruction]) -> Result<Self, Refusal> {
        if source.is_empty() || source.len() > MAX_INSTRUCTIONS {
            return Err(Refusal { at: 0, why: "too many instructions, or none", errno: Errno::E2BIG });
        }
        let ops = op::decode(source)?;
        verify::verify(&ops)?;
        Ok(Self { ops: ops.into(), source: source.into(), tag: tag::of(source) })
    }

    /// What it was made from.
    #[must_use]
    pub fn source(&self) -> &[Instruction] {
        &self.source
    }

    /// The name that Linux has for programs with these instructions.
    #[must_use]
    pub fn tag(&self) -> [u8; 8] {
        self.tag
    }

    /// Runs it: whether the access is allowed.
    #[must_use]
    pub fn run(&self, access: DeviceAccess) -> bool {
        machine::run(&self.ops, access) != 0
    }
}
