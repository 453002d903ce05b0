//! The calls that follow futex(2), with sizes and sharing in flags of each futex: futex_waitv(2) and its kin.

use abi::structs::FutexWaitv;
use abi::{Errno, SysResult, c, nr};
use sync::MonotonicNs;
use task::{Current, FutexInterest, FutexWord};
use usermem::UserMemoryExt;

use crate::args::{int, uint};
use crate::futex::{absolute, requeue};
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::FUTEX_WAITV, waitv, "no FUTEX2_NUMA"),
    partial(nr::FUTEX_WAIT, wait, "no FUTEX2_NUMA"),
    partial(nr::FUTEX_WAKE, wake, "no FUTEX2_NUMA"),
    partial(nr::FUTEX_REQUEUE, requeue2, "no FUTEX2_NUMA"),
];

/// `FUTEX2_SIZE_U32`: the only size that Linux has implemented.
const SIZE_U32: u32 = 2;
/// `FUTEX2_PRIVATE`
const PRIVATE: u32 = 128;
/// Futexes of one call at most (`FUTEX_WAITV_MAX`).
const MAX: u32 = 128;

fn word(addr: u64, flags: u32) -> SysResult<FutexWord> {
    if flags & !PRIVATE != SIZE_U32 || !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    Ok(FutexWord { addr, private: flags & PRIVATE != 0 })
}

/// A value or mask, which must fit the futex.
fn value(arg: u64) -> SysResult<u32> {
    u32::try_from(arg).map_err(|_| Errno::EINVAL)
}

fn deadline(t: &Current, addr: u64, clock: u64) -> SysResult<Option<MonotonicNs>> {
    match (addr, int(clock)) {
        (0, _) => Ok(None),
        (addr, c::CLOCK_MONOTONIC) => absolute(t, addr, false),
        (addr, c::CLOCK_REALTIME) => absolute(t, addr, true),
        _ => Err(Errno::EINVAL),
    }
}

fn interest(t: &Current, addr: u64, index: u64) -> SysResult<FutexInterest> {
    let at = addr.checked_add(index * size_of::<FutexWaitv>() as u64).ok_or(Errno::EFAULT)?;
    let one: FutexWaitv = t.mm.read_obj(at)?;
    if one.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(FutexInterest { word: word(one.uaddr, one.flags)?, value: value(one.val)? })
}

fn waitv(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [waiters, count, flags, time, clock, _] = a;
    if uint(flags) != 0 || uint(count) == 0 || uint(count) > MAX || waiters == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(t, time, clock)?;
    let interests: SysResult<Vec<_>> = (0..u64::from(uint(count))).map(|i| interest(t, waiters, i)).collect();
    Ok(t.futex_wait_any(&interests?, deadline)? as u64)
}

fn wait(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, expected, mask, flags, time, clock] = a;
    let (word, expected, mask) = (word(addr, uint(flags))?, value(expected)?, value(mask)?);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(t, time, clock)?;
    t.futex_wait(word, expected, mask, deadline).map(|()| 0)
}

fn wake(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, mask, count, flags, ..] = a;
    let (word, mask) = (word(addr, uint(flags))?, value(mask)?);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    let key = t.futex_key(word)?;
    // Here none means none.
    match usize::try_from(int(count)) {
        Ok(0) => Ok(0),
        count => Ok(t.task.kernel.futexes.wake(key, count.unwrap_or(1), mask)? as u64),
    }
}

fn requeue2(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [waiters, flags, count, limit, ..] = a;
    if uint(flags) != 0 || waiters == 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (interest(t, waiters, 0)?, interest(t, waiters, 1)?);
    let number = |arg: u64| usize::try_from(int(arg)).map_err(|_| Errno::EINVAL);
    requeue(t, [from.word, to.word], number(count)?, number(limit)?, Some(from.value))
}
