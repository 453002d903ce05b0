//! Scheduling: policies, priorities, CPUs (sched(7), setpriority(2), ioprio_set(2)).

use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use task::{CpuSet, Current, Scheduled, Scheduling, Task};
use usermem::UserMemoryExt;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::args::{int, uint};
use crate::{Entry, full, partial};

const KEPT: &str = "kept and inherited; the host schedules";

pub const ENTRIES: &[Entry] = &[
    full(nr::SCHED_YIELD, |_, _| {
        std::thread::yield_now();
        Ok(0)
    }),
    partial(nr::SCHED_SETSCHEDULER, set_scheduler, KEPT),
    full(nr::SCHED_GETSCHEDULER, get_scheduler),
    partial(nr::SCHED_SETPARAM, set_param, KEPT),
    full(nr::SCHED_GETPARAM, get_param),
    partial(nr::SCHED_SETATTR, set_attr, KEPT),
    full(nr::SCHED_GETATTR, get_attr),
    full(nr::SCHED_GET_PRIORITY_MAX, |_, a| priority_limit(int(a[0]), 99)),
    full(nr::SCHED_GET_PRIORITY_MIN, |_, a| priority_limit(int(a[0]), 1)),
    full(nr::SCHED_RR_GET_INTERVAL, rr_get_interval),
    partial(nr::SCHED_SETAFFINITY, set_affinity, KEPT),
    full(nr::SCHED_GETAFFINITY, get_affinity),
    full(nr::GETPRIORITY, get_priority),
    partial(nr::SETPRIORITY, set_priority, KEPT),
    full(nr::IOPRIO_GET, ioprio_get),
    partial(nr::IOPRIO_SET, ioprio_set, KEPT),
];

/// The `SCHED_RR` time slice, in nanoseconds.
const RR_SLICE: u64 = 100_000_000;
/// "As it is", of sched_setparam(2).
const KEEP_POLICY: i32 = -1;

/// A task by number, which mustn't be negative.
fn target(t: &Current, number: u64) -> SysResult<Scheduled> {
    if int(number) < 0 { Err(Errno::EINVAL) } else { t.scheduled(int(number)) }
}

/// Sets policy and priority. `policy` may have `SCHED_RESET_ON_FORK`.
fn schedule(t: &Current, target: &Scheduled, policy: i32, new: Scheduling) -> SysResult<u64> {
    let policy = if policy == KEEP_POLICY { target.get().policy } else { policy };
    let new = Scheduling { policy, ..new };
    let fits = match policy {
        c::SCHED_FIFO | c::SCHED_RR => (1..=99).contains(&new.priority),
        c::SCHED_OTHER | c::SCHED_BATCH | c::SCHED_IDLE => new.priority == 0,
        // No deadlines can be met here.
        _ => false,
    };
    if !fits {
        return Err(Errno::EINVAL);
    }
    t.may_schedule(target, &new)?;
    target.set(|scheduling| *scheduling = new);
    Ok(0)
}

fn set_scheduler(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let policy = int(a[1]);
    if policy < 0 || a[2] == 0 || int(a[0]) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = t.mm.read_obj(a[2])?;
    let target = target(t, a[0])?;
    let reset_on_fork = policy & c::SCHED_RESET_ON_FORK != 0;
    let new = Scheduling { priority, reset_on_fork, ..target.get() };
    schedule(t, &target, policy & !c::SCHED_RESET_ON_FORK, new)
}

fn get_scheduler(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let scheduling = target(t, a[0])?.get();
    let reset = if scheduling.reset_on_fork { c::SCHED_RESET_ON_FORK } else { 0 };
    Ok((scheduling.policy | reset).cast_unsigned().into())
}

fn set_param(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if a[1] == 0 || int(a[0]) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = t.mm.read_obj(a[1])?;
    let target = target(t, a[0])?;
    let new = Scheduling { priority, ..target.get() };
    schedule(t, &target, KEEP_POLICY, new)
}

fn get_param(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if a[1] == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = target(t, a[0])?.get().priority;
    t.mm.write_obj(a[1], &priority)?;
    Ok(0)
}

/// `struct sched_attr`
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// The first version's size, without `util_*`.
const ATTR_SIZE_0: u32 = 48;
const ATTR_SIZE: u32 = size_of::<SchedAttr>() as u32;

/// Reads a `struct sched_attr` of whatever version. What is too large gets our size written into it.
fn read_attr(t: &Current, addr: u64) -> SysResult<SchedAttr> {
    let size: u32 = t.mm.read_obj(addr)?;
    let size = if size == 0 { ATTR_SIZE_0 } else { size };
    let refuse = || {
        t.mm.write_obj(addr, &ATTR_SIZE)?;
        Err(Errno::E2BIG)
    };
    if !(ATTR_SIZE_0..=4096).contains(&size) {
        return refuse();
    }
    let mut bytes = vec![0; size as usize];
    t.mm.read(addr, &mut bytes)?;
    if bytes.iter().skip(ATTR_SIZE as usize).any(|byte| *byte != 0) {
        return refuse();
    }
    let mut attr = SchedAttr::new_zeroed();
    attr.as_mut_bytes().iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    Ok(attr)
}

fn set_attr(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const RESET_ON_FORK: u64 = 1;
    const KEEP: u64 = 8;
    const KEEP_PARAMS: u64 = 16;
    const UTIL: u64 = 32 | 64;
    const KNOWN: u64 = RESET_ON_FORK | 2 | 4 | KEEP | KEEP_PARAMS | UTIL;
    if a[1] == 0 || int(a[0]) < 0 || uint(a[2]) != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = read_attr(t, a[1])?;
    let policy = attr.policy.cast_signed();
    if policy < 0 || attr.flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(t, a[0])?;
    if attr.flags & UTIL != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let old = target.get();
    let policy = if attr.flags & KEEP != 0 { old.policy } else { policy };
    let reset_on_fork = attr.flags & RESET_ON_FORK != 0;
    let mut new = Scheduling { reset_on_fork, ..old };
    if attr.flags & KEEP_PARAMS == 0 {
        new.priority = i32::try_from(attr.priority).map_err(|_| Errno::EINVAL)?;
        if matches!(policy, c::SCHED_OTHER | c::SCHED_BATCH) {
            new.nice = attr.nice.clamp(-20, 19);
        }
    }
    schedule(t, &target, policy, new)
}

fn get_attr(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let size = uint(a[2]);
    if a[1] == 0 || !(ATTR_SIZE_0..=4096).contains(&size) || uint(a[3]) != 0 {
        return Err(Errno::EINVAL);
    }
    let scheduling = target(t, a[0])?.get();
    let size = size.min(ATTR_SIZE);
    let attr = SchedAttr {
        size,
        policy: scheduling.policy.cast_unsigned(),
        flags: scheduling.reset_on_fork.into(),
        nice: if scheduling.is_realtime() { 0 } else { scheduling.nice },
        priority: scheduling.priority.cast_unsigned(),
        ..SchedAttr::new_zeroed()
    };
    t.mm.write(a[1], attr.as_bytes().get(..size as usize).unwrap_or_default())?;
    Ok(0)
}

fn priority_limit(policy: i32, realtime: u64) -> SysResult<u64> {
    match policy {
        c::SCHED_FIFO | c::SCHED_RR => Ok(realtime),
        c::SCHED_OTHER | c::SCHED_BATCH | c::SCHED_IDLE | c::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn rr_get_interval(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let slice = if target(t, a[0])?.get().policy == c::SCHED_RR { RR_SLICE } else { 0 };
    t.mm.write_obj(a[1], &Timespec::from_ns(slice))?;
    Ok(0)
}

fn set_affinity(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let len = usize::try_from(uint(a[1])).map_err(|_| Errno::EINVAL)?.min(128);
    let mut bytes = vec![0; len];
    t.mm.read(a[2], &mut bytes)?;
    let target = t.scheduled(int(a[0]))?;
    if !t.owns(&target) && !t.may_nice(&target) {
        return Err(Errno::EPERM);
    }
    let set = CpuSet::from_bytes(&bytes).and(&CpuSet::first(t.cpu_count()));
    if set.is_empty() {
        return Err(Errno::EINVAL);
    }
    target.set(|scheduling| scheduling.affinity = Some(set));
    Ok(0)
}

fn get_affinity(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let cpus = t.cpu_count();
    let len = uint(a[1]) as usize;
    if len * 8 < cpus || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let all = CpuSet::first(cpus);
    let set = t.scheduled(int(a[0]))?.get().affinity.map_or(all, |set| set.and(&all));
    let bytes = set.to_bytes(len.min(cpus.div_ceil(64) * 8));
    t.mm.write(a[2], &bytes)?;
    Ok(bytes.len() as u64)
}

/// The tasks that `which` and `who` mean (setpriority(2); ioprio_set(2) counts from 1).
fn targets(t: &Current, which: i32, who: i32) -> SysResult<Vec<Scheduled>> {
    let kernel = &t.task.kernel;
    let tasks = |keep: &dyn Fn(&Task) -> bool| -> Vec<Scheduled> {
        let all: Vec<Arc<Task>> = kernel.tasks.lock().values().cloned().collect();
        all.into_iter().filter(|task| keep(task)).map(Scheduled::from).collect()
    };
    let found = match which {
        0 => vec![t.scheduled(who)?],
        1 => {
            let pgid = if who == 0 { t.task.group.pgid() } else { t.global(who).ok_or(Errno::ESRCH)? };
            tasks(&|task| task.group.pgid() == pgid)
        }
        2 => {
            let own = t.credentials();
            let uid = if who == 0 { own.ruid } else { own.user_ns.make_kuid(who.cast_unsigned()).ok_or(Errno::EINVAL)? };
            tasks(&|task| task.credentials().ruid == uid)
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

/// getpriority(2): 20 minus the lowest nice value, so that it is positive.
fn get_priority(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let lowest = targets(t, int(a[0]), int(a[1]))?.iter().map(|target| target.get().nice).min();
    u64::try_from(20 - lowest.unwrap_or(0)).map_err(|_| Errno::EINVAL)
}

fn set_priority(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let nice = int(a[2]).clamp(-20, 19);
    let mut result = Ok(0);
    for target in targets(t, int(a[0]), int(a[1]))? {
        // Here the real user counts, of whoever is changed.
        let same = [target.credentials.ruid, target.credentials.euid].contains(&t.credentials().euid);
        if !same && !t.may_nice(&target) {
            result = Err(Errno::EPERM);
        } else if nice < target.get().nice && !t.can_nice(&target, nice) {
            result = Err(Errno::EACCES);
        } else {
            target.set(|scheduling| scheduling.nice = nice);
        }
    }
    result
}

const IOPRIO_CLASS_SHIFT: u32 = 13;

/// ioprio_get(2): of several, the best; a task without one counts as the middle of "best effort".
fn ioprio_get(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const DEFAULT: u16 = 2 << IOPRIO_CLASS_SHIFT | 4;
    let all: Vec<u16> = targets(t, int(a[0]) - 1, int(a[1]))?.iter().map(|target| target.get().ioprio).collect();
    let best = match all.as_slice() {
        [one] => Some(*one),
        several => several.iter().map(|one| if one >> IOPRIO_CLASS_SHIFT == 0 { DEFAULT } else { *one }).min(),
    };
    Ok(best.unwrap_or(0).into())
}

fn ioprio_set(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let value = u16::try_from(int(a[2])).map_err(|_| Errno::EINVAL)?;
    match value >> IOPRIO_CLASS_SHIFT {
        0 if value != 0 => return Err(Errno::EINVAL),
        1 if ![Capability::SYS_ADMIN, Capability::SYS_NICE].iter().any(|cap| t.credentials().has_capability(*cap)) => {
            return Err(Errno::EPERM);
        }
        0..=3 => {}
        _ => return Err(Errno::EINVAL),
    }
    let which = int(a[0]).checked_sub(1).ok_or(Errno::EINVAL)?;
    for target in targets(t, which, int(a[1]))? {
        let same = [target.credentials.ruid].iter().any(|uid| [t.credentials().euid, t.credentials().ruid].contains(uid));
        if !same && !t.may_nice(&target) {
            return Err(Errno::EPERM);
        }
        target.set(|scheduling| scheduling.ioprio = value);
    }
    Ok(0)
}
