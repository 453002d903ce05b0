//! Files in memory, alone or over a read-only tree whose changes they hold.
//!
//! A directory may have a `lower` directory of another filesystem: its entries show through until they are replaced or removed. A file
//! of the lower tree is copied when it is first opened for writing or its attributes change.
#![forbid(unsafe_code)]

mod regular;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use pipe::{Pipe, PipeEnd};
use sync::Mutex;
use vfs::{
    Attr, Dentry, DirEntry, Endpoint, FileOps, FileSystemType, Inode, MountRequest, NewNode, Plain, Rename, SetAttr, SuperBlock,
    new_dev, new_ino,
};

use regular::Regular;

/// Opens devices by number.
pub type DeviceOpener = dyn Fn(u32, u64) -> SysResult<Arc<dyn FileOps>> + Send + Sync;

/// The type of filesystem (tmpfs(5)).
pub struct TmpFs {
    /// `tmpfs`, or `ramfs`, which is the same here.
    pub name: &'static str,
    pub devices: Arc<DeviceOpener>,
}

impl FileSystemType for TmpFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        let mut set = SetAttr { mode: Some(0o1777), ..SetAttr::default() };
        for option in &request.options {
            let id = || option.number(10).and_then(|id| u32::try_from(id).map_err(|_| Errno::EINVAL)).map(Some);
            match &*option.name {
                b"mode" => set.mode = Some(u32::try_from(option.number(8)? & 0o7777).map_err(|_| Errno::EINVAL)?),
                b"uid" => set.uid = id()?,
                b"gid" => set.gid = id()?,
                // Nothing is limited yet.
                b"size" | b"nr_inodes" | b"nr_blocks" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        let root = Node::root(None, 0, self.devices.clone())?;
        root.set_attr(&set)?;
        dentry(self.name, root)
    }
}

/// The root of a filesystem in memory, as something to mount.
///
/// # Errors
/// `EIO`
pub fn dentry(kind: &'static str, root: Arc<Node>) -> SysResult<Arc<Dentry>> {
    let dev = root.fs.dev;
    Dentry::root(SuperBlock::new(kind, dev, Box::new(Plain)), root)
}

struct Super {
    dev: u64,
    devices: Arc<DeviceOpener>,
}

enum Body {
    /// Entries of our own; `None` hides one of the lower directory.
    Directory(BTreeMap<Vec<u8>, Option<Arc<Node>>>),
    /// Contents: ours, or still the lower file's.
    Regular(Option<Arc<Regular>>),
    Link(Vec<u8>),
    Fifo(Arc<Pipe>),
    Device,
}

struct State {
    attr: Attr,
    body: Body,
    lower: Option<Arc<dyn Inode>>,
}

/// A file, directory, link or device in memory.
pub struct Node {
    fs: Arc<Super>,
    state: Mutex<State>,
    links: AtomicU64,
    /// Of a socket's file.
    endpoint: Option<Box<Endpoint>>,
}

fn now() -> Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }
}

impl Node {
    /// The root of a new filesystem, over `lower` if given.
    ///
    /// # Errors
    /// What `lower` says of its attributes.
    pub fn root(lower: Option<Arc<dyn Inode>>, mode: u32, devices: Arc<DeviceOpener>) -> SysResult<Arc<Self>> {
        let fs = Arc::new(Super { dev: new_dev(), devices });
        let mode = lower.as_ref().map_or(Ok(mode), |lower| Ok::<_, Errno>(lower.attr()?.mode))?;
        let node = NewNode::plain(c::S_IFDIR | mode & 0o7777);
        let root = Self::new(&fs, &node)?;
        root.state.lock().lower = lower;
        Ok(root)
    }

    fn new(fs: &Arc<Super>, node: &NewNode) -> SysResult<Arc<Self>> {
        let time = now();
        let body = match node.mode & c::S_IFMT {
            c::S_IFDIR => Body::Directory(BTreeMap::new()),
            c::S_IFREG => Body::Regular(Some(Regular::new()?)),
            c::S_IFLNK => Body::Link(node.target.clone()),
            c::S_IFIFO => Body::Fifo(Arc::new(Pipe::default())),
            c::S_IFCHR | c::S_IFBLK | c::S_IFSOCK => Body::Device,
            _ => return Err(Errno::EINVAL),
        };
        let attr = Attr {
            dev: fs.dev,
            ino: new_ino(),
            nlink: 1,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev,
            size: node.target.len() as u64,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: Some(time),
        };
        let state = Mutex::new(State { attr, body, lower: None });
        let endpoint = (attr.kind() == c::S_IFSOCK).then(Box::default);
        Ok(Arc::new(Self { fs: fs.clone(), state, links: AtomicU64::new(1), endpoint }))
    }

    /// A node that shows `lower`.
    fn over(fs: &Arc<Super>, lower: Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let mut attr = lower.attr()?;
        attr.dev = fs.dev;
        let body = match attr.kind() {
            c::S_IFDIR => Body::Directory(BTreeMap::new()),
            c::S_IFREG => Body::Regular(None),
            c::S_IFLNK => Body::Link(lower.readlink()?),
            c::S_IFIFO => Body::Fifo(Arc::new(Pipe::default())),
            _ => Body::Device,
        };
        let state = Mutex::new(State { attr, body, lower: Some(lower) });
        Ok(Arc::new(Self { fs: fs.clone(), state, links: AtomicU64::new(1), endpoint: None }))
    }

    fn child(&self, name: &[u8]) -> SysResult<Arc<Self>> {
        let mut state = self.state.lock();
        let State { body, lower, .. } = &mut *state;
        let Body::Directory(entries) = body else { return Err(Errno::ENOTDIR) };
        match entries.get(name) {
            Some(Some(node)) => return Ok(node.clone()),
            Some(None) => return Err(Errno::ENOENT),
            None => {}
        }
        let below = lower.clone().ok_or(Errno::ENOENT)?.lookup(name)?;
        let node = Self::over(&self.fs, below)?;
        entries.insert(name.to_vec(), Some(node.clone()));
        Ok(node)
    }

    fn put(&self, name: &[u8], node: Option<Arc<Self>>) -> SysResult<()> {
        let mut state = self.state.lock();
        let time = now();
        (state.attr.mtime, state.attr.ctime) = (time, time);
        let has_lower = state.lower.is_some();
        let Body::Directory(entries) = &mut state.body else { return Err(Errno::ENOTDIR) };
        if node.is_some() || has_lower {
            entries.insert(name.to_vec(), node);
        } else {
            entries.remove(name);
        }
        Ok(())
    }

    fn is_dir(&self) -> bool {
        matches!(self.state.lock().body, Body::Directory(_))
    }

    /// The contents, ours after a copy if `write`.
    fn contents(&self) -> SysResult<Arc<Regular>> {
        let mut state = self.state.lock();
        match &state.body {
            Body::Regular(Some(regular)) => return Ok(regular.clone()),
            Body::Regular(None) => {}
            Body::Directory(_) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let lower = state.lower.clone().ok_or(Errno::EIO)?;
        let regular = Regular::copy_of(&*lower.open(c::O_RDONLY)?)?;
        state.body = Body::Regular(Some(regular.clone()));
        Ok(regular)
    }

    fn removable(&self, dir: bool) -> SysResult<()> {
        match (self.is_dir(), dir) {
            (true, false) => Err(Errno::EISDIR),
            (false, true) => Err(Errno::ENOTDIR),
            (true, true) if !self.readdir()?.is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    fn downcast(inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        any.downcast().map_err(|_| Errno::EXDEV)
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let state = self.state.lock();
        let mut attr = state.attr;
        attr.nlink = if matches!(state.body, Body::Directory(_)) { 2 } else { self.links.load(Ordering::Relaxed) };
        if let Body::Regular(Some(regular)) = &state.body {
            regular.fill(&mut attr);
        }
        Ok(attr)
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.child(name)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let state = self.state.lock();
        let Body::Directory(entries) = &state.body else { return Err(Errno::ENOTDIR) };
        let mut all = Vec::new();
        for (name, node) in entries {
            if let Some(node) = node {
                let attr = node.state.lock().attr;
                all.push(DirEntry { name: name.clone(), ino: attr.ino, kind: attr.kind() });
            }
        }
        if let Some(lower) = &state.lower {
            all.extend(lower.readdir()?.into_iter().filter(|entry| !entries.contains_key(&entry.name)));
        }
        Ok(all)
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        match &self.state.lock().body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let mode = flags & c::O_ACCMODE;
        let state = self.state.lock();
        match &state.body {
            Body::Regular(None) if mode == c::O_RDONLY && flags & c::O_TRUNC == 0 => {
                let lower = state.lower.clone().ok_or(Errno::EIO)?;
                drop(state);
                lower.open(flags)
            }
            Body::Regular(_) => {
                drop(state);
                let regular = self.contents()?;
                if flags & c::O_TRUNC != 0 {
                    regular.truncate(0)?;
                }
                Ok(regular)
            }
            Body::Fifo(pipe) => Ok(PipeEnd::open(pipe, mode != c::O_WRONLY, mode != c::O_RDONLY)),
            Body::Device => {
                let attr = state.attr;
                drop(state);
                (self.fs.devices)(attr.kind(), attr.rdev)
            }
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Link(_) => Err(Errno::ELOOP),
        }
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        let made = Self::new(&self.fs, node)?;
        self.put(name, Some(made.clone()))?;
        Ok(made)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> SysResult<()> {
        let node = Self::downcast(inode)?;
        if !Arc::ptr_eq(&node.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        if node.is_dir() {
            return Err(Errno::EPERM);
        }
        node.links.fetch_add(1, Ordering::Relaxed);
        self.put(name, Some(node))
    }

    fn unlink(&self, name: &[u8], _child: &Arc<dyn Inode>, dir: bool, _used: bool) -> SysResult<()> {
        let node = self.child(name)?;
        node.removable(dir)?;
        node.links.fetch_sub(1, Ordering::Relaxed);
        self.put(name, None)
    }

    fn rename(&self, rename: &Rename<'_>) -> SysResult<()> {
        if rename.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let (name, new_name) = (rename.name, rename.new_name);
        let to = Self::downcast(rename.new_dir)?;
        if !Arc::ptr_eq(&to.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        let node = self.child(name)?;
        if let Ok(there) = to.child(new_name) {
            if Arc::ptr_eq(&there, &node) {
                return Ok(());
            }
            there.removable(node.is_dir())?;
            there.links.fetch_sub(1, Ordering::Relaxed);
        }
        to.put(new_name, Some(node))?;
        self.put(name, None)
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        if let Some(size) = set.size {
            self.contents()?.truncate(size)?;
        }
        let mut state = self.state.lock();
        let attr = &mut state.attr;
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & c::S_IFMT | mode & 0o7777;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.ctime = now();
        if let Some(time) = set.mtime {
            attr.mtime = time;
            if let Body::Regular(Some(regular)) = &state.body {
                regular.set_mtime(time);
            }
        }
        Ok(())
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_deref()
    }

    fn statfs(&self) -> SysResult<Statfs> {
        let base = Statfs { kind: 0x0102_1994, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() };
        match &self.state.lock().lower {
            Some(lower) => Ok(Statfs { kind: 0x794c_7630, ..lower.statfs()? }),
            None => Ok(base),
        }
    }
}
