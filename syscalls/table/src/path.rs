//! Names: open, link, unlink, rename, directories.

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c, nr};
use pipe::PipeEnd;
use task::Current;
use usermem::UserMemoryExt;
use vfs::{File, Lookup, OpenHow, Path, WalkFlags};

use crate::args::{file, int, path, start, uint, walk};
use crate::lock::wait_for_leases;
use crate::{Entry, fd, full};

pub const CWD: u64 = c::AT_FDCWD as u64;

pub const ENTRIES: &[Entry] = &[
    full(nr::OPEN, |t, a| open(t, CWD, a[0], OpenHow::new(int(a[1]), uint(a[2])))),
    full(nr::OPENAT, |t, a| open(t, a[0], a[1], OpenHow::new(int(a[2]), uint(a[3])))),
    full(nr::OPENAT2, openat2),
    full(nr::CREAT, |t, a| open(t, CWD, a[0], OpenHow::new(c::O_CREAT | c::O_WRONLY | c::O_TRUNC, uint(a[1])))),
    full(nr::MKDIR, |t, a| mkdir(t, CWD, a[0], uint(a[1]))),
    full(nr::MKDIRAT, |t, a| mkdir(t, a[0], a[1], uint(a[2]))),
    full(nr::MKNOD, |t, a| mknod(t, CWD, a[0], uint(a[1]), a[2])),
    full(nr::MKNODAT, |t, a| mknod(t, a[0], a[1], uint(a[2]), a[3])),
    full(nr::RMDIR, |t, a| unlink(t, CWD, a[0], true)),
    full(nr::UNLINK, |t, a| unlink(t, CWD, a[0], false)),
    full(nr::UNLINKAT, |t, a| match int(a[2]) {
        0 => unlink(t, a[0], a[1], false),
        c::AT_REMOVEDIR => unlink(t, a[0], a[1], true),
        _ => Err(Errno::EINVAL),
    }),
    full(nr::SYMLINK, |t, a| symlink(t, a[0], CWD, a[1])),
    full(nr::SYMLINKAT, |t, a| symlink(t, a[0], a[1], a[2])),
    full(nr::LINK, |t, a| link(t, CWD, a[0], CWD, a[1], 0)),
    full(nr::LINKAT, |t, a| link(t, a[0], a[1], a[2], a[3], int(a[4]))),
    full(nr::RENAME, |t, a| rename(t, CWD, a[0], CWD, a[1], 0)),
    full(nr::RENAMEAT, |t, a| rename(t, a[0], a[1], a[2], a[3], 0)),
    full(nr::RENAMEAT2, |t, a| rename(t, a[0], a[1], a[2], a[3], uint(a[4]))),
    full(nr::READLINK, |t, a| readlink(t, CWD, a[0], a[1], a[2])),
    full(nr::READLINKAT, |t, a| readlink(t, a[0], a[1], a[2], a[3])),
    full(nr::GETCWD, getcwd),
    full(nr::CHDIR, |t, a| {
        let to = walk(t, CWD, a[0], true)?;
        chdir(t, to)
    }),
    full(nr::FCHDIR, |t, a| {
        let to = file(t, a[0])?.path.clone().ok_or(Errno::ENOTDIR)?;
        chdir(t, to)
    }),
    full(nr::UMASK, |t, a| Ok(t.fs.set_umask(uint(a[0])).into())),
];

fn open(t: &mut Current, dirfd: u64, addr: u64, how: OpenHow) -> SysResult<u64> {
    let path = path(t, addr)?;
    open_text(t, dirfd, &path, how)
}

fn open_text(t: &mut Current, dirfd: u64, path: &[u8], how: OpenHow) -> SysResult<u64> {
    // With RESOLVE_IN_ROOT an absolute path, too, starts at the descriptor.
    let scoped = how.walk.intersects(WalkFlags::IN_ROOT | WalkFlags::BENEATH) && int(dirfd) != c::AT_FDCWD && !path.is_empty();
    let start = if scoped { Some(crate::args::place(t, dirfd)?) } else { start(t, dirfd, path)? };
    let file = t.caller().open(start.as_ref(), path, how, &mut |inode, flags| wait_for_leases(t, inode, flags))?;
    wait_for_other_end(t, &file)?;
    fd::install(t, file, how.flags & c::O_CLOEXEC != 0, 0)
}

/// A fifo's end waits for the other one (fifo(7)); a pipe's, opened again, doesn't.
fn wait_for_other_end(t: &Current, file: &File) -> SysResult<()> {
    let fifo = file.ops.as_any().downcast_ref::<PipeEnd>().filter(|_| file.path.is_some() && !file.nonblocking());
    let Some(end) = fifo else { return Ok(()) };
    let met = || if end.has_met() { Ok(()) } else { Err(Errno::EAGAIN) };
    t.block_on(file.ops.wait_queue(), PollEvents::READABLE | PollEvents::WRITABLE, None, met)
}

/// `struct open_how`: flags, mode, `RESOLVE_*`; more must be zeros.
fn openat2(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const SIZE: usize = 24;
    const FLAGS: [(u64, WalkFlags); 5] = [
        (c::RESOLVE_NO_XDEV, WalkFlags::NO_XDEV),
        (c::RESOLVE_NO_MAGICLINKS, WalkFlags::NO_MAGICLINKS),
        (c::RESOLVE_NO_SYMLINKS, WalkFlags::NO_SYMLINKS.union(WalkFlags::NO_MAGICLINKS)),
        (c::RESOLVE_BENEATH, WalkFlags::BENEATH),
        (c::RESOLVE_IN_ROOT, WalkFlags::IN_ROOT),
    ];
    /// `RESOLVE_CACHED`: give up where the filesystem would have to be asked.
    const CACHED: u64 = 0x20;
    let size = usize::try_from(a[3]).map_err(|_| Errno::E2BIG)?;
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve]: [u64; 3] = t.mm.read_obj(a[2])?;
    let mut rest = vec![0; size - SIZE];
    t.mm.read(a[2].checked_add(SIZE as u64).ok_or(Errno::EFAULT)?, &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    OpenHow::check(flags, mode)?;
    let known = FLAGS.iter().fold(CACHED, |all, (bit, _)| all | bit);
    let scoped = c::RESOLVE_BENEATH | c::RESOLVE_IN_ROOT;
    if resolve & !known != 0 || resolve & scoped == scoped {
        return Err(Errno::EINVAL);
    }
    let path = path(t, a[1])?;
    if resolve & CACHED != 0 {
        // Nobody can rely on its success: io_uring is what it is for.
        return Err(Errno::EAGAIN);
    }
    let mut how = OpenHow::new(i32::try_from(flags & 0x7fff_ffff).map_err(|_| Errno::EINVAL)?, uint(mode));
    how.walk = FLAGS.iter().filter(|(bit, _)| resolve & bit != 0).map(|(_, flag)| *flag).collect();
    open_text(t, a[0], &path, how)
}

/// A path and where it starts.
fn find<'a>(t: &Current, dirfd: u64, path: &'a [u8], flags: WalkFlags) -> SysResult<Lookup<'a>> {
    let start = start(t, dirfd, path)?;
    t.caller().walk(start.as_ref(), path, flags)
}

/// Makes a node where there is none.
fn create(t: &Current, dirfd: u64, addr: u64, mode: u32, rdev: u64, target: Vec<u8>) -> SysResult<u64> {
    let path = path(t, addr)?;
    let at = find(t, dirfd, &path, WalkFlags::empty())?;
    t.caller().create(&at, mode, rdev, target).map(|_| 0)
}

fn mkdir(t: &mut Current, dirfd: u64, addr: u64, mode: u32) -> SysResult<u64> {
    create(t, dirfd, addr, c::S_IFDIR | mode & 0o1777, 0, Vec::new())
}

fn mknod(t: &mut Current, dirfd: u64, addr: u64, mode: u32, rdev: u64) -> SysResult<u64> {
    let kind = match mode & c::S_IFMT {
        0 => c::S_IFREG,
        c::S_IFDIR => return Err(Errno::EPERM),
        kind @ (c::S_IFREG | c::S_IFCHR | c::S_IFBLK | c::S_IFIFO | c::S_IFSOCK) => kind,
        _ => return Err(Errno::EINVAL),
    };
    // Numbers of devices are 32 bits here; other kinds have none.
    let rdev = if matches!(kind, c::S_IFCHR | c::S_IFBLK) { uint(rdev).into() } else { 0 };
    create(t, dirfd, addr, kind | mode & 0o7777, rdev, Vec::new())
}

fn symlink(t: &mut Current, text: u64, dirfd: u64, addr: u64) -> SysResult<u64> {
    let text = path(t, text)?;
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    create(t, dirfd, addr, c::S_IFLNK | 0o777, 0, text)
}

fn unlink(t: &mut Current, dirfd: u64, addr: u64, dir: bool) -> SysResult<u64> {
    let path = path(t, addr)?;
    let at = find(t, dirfd, &path, WalkFlags::empty())?;
    // Whoever looks at who else holds the name must not count us.
    let at = Lookup { found: None, ..at };
    t.caller().unlink(&at, dir).map(|()| 0)
}

fn link(t: &mut Current, from: u64, addr: u64, to: u64, to_addr: u64, flags: i32) -> SysResult<u64> {
    if flags & !(c::AT_SYMLINK_FOLLOW | c::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (path, to_path) = (path(t, addr)?, path(t, to_addr)?);
    let source = if path.is_empty() && flags & c::AT_EMPTY_PATH != 0 {
        linked(t, from)?
    } else {
        find(t, from, &path, WalkFlags::follow(flags & c::AT_SYMLINK_FOLLOW != 0))?.existing()?
    };
    let at = find(t, to, &to_path, WalkFlags::empty())?;
    t.caller().link(&source, &at).map(|()| 0)
}

/// The file that linkat(2) makes a name for by its descriptor: of who opened it, or of who could have found it anywhere.
fn linked(t: &Current, fd: u64) -> SysResult<vfs::Path> {
    if int(fd) != c::AT_FDCWD && !t.credentials().has_capability(auth::Capability::DAC_READ_SEARCH) {
        let file = crate::args::file(t, fd)?;
        if !file.is_opener(t.credentials()) {
            return Err(Errno::ENOENT);
        }
    }
    crate::args::place(t, fd)
}

fn rename(t: &mut Current, from: u64, addr: u64, to: u64, to_addr: u64, flags: u32) -> SysResult<u64> {
    let (path, to_path) = (path(t, addr)?, path(t, to_addr)?);
    let source = find(t, from, &path, WalkFlags::empty())?;
    let dest = find(t, to, &to_path, WalkFlags::empty())?;
    let (source, dest) = (Lookup { found: None, ..source }, Lookup { found: None, ..dest });
    t.caller().rename(&source, &dest, flags).map(|()| 0)
}

fn readlink(t: &mut Current, dirfd: u64, addr: u64, buf: u64, len: u64) -> SysResult<u64> {
    let len = usize::try_from(int(len)).ok().filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
    let text = path(t, addr)?;
    let at = if text.is_empty() {
        file(t, dirfd)?.path.clone().ok_or(Errno::ENOENT)?
    } else {
        find(t, dirfd, &text, WalkFlags::empty())?.existing()?
    };
    if !at.dentry.is_symlink() {
        return Err(if text.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    let target = at.inode().readlink()?;
    at.mount.accessed(at.inode(), false);
    let part = target.get(..len.min(target.len())).unwrap_or_default();
    t.mm.write(buf, part)?;
    Ok(part.len() as u64)
}

fn getcwd(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let places = t.fs.places();
    let path = places.cwd.text(&places.root);
    if path.deleted {
        return Err(Errno::ENOENT);
    }
    let mut text = if path.reachable { path.text } else { [b"(unreachable)", &*path.text].concat() };
    text.push(0);
    if text.len() > 4096 {
        return Err(Errno::ENAMETOOLONG);
    }
    if (text.len() as u64) > a[1] {
        return Err(Errno::ERANGE);
    }
    t.mm.write(a[0], &text)?;
    Ok(text.len() as u64)
}

fn chdir(t: &mut Current, to: Path) -> SysResult<u64> {
    if !to.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    t.caller().access(&to, vfs::Access::EXEC)?;
    t.fs.set_cwd(to).map(|()| 0)
}
