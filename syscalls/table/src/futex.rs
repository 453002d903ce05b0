//! futex(2).

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use sync::monotonic_ns;
use task::Current;
use usermem::{UserMemory, UserMemoryExt};

use crate::args::{after, int, timeout, uint};
use crate::time::realtime_ns;
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::FUTEX, futex, "no priority inheritance, no FUTEX_WAKE_OP"),
    partial(nr::SET_ROBUST_LIST, set_robust_list, "kept, not walked at exit"),
    full(nr::SET_TID_ADDRESS, |t, a| {
        t.task.lock().clear_child_tid = a[0];
        Ok(t.task.tid.cast_unsigned().into())
    }),
];

fn set_robust_list(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if a[1] != 24 {
        return Err(Errno::EINVAL);
    }
    t.task.lock().robust_list = (a[0], a[1]);
    Ok(0)
}

fn count(arg: u64) -> usize {
    usize::try_from(int(arg)).unwrap_or(0)
}

fn futex(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, op, value, time, addr2, value3] = a;
    let op = int(op);
    let private = op & c::FUTEX_PRIVATE_FLAG != 0;
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let bitset = match op & c::FUTEX_CMD_MASK {
        c::FUTEX_WAIT_BITSET | c::FUTEX_WAKE_BITSET => Some(uint(value3)).filter(|bits| *bits != 0).ok_or(Errno::EINVAL)?,
        _ => u32::MAX,
    };
    match op & c::FUTEX_CMD_MASK {
        c::FUTEX_WAIT => {
            let deadline = timeout(t, time)?.map(after);
            t.futex_wait(addr, private, uint(value), bitset, deadline).map(|()| 0)
        }
        c::FUTEX_WAIT_BITSET => {
            let deadline = match time {
                0 => None,
                time => {
                    let ts: Timespec = t.mm.read_obj(time)?;
                    let at = ts.to_ns().ok_or(Errno::EINVAL)?;
                    let realtime = op & c::FUTEX_CLOCK_REALTIME != 0;
                    Some(if realtime { monotonic_ns().saturating_add(at.saturating_sub(realtime_ns())) } else { at })
                }
            };
            t.futex_wait(addr, private, uint(value), bitset, deadline).map(|()| 0)
        }
        c::FUTEX_WAKE | c::FUTEX_WAKE_BITSET => {
            let key = t.mm.futex_key(addr, private)?;
            // As on Linux, a count of zero wakes one.
            Ok(t.task.kernel.futexes.wake(key, count(value).max(1), bitset) as u64)
        }
        command @ (c::FUTEX_REQUEUE | c::FUTEX_CMP_REQUEUE) => {
            let (from, to) = (t.mm.futex_key(addr, private)?, t.mm.futex_key(addr2, private)?);
            let check = || {
                if command == c::FUTEX_CMP_REQUEUE && t.mm.load_u32(addr)? != uint(value3) { Err(Errno::EAGAIN) } else { Ok(()) }
            };
            Ok(t.task.kernel.futexes.requeue(from, to, count(value), count(time), check)? as u64)
        }
        _ => Err(Errno::ENOSYS),
    }
}
