//! What /proc says of what tasks have used, and of their place among others.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use auth::{Capability, Credentials, Kuid};

use crate::Proc;
use crate::process::View;

/// The number of nobody: not logged in.
const NOBODY: u32 = u32::MAX;

/// /proc/pid/io. What reaches a disk isn't known.
pub fn io(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let io = used(view).io;
    let mut out = String::new();
    let _ = write!(out, "rchar: {}\nwchar: {}\n", io.read_bytes, io.written_bytes);
    let _ = write!(out, "syscr: {}\nsyscw: {}\n", io.reads, io.writes);
    out.push_str("read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
    Ok(out.into_bytes())
}

/// Of a thread in task/, or of the whole process.
fn used(view: &View) -> task::Used {
    match &view.task {
        Some(task) if view.one => task.used(),
        _ => view.group.used(),
    }
}

/// Time on a CPU, time waited for one (not known), and time slices.
pub fn schedstat(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let ran = view.task.as_ref().map_or(0, |task| task.cpu_time());
    let switches = view.task.as_ref().map_or(0, |task| task.used().switches);
    Ok(format!("{ran} 0 {}\n", switches.saturating_add(1)).into_bytes())
}

pub fn sched(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let task = view.task.as_ref().ok_or(Errno::ESRCH)?;
    let (comm, scheduling) = {
        let shared = task.lock();
        (String::from_utf8_lossy(&shared.comm).into_owned(), shared.scheduling)
    };
    let (ran, switches) = (task.cpu_time(), task.used().switches);
    let mut out = format!("{comm} ({}, #threads: {})\n{}\n", view.ns.local(view.id), view.tasks.len(), "-".repeat(67));
    let ran = format!("{}.{:06}", ran / 1_000_000, ran % 1_000_000);
    let priority = if scheduling.is_realtime() { 99 - scheduling.priority } else { 120 + scheduling.nice };
    let lines = [
        ("se.sum_exec_runtime", ran),
        ("nr_switches", switches.to_string()),
        ("nr_voluntary_switches", switches.to_string()),
        ("nr_involuntary_switches", "0".to_owned()),
        ("policy", scheduling.policy.to_string()),
        ("prio", priority.to_string()),
    ];
    for (name, value) in lines {
        let _ = writeln!(out, "{name:<45}:{value:>21}");
    }
    Ok(out.into_bytes())
}

/// Numbers of the children that a thread has made.
pub fn children(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut numbers: Vec<_> = view.group.children_of(view.id).iter().map(|child| child.pid_in(&view.ns)).collect();
    numbers.retain(|number| *number != 0);
    numbers.sort_unstable();
    Ok(numbers.iter().map(|number| format!("{number} ")).collect::<String>().into_bytes())
}

pub fn personality(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let personality = view.task.as_ref().map_or(0, |task| task.lock().personality);
    Ok(format!("{personality:08x}\n").into_bytes())
}

/// Its control group, as the reader's namespace calls it.
pub fn cgroup(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let ns = proc.caller().map_or_else(|| proc.kernel.ns.cgroup.clone(), |task| task.lock().ns.cgroup.clone());
    let path = view.group.cgroup(&proc.kernel).path_from(&ns.root(&proc.kernel));
    Ok([b"0::", &path[..], b"\n"].concat())
}

/// As whom it has logged in, in the reader's numbers.
pub fn loginuid(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let (uid, _) = *view.group.login.lock();
    let ns = proc.caller().map_or_else(|| proc.kernel.user_ns.clone(), |task| task.credentials().user_ns.clone());
    let shown = if uid == NOBODY { uid } else { ns.from_kuid_munged(Kuid(uid)) };
    Ok(shown.to_string().into_bytes())
}

pub fn sessionid(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    Ok(view.group.login.lock().1.to_string().into_bytes())
}

/// # Errors
/// `EPERM` for other processes, and without `CAP_AUDIT_CONTROL` for who has logged in already; `EINVAL` for what is nobody's number.
pub fn write_loginuid(proc: &Proc, view: &View, text: &[u8], _: &Credentials) -> SysResult<()> {
    let caller = proc.caller().filter(|task| std::sync::Arc::ptr_eq(&task.group, &view.group)).ok_or(Errno::EPERM)?;
    let who = caller.credentials();
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let uid: u32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    let kuid = if uid == NOBODY { Kuid(NOBODY) } else { who.user_ns.make_kuid(uid).ok_or(Errno::EINVAL)? };
    let mut login = view.group.login.lock();
    if login.0 != NOBODY && !who.has_capability(Capability::AUDIT_CONTROL) {
        return Err(Errno::EPERM);
    }
    let session = if uid == NOBODY { NOBODY } else { proc.kernel.logins.fetch_add(1, Ordering::Relaxed).wrapping_add(1) };
    *login = (kuid.0, session);
    Ok(())
}
