//! Processes by descriptors: pidfd_open(2) and its kin.

use std::sync::Arc;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use task::{Access, Current, Group, PidFd};
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{file, int, uint};
use crate::fd::install;
use crate::signal::{number, permitted};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] =
    &[full(nr::PIDFD_OPEN, pidfd_open), full(nr::PIDFD_SEND_SIGNAL, pidfd_send_signal), full(nr::PIDFD_GETFD, pidfd_getfd)];

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
    if uint(a[3]) != 0 {
        return Err(Errno::EINVAL);
    }
    let (group, _) = process_of(t, a[0])?;
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
    let uid = permitted(t, &group, None, signo)?;
    if signo == 0 {
        return Ok(0);
    }
    let info = given.unwrap_or_else(|| SigInfo::from_process(signo, c::SI_USER, t.task.group.pid_in(group.pid_ns()), uid));
    group.send(info, None, None).map(|()| 0)
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
