//! Timers: interval timers, POSIX timers, timerfd.

use std::sync::{Arc, Weak};

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use task::{CpuClock, Current, Notify, TimerClock, Which};
use timer::{Clock, TimerFd};
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{file, int};
use crate::fd::install;
use crate::time::cpu_clock;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::GETITIMER, getitimer),
    full(nr::SETITIMER, setitimer),
    full(nr::ALARM, alarm),
    full(nr::TIMER_CREATE, timer_create),
    full(nr::TIMER_SETTIME, timer_settime),
    full(nr::TIMER_GETTIME, timer_gettime),
    full(nr::TIMER_GETOVERRUN, |t, a| Ok(t.timer(int(a[0]))?.overrun().cast_unsigned().into())),
    full(nr::TIMER_DELETE, |t, a| t.delete_timer(int(a[0])).map(|()| 0)),
    full(nr::TIMERFD_CREATE, timerfd_create),
    full(nr::TIMERFD_SETTIME, timerfd_settime),
    full(nr::TIMERFD_GETTIME, timerfd_gettime),
];

const SECOND: u64 = 1_000_000_000;

/// Seconds and microseconds as nanoseconds.
fn timeval(sec: i64, usec: i64) -> SysResult<u64> {
    let nsec = usec.checked_mul(1000).ok_or(Errno::EINVAL)?;
    Timespec { sec, nsec }.to_ns().ok_or(Errno::EINVAL)
}

/// Nanoseconds as seconds and microseconds; a rest is no nothing.
fn to_timeval(ns: u64) -> [i64; 2] {
    let micros = ns.div_ceil(1000);
    [(micros / 1_000_000).cast_signed(), (micros % 1_000_000).cast_signed()]
}

fn which(arg: u64) -> SysResult<Which> {
    match int(arg) {
        c::ITIMER_REAL => Ok(Which::Real),
        c::ITIMER_VIRTUAL => Ok(Which::Virtual),
        c::ITIMER_PROF => Ok(Which::Prof),
        _ => Err(Errno::EINVAL),
    }
}

fn put_itimerval(t: &Current, addr: u64, (value, interval): (u64, u64)) -> SysResult<()> {
    let [interval, value] = [to_timeval(interval), to_timeval(value)];
    t.mm.write_obj(addr, &[interval, value])
}

fn getitimer(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = t.interval_timer(which(a[0])?);
    put_itimerval(t, a[1], now)?;
    Ok(0)
}

fn setitimer(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    // As on Linux, nothing to set stops it.
    let new: [i64; 4] = if a[1] == 0 { [0; 4] } else { t.mm.read_obj(a[1])? };
    let which = which(a[0])?;
    let [interval_sec, interval_usec, sec, usec] = new;
    let (value, interval) = (timeval(sec, usec)?, timeval(interval_sec, interval_usec)?);
    let old = t.set_interval_timer(which, value, interval);
    if a[2] != 0 {
        put_itimerval(t, a[2], old)?;
    }
    Ok(0)
}

fn alarm(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let seconds = u64::from(a[0] as u32);
    let (left, _) = t.set_interval_timer(Which::Real, seconds * SECOND, 0);
    // To the nearest second, but never none while something is left.
    let rounded = left.saturating_add(SECOND / 2) / SECOND;
    Ok(if left > 0 { rounded.max(1) } else { 0 })
}

/// `struct itimerspec`: value and interval in nanoseconds.
fn itimerspec(t: &Current, addr: u64) -> SysResult<(u64, u64)> {
    let [interval, value]: [[i64; 2]; 2] = t.mm.read_obj(addr)?;
    let ns = |[sec, nsec]: [i64; 2]| Timespec { sec, nsec }.to_ns().ok_or(Errno::EINVAL);
    Ok((ns(value)?, ns(interval)?))
}

fn put_itimerspec(t: &Current, addr: u64, (value, interval): (u64, u64)) -> SysResult<()> {
    let pair = |ns: u64| [(ns / SECOND).cast_signed(), (ns % SECOND).cast_signed()];
    t.mm.write_obj(addr, &[pair(interval), pair(value)])
}

/// The clock of a POSIX timer.
fn timer_clock(t: &Current, id: i32) -> SysResult<TimerClock> {
    wakes(t, id)?;
    match id {
        c::CLOCK_PROCESS_CPUTIME_ID => Ok(TimerClock::Cpu(CpuClock::Process(Arc::downgrade(&t.task.group)))),
        c::CLOCK_THREAD_CPUTIME_ID => Ok(TimerClock::Cpu(CpuClock::Thread(Arc::downgrade(&t.task)))),
        id if id < 0 => cpu_clock(t, id).map(TimerClock::Cpu),
        // Clocks that exist, and that no timer goes by.
        c::CLOCK_MONOTONIC_RAW | c::CLOCK_MONOTONIC_COARSE | c::CLOCK_REALTIME_COARSE => Err(Errno::EOPNOTSUPP),
        id => Clock::of(id).map(TimerClock::Steady),
    }
}

/// Clocks that wake the machine are for who may do that.
fn wakes(t: &Current, id: i32) -> SysResult<()> {
    let alarm = matches!(id, c::CLOCK_REALTIME_ALARM | c::CLOCK_BOOTTIME_ALARM);
    if alarm && !t.credentials().has_capability(Capability::WAKE_ALARM) { Err(Errno::EPERM) } else { Ok(()) }
}

/// Whom `struct sigevent` at `addr` wants told.
fn notify(t: &Current, addr: u64) -> SysResult<Notify> {
    if addr == 0 {
        return Ok(Notify::Signal { signo: c::SIGALRM, value: None, thread: None });
    }
    let [value, kind, target]: [u64; 3] = t.mm.read_obj(addr)?;
    let (signo, kind, tid) = (int(kind), int(kind >> 32), int(target));
    let signal = |thread| {
        let valid = (1..=abi::signal::MAX_SIGNAL).contains(&signo);
        if valid { Ok(Notify::Signal { signo, value: Some(value), thread }) } else { Err(Errno::EINVAL) }
    };
    match kind {
        c::SIGEV_NONE => Ok(Notify::Nobody),
        c::SIGEV_SIGNAL | c::SIGEV_THREAD => signal(None),
        c::SIGEV_THREAD_ID => {
            let task = t.find_task(tid).filter(|task| Arc::ptr_eq(&task.group, &t.task.group));
            signal(Some(task.as_ref().map_or_else(Weak::new, Arc::downgrade)))
                .and_then(|notify| if task.is_some() { Ok(notify) } else { Err(Errno::EINVAL) })
        }
        _ => Err(Errno::EINVAL),
    }
}

fn timer_create(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let clock = timer_clock(t, int(a[0]))?;
    let notify = notify(t, a[1])?;
    let id = t.create_timer(clock, notify)?;
    t.mm.write_obj(a[2], &id).inspect_err(|_| {
        // Nobody knows its number.
        let _ = t.delete_timer(id);
    })?;
    Ok(0)
}

fn timer_settime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if a[2] == 0 {
        return Err(Errno::EINVAL);
    }
    let (value, interval) = itimerspec(t, a[2])?;
    let old = t.timer(int(a[0]))?.set(value, interval, int(a[1]) & c::TIMER_ABSTIME != 0);
    if a[3] != 0 {
        put_itimerspec(t, a[3], old)?;
    }
    Ok(0)
}

fn timer_gettime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = t.timer(int(a[0]))?.get();
    put_itimerspec(t, a[1], now)?;
    Ok(0)
}

fn timerfd_create(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (id, flags) = (int(a[0]), int(a[1]));
    let known = matches!(
        id,
        c::CLOCK_MONOTONIC | c::CLOCK_REALTIME | c::CLOCK_BOOTTIME | c::CLOCK_REALTIME_ALARM | c::CLOCK_BOOTTIME_ALARM
    );
    if !known || flags & !(c::TFD_CLOEXEC | c::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    wakes(t, id)?;
    let timer = TimerFd::new(Clock::of(id)?, &t.task.kernel.timers);
    install(t, File::new(timer, None, c::O_RDWR | flags & c::O_NONBLOCK), flags & c::TFD_CLOEXEC != 0, 0)
}

/// Does something with the timer behind a descriptor.
fn with_timerfd<T>(t: &Current, fd: u64, f: impl FnOnce(&TimerFd) -> T) -> SysResult<T> {
    let file = file(t, fd)?;
    file.ops.as_any().downcast_ref().map(f).ok_or(Errno::EINVAL)
}

fn timerfd_settime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = int(a[1]);
    let (value, interval) = itimerspec(t, a[2])?;
    if flags & !(c::TFD_TIMER_ABSTIME | c::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let old = with_timerfd(t, a[0], |timer| timer.set(value, interval, flags & c::TFD_TIMER_ABSTIME != 0))?;
    if a[3] != 0 {
        put_itimerspec(t, a[3], old)?;
    }
    Ok(0)
}

fn timerfd_gettime(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let now = with_timerfd(t, a[0], TimerFd::get)?;
    put_itimerspec(t, a[1], now)?;
    Ok(0)
}
