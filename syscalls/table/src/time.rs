//! Clocks and sleeping.

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use sync::{MonotonicNs, monotonic_ns};
use task::Current;
use usermem::UserMemoryExt;

use crate::args::{after, int};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::CLOCK_GETTIME, clock_gettime, "thread CPU clocks show the process's"),
    full(nr::CLOCK_GETRES, clock_getres),
    full(nr::GETTIMEOFDAY, gettimeofday),
    full(nr::TIME, time),
    full(nr::NANOSLEEP, |t, a| sleep(t, c::CLOCK_MONOTONIC, false, a[0], a[1])),
    full(nr::CLOCK_NANOSLEEP, |t, a| sleep(t, int(a[0]), int(a[1]) & c::TIMER_ABSTIME != 0, a[2], a[3])),
    full(nr::TIMES, times),
];

/// Nanoseconds since the epoch.
pub fn realtime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.to_ns().unwrap_or(0)
}

fn read_clock(t: &Current, clock: i32) -> SysResult<u64> {
    match clock {
        c::CLOCK_REALTIME | c::CLOCK_REALTIME_COARSE | c::CLOCK_TAI => Ok(realtime_ns()),
        c::CLOCK_MONOTONIC | c::CLOCK_MONOTONIC_RAW | c::CLOCK_MONOTONIC_COARSE | c::CLOCK_BOOTTIME => Ok(monotonic_ns()),
        c::CLOCK_PROCESS_CPUTIME_ID | c::CLOCK_THREAD_CPUTIME_ID => {
            let used = t.task.group.used();
            Ok(used.user.saturating_add(used.system))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn clock_gettime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = read_clock(t, int(a[0]))?;
    t.mm.write_obj(a[1], &Timespec::from_ns(now))?;
    Ok(0)
}

fn clock_getres(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    read_clock(t, int(a[0]))?;
    if a[1] != 0 {
        t.mm.write_obj(a[1], &Timespec { sec: 0, nsec: 1 })?;
    }
    Ok(0)
}

fn gettimeofday(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = realtime_ns();
    if a[0] != 0 {
        t.mm.write_obj(a[0], &[now / 1_000_000_000, now % 1_000_000_000 / 1000])?;
    }
    if a[1] != 0 {
        t.mm.write_obj(a[1], &0u64)?;
    }
    Ok(0)
}

fn time(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = realtime_ns() / 1_000_000_000;
    if a[0] != 0 {
        t.mm.write_obj(a[0], &now)?;
    }
    Ok(now)
}

fn times(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let ticks = |ns: u64| ns / 10_000_000;
    if a[0] != 0 {
        let (own, children) = (t.task.group.used(), t.task.group.usage.lock().children);
        t.mm.write_obj(a[0], &[own.user, own.system, children.user, children.system].map(ticks))?;
    }
    Ok(ticks(monotonic_ns()))
}

fn sleep(t: &mut Current, clock: i32, absolute: bool, request: u64, remain: u64) -> SysResult<u64> {
    let ts: Timespec = t.mm.read_obj(request)?;
    let ns = ts.to_ns().ok_or(Errno::EINVAL)?;
    if !matches!(clock, c::CLOCK_REALTIME | c::CLOCK_MONOTONIC | c::CLOCK_BOOTTIME | c::CLOCK_TAI) {
        return Err(if read_clock(t, clock).is_ok() { Errno::EOPNOTSUPP } else { Errno::EINVAL });
    }
    let deadline = match (absolute, clock) {
        (false, _) => after(ns),
        (true, c::CLOCK_REALTIME | c::CLOCK_TAI) => after(ns.saturating_sub(realtime_ns())),
        (true, _) => ns,
    };
    sleep_until(t, deadline, if absolute { None } else { Some(remain) })
}

/// Sleeps until a monotonic time. `remain`: of a relative sleep: where what is left is stored when it is interrupted, if anywhere.
fn sleep_until(t: &mut Current, deadline: MonotonicNs, remain: Option<u64>) -> SysResult<u64> {
    loop {
        match t.sleep(Some(deadline)) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(Errno::ERESTARTSYS) => break,
            Err(errno) => return Err(errno),
        }
    }
    let Some(addr) = remain else { return Err(Errno::ERESTARTNOHAND) };
    if addr != 0 {
        t.mm.write_obj(addr, &Timespec::from_ns(deadline.saturating_sub(monotonic_ns())))?;
    }
    // Started again, it must not last longer than it was to.
    t.resumption = Some(Box::new(move |t| sleep_until(t, deadline, remain)));
    Err(Errno::ERESTART_RESTARTBLOCK)
}
