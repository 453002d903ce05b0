//! The filesystem of control groups: a directory for each, with its files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::poll::PollEvents;
use abi::structs::Statfs;
use abi::{Errno, SysResult, c};
use sync::WaitQueue;
use usermem::IoBuf;
use vfs::{
    Attr, Caching, Dentry, DirEntry, File, FileOps, FileSystemType, Inode, MountOption, MountRequest, NewNode, Rename, SetAttr,
    SuperBlock, SuperOps, new_dev,
};

use super::control::{self, Control};
use super::{Actor, Cgroup};
use crate::kernel::Kernel;
use crate::ns::CgroupNamespace;

/// `CGROUP2_SUPER_MAGIC`
const MAGIC: i64 = 0x6367_7270;
/// Most that is written to a file at a time.
const MAX_WRITE: usize = 4096;
/// Inode numbers of a group's files follow its own from here on.
const FILES: u64 = 1 << 32;

/// What the tree may be mounted with, in the order in which mounts show it.
const OPTIONS: [&str; 4] = ["nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot"];
/// The bit of the first of those.
pub const NSDELEGATE: u32 = 1;

/// cgroup2 as mount(2) knows it: however often it is mounted, it is one filesystem.
pub struct CgroupFs {
    kernel: Arc<Kernel>,
    tree: Arc<Dentry>,
}

impl CgroupFs {
    /// # Errors
    /// None that there is a reason for.
    pub fn new(kernel: Arc<Kernel>) -> SysResult<Self> {
        let dev = new_dev();
        let node = Node { kernel: kernel.clone(), dev, cgroup: kernel.cgroups.root.clone(), control: None };
        let superblock = SuperBlock::new("cgroup2", dev, Box::new(Super(kernel.clone())));
        let tree = Dentry::root(superblock, Arc::new(node))?;
        let tree = kernel.cgroups.tree.get_or_init(|| tree).clone();
        Ok(Self { kernel, tree })
    }
}

/// The namespace that the caller sees groups in.
fn namespace(kernel: &Kernel) -> Arc<CgroupNamespace> {
    crate::current().map_or_else(|| kernel.ns.cgroup.clone(), |task| task.lock().ns.cgroup.clone())
}

/// Sets options, if the caller is in the first namespace; in others they are passed over.
///
/// # Errors
/// `EINVAL` for unknown ones.
fn set_options(kernel: &Kernel, options: &[MountOption]) -> SysResult<()> {
    let mut bits = 0;
    for option in options {
        let place = OPTIONS.iter().position(|known| known.as_bytes() == option.name && option.value.is_none());
        bits |= 1u32 << place.ok_or(Errno::EINVAL)?;
    }
    if Arc::ptr_eq(&namespace(kernel), &kernel.ns.cgroup) {
        kernel.cgroups.options.store(bits, Ordering::Relaxed);
    }
    Ok(())
}

impl FileSystemType for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        set_options(&self.kernel, &request.options)?;
        // Who mounts it sees the groups from its namespace's root on.
        let root = namespace(&self.kernel).root(&self.kernel);
        if root.is_gone() {
            return Err(Errno::ENOENT);
        }
        root.names().iter().try_fold(self.tree.clone(), |at, name| at.lookup(name))
    }
}

/// The filesystem as a whole.
struct Super(Arc<Kernel>);

impl SuperOps for Super {
    fn show_options(&self) -> String {
        let bits = self.0.cgroups.options.load(Ordering::Relaxed);
        OPTIONS.iter().enumerate().filter(|(bit, _)| bits & 1 << bit != 0).map(|(_, name)| format!(",{name}")).collect()
    }

    fn reconfigure(&self, options: &[MountOption]) -> SysResult<()> {
        set_options(&self.0, options)
    }

    /// As who asks sees it.
    fn show_root(&self, root: &Arc<Dentry>) -> Vec<u8> {
        let inode: &dyn Any = &**root.inode();
        let Some(node) = inode.downcast_ref::<Node>() else { return root.path_in_filesystem() };
        let mut path = node.cgroup.path_from(&namespace(&self.0).root(&self.0));
        if let Some(control) = node.control {
            path.extend(if path == b"/" { &b""[..] } else { b"/" });
            path.extend(control.name.as_bytes());
        }
        path
    }
}

/// A group's directory, or a file in it.
#[derive(Clone)]
struct Node {
    kernel: Arc<Kernel>,
    dev: u64,
    cgroup: Arc<Cgroup>,
    control: Option<&'static Control>,
}

impl Cgroup {
    /// The group whose directory a file is.
    ///
    /// # Errors
    /// `EBADF`
    pub fn of(file: &File) -> SysResult<Arc<Self>> {
        let inode: &dyn Any = &**file.inode.as_ref().ok_or(Errno::EBADF)?;
        let node = inode.downcast_ref::<Node>().filter(|node| node.control.is_none());
        node.map(|node| node.cgroup.clone()).ok_or(Errno::EBADF)
    }
}

impl Node {
    fn name(&self) -> &'static str {
        self.control.map_or("", |control| control.name)
    }

    fn mode(&self) -> u32 {
        match self.control {
            None => c::S_IFDIR | self.cgroup.owner("", 0o755).0,
            Some(control) => c::S_IFREG | self.cgroup.owner(control.name, control.mode()).0,
        }
    }

    fn ino(&self) -> u64 {
        let place = self.control.and_then(|control| control::files().position(|(name, _)| name == control.name));
        self.cgroup.ino + place.map_or(0, |place| FILES * (place as u64 + 1))
    }

    fn directory(&self, cgroup: Arc<Cgroup>) -> Self {
        Self { cgroup, control: None, ..self.clone() }
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let mode = self.mode();
        let (_, uid, gid) = self.cgroup.owner(self.name(), 0);
        let nlink = if self.control.is_none() { 2 + self.cgroup.children.lock().len() as u64 } else { 1 };
        Ok(Attr { dev: self.dev, ino: self.ino(), mode, nlink, uid, gid, ..Attr::default() })
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        if self.control.is_some() {
            return Err(Errno::ENOTDIR);
        }
        if self.cgroup.is_gone() {
            return Err(Errno::ENOENT);
        }
        if let Some(child) = self.cgroup.children.lock().get(name) {
            return Ok(Arc::new(self.directory(child.clone())));
        }
        let control = control::of(&self.cgroup).find(|control| control.name.as_bytes() == name);
        Ok(Arc::new(Self { control: Some(control.ok_or(Errno::ENOENT)?), ..(*self).clone() }))
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        if self.control.is_some() {
            return Err(Errno::ENOTDIR);
        }
        if self.cgroup.is_gone() {
            return Ok(Vec::new());
        }
        let file = |control| Self { control: Some(control), ..self.clone() };
        let files = control::of(&self.cgroup).map(|control| DirEntry {
            name: control.name.into(),
            ino: file(control).ino(),
            kind: c::S_IFREG,
        });
        let children = self.cgroup.children.lock();
        let groups = children.iter().map(|(name, child)| DirEntry { name: name.to_vec(), ino: child.ino, kind: c::S_IFDIR });
        Ok(files.chain(groups).collect())
    }

    fn open(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        if self.cgroup.is_gone() {
            return Err(Errno::ENODEV);
        }
        let opener = crate::current().map(|task| Actor { who: task.credentials(), ns: namespace(&self.kernel) });
        Ok(Arc::new(Open { node: (*self).clone(), opener, seen: AtomicU64::new(u64::MAX) }))
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        if self.control.is_some() {
            return Err(Errno::ENOTDIR);
        }
        // Groups, and nothing else; their names must not break the lines of /proc/pid/cgroup.
        match node.mode & c::S_IFMT {
            c::S_IFDIR => {}
            c::S_IFREG => return Err(Errno::EACCES),
            _ => return Err(Errno::EPERM),
        }
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        let child = self.kernel.make_cgroup(&self.cgroup, name, (node.mode & 0o7777, node.uid, node.gid))?;
        Ok(Arc::new(self.directory(child)))
    }

    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>, dir: bool, _: bool) -> SysResult<()> {
        if dir { self.kernel.remove_cgroup(&self.cgroup, name) } else { Err(Errno::EPERM) }
    }

    fn link(&self, _: &[u8], _: &Arc<dyn Inode>) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    fn rename(&self, _: &Rename<'_>) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        let usual = self.mode() & 0o7777;
        let (mode, uid, gid) = self.cgroup.owner(self.name(), usual);
        let new = (set.mode.map_or(mode, |mode| mode & 0o7777), set.uid.unwrap_or(uid), set.gid.unwrap_or(gid));
        if new != (mode, uid, gid) {
            self.cgroup.owners.lock().insert(self.name(), new);
        }
        Ok(())
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        self.cgroup.xattrs.lock().get(self.name(), name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        self.cgroup.xattrs.lock().set(self.name(), name, value, flags)
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.cgroup.xattrs.lock().remove(self.name(), name)
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(self.cgroup.xattrs.lock().list(self.name()))
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }

    fn caching(&self) -> Caching {
        Caching::Shared
    }

    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        let child: &dyn Any = &**child;
        child.downcast_ref::<Self>().is_some_and(|child| match child.control {
            Some(control) => control.is_in(&self.cgroup) && !self.cgroup.is_gone(),
            None => self.cgroup.children.lock().get(name).is_some_and(|now| Arc::ptr_eq(now, &child.cgroup)),
        })
    }
}

/// An open file.
struct Open {
    node: Node,
    opener: Option<Actor>,
    /// How often it had changed when it was last read; at first nothing like that.
    seen: AtomicU64,
}

impl Open {
    fn control(&self) -> SysResult<&'static Control> {
        let control = self.node.control.ok_or(Errno::EISDIR)?;
        let there = !self.node.cgroup.is_gone() && control.is_in(&self.node.cgroup);
        if there { Ok(control) } else { Err(Errno::ENODEV) }
    }

    /// Where namespaces are borders, the root of one is set from outside.
    ///
    /// # Errors
    /// `EPERM`
    fn may_write(&self, control: &Control, opener: &Actor) -> SysResult<()> {
        let (kernel, ns) = (&self.node.kernel, &opener.ns);
        let inside =
            kernel.has_borders() && !Arc::ptr_eq(ns, &kernel.ns.cgroup) && Arc::ptr_eq(&ns.root(kernel), &self.node.cgroup);
        if inside && !control.is_delegated() { Err(Errno::EPERM) } else { Ok(()) }
    }
}

impl FileOps for Open {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let make = self.control()?.make.ok_or(Errno::EINVAL)?;
        self.seen.store(self.node.cgroup.changes.count(), Ordering::SeqCst);
        let text = make(&self.node.kernel, &self.node.cgroup)?.into_bytes();
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        if part.is_empty() { Ok(0) } else { buf.copy_out(part) }
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let control = self.control()?;
        let take = control.take.ok_or(Errno::EINVAL)?;
        let opener = self.opener.as_ref().ok_or(Errno::EPERM)?;
        self.may_write(control, opener)?;
        let mut bytes = vec![0; buf.remaining().min(MAX_WRITE + 1)];
        if bytes.len() > MAX_WRITE {
            return Err(Errno::E2BIG);
        }
        let count = buf.copy_in(&mut bytes)?;
        bytes.truncate(count);
        let start = buf.done() - count;
        let text = std::str::from_utf8(&bytes).map_err(|_| Errno::EINVAL);
        let taken = text.and_then(|text| take(&self.node.kernel, &self.node.cgroup, text.trim(), opener));
        // What is refused hasn't been written.
        taken.inspect_err(|_| buf.rewind(start))?;
        Ok(count)
    }

    fn poll(&self) -> PollEvents {
        let mut ready = PollEvents::READABLE | PollEvents::WRITABLE;
        if self.wait_queue().is_some() && self.seen.load(Ordering::SeqCst) != self.node.cgroup.changes.count() {
            ready |= PollEvents::ERR | PollEvents::PRI;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        (self.node.name() == control::EVENTS).then_some(self.node.cgroup.changes.queue())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
