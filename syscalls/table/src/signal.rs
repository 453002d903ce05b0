//! Signals.

use std::sync::Arc;

use abi::signal::{SigAction, SigInfo, SigSet, SigStack};
use abi::{Errno, SysResult, c, nr};
use task::{Current, Group, Task};
use usermem::UserMemoryExt;

use crate::args::{after, int, timeout};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::RT_SIGACTION, sigaction),
    full(nr::RT_SIGPROCMASK, sigprocmask),
    full(nr::RT_SIGPENDING, sigpending),
    full(nr::RT_SIGSUSPEND, sigsuspend),
    full(nr::RT_SIGTIMEDWAIT, sigtimedwait),
    full(nr::RT_SIGRETURN, sigreturn),
    full(nr::SIGALTSTACK, sigaltstack),
    full(nr::KILL, kill),
    full(nr::TKILL, |t, a| tgkill(t, None, int(a[0]), int(a[1]))),
    full(nr::TGKILL, |t, a| tgkill(t, Some(int(a[0])), int(a[1]), int(a[2]))),
    full(nr::RT_SIGQUEUEINFO, sigqueueinfo),
    full(nr::RT_TGSIGQUEUEINFO, tgsigqueueinfo),
    full(nr::RESTART_SYSCALL, |t, _| t.resumption.take().map_or(Err(Errno::EINTR), |resume| resume(t))),
    full(nr::PAUSE, |t, _| {
        loop {
            if let Err(Errno::ERESTARTSYS) = t.sleep(None) {
                return Err(Errno::ERESTARTNOHAND);
            }
        }
    }),
];

/// Flags of sigaction(2) that x86-64 has (`UAPI_SA_FLAGS`, and `SA_RESTORER`); others are taken back, so that programs can tell.
const ACTION_FLAGS: u64 = 0xdc00_0807;

fn check(size: u64) -> SysResult<()> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A signal number, or 0 where that asks whether there is somebody.
pub fn number(signo: i32) -> SysResult<i32> {
    if (0..=abi::signal::MAX_SIGNAL).contains(&signo) { Ok(signo) } else { Err(Errno::EINVAL) }
}

fn sigaction(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    check(a[3])?;
    let signo = int(a[0]);
    let fixed = SigSet::UNBLOCKABLE.contains(signo);
    let new: Option<SigAction> = if a[1] == 0 { None } else { Some(t.mm.read_obj(a[1])?) };
    if SigSet::of(signo).0 == 0 || fixed && new.is_some() {
        return Err(Errno::EINVAL);
    }
    let old = match new {
        Some(new) => {
            let new = SigAction { mask: new.mask.without(SigSet::UNBLOCKABLE), flags: new.flags & ACTION_FLAGS, ..new };
            t.task.group.set_action(signo, new)
        }
        None => t.task.group.action(signo),
    };
    if a[2] != 0 {
        t.mm.write_obj(a[2], &old)?;
    }
    Ok(0)
}

fn sigprocmask(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    check(a[3])?;
    let old = t.task.lock().mask;
    if a[1] != 0 {
        let set: SigSet = t.mm.read_obj(a[1])?;
        t.set_mask(match int(a[0]) {
            c::SIG_BLOCK => old.with(set),
            c::SIG_UNBLOCK => old.without(set),
            c::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        });
    }
    if a[2] != 0 {
        t.mm.write_obj(a[2], &old)?;
    }
    Ok(0)
}

fn sigpending(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    // As on Linux, less may be asked for than there is.
    let size = usize::try_from(a[1]).ok().filter(|size| *size <= 8).ok_or(Errno::EINVAL)?;
    let pending = t.task.blocked_pending().0.to_le_bytes();
    t.mm.write(a[0], pending.get(..size).unwrap_or_default())?;
    Ok(0)
}

/// Installs a temporary mask until the next signal has been handled.
pub fn swap_mask(t: &Current, set: SigSet) {
    let old = t.task.lock().mask;
    t.set_mask(set);
    t.task.lock().saved_mask = Some(old);
}

fn sigsuspend(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    check(a[1])?;
    let set: SigSet = t.mm.read_obj(a[0])?;
    swap_mask(t, set);
    loop {
        if let Err(Errno::ERESTARTSYS) = t.sleep(None) {
            return Err(Errno::ERESTARTNOHAND);
        }
    }
}

fn sigtimedwait(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    check(a[3])?;
    let set: SigSet = t.mm.read_obj(a[0])?;
    let deadline = timeout(t, a[2])?.map(after);
    let info = t.wait_signal(set.without(SigSet::UNBLOCKABLE), deadline)?;
    if a[1] != 0 {
        t.mm.write_obj(a[1], &info)?;
    }
    Ok(info.signo.cast_unsigned().into())
}

fn sigreturn(t: &mut Current, _: [u64; 6]) -> SysResult<u64> {
    if t.sigreturn().is_err() {
        t.bad_frame();
    }
    Ok(0)
}

fn sigaltstack(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if !t.ctx.full(&mut t.regs) {
        return Err(Errno::ESRCH);
    }
    let new: Option<SigStack> = if a[0] == 0 { None } else { Some(t.mm.read_obj(a[0])?) };
    let old = t.task.lock().altstack.shown_to(t.regs.rsp);
    if let Some(new) = new {
        t.set_altstack(new)?;
    }
    if a[1] != 0 {
        t.mm.write_obj(a[1], &old)?;
    }
    Ok(0)
}

/// Whether the caller may send a signal to a process (or a task of it); who sends it, in the numbers of who gets it.
pub fn permitted(t: &Current, group: &Group, task: Option<&Task>, signo: i32) -> SysResult<u32> {
    let (who, other) = (t.credentials(), task.map_or_else(|| group.credentials(), |task| Some(task.credentials())));
    // Gone in this moment: nobody minds.
    let Some(other) = other else { return Ok(0) };
    let own = group.pid == t.task.group.pid;
    if own || who.may_signal(&other) || signo == c::SIGCONT && group.sid() == t.task.group.sid() {
        return Ok(other.user_ns.from_kuid_munged(who.ruid));
    }
    Err(Errno::EPERM)
}

fn kill(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (which, signo) = (int(a[0]), number(int(a[1]))?);
    let kernel = &t.task.kernel;
    let groups: Vec<Arc<Group>> = match which {
        pid if pid > 0 => process(t, pid).into_iter().collect(),
        -1 => {
            // All that it can see, but the first and itself.
            let others = |group: &&Arc<Group>| group.pid_in(t.pid_ns()) > 1 && !Arc::ptr_eq(group, &t.task.group);
            kernel.groups.lock().values().filter(others).cloned().collect()
        }
        0 => t.task.group.job().members(),
        which => {
            let pgid = which.checked_neg().and_then(|pgid| t.global(pgid));
            let job = pgid.and_then(|pgid| kernel.process_group(pgid));
            job.map(|job| job.members()).unwrap_or_default()
        }
    };
    if groups.is_empty() {
        return Err(Errno::ESRCH);
    }
    let mut refused = 0;
    for group in &groups {
        match permitted(t, group, None, signo) {
            Ok(uid) if signo != 0 => {
                group.signal(SigInfo::from_process(signo, c::SI_USER, t.task.group.pid_in(group.pid_ns()), uid))
            }
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    // Sent to all, it doesn't matter who may not be reached.
    if refused == groups.len() && which != -1 { Err(Errno::EPERM) } else { Ok(0) }
}

/// The process with this number, or with a thread of this number.
fn process(t: &Current, pid: i32) -> Option<Arc<Group>> {
    t.find_process(pid).or_else(|| Some(t.find_task(pid)?.group.clone()))
}

/// A thread, of a certain process if that is given.
fn thread(t: &Current, pid: Option<i32>, tid: i32) -> SysResult<Arc<Task>> {
    if tid <= 0 || pid.is_some_and(|pid| pid <= 0) {
        return Err(Errno::EINVAL);
    }
    t.find_task(tid).filter(|task| pid.is_none_or(|pid| task.group.pid_in(t.pid_ns()) == pid)).ok_or(Errno::ESRCH)
}

fn tgkill(t: &Current, pid: Option<i32>, tid: i32, signo: i32) -> SysResult<u64> {
    let found = thread(t, pid, tid);
    // A thread that has just ended is as good as one that does so now.
    let signo = number(signo).map_err(|errno| found.as_ref().err().copied().unwrap_or(errno))?;
    let task = found?;
    let uid = permitted(t, &task.group, Some(&task), signo)?;
    if signo != 0 {
        task.signal(SigInfo::from_process(signo, c::SI_TKILL, t.task.group.pid_in(task.group.pid_ns()), uid));
    }
    Ok(0)
}

/// What a caller says of a signal that it sends itself or others.
fn given_info(t: &Current, signo: i32, addr: u64, to_self: bool) -> SysResult<SigInfo> {
    let mut info: SigInfo = t.mm.read_obj(addr)?;
    info.signo = signo;
    // Nobody may pretend to be the kernel, or kill(2).
    if (info.code >= 0 || info.code == c::SI_TKILL) && !to_self {
        return Err(Errno::EPERM);
    }
    number(signo)?;
    Ok(info)
}

fn sigqueueinfo(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (pid, signo) = (int(a[0]), int(a[1]));
    let info = given_info(t, signo, a[2], pid == t.task.group.own_pid())?;
    let group = process(t, pid).ok_or(Errno::ESRCH)?;
    permitted(t, &group, None, signo)?;
    if signo != 0 {
        group.send(info, None, None)?;
    }
    Ok(0)
}

fn tgsigqueueinfo(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (pid, tid, signo) = (int(a[0]), int(a[1]), int(a[2]));
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = given_info(t, signo, a[3], tid == t.task.own_tid())?;
    let task = thread(t, Some(pid), tid)?;
    permitted(t, &task.group, Some(&task), signo)?;
    if signo != 0 {
        task.group.send(info, Some(&task), None)?;
    }
    Ok(0)
}
