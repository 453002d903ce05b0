//! Clocks and sleeping.

use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};
use sync::{MonotonicNs, monotonic_ns};
use task::{CpuClock, Current};
use timer::Clock;
use usermem::UserMemoryExt;

pub use timer::realtime_ns;

use crate::args::{after, int};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::CLOCK_GETTIME, clock_gettime),
    full(nr::CLOCK_GETRES, clock_getres),
    full(nr::CLOCK_SETTIME, clock_settime),
    full(nr::GETTIMEOFDAY, |t, a| vsyscall(t, a, gettimeofday)),
    full(nr::SETTIMEOFDAY, |_, _| Err(Errno::EPERM)),
    full(nr::TIME, |t, a| vsyscall(t, a, time)),
    full(nr::NANOSLEEP, |t, a| sleep(t, c::CLOCK_MONOTONIC, false, a[0], a[1])),
    full(nr::CLOCK_NANOSLEEP, |t, a| sleep(t, int(a[0]), int(a[1]) & c::TIMER_ABSTIME != 0, a[2], a[3])),
    full(nr::TIMES, times),
    partial(nr::ADJTIMEX, |t, a| adjtimex(t, c::CLOCK_REALTIME, a[0]), "reading only: the clock is the host's"),
    partial(nr::CLOCK_ADJTIME, |t, a| adjtimex(t, int(a[0]), a[1]), "reading only: the clock is the host's"),
];

/// Nanoseconds of a clock tick (`USER_HZ` is 100).
const TICK: u64 = 10_000_000;
/// What coarse clocks go by: the usual 250 ticks a second.
const COARSE: i64 = 4_000_000;
/// Bits of the clock of a process or thread (clock_getcpuclockid(3)): of a thread, and which of its times.
const PER_THREAD: i32 = 4;
const KIND: i32 = 3;
const VIRTUAL: i32 = 1;
const NO_KIND: i32 = 3;

/// The CPU clock with this (negative) number.
///
/// # Errors
/// `EINVAL`
pub fn cpu_clock(t: &Current, id: i32) -> SysResult<CpuClock> {
    let (number, kind) = (!(id >> 3), id & KIND);
    if kind == NO_KIND || number < 0 {
        return Err(Errno::EINVAL);
    }
    if id & PER_THREAD != 0 {
        let task = if number == 0 { Some(t.task.clone()) } else { t.find_task(number) };
        // Others' threads are their own affair.
        let task = task.filter(|task| Arc::ptr_eq(&task.group, &t.task.group)).ok_or(Errno::EINVAL)?;
        return Ok(CpuClock::Thread(Arc::downgrade(&task)));
    }
    let group = if number == 0 { Some(t.task.group.clone()) } else { t.find_process(number) };
    let group = Arc::downgrade(&group.ok_or(Errno::EINVAL)?);
    Ok(if kind == VIRTUAL { CpuClock::User(group) } else { CpuClock::Process(group) })
}

fn host(id: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(id);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.to_ns().unwrap_or(0)
}

fn read_clock(t: &mut Current, clock: i32) -> SysResult<u64> {
    match clock {
        c::CLOCK_REALTIME | c::CLOCK_REALTIME_ALARM => Ok(host(ClockId::Realtime)),
        c::CLOCK_REALTIME_COARSE => Ok(host(ClockId::RealtimeCoarse)),
        c::CLOCK_TAI => {
            let now = clock_gettime_dynamic(DynamicClockId::Tai)?;
            Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.to_ns().ok_or(Errno::EINVAL)
        }
        c::CLOCK_MONOTONIC => Ok(host(ClockId::Monotonic)),
        c::CLOCK_MONOTONIC_RAW => Ok(host(ClockId::MonotonicRaw)),
        c::CLOCK_MONOTONIC_COARSE => Ok(host(ClockId::MonotonicCoarse)),
        c::CLOCK_BOOTTIME | c::CLOCK_BOOTTIME_ALARM => Ok(host(ClockId::Boottime)),
        c::CLOCK_PROCESS_CPUTIME_ID => CpuClock::Process(Arc::downgrade(&t.task.group)).now().ok_or(Errno::EINVAL),
        c::CLOCK_THREAD_CPUTIME_ID => own_thread(t),
        id if id < 0 => {
            let clock = cpu_clock(t, id)?;
            if matches!(&clock, CpuClock::Thread(task) if std::ptr::eq(task.as_ptr(), &raw const *t.task)) {
                return own_thread(t);
            }
            clock.now().ok_or(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn own_thread(t: &mut Current) -> SysResult<u64> {
    let used = t.cpu_time();
    Ok(used.user.saturating_add(used.system))
}

fn clock_gettime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = read_clock(t, int(a[0]))?;
    t.mm.write_obj(a[1], &Timespec::from_ns(now))?;
    Ok(0)
}

fn clock_getres(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    read_clock(t, int(a[0]))?;
    let nsec = if matches!(int(a[0]), c::CLOCK_REALTIME_COARSE | c::CLOCK_MONOTONIC_COARSE) { COARSE } else { 1 };
    if a[1] != 0 {
        t.mm.write_obj(a[1], &Timespec { sec: 0, nsec })?;
    }
    Ok(0)
}

/// The clocks are the host's: nobody in here may set them.
fn clock_settime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let new: Timespec = t.mm.read_obj(a[1])?;
    match int(a[0]) {
        c::CLOCK_REALTIME if new.to_ns().is_some() => Err(Errno::EPERM),
        id if id < 0 && cpu_clock(t, id).is_ok() => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// A call that may have come by the vsyscall page: there, bad addresses are faults.
fn vsyscall(t: &mut Current, a: [u64; 6], call: crate::Handler) -> SysResult<u64> {
    let result = call(t, a);
    let by_page = || t.mm.aspace().vsyscall().is_some_and(|page| page.contains(&t.regs.rip));
    if result == Err(Errno::EFAULT) && by_page() {
        t.raise_fault();
    }
    result
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
    let ticks = |ns: u64| ns / TICK;
    if a[0] != 0 {
        let (own, children) = (t.task.group.used(), t.task.group.usage.lock().children);
        t.mm.write_obj(a[0], &[own.user, own.system, children.user, children.system].map(ticks))?;
    }
    Ok(ticks(monotonic_ns()))
}

/// `struct timex` as far as it says something here: words of eight bytes, some of them halves.
fn adjtimex(t: &mut Current, clock: i32, addr: u64) -> SysResult<u64> {
    const WORDS: usize = 26;
    /// `STA_UNSYNC`; `TIME_ERROR`.
    const UNSYNCHRONIZED: u64 = 0x40;
    const ERROR: u64 = 5;
    if clock != c::CLOCK_REALTIME {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut words: [u64; WORDS] = t.mm.read_obj(addr)?;
    let [modes, offset, freq, max_error, estimated, status, constant, precision, tolerance, sec, usec, tick, rest @ ..] =
        &mut words;
    if *modes as u32 != 0 {
        return Err(Errno::EPERM);
    }
    let now = realtime_ns();
    (*offset, *freq, *max_error, *estimated, *status) = (0, 0, 16_000_000, 16_000_000, UNSYNCHRONIZED);
    (*constant, *precision, *tolerance, *tick) = (2, 1, 32_768_000, 10_000);
    (*sec, *usec) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
    rest.fill(0);
    t.mm.write_obj(addr, &words)?;
    Ok(ERROR)
}

fn sleep(t: &mut Current, clock: i32, absolute: bool, request: u64, remain: u64) -> SysResult<u64> {
    let ts: Timespec = t.mm.read_obj(request)?;
    if clock < 0 || clock == c::CLOCK_PROCESS_CPUTIME_ID {
        let ns = ts.to_ns().ok_or(Errno::EINVAL)?;
        return sleep_by_cpu(t, clock, absolute, ns);
    }
    if !matches!(clock, c::CLOCK_REALTIME | c::CLOCK_MONOTONIC | c::CLOCK_BOOTTIME | c::CLOCK_TAI) {
        let alarm = matches!(clock, c::CLOCK_REALTIME_ALARM | c::CLOCK_BOOTTIME_ALARM);
        if !alarm {
            return Err(if read_clock(t, clock).is_ok() { Errno::EOPNOTSUPP } else { Errno::EINVAL });
        }
        if !t.credentials().has_capability(auth::Capability::WAKE_ALARM) {
            return Err(Errno::EPERM);
        }
    }
    let ns = ts.to_ns().ok_or(Errno::EINVAL)?;
    let deadline = if absolute { Clock::of(clock)?.to_monotonic(ns) } else { after(ns) };
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

/// Sleeps until somebody has used so much CPU time.
fn sleep_by_cpu(t: &mut Current, id: i32, absolute: bool, ns: u64) -> SysResult<u64> {
    let clock = match id {
        c::CLOCK_PROCESS_CPUTIME_ID => CpuClock::Process(Arc::downgrade(&t.task.group)),
        id => cpu_clock(t, id)?,
    };
    // One's own time stands still while one sleeps.
    if matches!(&clock, CpuClock::Thread(task) if std::ptr::eq(task.as_ptr(), &raw const *t.task)) {
        return Err(Errno::EINVAL);
    }
    let at = if absolute { ns } else { clock.now().ok_or(Errno::EINVAL)?.saturating_add(ns) };
    match t.sleep_by(&clock, at) {
        Err(Errno::ERESTARTSYS) => {
            t.resumption = Some(Box::new(move |t| t.sleep_by(&clock, at).map(|()| 0)));
            Err(if absolute { Errno::ERESTARTNOHAND } else { Errno::ERESTART_RESTARTBLOCK })
        }
        result => result.map(|()| 0),
    }
}
