//! Attributes and filesystems.

use std::sync::Arc;

use abi::structs::{Statfs, Statx, StatxTimestamp, Timespec};
use abi::{Errno, SysResult, c, nr};
use task::Current;
use usermem::UserMemoryExt;
use vfs::{Access, Attr, Caller, Path};

use crate::args::{file, int, path, target, uint, walk};
use crate::path::CWD;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::STAT, |t, a| put(t, walk(t, CWD, a[0], true)?.inode().attr()?, a[1])),
    full(nr::LSTAT, |t, a| put(t, walk(t, CWD, a[0], false)?.inode().attr()?, a[1])),
    full(nr::FSTAT, |t, a| put(t, file(t, a[0])?.attr()?, a[1])),
    full(nr::NEWFSTATAT, |t, a| put(t, attr_at(t, a[0], a[1], int(a[3]))?.0, a[2])),
    full(nr::STATX, statx),
    full(nr::ACCESS, |t, a| access(t, CWD, a[0], uint(a[1]), 0)),
    full(nr::FACCESSAT, |t, a| access(t, a[0], a[1], uint(a[2]), 0)),
    full(nr::FACCESSAT2, |t, a| access(t, a[0], a[1], uint(a[2]), int(a[3]))),
    full(nr::STATFS, |t, a| {
        let statfs = statfs(&walk(t, CWD, a[0], true)?)?;
        t.mm.write_obj(a[1], &statfs).map(|()| 0)
    }),
    full(nr::FSTATFS, |t, a| {
        let file = file(t, a[0])?;
        let statfs = match &file.path {
            Some(at) => statfs(at)?,
            None => {
                let kind = match file.attr()?.kind() {
                    c::S_IFIFO => PIPEFS_MAGIC,
                    c::S_IFSOCK => SOCKFS_MAGIC,
                    _ => ANON_INODE_FS_MAGIC,
                };
                Statfs { kind, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() }
            }
        };
        t.mm.write_obj(a[1], &statfs).map(|()| 0)
    }),
];

const ANON_INODE_FS_MAGIC: i64 = 0x0904_1934;
const PIPEFS_MAGIC: i64 = 0x5049_5045;
const SOCKFS_MAGIC: i64 = 0x534f_434b;

fn put(t: &Current, attr: Attr, addr: u64) -> SysResult<u64> {
    let (uid, gid) = owner(t, &attr);
    t.mm.write_obj(addr, &Attr { uid, gid, ..attr }.to_stat()).map(|()| 0)
}

/// User and group as the caller's namespace numbers them.
fn owner(t: &Current, attr: &Attr) -> (u32, u32) {
    let ns = &t.credentials().user_ns;
    (ns.from_kuid_munged(attr.kuid()), ns.from_kgid_munged(attr.kgid()))
}

/// Attributes, and the place that they are of unless it has none.
fn attr_at(t: &Current, dirfd: u64, addr: u64, flags: i32) -> SysResult<(Attr, Option<Path>)> {
    let known = c::AT_EMPTY_PATH | c::AT_SYMLINK_NOFOLLOW | c::AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    // What is open may be no place (a pipe).
    let empty = flags & c::AT_EMPTY_PATH != 0 && (addr == 0 || path(t, addr)?.is_empty());
    if empty && int(dirfd) != c::AT_FDCWD {
        let file = file(t, dirfd)?;
        return Ok((file.attr()?, file.path.clone()));
    }
    let at = if empty { t.fs.places().cwd.clone() } else { target(t, dirfd, addr, flags, known)? };
    Ok((at.inode().attr()?, Some(at)))
}

fn statx(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const RESERVED: u64 = 0x8000_0000;
    const BASIC_STATS: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    const MNT_ID: u32 = 0x1000;
    const MNT_ID_UNIQUE: u32 = 0x4000;
    const ATTR_MOUNT_ROOT: u64 = 0x2000;
    if a[3] & RESERVED != 0 || int(a[2]) & c::AT_STATX_SYNC_TYPE == c::AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let (attr, at) = attr_at(t, a[0], a[1], int(a[2]) & !c::AT_STATX_SYNC_TYPE)?;
    let time = |time: Timespec| StatxTimestamp { sec: time.sec, nsec: u32::try_from(time.nsec).unwrap_or(0), pad: 0 };
    let (dev_major, dev_minor) = (c::major(attr.dev), c::minor(attr.dev));
    let (uid, gid) = owner(t, &attr);
    let mount_root = at.as_ref().is_some_and(|at| Arc::ptr_eq(&at.dentry, at.mount.root()));
    let mut mask = BASIC_STATS | if uint(a[3]) & MNT_ID_UNIQUE != 0 { MNT_ID_UNIQUE } else { MNT_ID };
    if attr.btime.is_some() {
        mask |= BTIME;
    }
    let statx = Statx {
        mask,
        blksize: 4096,
        attributes: if mount_root { ATTR_MOUNT_ROOT } else { 0 },
        attributes_mask: ATTR_MOUNT_ROOT,
        nlink: u32::try_from(attr.nlink).unwrap_or(u32::MAX),
        uid,
        gid,
        mode: u16::try_from(attr.mode & 0xffff).unwrap_or(0),
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        btime: time(attr.btime.unwrap_or_default()),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: c::major(attr.rdev),
        rdev_minor: c::minor(attr.rdev),
        dev_major,
        dev_minor,
        mnt_id: at.map_or(0, |at| at.mount.id()),
        ..Statx::default()
    };
    t.mm.write_obj(a[4], &statx).map(|()| 0)
}

/// access(2): with the real user's rights, unless `AT_EACCESS` says otherwise.
fn access(t: &mut Current, dirfd: u64, addr: u64, mode: u32, flags: i32) -> SysResult<u64> {
    let access = Access::from_bits(mode).ok_or(Errno::EINVAL)?;
    let known = c::AT_EACCESS | c::AT_SYMLINK_NOFOLLOW | c::AT_EMPTY_PATH;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mut caller = t.caller();
    if flags & c::AT_EACCESS == 0 {
        caller = Caller { who: caller.who.for_access(), ..caller };
    }
    let at = if flags & c::AT_EMPTY_PATH != 0 && path(t, addr)?.is_empty() {
        crate::args::place(t, dirfd)?
    } else {
        let path = path(t, addr)?;
        let start = crate::args::start(t, dirfd, &path)?;
        caller.walk(start.as_ref(), &path, vfs::WalkFlags::follow(flags & c::AT_SYMLINK_NOFOLLOW == 0))?.existing()?
    };
    caller.access(&at, access).map(|()| 0)
}

/// What a filesystem says, and the flags of the mount (`ST_*`).
fn statfs(at: &Path) -> SysResult<Statfs> {
    const ST_VALID: i64 = 0x20;
    const FLAGS: [(u64, i64); 8] = [
        (c::MS_RDONLY, 1),
        (c::MS_NOSUID, 2),
        (c::MS_NODEV, 4),
        (c::MS_NOEXEC, 8),
        (c::MS_NOATIME, 0x400),
        (c::MS_NODIRATIME, 0x800),
        (c::MS_RELATIME, 0x1000),
        (vfs::MS_NOSYMFOLLOW, 0x2000),
    ];
    let mut statfs = at.inode().statfs()?;
    let superblock = at.mount.superblock();
    let set = at.mount.flags() | superblock.flags() & c::MS_RDONLY;
    statfs.flags = FLAGS.iter().filter(|(flag, _)| set & flag != 0).fold(ST_VALID, |all, (_, flag)| all | flag);
    statfs.fsid = superblock.dev;
    Ok(statfs)
}
