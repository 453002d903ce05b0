//! Files, directories, links and devices.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use pipe::{Pipe, PipeEnd};
use sync::Mutex;
use vfs::{Acl, Attr, DirEntry, Endpoint, FileOps, Inode, NewNode, Rename, SetAttr, WHITEOUT_DEV, Writers, new_ino};

use crate::content::Content;
use crate::memfd::seal;
use crate::now;
use crate::superblock::{BLOCK, Super};

/// What a name adds to the size of its directory (`BOGO_DIRENT_SIZE`).
const ENTRY_SIZE: u64 = 20;
/// Longest target of a link that is kept in its inode (`SHORT_SYMLINK_LEN`).
const SHORT_LINK: usize = 128;
/// Bytes of extended attributes that one inode has at most.
const MAX_XATTRS: usize = 1 << 18;

type Entries = BTreeMap<Box<[u8]>, Arc<Node>>;

enum Body {
    Directory(Mutex<Entries>),
    Regular(Content),
    Link(Box<[u8]>),
    Fifo(Arc<Pipe>),
    Socket(Box<Endpoint>),
    Device,
}

/// What few inodes have.
#[derive(Default)]
struct Extra {
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    acl: Option<Arc<Acl>>,
    default_acl: Option<Arc<Acl>>,
}

struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    extra: Option<Box<Extra>>,
}

/// A file, directory, link or device in memory.
pub struct Node {
    fs: Arc<Super>,
    ino: u64,
    kind: u32,
    rdev: u64,
    btime: Timespec,
    meta: Mutex<Meta>,
    body: Body,
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(&self.body, Body::Link(target) if target.len() >= SHORT_LINK) {
            self.fs.free_blocks(1);
        }
        self.fs.free_inode();
    }
}

impl Node {
    /// A new node, without a name.
    ///
    /// # Errors
    /// `ENOSPC`; `EINVAL` for an unknown kind.
    pub(crate) fn new(fs: &Arc<Super>, node: &NewNode) -> SysResult<Arc<Self>> {
        Self::sealed(fs, node, seal::SEAL)
    }

    /// A new node; `seals` of a regular file (`F_SEAL_*`).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn sealed(fs: &Arc<Super>, node: &NewNode, seals: u32) -> SysResult<Arc<Self>> {
        let kind = node.mode & c::S_IFMT;
        let body = match kind {
            c::S_IFDIR => Body::Directory(Mutex::default()),
            c::S_IFREG => Body::Regular(Content::new(fs, seals)),
            c::S_IFLNK => Body::Link(node.target.clone().into()),
            c::S_IFIFO => Body::Fifo(Arc::new(Pipe::default())),
            c::S_IFSOCK => Body::Socket(Box::default()),
            c::S_IFCHR | c::S_IFBLK => Body::Device,
            _ => return Err(Errno::EINVAL),
        };
        fs.charge_inode()?;
        if kind == c::S_IFLNK && node.target.len() >= SHORT_LINK {
            fs.charge_blocks(1).inspect_err(|_| fs.free_inode())?;
        }
        let time = now();
        let (acl, default_acl) = (node.acl.clone(), node.default_acl.clone());
        let extra = (acl.is_some() || default_acl.is_some()).then(|| Box::new(Extra { acl, default_acl, ..Extra::default() }));
        let meta = Meta {
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            nlink: if kind == c::S_IFDIR { 2 } else { 1 },
            atime: time,
            mtime: time,
            ctime: time,
            extra,
        };
        let (fs, ino, rdev) = (fs.clone(), new_ino(), node.rdev);
        Ok(Arc::new(Self { fs, ino, kind, rdev, btime: time, meta: Mutex::new(meta), body }))
    }

    pub(crate) fn content(&self) -> SysResult<&Content> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether anybody may run it.
    pub(crate) fn is_executable(&self) -> bool {
        self.meta.lock().mode & 0o111 != 0
    }

    /// Contents have changed.
    pub(crate) fn modified(&self) {
        let (time, mut meta) = (now(), self.meta.lock());
        (meta.mtime, meta.ctime) = (time, time);
    }

    /// Attributes have changed.
    fn changed(&self) {
        let (time, mut meta) = (now(), self.meta.lock());
        meta.ctime = time;
    }

    fn entries(&self) -> SysResult<&Mutex<Entries>> {
        match &self.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn child(&self, name: &[u8]) -> SysResult<Arc<Self>> {
        self.entries()?.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }

    fn is_dir(&self) -> bool {
        self.kind == c::S_IFDIR
    }

    /// Puts a node at a name, or takes what is there away. Directories have a link from each directory in them.
    fn set(&self, name: &[u8], node: Option<Arc<Self>>) -> SysResult<()> {
        let subdirectory = i64::from(node.as_ref().is_some_and(|node| node.is_dir()));
        let old = {
            let mut entries = self.entries()?.lock();
            match node {
                Some(node) => entries.insert(name.into(), node),
                None => entries.remove(name),
            }
        };
        let before = i64::from(old.as_ref().is_some_and(|node| node.is_dir()));
        let (time, mut meta) = (now(), self.meta.lock());
        (meta.mtime, meta.ctime) = (time, time);
        meta.nlink = meta.nlink.saturating_add_signed(subdirectory - before);
        drop(meta);
        drop(old);
        Ok(())
    }

    /// It has no name to begin with.
    pub(crate) fn lose_name(&self) {
        self.meta.lock().nlink = 0;
    }

    /// A name of it is gone.
    fn lost_name(&self) {
        let time = now();
        let mut meta = self.meta.lock();
        meta.nlink = if self.is_dir() { 0 } else { meta.nlink.saturating_sub(1) };
        meta.ctime = time;
    }

    fn check_empty(&self) -> SysResult<()> {
        match &self.body {
            Body::Directory(entries) if !entries.lock().is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    /// The node of an inode of this filesystem.
    fn own(&self, inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        let node = any.downcast::<Self>().map_err(|_| Errno::EXDEV)?;
        if Arc::ptr_eq(&node.fs, &self.fs) { Ok(node) } else { Err(Errno::EXDEV) }
    }

    fn extra<T>(&self, f: impl FnOnce(&Extra) -> T) -> Option<T> {
        self.meta.lock().extra.as_deref().map(f)
    }

    fn change_extra<T>(&self, f: impl FnOnce(&mut Extra) -> SysResult<T>) -> SysResult<T> {
        let (time, mut meta) = (now(), self.meta.lock());
        let result = f(meta.extra.get_or_insert_default())?;
        meta.ctime = time;
        Ok(result)
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let (size, blocks) = match &self.body {
            Body::Directory(entries) => ((entries.lock().len() as u64 + 2) * ENTRY_SIZE, 0),
            Body::Regular(content) => (content.size(), content.blocks()),
            Body::Link(target) => (target.len() as u64, if target.len() < SHORT_LINK { 0 } else { BLOCK / 512 }),
            _ => (0, 0),
        };
        let meta = self.meta.lock();
        Ok(Attr {
            dev: self.fs.dev,
            ino: self.ino,
            nlink: meta.nlink,
            mode: self.kind | meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            rdev: self.rdev,
            size,
            blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            btime: Some(self.btime),
        })
    }

    fn kind(&self) -> SysResult<u32> {
        Ok(self.kind)
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.child(name)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let entries = self.entries()?.lock();
        Ok(entries.iter().map(|(name, node)| DirEntry { name: name.to_vec(), ino: node.ino, kind: node.kind }).collect())
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        match &self.body {
            Body::Link(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let mode = flags & c::O_ACCMODE;
        match &self.body {
            Body::Regular(content) => {
                if flags & c::O_TRUNC != 0 {
                    content.truncate(0)?;
                    self.modified();
                }
                Ok(self)
            }
            Body::Fifo(pipe) if mode == c::O_WRONLY && flags & c::O_NONBLOCK != 0 && !pipe.has_readers() => Err(Errno::ENXIO),
            Body::Fifo(pipe) => Ok(PipeEnd::open(pipe, mode != c::O_WRONLY, mode != c::O_RDONLY)),
            Body::Device => (self.fs.devices)(self.kind, self.rdev),
            Body::Socket(_) => Err(Errno::ENXIO),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Link(_) => Err(Errno::ELOOP),
        }
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let made = Self::new(&self.fs, node)?;
        self.set(name, Some(made.clone()))?;
        Ok(made)
    }

    fn tmpfile(self: Arc<Self>, node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let made = Self::new(&self.fs, node)?;
        made.lose_name();
        Ok(made)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> SysResult<()> {
        let node = self.own(inode)?;
        {
            let (time, mut meta) = (now(), node.meta.lock());
            meta.nlink += 1;
            meta.ctime = time;
        }
        self.set(name, Some(node))
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>, dir: bool, _used: bool) -> SysResult<()> {
        let node = self.own(child)?;
        if dir {
            node.check_empty()?;
        }
        self.set(name, None)?;
        node.lost_name();
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> SysResult<()> {
        let (to, node) = (self.own(rename.new_dir)?, self.own(rename.child)?);
        let target = rename.target.map(|target| self.own(target)).transpose()?;
        if rename.flags & c::RENAME_EXCHANGE != 0 {
            let other = target.ok_or(Errno::ENOENT)?;
            self.set(rename.name, Some(other.clone()))?;
            to.set(rename.new_name, Some(node.clone()))?;
            other.changed();
            node.changed();
            return Ok(());
        }
        let whiteout = if rename.flags & c::RENAME_WHITEOUT != 0 {
            Some(Self::new(&self.fs, &NewNode { rdev: WHITEOUT_DEV, ..NewNode::plain(c::S_IFCHR) })?)
        } else {
            None
        };
        if let Some(target) = &target {
            target.check_empty()?;
        }
        self.set(rename.name, whiteout)?;
        to.set(rename.new_name, Some(node.clone()))?;
        if let Some(target) = target {
            target.lost_name();
        }
        node.changed();
        Ok(())
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        let time = now();
        if let Some(size) = set.size {
            self.content()?.truncate(size)?;
        }
        let mut meta = self.meta.lock();
        if set.size.is_some() {
            meta.mtime = time;
        }
        if let Some(mode) = set.mode {
            if (mode ^ meta.mode) & 0o111 != 0
                && matches!(&self.body, Body::Regular(content) if content.seals() & seal::EXEC != 0)
            {
                return Err(Errno::EPERM);
            }
            meta.mode = mode & 0o7777;
        }
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        meta.atime = set.atime.unwrap_or(meta.atime);
        meta.mtime = set.mtime.unwrap_or(meta.mtime);
        meta.ctime = time;
        Ok(())
    }

    fn accessed(&self, strict: bool) {
        let mut meta = self.meta.lock();
        if strict || vfs::is_stale(meta.atime, meta.mtime, meta.ctime, now()) {
            meta.atime = now();
        }
    }

    fn acl(&self, default: bool) -> SysResult<Option<Arc<Acl>>> {
        Ok(self.extra(|extra| if default { extra.default_acl.clone() } else { extra.acl.clone() }).flatten())
    }

    fn set_acl(&self, default: bool, acl: Option<Arc<Acl>>) -> SysResult<()> {
        self.change_extra(|extra| {
            *(if default { &mut extra.default_acl } else { &mut extra.acl }) = acl;
            Ok(())
        })
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        self.extra(|extra| extra.xattrs.get(name).map(|value| value.to_vec())).flatten().ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        self.change_extra(|extra| {
            let there = extra.xattrs.contains_key(name);
            if there && flags & c::XATTR_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if !there && flags & c::XATTR_REPLACE != 0 {
                return Err(Errno::ENODATA);
            }
            let others = extra.xattrs.iter().filter(|(other, _)| ***other != *name);
            let used: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            if used + name.len() + value.len() > MAX_XATTRS {
                return Err(Errno::ENOSPC);
            }
            extra.xattrs.insert(name.into(), value.into());
            Ok(())
        })
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        if self.extra(|extra| extra.xattrs.contains_key(name)) != Some(true) {
            return Err(Errno::ENODATA);
        }
        self.change_extra(|extra| extra.xattrs.remove(name).map(drop).ok_or(Errno::ENODATA))
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(self.extra(|extra| extra.xattrs.keys().map(|name| name.to_vec()).collect()).unwrap_or_default())
    }

    fn has_capabilities(&self) -> bool {
        self.extra(|extra| extra.xattrs.contains_key(&b"security.capability"[..])) == Some(true)
    }

    fn writers(&self) -> Option<&Writers> {
        match &self.body {
            Body::Regular(content) => Some(&content.writers),
            _ => None,
        }
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        match &self.body {
            Body::Socket(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(self.fs.statfs())
    }
}
