//! The verifier: nothing is read that wasn't written, and nothing touched that isn't there.
//!
//! Jumps only go forward: when an instruction is reached, all ways to it have been seen, and what holds on every one of them is what it finds.

use std::collections::BTreeMap;

use abi::Errno;

use crate::machine::{alu, extended};
use crate::op::{Alu, FRAME, Op, Operand, REGISTERS};
use crate::{Refusal, STACK};

/// Slots of the stack, of eight bytes.
const SLOTS: usize = STACK / 8;
/// Places that jumps lead to and that haven't been reached, at most (`BPF_COMPLEXITY_LIMIT_JMP_SEQ`).
const MAX_PENDING: usize = 8192;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Nothing that may be used.
    Unset,
    /// A number between two.
    Number { min: u64, max: u64 },
    /// The address of the context, moved.
    Context(i32),
    /// An address this far from the stack's end.
    Frame(i32),
}

const ANY: Value = Value::Number { min: 0, max: u64::MAX };

impl Value {
    const fn exactly(value: u64) -> Self {
        Self::Number { min: value, max: value }
    }

    /// Any number of so many bytes.
    const fn bytes(size: u8) -> Self {
        Self::Number { min: 0, max: if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 } }
    }

    /// What is known if it is one of two.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Number { min: a, max: b }, Self::Number { min: c, max: d }) => Self::Number { min: a.min(c), max: b.max(d) },
            _ if self == other => self,
            _ => Self::Unset,
        }
    }

    fn as_number(self) -> Option<u64> {
        match self {
            Self::Number { min, max } if min == max => Some(min),
            _ => None,
        }
    }
}

/// Eight bytes of the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Numbers in those bytes that have a bit here.
    Bytes(u8),
    /// A register's value, as a whole.
    Whole(Value),
}

impl Slot {
    /// Bytes that numbers may be read from.
    fn written(self) -> u8 {
        match self {
            Self::Bytes(mask) => mask,
            Self::Whole(Value::Number { .. }) => 0xff,
            Self::Whole(_) => 0,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Self::Whole(a.or(b)),
            _ => Self::Bytes(self.written() & other.written()),
        }
    }
}

/// What is known at a place.
#[derive(Clone, PartialEq, Eq)]
struct State {
    registers: [Value; REGISTERS],
    slots: [Slot; SLOTS],
}

type Checked<T> = Result<T, (&'static str, Errno)>;

const fn denied<T>(why: &'static str) -> Checked<T> {
    Err((why, Errno::EACCES))
}

impl State {
    fn new() -> Self {
        let mut new = Self { registers: [Value::Unset; REGISTERS], slots: [Slot::Bytes(0); SLOTS] };
        new.set(1, Value::Context(0));
        new.set(FRAME, Value::Frame(0));
        new
    }

    fn merge(&mut self, other: &Self) {
        self.registers.iter_mut().zip(other.registers).for_each(|(a, b)| *a = a.or(b));
        self.slots.iter_mut().zip(other.slots).for_each(|(a, b)| *a = a.or(b));
    }

    fn get(&self, register: u8) -> Checked<Value> {
        match self.registers.get(usize::from(register)) {
            Some(Value::Unset) | None => denied("register is read before it is written"),
            Some(value) => Ok(*value),
        }
    }

    fn set(&mut self, register: u8, value: Value) {
        if let Some(place) = self.registers.get_mut(usize::from(register)) {
            *place = value;
        }
    }

    fn value(&self, operand: Operand) -> Checked<Value> {
        match operand {
            Operand::Imm(imm) => Ok(Value::exactly(extended(imm))),
            Operand::Reg(register) => self.get(register),
        }
    }

    fn alu(&mut self, op: Alu, wide: bool, dst: u8, src: Operand) -> Checked<()> {
        let b = self.value(src)?;
        let a = if matches!(op, Alu::Mov | Alu::MovSigned(_)) { Value::exactly(0) } else { self.get(dst)? };
        let new = match (op, a, b) {
            (Alu::Mov, _, Value::Context(_) | Value::Frame(_)) if wide => b,
            (_, Value::Number { .. }, Value::Number { .. }) => numbers(op, wide, a, b),
            (Alu::Add | Alu::Sub, Value::Context(_) | Value::Frame(_), _) if wide => moved(op, a, b)?,
            (Alu::Add, _, Value::Context(_) | Value::Frame(_)) if wide => moved(op, b, a)?,
            _ => return denied("arithmetic on a pointer"),
        };
        self.set(dst, new);
        Ok(())
    }

    /// The place of bytes on the stack: their first slot, the byte in it; all of them must be there.
    fn on_stack(at: i32, off: i16, size: u8) -> Checked<usize> {
        let start = i64::from(at) + i64::from(off) + STACK as i64;
        let start = usize::try_from(start).ok().filter(|start| start + usize::from(size) <= STACK);
        start.map_or_else(|| denied("outside of the stack"), Ok)
    }

    /// Bits for the bytes of an access in each slot that it touches.
    fn parts(start: usize, size: u8) -> impl Iterator<Item = (usize, u8)> {
        (start..start + usize::from(size)).map(|byte| (byte / 8, 1 << (byte % 8)))
    }

    fn load(&mut self, size: u8, signed: bool, dst: u8, src: u8, off: i16) -> Checked<()> {
        let value = match self.get(src)? {
            Value::Context(moved) => in_context(moved, off, size)?,
            Value::Frame(at) => self.load_stack(Self::on_stack(at, off, size)?, size)?,
            _ => return denied("a number isn't an address"),
        };
        let value = match value {
            Value::Number { .. } if signed => ANY,
            value => value,
        };
        self.set(dst, value);
        Ok(())
    }

    fn load_stack(&self, start: usize, size: u8) -> Checked<Value> {
        let slot = |at: usize| self.slots.get(at).copied().unwrap_or(Slot::Bytes(0));
        if size == 8
            && start.is_multiple_of(8)
            && let Slot::Whole(value) = slot(start / 8)
            && value != Value::Unset
        {
            return Ok(value);
        }
        let there = Self::parts(start, size).all(|(at, bit)| slot(at).written() & bit != 0);
        if there { Ok(Value::bytes(size)) } else { denied("stack is read before it is written") }
    }

    fn store(&mut self, size: u8, dst: u8, off: i16, value: Operand) -> Checked<()> {
        let value = self.value(value)?;
        let Value::Frame(at) = self.get(dst)? else { return denied("only the stack can be written to") };
        let start = Self::on_stack(at, off, size)?;
        if size == 8 && start.is_multiple_of(8) {
            if let Some(slot) = self.slots.get_mut(start / 8) {
                *slot = Slot::Whole(value);
            }
            return Ok(());
        }
        if !matches!(value, Value::Number { .. }) {
            return denied("half a pointer is stored");
        }
        for (at, bit) in Self::parts(start, size) {
            if let Some(slot) = self.slots.get_mut(at) {
                *slot = Slot::Bytes(slot.written() | bit);
            }
        }
        Ok(())
    }

    /// A program says 0 or 1.
    fn exit(&self) -> Checked<()> {
        match self.get(0)? {
            Value::Number { max: 0..=1, .. } => Ok(()),
            Value::Number { .. } => Err(("the result is to be 0 or 1", Errno::EINVAL)),
            _ => denied("the result is an address"),
        }
    }
}

/// What is known of the result of an operation.
fn numbers(op: Alu, wide: bool, a: Value, b: Value) -> Value {
    if let (Some(a), Some(b)) = (a.as_number(), b.as_number()) {
        return Value::exactly(alu(op, wide, a, b));
    }
    let (Value::Number { max: a_max, .. }, Value::Number { max: b_max, .. }) = (a, b) else { return ANY };
    let widest = if wide { u64::MAX } else { u32::MAX.into() };
    let max = match op {
        Alu::Mov if b_max <= widest => return b,
        Alu::And => a_max.min(b_max).min(widest),
        // Only of numbers that fit as they are: otherwise, halves are cut off.
        Alu::Rsh if a_max <= widest => match b.as_number() {
            Some(by @ 0..32) => a_max >> by,
            _ => a_max,
        },
        Alu::Truncate(bits) | Alu::Swap(bits) if bits < 64 => (1 << bits) - 1,
        _ => widest,
    };
    Value::Number { min: 0, max }
}

/// An address plus or minus a number, which must be known.
fn moved(op: Alu, pointer: Value, by: Value) -> Checked<Value> {
    let by = by.as_number().and_then(|by| i32::try_from(by.cast_signed()).ok());
    let Some(by) = by else { return denied("unknown offset of a pointer") };
    let apply = |at: i32| if op == Alu::Add { at.checked_add(by) } else { at.checked_sub(by) };
    let new = match pointer {
        Value::Context(at) => apply(at).map(Value::Context),
        Value::Frame(at) => apply(at).map(Value::Frame),
        _ => None,
    };
    new.map_or_else(|| denied("pointer out of range"), Ok)
}

/// A field of `struct bpf_cgroup_dev_ctx`: parts are there of the first alone.
fn in_context(moved: i32, off: i16, size: u8) -> Checked<Value> {
    if moved != 0 {
        return denied("moved address of the context");
    }
    match (off, size) {
        (0 | 4 | 8, 4) | (0 | 2, 2) | (0..4, 1) => Ok(Value::bytes(size)),
        _ => denied("invalid access to the context"),
    }
}

/// What is known where jumps lead to.
#[derive(Default)]
struct Pending(BTreeMap<usize, Box<State>>);

impl Pending {
    fn add(&mut self, to: u32, state: &State) -> Checked<()> {
        if let Some(there) = self.0.get_mut(&(to as usize)) {
            there.merge(state);
            return Ok(());
        }
        if self.0.len() >= MAX_PENDING {
            return Err(("too many jumps", Errno::E2BIG));
        }
        self.0.insert(to as usize, Box::new(state.clone()));
        Ok(())
    }

    /// What is known at a place, by those who come from before it as well.
    fn arrive(&mut self, at: usize, from_before: Option<Box<State>>) -> Option<Box<State>> {
        match (self.0.remove(&at), from_before) {
            (Some(mut there), Some(state)) => {
                there.merge(&state);
                Some(there)
            }
            (there, state) => there.or(state),
        }
    }
}

/// Goes on from one instruction: whether the next can come after it.
fn step(op: Op, state: &mut State, pending: &mut Pending) -> Checked<bool> {
    match op {
        Op::Alu { op, wide, dst, src } => state.alu(op, wide, dst, src)?,
        Op::Const { dst, value } => state.set(dst, Value::exactly(value)),
        Op::Rest => {}
        Op::Load { size, signed, dst, src, off } => state.load(size, signed, dst, src, off)?,
        Op::Store { size, dst, off, value } => state.store(size, dst, off, value)?,
        Op::Jump { to } => {
            pending.add(to, state)?;
            return Ok(false);
        }
        Op::Branch { dst, src, to, .. } => {
            state.get(dst)?;
            state.value(src)?;
            pending.add(to, state)?;
        }
        Op::Exit => {
            state.exit()?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Verifies a program.
pub fn verify(ops: &[Op]) -> Result<(), Refusal> {
    let mut state = Some(Box::new(State::new()));
    let mut pending = Pending::default();
    for (at, op) in ops.iter().enumerate() {
        let refuse = |(why, errno)| Refusal { at, why, errno };
        if matches!(op, Op::Rest) && pending.0.contains_key(&at) {
            return Err(refuse(("jumps into a constant", Errno::EINVAL)));
        }
        let Some(mut now) = pending.arrive(at, state.take()) else {
            return Err(refuse(("can't be reached", Errno::EINVAL)));
        };
        if step(*op, &mut now, &mut pending).map_err(refuse)? {
            state = Some(now);
        }
    }
    match state {
        None => Ok(()),
        Some(_) => Err(Refusal { at: ops.len() - 1, why: "the end is no exit", errno: Errno::EINVAL }),
    }
}
