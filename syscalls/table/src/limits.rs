//! Resource limits and use (getrlimit(2), getrusage(2)).

use std::sync::Arc;

use abi::structs::{Rlimit, Rusage};
use abi::{Errno, SysResult, c, nr};
use auth::{Capability, Credentials};
use task::{Current, Group, Used};
use usermem::UserMemoryExt;

use crate::args::int;
use crate::{Entry, full, partial};

const NOTE: &str = "kept and enforced, but for CORE, RSS, CPU and RTTIME";

pub const ENTRIES: &[Entry] = &[
    partial(nr::PRLIMIT64, prlimit, NOTE),
    full(nr::GETRLIMIT, |t, a| prlimit(t, [0, a[0], 0, a[1], 0, 0])),
    partial(nr::SETRLIMIT, |t, a| prlimit(t, [0, a[0], a[1], 0, 0, 0]), NOTE),
    partial(nr::GETRUSAGE, getrusage, "no block operations, no signals and messages"),
];

/// Most descriptors that a limit may allow (fs.nr_open).
const NR_OPEN: u64 = 1 << 20;

/// Whether somebody may see and change another's limits: the same user and group throughout, or one who may anyway.
fn may_limit(who: &Credentials, other: &Credentials) -> bool {
    let same_user = [other.ruid, other.euid, other.suid] == [who.ruid; 3];
    let same_group = [other.rgid, other.egid, other.sgid] == [who.rgid; 3];
    same_user && same_group || who.has_capability_in(&other.user_ns, Capability::SYS_RESOURCE)
}

fn prlimit(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [pid, resource, new, old, ..] = a;
    let index = usize::try_from(int(resource)).ok().filter(|index| *index < 16).ok_or(Errno::EINVAL)?;
    let new: Option<Rlimit> = if new == 0 { None } else { Some(t.mm.read_obj(new)?) };
    let group = target(t, int(pid))?;
    let before = *group.limits.lock().get(index).ok_or(Errno::EINVAL)?;
    if let Some(new) = new {
        if new.cur > new.max {
            return Err(Errno::EINVAL);
        }
        if int(resource).cast_unsigned() == c::RLIMIT_NOFILE && new.max > NR_OPEN {
            return Err(Errno::EPERM);
        }
        if new.max > before.max && !t.credentials().has_capability(Capability::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        if let Some(slot) = group.limits.lock().get_mut(index) {
            *slot = new;
        }
        if int(resource).cast_unsigned() == c::RLIMIT_CPU {
            t.task.kernel.watch_cpu_limit(&group);
        }
    }
    if old != 0 {
        t.mm.write_obj(old, &before)?;
    }
    Ok(0)
}

/// The process whose limits are meant.
fn target(t: &Current, pid: i32) -> SysResult<Arc<Group>> {
    if pid == 0 {
        return Ok(t.task.group.clone());
    }
    let task = t.find_task(pid).ok_or(Errno::ESRCH)?;
    // One's own threads have the same credentials, or nobody minds.
    if Arc::ptr_eq(&task.group, &t.task.group) || may_limit(t.credentials(), &task.credentials()) {
        return Ok(task.group.clone());
    }
    Err(Errno::EPERM)
}

fn getrusage(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let used = match int(a[0]) {
        c::RUSAGE_SELF => t.task.group.used(),
        c::RUSAGE_CHILDREN => t.task.group.usage.lock().children,
        c::RUSAGE_THREAD => t.cpu_time(),
        _ => return Err(Errno::EINVAL),
    };
    t.mm.write_obj(a[1], &rusage(used))?;
    Ok(0)
}

pub fn rusage(used: Used) -> Rusage {
    let timeval = |ns: u64| [(ns / 1_000_000_000).cast_signed(), (ns % 1_000_000_000 / 1000).cast_signed()];
    let mut rest = [0; 14];
    // ru_maxrss in KiB, ru_minflt, ru_majflt, ru_nvcsw: the others are never counted, or not known.
    for (at, value) in [(0, used.max_resident / 1024), (4, used.minor_faults), (5, used.major_faults), (12, used.switches)] {
        if let Some(slot) = rest.get_mut(at) {
            *slot = value.cast_signed();
        }
    }
    Rusage { utime: timeval(used.user), stime: timeval(used.system), rest }
}
