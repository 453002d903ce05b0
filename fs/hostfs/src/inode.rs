//! Files and directories.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use pipe::{Pipe, PipeEnd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timestamps, Uid};
use sync::Mutex;
use usermem::HostFile;
use vfs::{
    Acl, Attr, Caching, Dentry, DirEntry, Endpoint, FileOps, Inode, NewNode, Rename, SetAttr, SuperBlock, Writers, new_dev,
};

use crate::regular::HostRegular;
use crate::root::{Ops, Root, kind_name};

/// Nanoseconds for which attributes that were looked at are taken for what they are: one system call looks at a file several times.
const FRESH: u64 = 10_000;

/// Where a file is: its directory and its name there.
#[derive(Clone)]
pub(crate) struct Place {
    parent: Arc<HostInode>,
    name: Box<[u8]>,
}

impl Place {
    fn is(&self, parent: &HostInode, name: &[u8]) -> bool {
        std::ptr::eq(&raw const *self.parent, parent) && *self.name == *name
    }
}

/// A file or directory below a host directory.
pub struct HostInode {
    pub(crate) root: Arc<Root>,
    me: Weak<HostInode>,
    /// `S_IFMT` bits.
    pub(crate) kind: u32,
    /// Device and number on the host, where others may put another file at a name.
    id: (u64, u64),
    /// Names that it has been found by, the last one last; none for the root itself.
    places: Mutex<Vec<Place>>,
    /// A directory, once something below it has been looked at: it stays the same one wherever it is moved.
    dir: OnceLock<OwnedFd>,
    /// The file as it was opened last: it may have lost its name since.
    opened: Mutex<Weak<HostFile>>,
    seen: Mutex<Seen>,
    /// Access lists.
    pub(crate) list: Mutex<Option<KnownList>>,
    pub(crate) default_list: Mutex<Option<KnownList>>,
    /// What goes through a fifo or a socket stays inside: the host has only the name.
    pipe: OnceLock<Arc<Pipe>>,
    endpoint: Endpoint,
    writers: Writers,
    /// Open for reading, in case that somebody opens it again; see [`keep`].
    reading: Mutex<Option<Arc<HostFile>>>,
}

/// What is known of a file's attributes.
struct Seen {
    /// When they were looked at; 0: they have changed since.
    when: u64,
    attr: Attr,
    /// How often we have changed them.
    changes: u64,
}

impl Seen {
    fn is_fresh(&self) -> bool {
        self.when != 0 && now().saturating_sub(self.when) < FRESH
    }
}

/// A list, and the time that says whether it still is one.
pub(crate) type KnownList = ((u64, i64), Option<Arc<Acl>>);

/// Names of one file that are remembered, at most.
const MAX_PLACES: usize = 8;
/// Files that are kept open for reading, at most.
const MAX_KEPT: usize = 256;
static KEPT: Mutex<VecDeque<Weak<HostInode>>> = Mutex::new(VecDeque::new());
/// The file that was made last, as it was opened for that: who made it opens it next.
static MADE: Mutex<Option<(Weak<HostInode>, Arc<HostFile>)>> = Mutex::new(None);

/// Keeps a file open, and closes the one that has been kept for longest.
fn keep(inode: &Arc<HostInode>, file: &Arc<HostFile>) {
    let before = inode.reading.lock().replace(file.clone());
    drop(before);
    let mut queue = KEPT.lock();
    queue.push_back(Arc::downgrade(inode));
    let oldest = if queue.len() > MAX_KEPT { queue.pop_front() } else { None };
    drop(queue);
    if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
        let closed = oldest.reading.lock().take();
        drop(closed);
    }
}

/// An open file that is somebody else's too, or our own for now.
pub(crate) enum Handle {
    Shared(Arc<HostFile>),
    Own(OwnedFd),
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(file) => file.as_fd(),
            Self::Own(fd) => fd.as_fd(),
        }
    }
}

fn now() -> u64 {
    sync::monotonic_ns()
}

impl HostInode {
    /// The directory that `fd` is open on; below it files can be changed if `writable`; `exclusive`: nobody else
    /// changes them.
    ///
    /// # Errors
    /// What the host says of its attributes.
    pub fn root(fd: OwnedFd, writable: bool, exclusive: bool) -> SysResult<Arc<Self>> {
        let stat = rustix::fs::fstat(&fd)?;
        let root = Arc::new(Root {
            fd,
            dev: new_dev(),
            host_dev: stat.st_dev,
            writable,
            exclusive,
            no_lists: AtomicBool::new(false),
            inodes: Mutex::default(),
        });
        Ok(root.inode(&stat, None, true))
    }

    /// The file called `name` in the directory that `fd` is open on.
    ///
    /// # Errors
    /// `ENOENT`
    pub fn below(fd: OwnedFd, name: &[u8], writable: bool) -> SysResult<Arc<Self>> {
        let file = Self::root(fd, writable, false)?.child(name, false)?;
        // It is mounted for good, whatever others put at its name: it stays open.
        if let Ok(fd) = file.open_host(OFlags::RDONLY, false) {
            *file.reading.lock() = Some(HostFile::new(fd, false));
        }
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

    pub(crate) fn new(root: Arc<Root>, me: Weak<Self>, stat: &Stat, place: Option<Place>) -> Self {
        let attr = attr_of(stat, &root);
        Self {
            root,
            me,
            kind: stat.st_mode & c::S_IFMT,
            id: (stat.st_dev, stat.st_ino),
            places: Mutex::new(place.into_iter().collect()),
            dir: OnceLock::new(),
            opened: Mutex::default(),
            seen: Mutex::new(Seen { when: now(), attr, changes: 0 }),
            list: Mutex::default(),
            default_list: Mutex::default(),
            pipe: OnceLock::new(),
            endpoint: Endpoint::default(),
            writers: Writers::default(),
            reading: Mutex::default(),
        }
    }

    /// The name as a place.
    fn place(&self, name: &[u8]) -> Option<Place> {
        Some(Place { parent: self.me.upgrade()?, name: name.into() })
    }

    /// What is called `name` in this directory; `new`: it has just been made.
    fn child(&self, name: &[u8], new: bool) -> SysResult<Arc<Self>> {
        let stat = rustix::fs::statat(self.dir()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.root.inode(&stat, self.place(name), new))
    }

    /// Looks at it. What has changed meanwhile isn't relied on any longer than by who asks.
    fn look(&self, stat: impl FnOnce() -> SysResult<Stat>) -> SysResult<Option<Attr>> {
        let changes = self.seen.lock().changes;
        let stat = stat()?;
        if !self.is(&stat) {
            return Ok(None);
        }
        let attr = attr_of(&stat, &self.root);
        let mut seen = self.seen.lock();
        if seen.changes == changes {
            (seen.when, seen.attr) = (now(), attr);
        }
        Ok(Some(attr))
    }

    /// It has been changed: what is known of its attributes isn't true any more.
    pub(crate) fn changed(&self) {
        let mut seen = self.seen.lock();
        seen.when = 0;
        seen.changes = seen.changes.wrapping_add(1);
    }

    /// It is the file that has been looked at, as it is now.
    fn is(&self, stat: &Stat) -> bool {
        (stat.st_dev, stat.st_ino) == self.id && stat.st_mode & c::S_IFMT == self.kind
    }

    /// Attributes of an open file that is this one.
    pub(crate) fn open_attr(&self, file: &HostFile) -> SysResult<Attr> {
        self.look(|| Ok(rustix::fs::fstat(file.as_fd())?))?.ok_or(Errno::ENOENT)
    }

    /// It has this name. A directory that is open needs none, and must not be held by what is below it.
    pub(crate) fn found_at(&self, place: Place) {
        let mut places = self.places.lock();
        if self.kind == c::S_IFDIR {
            if self.dir.get().is_none() && !places.is_empty() {
                *places = vec![place];
            }
            return;
        }
        if places.last().is_some_and(|last| last.is(&place.parent, &place.name)) {
            return;
        }
        places.retain(|known| !known.is(&place.parent, &place.name));
        if places.len() >= MAX_PLACES {
            places.remove(0);
        }
        places.push(place);
    }

    /// It has lost a name, and has got another one if `to` says so.
    fn moved(&self, parent: &Self, name: &[u8], to: Option<Place>) {
        let mut places = self.places.lock();
        let old: Vec<_> = places.extract_if(.., |known| known.is(parent, name)).collect();
        places.extend(to);
        drop(places);
        drop(old);
        self.changed();
    }

    /// The directory itself, to look below it.
    fn dir(&self) -> SysResult<BorrowedFd<'_>> {
        if let Some(fd) = self.dir.get() {
            return Ok(fd.as_fd());
        }
        let place = self.places.lock().last().cloned();
        match place {
            None => Ok(self.root.fd.as_fd()),
            Some(place) => {
                let fd = open_at(place.parent.dir()?, &place.name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                Ok(self.dir.get_or_init(|| fd).as_fd())
            }
        }
    }

    /// Calls `f` with a directory and this file's name there; a directory that is open is `.` in itself.
    fn named<T>(&self, f: impl FnOnce(BorrowedFd<'_>, &[u8]) -> SysResult<T>) -> SysResult<T> {
        if let Some(dir) = self.dir.get() {
            return f(dir.as_fd(), b".");
        }
        let place = self.places.lock().last().cloned();
        match place {
            Some(place) => f(place.parent.dir()?, &place.name),
            None if self.kind == c::S_IFDIR => f(self.root.fd.as_fd(), b"."),
            None => Err(Errno::ENOENT),
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

    /// It isn't where it was: whoever has walked here must do so again.
    fn stale(&self) -> Errno {
        self.changed();
        Errno::ESTALE
    }

    /// Opens it on the host if it is a regular file, or with `dir` a directory: fifos, sockets and devices of the host are none of the
    /// guest's. Looked at afterwards, because the name may lead elsewhere by then (`ESTALE`).
    fn open_host(&self, flags: OFlags, dir: bool) -> SysResult<OwnedFd> {
        if !(self.kind == c::S_IFREG || dir && self.kind == c::S_IFDIR) {
            return Err(Errno::ENXIO);
        }
        let flags = flags | OFlags::NOCTTY | OFlags::NONBLOCK;
        let fd = match self.named(|dir, name| open_at(dir, name, flags, Mode::empty())) {
            Err(Errno::ENOENT) => return Err(self.stale()),
            fd => fd?,
        };
        if self.root.is_constant() {
            return Ok(fd);
        }
        match self.look(|| Ok(rustix::fs::fstat(&fd)?))? {
            Some(_) => Ok(fd),
            None => Err(self.stale()),
        }
    }

    /// It as somebody has it open already, with the right to write if `writes`.
    fn shared(&self, writes: bool) -> Option<Arc<HostFile>> {
        let opened = self.opened.lock().upgrade();
        if let Some(opened) = opened.filter(|file| file.writable() || !writes) {
            return Some(opened);
        }
        self.reading.lock().clone().filter(|file| file.writable() || !writes)
    }

    /// It open for asking: only files and directories can be.
    pub(crate) fn handle(&self) -> SysResult<Handle> {
        if let Some(file) = self.shared(false) {
            return Ok(Handle::Shared(file));
        }
        match self.open_host(OFlags::RDONLY, true) {
            Err(Errno::EACCES) if self.kind == c::S_IFREG => Ok(Handle::Own(self.open_host(OFlags::WRONLY, false)?)),
            Err(Errno::ESTALE) => Err(Errno::ENOENT),
            fd => Ok(Handle::Own(fd?)),
        }
    }

    /// A name is gone: nothing is kept open for who comes next.
    fn let_go(&self) {
        let kept = self.reading.lock().take();
        drop(kept);
    }

    /// The file open for a guest.
    fn host_file(self: &Arc<Self>, flags: i32, writes: bool) -> SysResult<Arc<HostFile>> {
        let made = MADE.lock().take_if(|(inode, _)| std::ptr::eq(inode.as_ptr(), Arc::as_ptr(self)));
        if let Some(file) = made.map(|(_, file)| file).or_else(|| self.shared(writes)) {
            return Ok(file);
        }
        let fd = match self.open_host(if writes { OFlags::RDWR } else { OFlags::RDONLY }, false) {
            Err(Errno::EACCES) if flags & c::O_ACCMODE == c::O_WRONLY => self.open_host(OFlags::WRONLY, false)?,
            fd => fd?,
        };
        let file = HostFile::new(fd, writes);
        *self.opened.lock() = Arc::downgrade(&file);
        if !writes {
            keep(self, &file);
        }
        Ok(file)
    }
}

/// Attributes from the host's.
fn attr_of(stat: &Stat, root: &Root) -> Attr {
    let time = |sec, nsec: u64| Timespec { sec, nsec: nsec.cast_signed() };
    Attr {
        dev: root.dev,
        ino: root.ino(stat.st_dev, stat.st_ino),
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

impl Drop for HostInode {
    /// A chain of directories that nobody else holds is given up one by one: its length is the guest's choice, the stack isn't.
    fn drop(&mut self) {
        let mut inodes = self.root.inodes.lock();
        // Somebody may have made a new one meanwhile.
        if inodes.get(&self.id).is_some_and(|there| there.strong_count() == 0) {
            inodes.remove(&self.id);
        }
        drop(inodes);
        let mut places = std::mem::take(self.places.get_mut());
        while let Some(place) = places.pop() {
            if let Some(mut parent) = Arc::into_inner(place.parent) {
                places.append(parent.places.get_mut());
            }
        }
    }
}

/// Opens one component below a directory.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, resolve)?)
}

impl Inode for HostInode {
    fn attr(&self) -> SysResult<Attr> {
        let attr = {
            let seen = self.seen.lock();
            if self.root.is_constant() || seen.is_fresh() {
                return Ok(seen.attr);
            }
            seen.attr
        };
        if let Some(file) = self.shared(false) {
            return self.open_attr(&file);
        }
        match self.look(|| self.named(|dir, name| Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))) {
            Ok(Some(attr)) => Ok(attr),
            // Somebody is just moving it, or it is gone: it was like this.
            Ok(None) | Err(Errno::ENOENT) => {
                let gone = self.places.lock().is_empty() && self.kind != c::S_IFDIR;
                Ok(if gone { Attr { nlink: 0, ..attr } } else { attr })
            }
            Err(errno) => Err(errno),
        }
    }

    fn kind(&self) -> SysResult<u32> {
        Ok(self.kind)
    }

    fn caching(&self) -> Caching {
        if self.root.is_constant() { Caching::Exclusive } else { Caching::Shared }
    }

    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        let Ok(child) = Self::downcast(child) else { return false };
        let fresh = child.seen.lock().is_fresh();
        if fresh && child.places.lock().last().is_some_and(|last| last.is(self, name)) {
            return true;
        }
        let stat = || Ok(rustix::fs::statat(self.dir()?, name, AtFlags::SYMLINK_NOFOLLOW)?);
        if !child.look(stat).is_ok_and(|attr| attr.is_some()) {
            return false;
        }
        if !child.places.lock().last().is_some_and(|last| last.is(self, name)) {
            self.place(name).into_iter().for_each(|place| child.found_at(place));
        }
        true
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.child(name, false)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let fd = open_at(self.dir()?, b".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut entries = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                let ino = self.root.ino(self.id.0, entry.ino());
                entries.push(DirEntry { name, ino, kind: entry.file_type().as_raw_mode() });
            }
        }
        Ok(entries)
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        if self.kind != c::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        self.named(|dir, name| Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()))
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let writes = flags & c::O_ACCMODE != c::O_RDONLY || flags & c::O_TRUNC != 0;
        if writes && !self.root.writable {
            return Err(Errno::EROFS);
        }
        if self.kind == c::S_IFIFO {
            let mode = flags & c::O_ACCMODE;
            let pipe = self.pipe.get_or_init(Arc::default);
            if mode == c::O_WRONLY && flags & c::O_NONBLOCK != 0 && !pipe.has_readers() {
                return Err(Errno::ENXIO);
            }
            return Ok(PipeEnd::open(pipe, mode != c::O_WRONLY, mode != c::O_RDONLY));
        }
        let file = self.host_file(flags, writes)?;
        if flags & c::O_TRUNC != 0 {
            rustix::fs::ftruncate(file.as_fd(), 0)?;
            self.changed();
        }
        Ok(Arc::new(HostRegular { file, inode: self }))
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let dir = self.writable_dir()?;
        let mode = Mode::from_raw_mode(node.mode & 0o7777);
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        match node.mode & c::S_IFMT {
            c::S_IFREG => {
                let fd = open_at(dir, name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, mode)?;
                if (node.uid, node.gid) != (0, 0)
                    && rustix::fs::fchown(&fd, Some(uid), Some(gid)).is_ok()
                    && node.mode & 0o6000 != 0
                {
                    rustix::fs::fchmod(&fd, mode)?;
                }
                let made = self.root.inode(&rustix::fs::fstat(&fd)?, self.place(name), true);
                let file = HostFile::new(fd, true);
                *made.opened.lock() = Arc::downgrade(&file);
                let before = MADE.lock().replace((Arc::downgrade(&made), file));
                drop(before);
                self.changed();
                return Ok(made);
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
        self.changed();
        Ok(self.child(name, true)?)
    }

    fn tmpfile(self: Arc<Self>, node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let mode = Mode::from_raw_mode(node.mode & 0o7777);
        let fd = open_at(self.writable_dir()?, b".", OFlags::TMPFILE | OFlags::RDWR, mode)?;
        if (node.uid, node.gid) != (0, 0) {
            let _ = rustix::fs::fchown(&fd, Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
        }
        let made = self.root.inode(&rustix::fs::fstat(&fd)?, None, true);
        let before = made.reading.lock().replace(HostFile::new(fd, true));
        drop(before);
        Ok(made)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> SysResult<()> {
        let other = Self::downcast(inode)?;
        if !Arc::ptr_eq(&other.root, &self.root) {
            return Err(Errno::EXDEV);
        }
        let to = self.writable_dir()?;
        let nameless = if other.places.lock().is_empty() { other.shared(false) } else { None };
        match nameless {
            // A new enough host allows that to who has opened the file.
            Some(file) => rustix::fs::linkat(file.as_fd(), c"", to, name, AtFlags::EMPTY_PATH)?,
            None => other.named(|dir, old| Ok(rustix::fs::linkat(dir, old, to, name, AtFlags::empty())?))?,
        }
        self.place(name).into_iter().for_each(|place| other.found_at(place));
        other.changed();
        self.changed();
        Ok(())
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>, dir: bool, _used: bool) -> SysResult<()> {
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.writable_dir()?, name, flags)?;
        self.changed();
        let child = Self::downcast(child)?;
        child.moved(self, name, None);
        child.let_go();
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> SysResult<()> {
        let exchange = rename.flags & c::RENAME_EXCHANGE != 0;
        if rename.flags & !c::RENAME_EXCHANGE != 0 {
            return Err(Errno::EINVAL);
        }
        let to = Self::downcast(rename.new_dir)?;
        if !Arc::ptr_eq(&to.root, &self.root) {
            return Err(Errno::EXDEV);
        }
        let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(self.writable_dir()?, rename.name, to.writable_dir()?, rename.new_name, flags)?;
        self.changed();
        to.changed();
        let child = Self::downcast(rename.child)?;
        if let Some(target) = rename.target {
            let target = Self::downcast(target)?;
            target.moved(&to, rename.new_name, if exchange { self.place(rename.name) } else { None });
            target.let_go();
        }
        child.moved(self, rename.name, Some(Place { parent: to, name: rename.new_name.into() }));
        Ok(())
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        if !self.root.writable {
            return Err(Errno::EROFS);
        }
        if let Some(size) = set.size {
            match self.shared(true) {
                Some(file) => rustix::fs::ftruncate(file.as_fd(), size)?,
                None => rustix::fs::ftruncate(self.open_host(OFlags::WRONLY, false)?, size)?,
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            // Safe: `-1` has been taken out, and the host checks whether we may.
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            match self.shared(false) {
                Some(file) => rustix::fs::fchown(file.as_fd(), uid, gid)?,
                None => self.named(|dir, name| Ok(rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?))?,
            }
        }
        if let Some(mode) = set.mode {
            // By descriptor, never by name: fchmodat(2) follows a link, which a racing guest can put there to lead out of the tree.
            match self.handle() {
                // A socket: there is no descriptor of it to be had.
                Err(Errno::ENXIO) => self.named(|dir, name| usermem::chmod_at(dir, name, mode & 0o7777))?,
                fd => rustix::fs::fchmod(fd?, Mode::from_raw_mode(mode & 0o7777))?,
            }
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let time = |time: Option<Timespec>| time.map_or(omit, |t| rustix::fs::Timespec { tv_sec: t.sec, tv_nsec: t.nsec });
            let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
            match self.shared(false) {
                Some(file) => rustix::fs::futimens(file.as_fd(), &times)?,
                None => self.named(|dir, name| Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?))?,
            }
        }
        self.changed();
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

    fn writers(&self) -> Option<&Writers> {
        (self.kind == c::S_IFREG).then_some(&self.writers)
    }

    fn sync(&self) -> SysResult<()> {
        if self.root.writable && self.kind == c::S_IFDIR {
            rustix::fs::fsync(open_at(self.dir()?, b".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)?;
        }
        Ok(())
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        (self.kind == c::S_IFSOCK).then_some(&self.endpoint)
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
