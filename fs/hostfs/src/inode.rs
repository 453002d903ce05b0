//! Files and directories.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use pipe::{Pipe, PipeEnd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps, Uid};
use sync::Mutex;
use usermem::HostFile;
use vfs::{
    Acl, Attr, Caching, Dentry, DirEntry, Endpoint, FileOps, Inode, NewNode, Rename, SetAttr, SuperBlock, SuperOps, new_dev,
};

use crate::regular::HostRegular;

pub(crate) struct Root {
    fd: OwnedFd,
    dev: u64,
    writable: bool,
    /// Nobody else changes it: what has been looked up is remembered.
    exclusive: bool,
    /// Its filesystem has no access lists.
    pub(crate) no_lists: AtomicBool,
}

impl Root {
    /// Whether attributes stay what they are.
    fn is_constant(&self) -> bool {
        self.exclusive && !self.writable
    }
}

struct Ops(Arc<Root>);

impl SuperOps for Ops {
    fn sync(&self) -> SysResult<()> {
        if self.0.writable {
            rustix::fs::syncfs(&self.0.fd)?;
        }
        Ok(())
    }
}

/// Where a file is: its directory and its name there.
#[derive(Clone)]
struct Place {
    parent: Arc<HostInode>,
    name: Vec<u8>,
}

/// A file or directory below a host directory.
pub struct HostInode {
    pub(crate) root: Arc<Root>,
    /// `None`: the root itself.
    place: Mutex<Option<Place>>,
    /// A directory, once something below it has been looked at: it stays the same one wherever it is moved.
    dir: OnceLock<OwnedFd>,
    /// The file as it was opened last: it may have lost its name since.
    opened: Mutex<Weak<HostFile>>,
    /// Device and number on the host, where others may put another file at the name.
    id: OnceLock<(u64, u64)>,
    /// Attributes, where they don't change.
    known: OnceLock<Attr>,
    /// What goes through a fifo or a socket stays inside: the host has only the name.
    pipe: OnceLock<Arc<Pipe>>,
    endpoint: Endpoint,
    /// Open for reading, in case that somebody opens it again; see [`keep`].
    reading: Mutex<Option<Arc<HostFile>>>,
}

/// Files of directories that don't change that are kept open, at most.
const MAX_KEPT: usize = 256;
static KEPT: Mutex<VecDeque<Weak<HostInode>>> = Mutex::new(VecDeque::new());

/// Keeps a file open, and closes the one that has been kept for longest.
fn keep(inode: &Arc<HostInode>, file: &Arc<HostFile>) {
    *inode.reading.lock() = Some(file.clone());
    let mut queue = KEPT.lock();
    queue.push_back(Arc::downgrade(inode));
    let oldest = if queue.len() > MAX_KEPT { queue.pop_front() } else { None };
    drop(queue);
    if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
        let closed = oldest.reading.lock().take();
        drop(closed);
    }
}

/// What the host calls its filesystem, if it is a common one.
fn kind_name(magic: i64) -> &'static str {
    match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        _ => "hostfs",
    }
}

/// Attributes from the host's.
pub fn attr_of(stat: &rustix::fs::Stat, dev: u64) -> Attr {
    let time = |sec, nsec: u64| Timespec { sec, nsec: nsec.cast_signed() };
    Attr {
        dev,
        // Inode numbers of several host filesystems meet here.
        ino: stat.st_ino ^ (stat.st_dev << 40),
        nlink: stat.st_nlink,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        btime: None,
    }
}

impl HostInode {
    /// The directory that `fd` is open on; below it files can be changed if `writable`; `exclusive`: nobody else
    /// changes them.
    #[must_use]
    pub fn root(fd: OwnedFd, writable: bool, exclusive: bool) -> Arc<Self> {
        Arc::new(Self::new(Arc::new(Root { fd, dev: new_dev(), writable, exclusive, no_lists: AtomicBool::new(false) }), None))
    }

    /// The file called `name` in the directory that `fd` is open on.
    ///
    /// # Errors
    /// `ENOENT`
    pub fn below(fd: OwnedFd, name: &[u8], writable: bool) -> SysResult<Arc<Self>> {
        let file = Self::root(fd, writable, false).child(name);
        file.attr()?;
        Ok(file)
    }

    /// It as something to mount.
    ///
    /// # Errors
    /// What the host says of its attributes.
    pub fn dentry(self: Arc<Self>) -> SysResult<Arc<Dentry>> {
        let (dev, kind) = (self.root.dev, kind_name(rustix::fs::fstatfs(&self.root.fd)?.f_type));
        Dentry::root(SuperBlock::new(kind, dev, Box::new(Ops(self.root.clone()))), self)
    }

    fn new(root: Arc<Root>, place: Option<Place>) -> Self {
        Self {
            root,
            place: Mutex::new(place),
            dir: OnceLock::new(),
            opened: Mutex::default(),
            id: OnceLock::new(),
            known: OnceLock::new(),
            pipe: OnceLock::new(),
            endpoint: Endpoint::default(),
            reading: Mutex::default(),
        }
    }

    fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }

    /// The directory itself, to look below it.
    fn dir(&self) -> SysResult<BorrowedFd<'_>> {
        if let Some(fd) = self.dir.get() {
            return Ok(fd.as_fd());
        }
        match self.place() {
            None => Ok(self.root.fd.as_fd()),
            Some(place) => {
                let fd = open_at(place.parent.dir()?, &place.name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                Ok(self.dir.get_or_init(|| fd).as_fd())
            }
        }
    }

    /// A directory that may be changed.
    fn writable_dir(&self) -> SysResult<BorrowedFd<'_>> {
        if self.root.writable { self.dir() } else { Err(Errno::EROFS) }
    }

    fn downcast(inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        any.downcast().map_err(|_| Errno::EXDEV)
    }

    fn child(self: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self::new(self.root.clone(), Some(Place { parent: self.clone(), name: name.to_vec() })))
    }

    /// Opens it on the host if it is a regular file, or with `dir` a directory: fifos, sockets and devices of the host are none of the
    /// guest's. Looked at before, so that opening has no effect on them, and after, because the name may lead elsewhere by then.
    pub(crate) fn open_kind(&self, flags: OFlags, dir: bool) -> SysResult<OwnedFd> {
        let fits = |kind: u32| kind == c::S_IFREG || dir && kind == c::S_IFDIR;
        if self.root.is_constant() {
            // What it is doesn't change, either.
            return if fits(self.attr()?.kind()) { self.open_host(flags | OFlags::NOCTTY) } else { Err(Errno::ENXIO) };
        }
        if !fits(self.attr()?.kind()) {
            return Err(Errno::ENXIO);
        }
        let fd = self.open_host(flags | OFlags::NOCTTY | OFlags::NONBLOCK)?;
        if fits(rustix::fs::fstat(&fd)?.st_mode & c::S_IFMT) { Ok(fd) } else { Err(Errno::ENXIO) }
    }

    /// Opens it on the host.
    fn open_host(&self, flags: OFlags) -> SysResult<OwnedFd> {
        match self.place() {
            None => open_at(self.root.fd.as_fd(), b".", flags, Mode::empty()),
            Some(place) => open_at(place.parent.dir()?, &place.name, flags, Mode::empty()),
        }
    }
}

/// Opens one component below a directory.
fn open_at(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, resolve)?)
}

impl Inode for HostInode {
    fn attr(&self) -> SysResult<Attr> {
        if let Some(attr) = self.known.get() {
            return Ok(*attr);
        }
        let opened = self.opened.lock().upgrade();
        let stat = if let Some(file) = opened.filter(|file| file.writable()) {
            rustix::fs::fstat(file.as_fd())?
        } else if let Some(dir) = self.dir.get() {
            rustix::fs::fstat(dir)?
        } else {
            match self.place() {
                None => rustix::fs::fstat(&self.root.fd)?,
                Some(place) => rustix::fs::statat(place.parent.dir()?, &*place.name, AtFlags::SYMLINK_NOFOLLOW)?,
            }
        };
        let _ = self.id.set((stat.st_dev, stat.st_ino));
        let attr = attr_of(&stat, self.root.dev);
        Ok(if self.root.is_constant() { *self.known.get_or_init(|| attr) } else { attr })
    }

    fn caching(&self) -> Caching {
        if self.root.exclusive { Caching::Exclusive } else { Caching::Shared }
    }

    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        let Ok(child) = Self::downcast(child) else { return false };
        let stat = self.dir().and_then(|dir| Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?));
        stat.is_ok_and(|stat| child.id.get() == Some(&(stat.st_dev, stat.st_ino)))
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let child = self.child(name);
        child.attr()?;
        Ok(child)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let fd = self.open_host(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                entries.push(DirEntry { name, ino: entry.ino(), kind: entry.file_type().as_raw_mode() });
            }
        }
        Ok(entries)
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        let place = self.place().ok_or(Errno::EINVAL)?;
        Ok(rustix::fs::readlinkat(place.parent.dir()?, &*place.name, Vec::new())?.into_bytes())
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let writes = flags & c::O_ACCMODE != c::O_RDONLY || flags & c::O_TRUNC != 0;
        if writes && !self.root.writable {
            return Err(Errno::EROFS);
        }
        if self.attr()?.kind() == c::S_IFIFO {
            let mode = flags & c::O_ACCMODE;
            let pipe = self.pipe.get_or_init(Arc::default);
            return Ok(PipeEnd::open(pipe, mode != c::O_WRONLY, mode != c::O_RDONLY));
        }
        if self.root.is_constant() {
            let kept = self.reading.lock().clone();
            let file = match kept {
                Some(file) => file,
                None => {
                    let file = HostFile::new(self.open_kind(OFlags::RDONLY, false)?, false);
                    keep(&self, &file);
                    file
                }
            };
            return Ok(Arc::new(HostRegular { file, dev: self.root.dev }));
        }
        let fd = self.open_kind(if writes { OFlags::RDWR } else { OFlags::RDONLY }, false)?;
        if flags & c::O_TRUNC != 0 {
            rustix::fs::ftruncate(&fd, 0)?;
        }
        let file = HostFile::new(fd, writes);
        if writes {
            *self.opened.lock() = Arc::downgrade(&file);
        }
        Ok(Arc::new(HostRegular { file, dev: self.root.dev }))
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let dir = self.writable_dir()?;
        let mode = Mode::from_raw_mode(node.mode & 0o7777);
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        match node.mode & c::S_IFMT {
            c::S_IFREG => {
                let fd = open_at(dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, mode)?;
                if (node.uid, node.gid) != (0, 0)
                    && rustix::fs::fchown(&fd, Some(uid), Some(gid)).is_ok()
                    && node.mode & 0o6000 != 0
                {
                    rustix::fs::fchmod(&fd, mode)?;
                }
                return Ok(self.child(name));
            }
            c::S_IFIFO => rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)?,
            c::S_IFSOCK => rustix::fs::mknodat(dir, name, FileType::Socket, mode, 0)?,
            c::S_IFDIR => rustix::fs::mkdirat(dir, name, mode)?,
            c::S_IFLNK => rustix::fs::symlinkat(&*node.target, dir, name)?,
            // Devices would be the host's.
            _ => return Err(Errno::EPERM),
        }
        if (node.uid, node.gid) != (0, 0) {
            // Where the host knows but one user, everything is that user's.
            let _ = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
        Ok(self.child(name))
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> SysResult<()> {
        let other = Self::downcast(inode)?;
        if !Arc::ptr_eq(&other.root, &self.root) {
            return Err(Errno::EXDEV);
        }
        let place = other.place().ok_or(Errno::EPERM)?;
        rustix::fs::linkat(place.parent.dir()?, &*place.name, self.writable_dir()?, name, AtFlags::empty())?;
        Ok(())
    }

    fn unlink(&self, name: &[u8], _child: &Arc<dyn Inode>, dir: bool, _used: bool) -> SysResult<()> {
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.writable_dir()?, name, flags)?;
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> SysResult<()> {
        if rename.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let to = Self::downcast(rename.new_dir)?;
        if !Arc::ptr_eq(&to.root, &self.root) {
            return Err(Errno::EXDEV);
        }
        let flags = RenameFlags::empty();
        rustix::fs::renameat_with(self.writable_dir()?, rename.name, to.writable_dir()?, rename.new_name, flags)?;
        *Self::downcast(rename.child)?.place.lock() = Some(Place { parent: to, name: rename.new_name.to_vec() });
        Ok(())
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        if !self.root.writable {
            return Err(Errno::EROFS);
        }
        let opened = self.opened.lock().upgrade();
        if let Some(size) = set.size {
            match &opened {
                Some(file) => rustix::fs::ftruncate(file.as_fd(), size)?,
                None => rustix::fs::ftruncate(self.open_kind(OFlags::WRONLY, false)?, size)?,
            }
        }
        let (dir, name);
        let place = self.place();
        (dir, name) = match &place {
            None => (self.root.fd.as_fd(), &b"."[..]),
            Some(place) => (place.parent.dir()?, &*place.name),
        };
        if set.uid.is_some() || set.gid.is_some() {
            // Safe: `-1` has been taken out, and the host checks whether we may.
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = set.mode {
            // By descriptor, never by name: fchmodat(2) follows a link, which a racing guest can put there to lead out of the tree.
            let fd = match self.open_kind(OFlags::RDONLY, true) {
                Err(Errno::EACCES) => self.open_kind(OFlags::WRONLY, false)?,
                fd => fd?,
            };
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let time = |time: Option<Timespec>| time.map_or(omit, |t| rustix::fs::Timespec { tv_sec: t.sec, tv_nsec: t.nsec });
            let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
            rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn acl(&self, default: bool) -> SysResult<Option<Arc<Acl>>> {
        self.host_acl(default)
    }

    fn set_acl(&self, default: bool, acl: Option<Arc<Acl>>) -> SysResult<()> {
        if self.root.writable { self.set_host_acl(default, acl) } else { Err(Errno::EROFS) }
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        self.host_xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        if self.root.writable { self.set_host_xattr(name, value, flags) } else { Err(Errno::EROFS) }
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        if self.root.writable { self.remove_host_xattr(name) } else { Err(Errno::EROFS) }
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        self.host_xattrs()
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        (self.attr().ok()?.kind() == c::S_IFSOCK).then_some(&self.endpoint)
    }

    fn statfs(&self) -> SysResult<Statfs> {
        let host = rustix::fs::fstatfs(&self.root.fd)?;
        Ok(Statfs {
            kind: host.f_type,
            bsize: host.f_bsize,
            blocks: host.f_blocks,
            bfree: host.f_bfree,
            bavail: host.f_bavail,
            files: host.f_files,
            ffree: host.f_ffree,
            namelen: host.f_namelen,
            frsize: host.f_frsize,
            ..Statfs::default()
        })
    }
}
