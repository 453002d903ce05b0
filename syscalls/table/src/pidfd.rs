//! Processes by descriptors: pidfd_open(2) and its kin.

use std::sync::Arc;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use task::{Access, Current, Group, PidFd, Task};
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{file, int, uint};
use crate::fd::install;
use crate::signal::{number, permitted};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] =
    &[full(nr::PIDFD_OPEN, pidfd_open), full(nr::PIDFD_SEND_SIGNAL, pidfd_send_signal), full(nr::PIDFD_GETFD, pidfd_getfd)];

const PIDFD_SIGNAL_THREAD: u32 = 1;
const PIDFD_SIGNAL_THREAD_GROUP: u32 = 2;
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 4;

fn pidfd_open(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (pid, flags) = (int(a[0]), int(a[1]));
    if flags & !c::O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let group = match t.find_process(pid) {
        Some(group) => group,
        // A thread has none of its own.
        None if t.find_task(pid).is_some() => return Err(Errno::EINVAL),
        None => return Err(Errno::ESRCH),
    };
    install(t, File::new(Arc::new(PidFd(group)), None, c::O_RDWR | flags), true, 0)
}

/// The process behind a descriptor, and whether waiting for it must not block.
///
/// # Errors
/// `EBADF` when the descriptor is none of a process.
pub fn process_of(t: &Current, fd: u64) -> SysResult<(Arc<Group>, bool)> {
    let file = file(t, fd)?;
    Ok((PidFd::of(&file).ok_or(Errno::EBADF)?.clone(), file.flags() & c::O_NONBLOCK != 0))
}

fn pidfd_send_signal(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let signo = int(a[1]);
    // To the process, its leader, or its process group; the first alone is what it is for without flags.
    let flags = uint(a[3]);
    if flags & !(PIDFD_SIGNAL_THREAD | PIDFD_SIGNAL_THREAD_GROUP | PIDFD_SIGNAL_PROCESS_GROUP) != 0 || flags.count_ones() > 1 {
        return Err(Errno::EINVAL);
    }
    let group = signalled(t, a[0])?;
    // Out of sight, as in a namespace further out.
    if group.pid_in(t.pid_ns()) == 0 {
        return Err(Errno::EINVAL);
    }
    let given = match a[2] {
        0 => None,
        addr => {
            let info: SigInfo = t.mm.read_obj(addr)?;
            if info.signo != signo {
                return Err(Errno::EINVAL);
            }
            if flags == PIDFD_SIGNAL_PROCESS_GROUP && info.code >= 0 {
                return Err(Errno::EPERM);
            }
            // Nobody may pretend to be the kernel, or kill(2).
            if (info.code >= 0 || info.code == c::SI_TKILL) && !Arc::ptr_eq(&group, &t.task.group) {
                return Err(Errno::EPERM);
            }
            Some(info)
        }
    };
    number(signo)?;
    let there = t.task.kernel.groups.lock().get(&group.pid).is_some_and(|found| Arc::ptr_eq(found, &group));
    if !there {
        return Err(Errno::ESRCH);
    }
    if flags != PIDFD_SIGNAL_PROCESS_GROUP {
        let leader = group.threads().into_iter().find(|task| flags == PIDFD_SIGNAL_THREAD && task.is_leader());
        if flags == PIDFD_SIGNAL_THREAD && leader.is_none() {
            return Err(Errno::ESRCH);
        }
        return send(t, &group, leader.as_ref(), signo, given).map(|()| 0);
    }
    let results: Vec<_> = group.job().members().iter().map(|member| send(t, member, None, signo, given)).collect();
    // Who may not be reached doesn't matter where others were.
    if results.iter().any(Result::is_ok) { Ok(0) } else { results.into_iter().next().unwrap_or(Err(Errno::ESRCH)).map(|()| 0) }
}

/// Sends a signal to a process, or to a thread of it.
fn send(t: &Current, group: &Group, task: Option<&Arc<Task>>, signo: i32, given: Option<SigInfo>) -> SysResult<()> {
    let uid = permitted(t, group, task.map(|task| &**task), signo)?;
    if signo == 0 {
        return Ok(());
    }
    let code = if task.is_some() { c::SI_TKILL } else { c::SI_USER };
    let info = given.unwrap_or_else(|| SigInfo::from_process(signo, code, t.task.group.pid_in(group.pid_ns()), uid));
    group.send(info, task.map(|task| &**task), None)
}

/// The process that a descriptor tells to whom a signal goes: of a process, or of its directory in /proc.
fn signalled(t: &Current, fd: u64) -> SysResult<Arc<Group>> {
    let file = file(t, fd)?;
    if let Some(group) = PidFd::of(&file) {
        return Ok(group.clone());
    }
    let directory = file.inode.as_ref().and_then(|inode| inode.process());
    directory.and_then(|pid| t.task.kernel.group(pid)).ok_or(Errno::EBADF)
}

fn pidfd_getfd(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if uint(a[2]) != 0 {
        return Err(Errno::EINVAL);
    }
    let (group, _) = process_of(t, a[0])?;
    let task = group.threads().into_iter().next().ok_or(Errno::ESRCH)?;
    if !t.task.may_access(&task, Access::Real) {
        return Err(Errno::EPERM);
    }
    let fds = task.lock().fds.clone();
    install(t, fds.get(int(a[1]))?, true, 0)
}
