//! Attributes and filesystems.

use abi::structs::{Statx, StatxTimestamp, Timespec};
use abi::{Errno, SysResult, c, nr};
use task::Current;
use usermem::UserMemoryExt;
use vfs::Attr;

use crate::args::{file, int, path, walk};
use crate::path::target;
use crate::{Entry, full, partial};

const CWD: u64 = c::AT_FDCWD as u64;

pub const ENTRIES: &[Entry] = &[
    full(nr::STAT, |t, a| put(t, target(t, CWD, a[0], 0)?.inode().attr()?, a[1])),
    full(nr::LSTAT, |t, a| put(t, target(t, CWD, a[0], c::AT_SYMLINK_NOFOLLOW)?.inode().attr()?, a[1])),
    full(nr::FSTAT, |t, a| put(t, file(t, a[0])?.attr()?, a[1])),
    full(nr::NEWFSTATAT, |t, a| put(t, attr_at(t, a[0], a[1], int(a[3]))?, a[2])),
    full(nr::STATX, statx),
    partial(nr::ACCESS, |t, a| access(t, CWD, a[0], int(a[1])), "root may everything but run what isn't executable"),
    partial(nr::FACCESSAT, |t, a| access(t, a[0], a[1], int(a[2])), "as access"),
    partial(nr::FACCESSAT2, |t, a| access(t, a[0], a[1], int(a[2])), "as access"),
    full(nr::STATFS, |t, a| {
        let statfs = walk(t, CWD, a[0], true)?.existing()?.inode().statfs()?;
        t.mm.write_obj(a[1], &statfs).map(|()| 0)
    }),
    full(nr::FSTATFS, |t, a| {
        let statfs = file(t, a[0])?.inode.as_ref().ok_or(Errno::ENOSYS)?.statfs()?;
        t.mm.write_obj(a[1], &statfs).map(|()| 0)
    }),
];

fn put(t: &Current, attr: Attr, addr: u64) -> SysResult<u64> {
    t.mm.write_obj(addr, &attr.to_stat()).map(|()| 0)
}

fn attr_at(t: &Current, dirfd: u64, addr: u64, flags: i32) -> SysResult<Attr> {
    let known = c::AT_EMPTY_PATH | c::AT_SYMLINK_NOFOLLOW | c::AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & c::AT_EMPTY_PATH != 0 && (addr == 0 || path(t, addr)?.is_empty()) {
        return if int(dirfd) == c::AT_FDCWD { t.fs_context().cwd.inode().attr() } else { file(t, dirfd)?.attr() };
    }
    target(t, dirfd, addr, flags)?.inode().attr()
}

fn statx(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    // STATX__RESERVED
    if a[3] & 0x8000_0000 != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = attr_at(t, a[0], a[1], int(a[2]) & !c::AT_STATX_SYNC_TYPE)?;
    let time = |time: Timespec| StatxTimestamp { sec: time.sec, nsec: u32::try_from(time.nsec).unwrap_or(0), pad: 0 };
    let (dev_major, dev_minor) = (c::major(attr.dev), c::minor(attr.dev));
    let statx = Statx {
        // STATX_BASIC_STATS
        mask: 0x7ff,
        blksize: 4096,
        nlink: u32::try_from(attr.nlink).unwrap_or(u32::MAX),
        uid: attr.uid,
        gid: attr.gid,
        mode: u16::try_from(attr.mode & 0xffff).unwrap_or(0),
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: c::major(attr.rdev),
        rdev_minor: c::minor(attr.rdev),
        dev_major,
        dev_minor,
        ..Statx::default()
    };
    t.mm.write_obj(a[4], &statx).map(|()| 0)
}

fn access(t: &mut Current, dirfd: u64, addr: u64, mode: i32) -> SysResult<u64> {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = target(t, dirfd, addr, 0)?.inode().attr()?;
    if mode & c::X_OK != 0 && !attr.is_dir() && attr.mode & 0o111 == 0 { Err(Errno::EACCES) } else { Ok(0) }
}
