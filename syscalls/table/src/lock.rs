//! flock(2), and the locks and leases of fcntl(2).

use std::ops::Range;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::structs::Flock;
use abi::{Errno, SysResult, c, nr};
use task::{Current, F_OWNER_PID, SigIo};
use usermem::UserMemoryExt;
use vfs::{Breaking, File, Inode, LOCK_END, LockKind, break_leases};

use crate::args::{file, int};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[full(nr::FLOCK, flock)];

fn flock(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let op = int(a[1]);
    let kind = match op & !c::LOCK_NB {
        c::LOCK_SH => Some(LockKind::Shared),
        c::LOCK_EX => Some(LockKind::Exclusive),
        c::LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    let file = file(t, a[0])?;
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    let attempt = || file.flock(kind, t.task.group.pid);
    if op & c::LOCK_NB != 0 {
        return attempt().map(|()| 0);
    }
    t.block_on(Some(&file.lock_queue()), PollEvents::IN, None, attempt).map(|()| 0)
}

/// The bytes that a `struct flock` names.
fn range(file: &File, flock: &Flock) -> SysResult<Range<u64>> {
    let base = match i32::from(flock.whence) {
        c::SEEK_SET => 0,
        c::SEEK_CUR => file.position(),
        c::SEEK_END => file.attr()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let start = i64::try_from(base).ok().and_then(|base| base.checked_add(flock.start)).ok_or(Errno::EOVERFLOW)?;
    let at = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    match flock.len {
        0 => Ok(at..LOCK_END),
        len @ 1.. => {
            // The last byte must be one that an offset can name.
            start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?;
            Ok(at..at + len.cast_unsigned())
        }
        len => Ok(u64::try_from(start.checked_add(len).ok_or(Errno::EINVAL)?).map_err(|_| Errno::EINVAL)?..at),
    }
}

fn kind(flock: &Flock) -> SysResult<Option<LockKind>> {
    match i32::from(flock.kind) {
        c::F_RDLCK => Ok(Some(LockKind::Shared)),
        c::F_WRLCK => Ok(Some(LockKind::Exclusive)),
        c::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

/// `F_SETLK` and its kin. `ofd`: the lock is the open file description's, not the process's.
pub fn set_record(t: &mut Current, fd: i32, file: &Arc<File>, addr: u64, ofd: bool, wait: bool) -> SysResult<u64> {
    let flock: Flock = t.mm.read_obj(addr)?;
    let (kind, range) = (kind(&flock)?, range(file, &flock)?);
    if ofd && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let access = file.flags() & c::O_ACCMODE;
    match kind {
        Some(LockKind::Shared) if access == c::O_WRONLY => return Err(Errno::EBADF),
        Some(LockKind::Exclusive) if access == c::O_RDONLY => return Err(Errno::EBADF),
        _ => {}
    }
    let owner = if ofd { file.lock_owner() } else { t.fds.lock_owner() };
    let pid = t.task.group.pid;
    match kind.filter(|_| wait) {
        None => file.set_record(owner, pid, kind, range.clone())?,
        Some(kind) if ofd => {
            let attempt = || file.set_record(owner, pid, Some(kind), range.clone());
            t.block_on(Some(&file.lock_queue()), PollEvents::IN, None, attempt)?;
        }
        Some(kind) => {
            let mut waiting = None;
            let attempt = || {
                waiting = None;
                waiting = file.wait_for_record(owner, pid, kind, range.clone())?;
                if waiting.is_some() { Err(Errno::EAGAIN) } else { Ok(()) }
            };
            t.block_on(Some(&file.lock_queue()), PollEvents::IN, None, attempt)?;
        }
    }
    // Another thread may have closed the descriptor meanwhile, and looked for locks before there was this one.
    if !ofd && kind.is_some() && !t.fds.get(fd).is_ok_and(|now| Arc::ptr_eq(&now, file)) {
        file.set_record(owner, pid, None, range)?;
        return Err(Errno::EBADF);
    }
    Ok(0)
}

/// `F_GETLK` and `F_OFD_GETLK`.
pub fn get_record(t: &mut Current, file: &Arc<File>, addr: u64, ofd: bool) -> SysResult<u64> {
    let mut flock: Flock = t.mm.read_obj(addr)?;
    let range = range(file, &flock)?;
    let kind = kind(&flock)?.ok_or(Errno::EINVAL)?;
    if ofd && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = if ofd { file.lock_owner() } else { t.fds.lock_owner() };
    match file.test_record(owner, kind, &range) {
        None => flock.kind = c::F_UNLCK as i16,
        Some(found) => {
            let end = if found.range.end == LOCK_END { found.range.start } else { found.range.end };
            flock = Flock {
                kind: if found.kind == LockKind::Shared { c::F_RDLCK } else { c::F_WRLCK } as i16,
                whence: c::SEEK_SET as i16,
                start: found.range.start.cast_signed(),
                len: (end - found.range.start).cast_signed(),
                // An open file description is nobody's in particular.
                pid: if matches!(found.owner, vfs::Owner::Table(_)) { t.local(found.pid) } else { -1 },
                ..flock
            };
        }
    }
    t.mm.write_obj(addr, &flock).map(|()| 0)
}

/// `F_SETLEASE`
pub fn set_lease(t: &mut Current, fd: i32, file: &Arc<File>, kind: i32) -> SysResult<u64> {
    let kind = match kind {
        c::F_RDLCK => Some(LockKind::Shared),
        c::F_WRLCK => Some(LockKind::Exclusive),
        c::F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    let Some(inode) = file.inode.as_ref().filter(|_| file.attr().is_ok_and(|attr| attr.kind() == c::S_IFREG)) else {
        return Err(Errno::EINVAL);
    };
    file.set_lease(kind, t.task.group.pid, SigIo::new(&t.task.kernel, file, fd))?;
    // Who opens it from here on finds the lease.
    if kind.is_some_and(|kind| open_elsewhere(t, file, inode, kind)) {
        file.set_lease(None, 0, SigIo::new(&t.task.kernel, file, fd))?;
        return Err(Errno::EAGAIN);
    }
    if kind.is_some() && file.owner().id == 0 {
        file.set_owner(|owner| (owner.kind, owner.id) = (F_OWNER_PID, t.task.group.pid));
    }
    Ok(0)
}

/// Whether the file is open in a way that a lease of `kind` excludes: for writing by anybody, or by anybody else at all.
fn open_elsewhere(t: &Current, file: &Arc<File>, inode: &Arc<dyn Inode>, kind: LockKind) -> bool {
    let tables: Vec<_> = t.task.kernel.tasks.lock().values().cloned().collect();
    let excluded = |other: &Arc<File>| {
        let same = other.inode.as_ref().is_some_and(|other| Arc::ptr_eq(other, inode));
        let writes = other.flags() & c::O_ACCMODE != c::O_RDONLY;
        same && if kind == LockKind::Shared { writes } else { !Arc::ptr_eq(other, file) } && other.flags() & c::O_PATH == 0
    };
    tables.iter().any(|task| {
        let fds = task.lock().fds.clone();
        fds.list().iter().any(|(_, other)| excluded(other))
    })
}

/// `F_GETLEASE`
pub fn get_lease(file: &File) -> u64 {
    let kind = match file.lease() {
        Some(LockKind::Shared) => c::F_RDLCK,
        Some(LockKind::Exclusive) => c::F_WRLCK,
        None => c::F_UNLCK,
    };
    kind.cast_unsigned().into()
}

/// Waits until no lease is in the way of opening `inode` with `flags`.
///
/// # Errors
/// `EAGAIN` with O_NONBLOCK; `ERESTARTSYS`.
pub fn wait_for_leases(t: &Current, inode: &Arc<dyn Inode>, flags: i32) -> SysResult<()> {
    let Some(breaking) = break_leases(inode, flags)? else { return Ok(()) };
    let queue = breaking.queue();
    let wait = |breaking: &Breaking| t.block_on(Some(&queue), PollEvents::IN, Some(breaking.deadline()), || breaking.check());
    loop {
        match wait(&breaking) {
            // Some are gone; others may have more time.
            Err(Errno::ETIMEDOUT) => {}
            result => return result,
        }
    }
}
