//! futex(2), and what else threads tell the kernel of themselves (rseq(2)).

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use platform::RseqArea;
use sync::{MonotonicNs, monotonic_ns};
use task::{Current, FutexWord};
use usermem::UserMemoryExt;

use crate::args::{after, int, timeout, uint};
use crate::time::realtime_ns;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::FUTEX, futex),
    full(nr::SET_ROBUST_LIST, set_robust_list),
    full(nr::GET_ROBUST_LIST, get_robust_list),
    full(nr::RSEQ, rseq),
    full(nr::SET_TID_ADDRESS, |t, a| {
        t.task.lock().clear_child_tid = a[0];
        Ok(t.task.own_tid().cast_unsigned().into())
    }),
];

/// Bytes of `struct robust_list_head`.
const LIST_HEAD: u64 = 24;
/// Not in the libc crate.
const FUTEX_LOCK_PI2: i32 = 13;

fn set_robust_list(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if a[1] != LIST_HEAD {
        return Err(Errno::EINVAL);
    }
    t.task.lock().robust_list = (a[0], a[1]);
    Ok(0)
}

fn get_robust_list(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [pid, head_at, len_at, ..] = a;
    let head = match int(pid) {
        0 => t.task.lock().robust_list.0,
        pid => t.find_task(pid).ok_or(Errno::ESRCH)?.lock().robust_list.0,
    };
    t.mm.write_obj(len_at, &LIST_HEAD)?;
    t.mm.write_obj(head_at, &head)?;
    Ok(0)
}

fn rseq(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, flags, signature, ..] = a;
    let area = RseqArea { addr, len: uint(len), signature: uint(signature) };
    t.rseq(area, int(flags)).map(|()| 0)
}

/// A number of waiters: a C `int`.
fn count(arg: u64) -> SysResult<usize> {
    usize::try_from(int(arg)).map_err(|_| Errno::EINVAL)
}

/// As on Linux, who asks for none to be woken wakes one.
fn at_least_one(arg: u64) -> usize {
    usize::try_from(int(arg)).unwrap_or(0).max(1)
}

/// An absolute time, of CLOCK_REALTIME if `realtime`.
pub fn absolute(t: &Current, addr: u64, realtime: bool) -> SysResult<Option<MonotonicNs>> {
    if addr == 0 {
        return Ok(None);
    }
    let ts: Timespec = t.mm.read_obj(addr)?;
    let at = ts.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(if realtime { monotonic_ns().saturating_add(at.saturating_sub(realtime_ns())) } else { at }))
}

fn futex(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, op, value, time, addr2, value3] = a;
    let (op, command) = (int(op), int(op) & c::FUTEX_CMD_MASK);
    let private = op & c::FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & c::FUTEX_CLOCK_REALTIME != 0;
    if realtime && !matches!(command, c::FUTEX_WAIT_BITSET | c::FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2) {
        return Err(Errno::ENOSYS);
    }
    let word = |addr: u64| if addr.is_multiple_of(4) { Ok(FutexWord { addr, private }) } else { Err(Errno::EINVAL) };
    let bits = || Some(uint(value3)).filter(|bits| *bits != 0).ok_or(Errno::EINVAL);
    let futexes = |t: &Current| t.task.kernel.clone();
    match command {
        c::FUTEX_WAIT => {
            let deadline = timeout(t, time)?.map(after);
            t.futex_wait(word(addr)?, uint(value), u32::MAX, deadline).map(|()| 0)
        }
        c::FUTEX_WAIT_BITSET => {
            let deadline = absolute(t, time, realtime)?;
            t.futex_wait(word(addr)?, uint(value), bits()?, deadline).map(|()| 0)
        }
        c::FUTEX_WAKE => wake(t, word(addr)?, at_least_one(value), u32::MAX),
        c::FUTEX_WAKE_BITSET => wake(t, word(addr)?, at_least_one(value), bits()?),
        c::FUTEX_WAKE_OP => {
            let (from, to) = (t.futex_key(word(addr)?)?, t.futex_key(word(addr2)?)?);
            let change = || wake_op(t, addr2, uint(value3));
            Ok(futexes(t).futexes.wake_op(from, to, at_least_one(value), at_least_one(time), change)? as u64)
        }
        c::FUTEX_REQUEUE => requeue(t, [word(addr)?, word(addr2)?], count(value)?, count(time)?, None),
        c::FUTEX_CMP_REQUEUE => requeue(t, [word(addr)?, word(addr2)?], count(value)?, count(time)?, Some(uint(value3))),
        c::FUTEX_LOCK_PI => {
            let deadline = absolute(t, time, true)?;
            t.futex_lock_pi(word(addr)?, false, deadline).map(|()| 0)
        }
        FUTEX_LOCK_PI2 => {
            let deadline = absolute(t, time, realtime)?;
            t.futex_lock_pi(word(addr)?, false, deadline).map(|()| 0)
        }
        c::FUTEX_TRYLOCK_PI => t.futex_lock_pi(word(addr)?, true, None).map(|()| 0),
        c::FUTEX_UNLOCK_PI => t.futex_unlock_pi(word(addr)?).map(|()| 0),
        c::FUTEX_WAIT_REQUEUE_PI => {
            let deadline = absolute(t, time, realtime)?;
            t.futex_wait_requeue_pi(word(addr)?, uint(value), u32::MAX, word(addr2)?, deadline).map(|()| 0)
        }
        c::FUTEX_CMP_REQUEUE_PI => {
            let limit = count(time)?;
            if count(value)? != 1 {
                return Err(Errno::EINVAL);
            }
            Ok(t.futex_requeue_pi(word(addr)?, word(addr2)?, limit, uint(value3))? as u64)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn wake(t: &Current, word: FutexWord, count: usize, bits: u32) -> SysResult<u64> {
    Ok(t.task.kernel.futexes.wake(t.futex_key(word)?, count, bits)? as u64)
}

/// Wakes up to `count` and moves up to `limit`, if the first word is `value`.
pub fn requeue(t: &Current, words: [FutexWord; 2], count: usize, limit: usize, value: Option<u32>) -> SysResult<u64> {
    let [from, to] = words;
    let check = || match value {
        Some(value) if t.mm.load_u32(from.addr)? != value => Err(Errno::EAGAIN),
        _ => Ok(()),
    };
    Ok(t.task.kernel.futexes.requeue(t.futex_key(from)?, t.futex_key(to)?, count, limit, check)? as u64)
}

/// FUTEX_WAKE_OP's change of a word, and whether what was there meets its condition (`FUTEX_OP` in futex(2)).
fn wake_op(t: &Current, addr: u64, code: u32) -> SysResult<bool> {
    // Twelve bits with a sign.
    let signed = |bits: u32| (bits << 20).cast_signed() >> 20;
    let (operation, comparison) = (code >> 28 & 7, code >> 24 & 15);
    let (mut operand, limit) = (signed(code >> 12), signed(code));
    if code >> 31 != 0 {
        operand = 1 << (operand & 31);
    }
    let mut seen = t.mm.load_u32(addr)?;
    loop {
        let (old, operand) = (seen, operand.cast_unsigned());
        let new = match operation.cast_signed() {
            c::FUTEX_OP_SET => operand,
            c::FUTEX_OP_ADD => old.wrapping_add(operand),
            c::FUTEX_OP_OR => old | operand,
            c::FUTEX_OP_ANDN => old & !operand,
            c::FUTEX_OP_XOR => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        };
        seen = t.mm.compare_exchange_u32(addr, old, new)?;
        if seen == old {
            break;
        }
        // Others may change it all the time.
        if t.task.signal_pending() {
            return Err(Errno::ERESTARTNOINTR);
        }
    }
    let seen = seen.cast_signed();
    match comparison.cast_signed() {
        c::FUTEX_OP_CMP_EQ => Ok(seen == limit),
        c::FUTEX_OP_CMP_NE => Ok(seen != limit),
        c::FUTEX_OP_CMP_LT => Ok(seen < limit),
        c::FUTEX_OP_CMP_LE => Ok(seen <= limit),
        c::FUTEX_OP_CMP_GT => Ok(seen > limit),
        c::FUTEX_OP_CMP_GE => Ok(seen >= limit),
        _ => Err(Errno::ENOSYS),
    }
}
