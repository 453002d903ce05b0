//! Changing attributes: modes, owners, times, sizes.

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use auth::{Kgid, Kuid};
use task::Current;
use usermem::UserMemoryExt;
use vfs::notify::{self, event};
use vfs::{NewTime, Path};

use crate::args::{file, int, target, uint};
use crate::path::CWD;
use crate::{Entry, full, io};

pub const ENTRIES: &[Entry] = &[
    full(nr::CHMOD, |t, a| chmod(t, CWD, a[0], uint(a[1]), 0)),
    full(nr::FCHMOD, |t, a| t.caller().chmod(&open(t, a[0])?, uint(a[1])).map(|()| 0)),
    full(nr::FCHMODAT, |t, a| chmod(t, a[0], a[1], uint(a[2]), 0)),
    full(nr::FCHMODAT2, |t, a| chmod(t, a[0], a[1], uint(a[2]), int(a[3]))),
    full(nr::CHOWN, |t, a| chown(t, CWD, a[0], a[1], a[2], 0)),
    full(nr::LCHOWN, |t, a| chown(t, CWD, a[0], a[1], a[2], c::AT_SYMLINK_NOFOLLOW)),
    full(nr::FCHOWN, |t, a| give(t, &open(t, a[0])?, a[1], a[2])),
    full(nr::FCHOWNAT, |t, a| chown(t, a[0], a[1], a[2], a[3], int(a[4]))),
    full(nr::TRUNCATE, |t, a| {
        let size = new_size(t, a[1])?;
        t.caller().truncate(&target(t, CWD, a[0], 0, 0)?, size).map(|()| 0)
    }),
    full(nr::FTRUNCATE, ftruncate),
    full(nr::UTIME, |t, a| {
        let times = if a[1] == 0 {
            None
        } else {
            Some(t.mm.read_obj::<[i64; 2]>(a[1])?.map(|sec| NewTime::At(Timespec { sec, nsec: 0 })))
        };
        set_times(t, &target(t, CWD, a[0], 0, 0)?, times)
    }),
    full(nr::UTIMES, |t, a| utimes(t, CWD, a[0], a[1])),
    full(nr::FUTIMESAT, |t, a| utimes(t, a[0], a[1], a[2])),
    full(nr::UTIMENSAT, utimensat),
];

/// The place of an open file: what changes it by descriptor needs one that isn't only a place (`O_PATH`).
fn open(t: &Current, fd: u64) -> SysResult<Path> {
    let file = file(t, fd)?;
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    file.path.clone().map_or_else(|| vfs::nameless(&file), Ok)
}

fn chmod(t: &mut Current, dirfd: u64, addr: u64, mode: u32, flags: i32) -> SysResult<u64> {
    let at = target(t, dirfd, addr, flags, c::AT_SYMLINK_NOFOLLOW | c::AT_EMPTY_PATH)?;
    t.caller().chmod(&at, mode).map(|()| 0)
}

fn chown(t: &mut Current, dirfd: u64, addr: u64, uid: u64, gid: u64, flags: i32) -> SysResult<u64> {
    let at = target(t, dirfd, addr, flags, c::AT_SYMLINK_NOFOLLOW | c::AT_EMPTY_PATH)?;
    give(t, &at, uid, gid)
}

/// chown(2) with numbers of the caller's namespace; -1 stays.
fn give(t: &Current, at: &Path, uid: u64, gid: u64) -> SysResult<u64> {
    let ns = &t.credentials().user_ns;
    let known = |id: u64| Some(uint(id)).filter(|id| *id != u32::MAX);
    let uid: Option<Kuid> = known(uid).map(|uid| ns.make_kuid(uid).ok_or(Errno::EINVAL)).transpose()?;
    let gid: Option<Kgid> = known(gid).map(|gid| ns.make_kgid(gid).ok_or(Errno::EINVAL)).transpose()?;
    t.caller().chown(at, uid, gid).map(|()| 0)
}

/// The size that truncate(2) asks for.
fn new_size(t: &Current, arg: u64) -> SysResult<u64> {
    let size = u64::try_from(arg.cast_signed()).map_err(|_| Errno::EINVAL)?;
    io::check_size(t, size)?;
    Ok(size)
}

fn ftruncate(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let size = new_size(t, a[1])?;
    let file = file(t, a[0])?;
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    let inode = file.inode.as_ref().ok_or(Errno::EINVAL)?;
    if file.flags() & c::O_ACCMODE == c::O_RDONLY || inode.kind()? != c::S_IFREG {
        return Err(Errno::EINVAL);
    }
    if !file.may_resize() {
        return Err(Errno::EACCES);
    }
    t.caller().resize(inode, size)?;
    if let Some(path) = &file.path {
        notify::changed(path, event::MODIFY);
    }
    Ok(0)
}

fn set_times(t: &Current, at: &Path, times: Option<[NewTime; 2]>) -> SysResult<u64> {
    let [atime, mtime] = times.unwrap_or([NewTime::Now; 2]);
    let now = Timespec::from_ns(crate::time::realtime_ns());
    t.caller().set_times(at, atime, mtime, now).map(|()| 0)
}

/// utimes(2): seconds and microseconds.
fn utimes(t: &mut Current, dirfd: u64, addr: u64, times: u64) -> SysResult<u64> {
    let time = |[sec, usec]: [i64; 2]| match usec {
        0..1_000_000 => Ok(NewTime::At(Timespec { sec, nsec: usec * 1000 })),
        _ => Err(Errno::EINVAL),
    };
    let times = if times == 0 {
        None
    } else {
        let [atime, mtime]: [[i64; 2]; 2] = t.mm.read_obj(times)?;
        Some([time(atime)?, time(mtime)?])
    };
    // Only futimesat(2) takes a null path: it means the descriptor itself.
    let at = if addr == 0 && int(dirfd) != c::AT_FDCWD { open(t, dirfd)? } else { target(t, dirfd, addr, 0, 0)? };
    set_times(t, &at, times)
}

fn utimensat(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let time = |[sec, nsec]: [i64; 2]| match nsec {
        UTIME_NOW => Ok(NewTime::Now),
        UTIME_OMIT => Ok(NewTime::Keep),
        0..1_000_000_000 => Ok(NewTime::At(Timespec { sec, nsec })),
        _ => Err(Errno::EINVAL),
    };
    let times = if a[2] == 0 {
        None
    } else {
        let [atime, mtime]: [[i64; 2]; 2] = t.mm.read_obj(a[2])?;
        if atime[1] == UTIME_OMIT && mtime[1] == UTIME_OMIT {
            // Not even the path is looked at.
            return Ok(0);
        }
        Some([time(atime)?, time(mtime)?])
    };
    let flags = int(a[3]);
    if a[1] == 0 && int(a[0]) != c::AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let at = open(t, a[0])?;
        return set_times(t, &at, times);
    }
    let at = target(t, a[0], a[1], flags, c::AT_SYMLINK_NOFOLLOW | c::AT_EMPTY_PATH)?;
    set_times(t, &at, times)
}
