//! Signals.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::{SIG_IGN, SigAction, SigInfo, SigSet, SigStack};
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
    full(nr::TKILL, |t, a| tgkill(t, -1, int(a[0]), int(a[1]))),
    full(nr::TGKILL, |t, a| if int(a[0]) <= 0 { Err(Errno::EINVAL) } else { tgkill(t, int(a[0]), int(a[1]), int(a[2])) }),
    full(nr::PAUSE, |t, _| {
        loop {
            if let Err(Errno::ERESTARTSYS) = t.sleep(None) {
                return Err(Errno::ERESTARTNOHAND);
            }
        }
    }),
];

fn check(size: u64) -> SysResult<()> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn sigaction(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    check(a[3])?;
    let signo = int(a[0]);
    let fixed = SigSet::UNBLOCKABLE.contains(signo);
    if SigSet::of(signo).0 == 0 || fixed && a[1] != 0 {
        return Err(Errno::EINVAL);
    }
    let new: Option<SigAction> = if a[1] == 0 { None } else { Some(t.mm.read_obj(a[1])?) };
    let old = t.task.group.action(signo);
    if let Some(mut new) = new {
        new.mask = new.mask.without(SigSet::UNBLOCKABLE);
        if let Some(slot) = usize::try_from(signo).ok().and_then(|at| t.task.group.actions.lock().get_mut(at).map(|s| *s = new)) {
            let () = slot;
        }
        let ignored = new.handler == SIG_IGN || new.handler == 0 && matches!(signo, c::SIGCHLD | c::SIGURG | c::SIGWINCH);
        if ignored {
            t.task.group.pending.lock().discard(SigSet::of(signo));
            t.task.lock().pending.discard(SigSet::of(signo));
        }
    }
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
    check(a[1])?;
    let (own, mask) = {
        let shared = t.task.lock();
        (shared.pending.set, shared.mask)
    };
    let all = own.with(t.task.group.pending.lock().set);
    t.mm.write_obj(a[0], &SigSet(all.0 & mask.0))?;
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
    let others = SigSet(!set.without(SigSet::UNBLOCKABLE).0);
    loop {
        let own = t.task.lock().pending.take(others);
        if let Some(info) = own.or_else(|| t.task.group.pending.lock().take(others)) {
            if a[1] != 0 {
                t.mm.write_obj(a[1], &info)?;
            }
            return Ok(info.signo.cast_unsigned().into());
        }
        match t.sleep(deadline) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
            Err(_) => return Err(Errno::EINTR),
        }
    }
}

fn sigreturn(t: &mut Current, _: [u64; 6]) -> SysResult<u64> {
    if t.sigreturn().is_err() {
        t.task.group.end(c::SIGSEGV);
    }
    Ok(0)
}

fn sigaltstack(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let mut old = t.task.lock().altstack;
    if !t.ctx.full(&mut t.regs) {
        return Err(Errno::ESRCH);
    }
    let on_it = old.flags & c::SS_DISABLE == 0 && t.regs.rsp.wrapping_sub(old.sp) <= old.size;
    old.flags |= if on_it { c::SS_ONSTACK } else { 0 };
    if a[0] != 0 {
        if on_it {
            return Err(Errno::EPERM);
        }
        let mut new: SigStack = t.mm.read_obj(a[0])?;
        match new.flags & !c::SS_ONSTACK {
            c::SS_DISABLE => new = SigStack { flags: c::SS_DISABLE, ..SigStack::default() },
            0 if new.size < 2048 => return Err(Errno::ENOMEM),
            0 => new.flags = 0,
            _ => return Err(Errno::EINVAL),
        }
        t.task.lock().altstack = new;
    }
    if a[1] != 0 {
        t.mm.write_obj(a[1], &old)?;
    }
    Ok(0)
}

fn kill(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (which, signo) = (int(a[0]), int(a[1]));
    if signo != 0 && SigSet::of(signo).0 == 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = &t.task.kernel;
    let own = t.task.group.pgid.load(Ordering::Relaxed);
    let groups: Vec<Arc<Group>> = match which {
        pid if pid > 0 => kernel.group(pid).into_iter().collect(),
        -1 => kernel.groups.lock().values().filter(|group| group.pid > 1 && group.pid != t.task.group.pid).cloned().collect(),
        which => {
            let pgid = if which == 0 { own } else { which.checked_neg().ok_or(Errno::ESRCH)? };
            kernel.groups.lock().values().filter(|group| group.pgid.load(Ordering::Relaxed) == pgid).cloned().collect()
        }
    };
    if groups.is_empty() {
        return Err(Errno::ESRCH);
    }
    let mut refused = 0;
    for group in &groups {
        match permitted(t, group, None, signo) {
            Ok(uid) if signo != 0 => group.signal(SigInfo::from_process(signo, c::SI_USER, t.task.group.pid, uid)),
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    // Sent to all, it doesn't matter who may not be reached.
    if refused == groups.len() && which != -1 { Err(Errno::EPERM) } else { Ok(0) }
}

/// Whether the caller may send a signal to a process (or a task of it); who sends it, in the numbers of who gets it.
fn permitted(t: &Current, group: &Group, task: Option<&Task>, signo: i32) -> SysResult<u32> {
    let (who, other) = (t.credentials(), task.map_or_else(|| group.credentials(), |task| Some(task.credentials())));
    // Gone in this moment: nobody minds.
    let Some(other) = other else { return Ok(0) };
    let same_session = || group.sid.load(Ordering::Relaxed) == t.task.group.sid.load(Ordering::Relaxed);
    let own = group.pid == t.task.group.pid;
    if own || who.may_signal(&other) || signo == c::SIGCONT && same_session() {
        return Ok(other.user_ns.from_kuid_munged(who.ruid));
    }
    Err(Errno::EPERM)
}

fn tgkill(t: &Current, pid: i32, tid: i32, signo: i32) -> SysResult<u64> {
    if tid <= 0 || signo != 0 && SigSet::of(signo).0 == 0 {
        return Err(Errno::EINVAL);
    }
    let task = t.task.kernel.task(tid).filter(|task| pid == -1 || task.group.pid == pid).ok_or(Errno::ESRCH)?;
    let uid = permitted(t, &task.group, Some(&task), signo)?;
    if signo != 0 {
        task.signal(SigInfo::from_process(signo, c::SI_TKILL, t.task.group.pid, uid));
    }
    Ok(0)
}
