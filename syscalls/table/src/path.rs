//! Names: open, link, unlink, rename, directories.

use std::any::Any;
use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c, nr};
use task::Current;
use usermem::UserMemoryExt;
use vfs::{Dentry, File, FileOps, Lookup, NewNode, SetAttr};

use crate::args::{file, int, path, start, uint, walk};
use crate::{Entry, fd, full, io, lock, partial};

const CWD: u64 = c::AT_FDCWD as u64;

pub const ENTRIES: &[Entry] = &[
    partial(nr::OPEN, |t, a| open(t, CWD, a[0], int(a[1]), uint(a[2])), "no O_TMPFILE; permissions aren't checked"),
    partial(nr::OPENAT, |t, a| open(t, a[0], a[1], int(a[2]), uint(a[3])), "no O_TMPFILE; permissions aren't checked"),
    full(nr::CREAT, |t, a| open(t, CWD, a[0], c::O_CREAT | c::O_WRONLY | c::O_TRUNC, uint(a[1]))),
    full(nr::MKDIR, |t, a| mkdir(t, CWD, a[0], uint(a[1]))),
    full(nr::MKDIRAT, |t, a| mkdir(t, a[0], a[1], uint(a[2]))),
    full(nr::MKNOD, |t, a| mknod(t, CWD, a[0], uint(a[1]), a[2])),
    full(nr::MKNODAT, |t, a| mknod(t, a[0], a[1], uint(a[2]), a[3])),
    full(nr::RMDIR, |t, a| unlink(t, CWD, a[0], true)),
    full(nr::UNLINK, |t, a| unlink(t, CWD, a[0], false)),
    full(nr::UNLINKAT, |t, a| unlink(t, a[0], a[1], int(a[2]) & c::AT_REMOVEDIR != 0)),
    full(nr::SYMLINK, |t, a| symlink(t, a[0], CWD, a[1])),
    full(nr::SYMLINKAT, |t, a| symlink(t, a[0], a[1], a[2])),
    full(nr::LINK, |t, a| link(t, CWD, a[0], CWD, a[1], 0)),
    full(nr::LINKAT, |t, a| link(t, a[0], a[1], a[2], a[3], int(a[4]))),
    full(nr::RENAME, |t, a| rename(t, CWD, a[0], CWD, a[1], 0)),
    full(nr::RENAMEAT, |t, a| rename(t, a[0], a[1], a[2], a[3], 0)),
    partial(nr::RENAMEAT2, |t, a| rename(t, a[0], a[1], a[2], a[3], uint(a[4])), "RENAME_NOREPLACE only"),
    full(nr::READLINK, |t, a| readlink(t, CWD, a[0], a[1], a[2])),
    full(nr::READLINKAT, |t, a| readlink(t, a[0], a[1], a[2], a[3])),
    full(nr::GETCWD, getcwd),
    full(nr::CHDIR, |t, a| {
        let to = walk(t, CWD, a[0], true)?.existing()?;
        chdir(t, to)
    }),
    full(nr::FCHDIR, |t, a| {
        let to = file(t, a[0])?.dentry.clone().ok_or(Errno::ENOTDIR)?;
        chdir(t, to)
    }),
    full(nr::UMASK, |t, a| Ok(std::mem::replace(&mut t.fs.lock().umask, uint(a[0]) & 0o777).into())),
    full(nr::CHMOD, |t, a| set(t, CWD, a[0], 0, &mode(a[1]))),
    full(nr::FCHMOD, |t, a| set_file(t, a[0], &mode(a[1]))),
    full(nr::FCHMODAT, |t, a| set(t, a[0], a[1], 0, &mode(a[2]))),
    full(nr::CHOWN, |t, a| set(t, CWD, a[0], 0, &owner(a[1], a[2]))),
    full(nr::LCHOWN, |t, a| set(t, CWD, a[0], c::AT_SYMLINK_NOFOLLOW, &owner(a[1], a[2]))),
    full(nr::FCHOWN, |t, a| set_file(t, a[0], &owner(a[1], a[2]))),
    full(nr::FCHOWNAT, |t, a| set(t, a[0], a[1], int(a[4]), &owner(a[2], a[3]))),
    full(nr::TRUNCATE, |t, a| {
        let size = new_size(t, a[1])?;
        set(t, CWD, a[0], 0, &SetAttr { size, ..SetAttr::default() })
    }),
    full(nr::FTRUNCATE, |t, a| {
        let size = new_size(t, a[1])?;
        if file(t, a[0])?.flags() & c::O_ACCMODE == c::O_RDONLY {
            return Err(Errno::EINVAL);
        }
        set_file(t, a[0], &SetAttr { size, ..SetAttr::default() })
    }),
    full(nr::UTIMENSAT, utimensat),
];

/// The size that truncate(2) asks for.
fn new_size(t: &Current, arg: u64) -> SysResult<Option<u64>> {
    let size = u64::try_from(arg.cast_signed()).map_err(|_| Errno::EINVAL)?;
    io::check_size(t, size)?;
    Ok(Some(size))
}

fn mode(bits: u64) -> SetAttr {
    SetAttr { mode: Some(uint(bits) & 0o7777), ..SetAttr::default() }
}

fn owner(uid: u64, gid: u64) -> SetAttr {
    let id = |id: u64| Some(uint(id)).filter(|id| *id != u32::MAX);
    SetAttr { uid: id(uid), gid: id(gid), ..SetAttr::default() }
}

/// The target of a call with `AT_EMPTY_PATH` and `AT_SYMLINK_NOFOLLOW`.
pub fn target(t: &Current, dirfd: u64, addr: u64, flags: i32) -> SysResult<Arc<Dentry>> {
    walk(t, dirfd, addr, flags & c::AT_SYMLINK_NOFOLLOW == 0)?.existing()
}

fn set(t: &mut Current, dirfd: u64, addr: u64, flags: i32, attr: &SetAttr) -> SysResult<u64> {
    if flags & c::AT_EMPTY_PATH != 0 && path(t, addr)?.is_empty() {
        return set_file(t, dirfd, attr);
    }
    target(t, dirfd, addr, flags)?.inode().set_attr(attr).map(|()| 0)
}

fn set_file(t: &mut Current, fd: u64, attr: &SetAttr) -> SysResult<u64> {
    file(t, fd)?.inode.as_ref().ok_or(Errno::EINVAL)?.set_attr(attr).map(|()| 0)
}

/// A directory, or anything opened with O_PATH: only a place.
struct Place;

impl FileOps for Place {
    fn read(&self, _: &mut usermem::IoBuf<'_>, _: u64) -> SysResult<usize> {
        Err(Errno::EISDIR)
    }

    fn fsync(&self) -> SysResult<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(t: &mut Current, dirfd: u64, addr: u64, flags: i32, mode: u32) -> SysResult<u64> {
    let found = walk(t, dirfd, addr, flags & c::O_NOFOLLOW == 0 && flags & (c::O_CREAT | c::O_EXCL) != c::O_CREAT | c::O_EXCL)?;
    if flags & c::O_TMPFILE == c::O_TMPFILE {
        return Err(Errno::EOPNOTSUPP);
    }
    let cloexec = flags & c::O_CLOEXEC != 0;
    let dentry = match (found.found.clone(), flags & c::O_CREAT != 0) {
        (Some(_), true) if flags & c::O_EXCL != 0 => return Err(Errno::EEXIST),
        (Some(_), _) => found.existing()?,
        (None, true) => {
            if found.slash {
                return Err(Errno::EISDIR);
            }
            create(t, &found, c::S_IFREG | mode & 0o7777, 0, Vec::new())?
        }
        (None, false) => return Err(Errno::ENOENT),
    };
    let attr = dentry.inode().attr()?;
    let inode = dentry.inode().clone();
    if flags & c::O_PATH != 0 {
        return fd::install(t, File::new(Arc::new(Place), Some((dentry, inode)), c::O_PATH), cloexec, 0);
    }
    if flags & c::O_DIRECTORY != 0 && !attr.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    lock::wait_for_leases(t, &inode, flags)?;
    let writes = flags & c::O_ACCMODE != c::O_RDONLY;
    let ops: Arc<dyn FileOps> = if attr.is_dir() {
        if writes || flags & c::O_CREAT != 0 {
            return Err(Errno::EISDIR);
        }
        Arc::new(Place)
    } else if attr.kind() == c::S_IFLNK {
        match inode.magic_link() {
            Some(_) => inode.clone().open(flags)?,
            None => return Err(Errno::ELOOP),
        }
    } else {
        inode.clone().open(flags)?
    };
    fd::install(t, File::new(ops, Some((dentry, inode)), flags), cloexec, 0)
}

fn create(t: &Current, at: &Lookup, mode: u32, rdev: u64, target: Vec<u8>) -> SysResult<Arc<Dentry>> {
    let umask = if mode & c::S_IFMT == c::S_IFLNK { 0 } else { t.fs.lock().umask };
    at.dir.create(&at.name, &NewNode { mode: mode & !umask, uid: 0, gid: 0, rdev, target })
}

/// The place for a new name.
fn vacant(found: Lookup, dir: bool) -> SysResult<Lookup> {
    match &found.found {
        Some(_) => Err(Errno::EEXIST),
        None if found.slash && !dir => Err(Errno::ENOENT),
        None => Ok(found),
    }
}

fn mkdir(t: &mut Current, dirfd: u64, addr: u64, mode: u32) -> SysResult<u64> {
    let at = vacant(walk(t, dirfd, addr, false)?, true)?;
    create(t, &at, c::S_IFDIR | mode & 0o1777, 0, Vec::new()).map(|_| 0)
}

fn mknod(t: &mut Current, dirfd: u64, addr: u64, mode: u32, rdev: u64) -> SysResult<u64> {
    let at = vacant(walk(t, dirfd, addr, false)?, false)?;
    let kind = if mode & c::S_IFMT == 0 { c::S_IFREG } else { mode & c::S_IFMT };
    if kind == c::S_IFDIR || kind == c::S_IFLNK {
        return Err(Errno::EPERM);
    }
    create(t, &at, kind | mode & 0o7777, rdev, Vec::new()).map(|_| 0)
}

fn symlink(t: &mut Current, text: u64, dirfd: u64, addr: u64) -> SysResult<u64> {
    let text = path(t, text)?;
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    let at = vacant(walk(t, dirfd, addr, false)?, false)?;
    create(t, &at, c::S_IFLNK | 0o777, 0, text).map(|_| 0)
}

fn last_is_special(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

fn unlink(t: &mut Current, dirfd: u64, addr: u64, dir: bool) -> SysResult<u64> {
    let found = walk(t, dirfd, addr, false)?;
    if last_is_special(&found.name) {
        return Err(if dir { Errno::EINVAL } else { Errno::EISDIR });
    }
    let (parent, name, slash) = (found.dir.clone(), found.name.clone(), found.slash);
    found.existing()?;
    if slash && !dir {
        return Err(Errno::EISDIR);
    }
    parent.unlink(&name, dir).map(|()| 0)
}

fn link(t: &mut Current, from: u64, addr: u64, to: u64, to_addr: u64, flags: i32) -> SysResult<u64> {
    let source = walk(t, from, addr, flags & c::AT_SYMLINK_FOLLOW != 0)?.existing()?;
    let at = vacant(walk(t, to, to_addr, false)?, false)?;
    at.dir.link(&at.name, &source).map(|()| 0)
}

fn rename(t: &mut Current, from: u64, addr: u64, to: u64, to_addr: u64, flags: u32) -> SysResult<u64> {
    if flags & !c::RENAME_NOREPLACE != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, dest) = (walk(t, from, addr, false)?, walk(t, to, to_addr, false)?);
    if last_is_special(&source.name) || last_is_special(&dest.name) {
        return Err(Errno::EBUSY);
    }
    let moved = source.found.as_ref().ok_or(Errno::ENOENT)?;
    if flags & c::RENAME_NOREPLACE != 0 && dest.found.is_some() {
        return Err(Errno::EEXIST);
    }
    if (source.slash || dest.slash) && !moved.inode().attr()?.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    source.dir.rename(&source.name, &dest.dir, &dest.name).map(|()| 0)
}

fn readlink(t: &mut Current, dirfd: u64, addr: u64, buf: u64, len: u64) -> SysResult<u64> {
    let len = usize::try_from(int(len)).ok().filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
    let text = path(t, addr)?;
    let dentry = if text.is_empty() {
        file(t, dirfd)?.dentry.clone().ok_or(Errno::ENOENT)?
    } else {
        let start = start(t, dirfd, &text)?;
        t.fs_context().walk(start.as_ref(), &text, false)?.existing()?
    };
    let target = dentry.inode().readlink()?;
    let part = target.get(..len.min(target.len())).unwrap_or_default();
    t.mm.write(buf, part)?;
    Ok(part.len() as u64)
}

fn getcwd(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let fs = t.fs_context();
    let mut text = fs.cwd.path(&fs.root);
    text.push(0);
    if (text.len() as u64) > a[1] {
        return Err(Errno::ERANGE);
    }
    t.mm.write(a[0], &text)?;
    Ok(text.len() as u64)
}

fn chdir(t: &mut Current, to: Arc<Dentry>) -> SysResult<u64> {
    if !to.inode().attr()?.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    t.fs.lock().cwd = to;
    Ok(0)
}

fn utimensat(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let now = Timespec::from_ns(crate::time::realtime_ns());
    let pair: [[i64; 2]; 2] = if a[2] == 0 { [[0, UTIME_NOW]; 2] } else { t.mm.read_obj(a[2])? };
    let time = |[sec, nsec]: [i64; 2]| match nsec {
        UTIME_NOW => Ok(Some(now)),
        UTIME_OMIT => Ok(None),
        0..1_000_000_000 => Ok(Some(Timespec { sec, nsec })),
        _ => Err(Errno::EINVAL),
    };
    let attr = SetAttr { atime: time(pair[0])?, mtime: time(pair[1])?, ..SetAttr::default() };
    if a[1] == 0 {
        return set_file(t, a[0], &attr);
    }
    set(t, a[0], a[1], int(a[3]), &attr)
}
