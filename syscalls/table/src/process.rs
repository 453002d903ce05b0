//! Processes: clone, exec, exit, wait, limits.

use abi::signal::SigInfo;
use abi::structs::CloneArgs;
use abi::{Errno, SysResult, c, nr};
use task::{CLONE_INTO_CGROUP, Cgroup, CloneRequest, Current, Program, Who};
use usermem::UserMemoryExt;
use zerocopy::FromZeros;

use crate::args::{file, int, path, uint, walk};
use crate::limits::rusage;
use crate::pidfd::process_of;
use crate::{Entry, full, partial};

/// Namespaces of pids within each other at most.
const MAX_PID_NS_LEVEL: u64 = 32;
/// Highest number of a task.
const PID_MAX: i32 = 4_194_304;

pub const ENTRIES: &[Entry] = &[
    partial(nr::CLONE, clone, "no time namespaces"),
    partial(nr::CLONE3, clone3, "as clone"),
    full(nr::FORK, |t, _| t.clone_task(CloneRequest { exit_signal: c::SIGCHLD, ..CloneRequest::default() })),
    full(nr::VFORK, |t, _| {
        let flags = (c::CLONE_VM | c::CLONE_VFORK) as u64;
        t.clone_task(CloneRequest { flags, exit_signal: c::SIGCHLD, ..CloneRequest::default() })
    }),
    full(nr::EXECVE, |t, a| exec(t, c::AT_FDCWD as u64, a[0], a[1], a[2], 0)),
    full(nr::EXECVEAT, |t, a| exec(t, a[0], a[1], a[2], a[3], int(a[4]))),
    full(nr::EXIT, |t, a| {
        t.exit((int(a[0]) & 0xff) << 8);
        Ok(0)
    }),
    full(nr::EXIT_GROUP, |t, a| {
        t.task.group.end((int(a[0]) & 0xff) << 8);
        Ok(0)
    }),
    full(nr::WAIT4, wait4),
    full(nr::WAITID, waitid),
    full(nr::ARCH_PRCTL, arch_prctl),
];

fn clone(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [flags, stack, parent_tid, child_tid, tls, _] = a;
    let exit_signal = int(flags & 0xff);
    let flags = flags & 0xffff_ff00;
    // Both would be written to one place.
    if flags & c::CLONE_PIDFD as u64 != 0 && flags & c::CLONE_PARENT_SETTID as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    let set_tid = Vec::new();
    let cgroup = None;
    t.clone_task(CloneRequest { flags, exit_signal, stack, parent_tid, child_tid, tls, set_tid, pidfd: parent_tid, cgroup })
}

fn clone3(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let size = usize::try_from(a[1]).map_err(|_| Errno::E2BIG)?;
    if size < 64 {
        return Err(Errno::EINVAL);
    }
    let mut args = CloneArgs::new_zeroed();
    let whole = size_of::<CloneArgs>();
    let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut args);
    if size > whole {
        return Err(Errno::E2BIG);
    }
    t.mm.read(a[0], bytes.get_mut(..size).unwrap_or_default())?;
    let CloneArgs { flags, parent_tid, child_tid, tls, pidfd, .. } = args;
    let not_here = (c::CLONE_DETACHED | 0xff) as u64;
    let has = |flag: i32| flags & flag as u64 != 0;
    let exit_signal = i32::try_from(args.exit_signal).ok().filter(|signo| *signo <= 64).ok_or(Errno::EINVAL)?;
    let no_signal = has(c::CLONE_THREAD) || has(c::CLONE_PARENT);
    if flags & not_here != 0 || (args.stack == 0) != (args.stack_size == 0) || no_signal && exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    // One number for each namespace that the child is in, its own first.
    if args.set_tid_size > MAX_PID_NS_LEVEL || (args.set_tid == 0) != (args.set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    let mut set_tid = Vec::new();
    for at in 0..args.set_tid_size {
        let number: i32 = t.mm.read_obj(args.set_tid.checked_add(at * 4).ok_or(Errno::EFAULT)?)?;
        if !(1..PID_MAX).contains(&number) {
            return Err(Errno::EINVAL);
        }
        set_tid.push(number);
    }
    let stack = args.stack.checked_add(args.stack_size).ok_or(Errno::EINVAL)?;
    let cgroup = match flags & CLONE_INTO_CGROUP {
        0 => None,
        _ => Some(Cgroup::of(&*t.fds.get(i32::try_from(args.cgroup).map_err(|_| Errno::EINVAL)?)?)?),
    };
    t.clone_task(CloneRequest { flags, exit_signal, stack, parent_tid, child_tid, tls, set_tid, pidfd, cgroup })
}

/// A null-terminated vector of strings.
fn strings(t: &Current, mut addr: u64, budget: &mut usize) -> SysResult<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    if addr == 0 {
        return Ok(all);
    }
    loop {
        let pointer: u64 = t.mm.read_obj(addr)?;
        if pointer == 0 {
            return Ok(all);
        }
        let text = t.mm.read_cstr(pointer, (128 << 10).min(*budget)).map_err(|errno| match errno {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            errno => errno,
        })?;
        *budget = budget.checked_sub(text.len() + 9).ok_or(Errno::E2BIG)?;
        all.push(text);
        addr = addr.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

fn exec(t: &mut Current, dirfd: u64, name: u64, argv: u64, envp: u64, flags: i32) -> SysResult<u64> {
    if flags & !(c::AT_EMPTY_PATH | c::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let text = path(t, name)?;
    let by_fd = int(dirfd) != c::AT_FDCWD && text.first() != Some(&b'/');
    let at = if text.is_empty() && flags & c::AT_EMPTY_PATH != 0 {
        file(t, dirfd)?.path.clone().ok_or(Errno::EACCES)?
    } else {
        walk(t, dirfd, name, flags & c::AT_SYMLINK_NOFOLLOW == 0)?
    };
    if at.dentry.is_symlink() {
        return Err(Errno::ELOOP);
    }
    let mut budget = 2 << 20;
    let (argv, envp) = (strings(t, argv, &mut budget)?, strings(t, envp, &mut budget)?);
    // What is named by a descriptor has no better name.
    let hidden = by_fd && t.fds.cloexec(int(dirfd)).unwrap_or(false);
    let path = match (by_fd, &*text) {
        (false, _) => text,
        (true, b"") => format!("/dev/fd/{}", int(dirfd)).into_bytes(),
        (true, text) => [format!("/dev/fd/{}/", int(dirfd)).as_bytes(), text].concat(),
    };
    let user_ns = t.credentials().user_ns.clone();
    t.exec(Program { file: at, path, argv, envp, hidden, user_ns })?;
    Ok(0)
}

/// A process group to wait for; one that isn't there has no children in it.
fn process_group(t: &Current, pgid: i32) -> Who {
    Who::ProcessGroup(t.global(pgid).unwrap_or(0))
}

fn wait4(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let options = int(a[2]);
    if options & !(c::WNOHANG | c::WUNTRACED | c::WCONTINUED | c::__WALL | c::__WCLONE | c::__WNOTHREAD) != 0 {
        return Err(Errno::EINVAL);
    }
    let who = match int(a[0]) {
        -1 => Who::Any,
        0 => Who::ProcessGroup(t.task.group.pgid()),
        pid if pid > 0 => Who::Process(pid),
        pid => process_group(t, pid.checked_neg().ok_or(Errno::ESRCH)?),
    };
    let Some(waited) = t.wait_child(&who, options | c::WEXITED, a[3] != 0)? else { return Ok(0) };
    if a[1] != 0 {
        t.mm.write_obj(a[1], &waited.status)?;
    }
    if a[3] != 0 {
        t.mm.write_obj(a[3], &rusage(waited.used))?;
    }
    Ok(waited.pid.cast_unsigned().into())
}

fn waitid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const KINDS: i32 = c::WEXITED | c::WSTOPPED | c::WCONTINUED;
    let options = int(a[3]);
    if options & !(KINDS | c::WNOHANG | c::WNOWAIT | c::__WALL | c::__WCLONE | c::__WNOTHREAD) != 0 || options & KINDS == 0 {
        return Err(Errno::EINVAL);
    }
    let (mut options, mut impatient) = (options, false);
    let who = match (uint(a[0]), int(a[1])) {
        (c::P_ALL, _) => Who::Any,
        (c::P_PID, pid @ 1..) => Who::Process(pid),
        (c::P_PGID, 0) => Who::ProcessGroup(t.task.group.pgid()),
        (c::P_PGID, pgid @ 1..) => process_group(t, pgid),
        (c::P_PIDFD, 0..) => {
            let (group, nonblocking) = process_of(t, a[1])?;
            impatient = nonblocking && options & c::WNOHANG == 0;
            options |= if impatient { c::WNOHANG } else { 0 };
            Who::Exactly(group)
        }
        _ => return Err(Errno::EINVAL),
    };
    let found = t.wait_child(&who, options, a[4] != 0)?;
    if found.is_none() && impatient {
        return Err(Errno::EAGAIN);
    }
    if a[2] != 0 {
        let info =
            found.map_or_else(SigInfo::default, |waited| SigInfo::child(waited.code, waited.pid, waited.uid, waited.value));
        t.mm.write_obj(a[2], &info)?;
    }
    if a[4] != 0
        && let Some(waited) = found
    {
        t.mm.write_obj(a[4], &rusage(waited.used))?;
    }
    Ok(0)
}

fn arch_prctl(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    if !t.ctx.full(&mut t.regs) {
        return Err(Errno::ESRCH);
    }
    match int(a[0]) {
        ARCH_SET_FS if a[1] < 1 << 47 => {
            t.regs.fs_base = a[1];
            Ok(0)
        }
        ARCH_SET_FS => Err(Errno::EPERM),
        ARCH_GET_FS => {
            let base = t.regs.fs_base;
            t.mm.write_obj(a[1], &base)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
