//! fcntl(2).

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c, nr};
use pipe::PipeEnd;
use task::{Current, F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, SigIo};
use tmpfs::seal;
use usermem::UserMemoryExt;
use vfs::{File, FileOwner, MAX_FDS};

use crate::args::{int, uint};
use crate::fd::install;
use crate::{Entry, lock, partial};

pub const ENTRIES: &[Entry] = &[partial(nr::FCNTL, fcntl, "F_NOTIFY only takes back; no write hints")];

/// Calls that the C library has no names for.
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_DUPFD_QUERY: i32 = 1027;
const F_NOTIFY: i32 = 1026;
const DN_MULTISHOT: u32 = 0x8000_0000;
const F_ADD_SEALS: i32 = 1033;
const F_GET_SEALS: i32 = 1034;

/// The pipe behind a file.
fn pipe(file: &File) -> SysResult<&PipeEnd> {
    file.ops.as_any().downcast_ref().ok_or(Errno::EBADF)
}

/// dnotify: watches of which there are none can be taken back.
fn notify(events: u32) -> SysResult<u64> {
    if events & !DN_MULTISHOT == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

fn fcntl(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (fd, cmd, arg) = (int(a[0]), int(a[1]), a[2]);
    let file = t.fds.get(fd)?;
    match cmd {
        c::F_DUPFD => return dup(t, file, false, int(arg)),
        c::F_DUPFD_CLOEXEC => return dup(t, file, true, int(arg)),
        c::F_GETFD => return Ok(t.fds.cloexec(fd)?.into()),
        c::F_SETFD => return t.fds.set_cloexec(fd, int(arg) & c::FD_CLOEXEC != 0).map(|()| 0),
        c::F_GETFL => return Ok(file.flags().cast_unsigned().into()),
        F_DUPFD_QUERY => return Ok(Arc::ptr_eq(&file, &t.fds.get(int(arg))?).into()),
        // A mere place knows nothing else (open(2), O_PATH).
        _ if file.flags() & c::O_PATH != 0 => return Err(Errno::EBADF),
        _ => {}
    }
    match cmd {
        c::F_SETFL => set_flags(t, fd, &file, int(arg)),
        c::F_GETPIPE_SZ => Ok(pipe(&file)?.capacity() as u64),
        c::F_SETPIPE_SZ => {
            let bytes = usize::try_from(uint(arg)).map_err(|_| Errno::EINVAL)?;
            let privileged = t.credentials().has_capability(auth::Capability::SYS_RESOURCE);
            Ok(pipe(&file)?.set_capacity(bytes, privileged)? as u64)
        }
        c::F_GETLK => lock::get_record(t, &file, arg, false),
        c::F_OFD_GETLK => lock::get_record(t, &file, arg, true),
        c::F_SETLK => lock::set_record(t, fd, &file, arg, false, false),
        c::F_SETLKW => lock::set_record(t, fd, &file, arg, false, true),
        c::F_OFD_SETLK => lock::set_record(t, fd, &file, arg, true, false),
        c::F_OFD_SETLKW => lock::set_record(t, fd, &file, arg, true, true),
        c::F_SETLEASE => lock::set_lease(t, fd, &file, int(arg)),
        c::F_GETLEASE => Ok(lock::get_lease(&file)),
        c::F_GETOWN => Ok(get_owner(t, &file)),
        c::F_SETOWN => set_owner_from(t, &file, int(arg)),
        F_GETOWN_EX => {
            let owner = present(t, &file);
            t.mm.write_obj(arg, &[owner.kind, t.local(owner.id)]).map(|()| 0)
        }
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = t.mm.read_obj(arg)?;
            if !matches!(kind, F_OWNER_TID | F_OWNER_PID | F_OWNER_PGRP) {
                return Err(Errno::EINVAL);
            }
            set_owner(t, &file, kind, id)
        }
        F_NOTIFY => notify(uint(arg)),
        F_ADD_SEALS => add_seals(&file, uint(arg)),
        F_GET_SEALS => Ok(file.ops.seals()?.into()),
        F_GETSIG => Ok(file.owner().signo.cast_unsigned().into()),
        F_SETSIG => {
            let signo = i32::try_from(arg).ok().filter(|signo| (0..=64).contains(signo)).ok_or(Errno::EINVAL)?;
            file.set_owner(|owner| owner.signo = signo);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn add_seals(file: &File, seals: u32) -> SysResult<u64> {
    if file.flags() & c::O_ACCMODE == c::O_RDONLY {
        return Err(Errno::EPERM);
    }
    if seals & !seal::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    file.ops.add_seals(seals).map(|()| 0)
}

fn dup(t: &Current, file: Arc<File>, cloexec: bool, min: i32) -> SysResult<u64> {
    let limit = t.task.group.limit(c::RLIMIT_NOFILE).min(MAX_FDS as u64);
    if u64::try_from(min).map_or(true, |min| min >= limit) {
        return Err(Errno::EINVAL);
    }
    install(t, file, cloexec, min)
}

/// Changes status flags. Signals are switched on and off with O_ASYNC.
pub fn set_flags(t: &Current, fd: i32, file: &Arc<File>, flags: i32) -> SysResult<u64> {
    let switched = (file.flags() ^ flags) & c::O_ASYNC != 0;
    let can = file.ops.can_signal();
    if switched && can {
        set_async(t, fd, file, flags & c::O_ASYNC != 0);
    }
    if let Ok(end) = pipe(file) {
        end.set_packets(flags & c::O_DIRECT != 0);
    }
    file.set_flags(if can { flags } else { flags & !c::O_ASYNC });
    Ok(0)
}

/// Has the file's owner told by signals when it is ready, or no longer.
pub fn set_async(t: &Current, fd: i32, file: &Arc<File>, on: bool) {
    let mut mask = PollEvents::empty();
    let access = file.flags() & c::O_ACCMODE;
    mask.set(PollEvents::READABLE | PollEvents::PRI, access != c::O_WRONLY);
    mask.set(PollEvents::WRITABLE, access != c::O_RDONLY);
    let queue = file.ops.wait_queue().filter(|_| on);
    file.set_signals(queue.map(|queue| queue.register(mask, SigIo::new(&t.task.kernel, file, fd))));
}

/// The owner, if there still is one.
fn present(t: &Current, file: &File) -> FileOwner {
    let owner = file.owner();
    if owner.id != 0 && t.task.kernel.has_owner(owner.kind, owner.id) { owner } else { FileOwner { id: 0, ..owner } }
}

/// `F_GETOWN`: groups are negative.
pub fn get_owner(t: &Current, file: &File) -> u64 {
    let owner = present(t, file);
    let id = t.local(owner.id);
    i64::from(if owner.kind == F_OWNER_PGRP { -id } else { id }).cast_unsigned()
}

/// `F_SETOWN`: a process, or the negative of a group.
pub fn set_owner_from(t: &Current, file: &File, id: i32) -> SysResult<u64> {
    let kind = if id < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
    set_owner(t, file, kind, id.checked_abs().ok_or(Errno::EINVAL)?)
}

fn set_owner(t: &Current, file: &File, kind: i32, id: i32) -> SysResult<u64> {
    let id = if id == 0 { 0 } else { t.global(id).filter(|id| t.task.kernel.has_owner(kind, *id)).ok_or(Errno::ESRCH)? };
    file.set_owner(|owner| (owner.kind, owner.id) = (kind, id));
    Ok(0)
}
