//! Names in a filesystem (what Linux calls the dcache).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, SysResult, c};
use sync::{Mutex, MutexGuard, RwLock};

use crate::cache;
use crate::inode::{Caching, Inode};
use crate::superblock::SuperBlock;

/// Longest name (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Names that one directory remembers to be missing; all are forgotten beyond.
const MAX_MISSING: usize = 1024;

struct Names {
    name: Box<[u8]>,
    parent: Option<Arc<Dentry>>,
}

/// What a directory remembers. A name that is `None` is known to be missing.
#[derive(Default)]
struct Children {
    map: HashMap<Box<[u8]>, Option<Arc<Dentry>>>,
    missing: usize,
}

impl Children {
    fn set(&mut self, name: &[u8], value: Option<Arc<Dentry>>) -> Option<Arc<Dentry>> {
        if value.is_none() && self.missing >= MAX_MISSING {
            self.forget_missing();
        }
        self.missing += usize::from(value.is_none());
        let old = match self.map.entry(name.into()) {
            Entry::Occupied(mut entry) => Some(entry.insert(value)),
            Entry::Vacant(entry) => {
                entry.insert(value);
                None
            }
        };
        self.missing -= usize::from(matches!(old, Some(None)));
        old.flatten()
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Dentry>> {
        let old = self.map.remove(name);
        self.missing -= usize::from(matches!(old, Some(None)));
        old.flatten()
    }

    fn forget_missing(&mut self) {
        self.map.retain(|_, child| child.is_some());
        self.missing = 0;
    }
}

/// A name in a filesystem, and what it names. A directory's children are remembered, and so is what is missing; [`cache`] bounds that.
pub struct Dentry {
    superblock: Arc<SuperBlock>,
    inode: Arc<dyn Inode>,
    /// `S_IFMT` bits, which never change.
    kind: u32,
    names: Mutex<Names>,
    children: RwLock<Children>,
    /// Of a directory: held while names in it are looked up in the filesystem or changed (`i_rwsem`).
    lock: Mutex<()>,
    /// The name has been removed, or never was.
    unlinked: AtomicBool,
    /// Mounts on it, in whatever namespace.
    mounts: AtomicU32,
    /// Open files by this name.
    opens: AtomicU32,
    /// Looked up since the cache last thought of forgetting it.
    pub(crate) used: AtomicBool,
}

impl Dentry {
    /// The root of a filesystem.
    ///
    /// # Errors
    /// What the inode says of its attributes.
    pub fn root(superblock: Arc<SuperBlock>, inode: Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        Self::new(superblock, inode, b"", None)
    }

    fn new(superblock: Arc<SuperBlock>, inode: Arc<dyn Inode>, name: &[u8], parent: Option<Arc<Self>>) -> SysResult<Arc<Self>> {
        let kind = inode.kind()?;
        Ok(Arc::new(Self {
            superblock,
            inode,
            kind,
            names: Mutex::new(Names { name: name.into(), parent }),
            children: RwLock::default(),
            lock: Mutex::new(()),
            unlinked: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
            opens: AtomicU32::new(0),
            used: AtomicBool::new(false),
        }))
    }

    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    #[must_use]
    pub fn superblock(&self) -> &Arc<SuperBlock> {
        &self.superblock
    }

    /// `S_IFMT` bits.
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.kind
    }

    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == c::S_IFDIR
    }

    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind == c::S_IFLNK
    }

    /// The directory it is in; `None` for a root.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.names.lock().parent.clone()
    }

    #[must_use]
    pub fn name(&self) -> Box<[u8]> {
        self.names.lock().name.clone()
    }

    /// Both at once.
    pub(crate) fn parent_and_name(&self) -> Option<(Arc<Self>, Box<[u8]>)> {
        let names = self.names.lock();
        Some((names.parent.clone()?, names.name.clone()))
    }

    /// The path from the filesystem's root.
    #[must_use]
    pub fn path_in_filesystem(self: &Arc<Self>) -> Vec<u8> {
        let (mut parts, mut at) = (Vec::new(), self.clone());
        while let Some((parent, name)) = at.parent_and_name() {
            parts.push(name);
            at = parent;
        }
        if parts.is_empty() {
            return b"/".to_vec();
        }
        parts.iter().rev().flat_map(|part| [b"/", &**part].concat()).collect()
    }

    /// Whether the name has been removed.
    #[must_use]
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// Whether something may be mounted on it.
    #[must_use]
    pub fn is_mountpoint(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    /// Whether it is open by this name.
    pub(crate) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }

    pub(crate) fn opened(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// One open file less; whether that was the last one.
    pub(crate) fn closed(&self) -> bool {
        self.opens.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(crate) fn mounts(&self) -> &AtomicU32 {
        &self.mounts
    }

    /// Whether `ancestor` is it, or above it in its filesystem.
    #[must_use]
    pub fn is_below(self: &Arc<Self>, ancestor: &Arc<Self>) -> bool {
        let mut at = self.clone();
        while !Arc::ptr_eq(&at, ancestor) {
            let Some(parent) = at.parent() else { return false };
            at = parent;
        }
        true
    }

    /// Takes the directory's lock. Ancestors first; [`crate::names`] has the order for several.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock()
    }

    /// What is remembered of `name`: `None` when nothing is, `Some(None)` when it is known to be missing.
    fn remembered(&self, name: &[u8]) -> Option<Option<Arc<Self>>> {
        let child = self.children.read().map.get(name).cloned();
        if let Some(Some(child)) = &child
            && !child.used.load(Ordering::Relaxed)
        {
            child.used.store(true, Ordering::Relaxed);
        }
        child
    }

    /// The child called `name`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> SysResult<Arc<Self>> {
        if let Some(child) = self.remembered(name) {
            match self.inode.caching() {
                Caching::Exclusive => return child.ok_or(Errno::ENOENT),
                Caching::Shared => {
                    if let Some(child) = child
                        && (child.is_mountpoint() || self.inode.revalidate(name, &child.inode))
                    {
                        return Ok(child);
                    }
                }
                Caching::None => {}
            }
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let _guard = self.lock();
        self.lookup_locked(name)
    }

    /// [`Self::lookup`] under the directory's lock: what it says stays true until that is released, but for changes by the host.
    pub(crate) fn lookup_locked(self: &Arc<Self>, name: &[u8]) -> SysResult<Arc<Self>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let caching = self.inode.caching();
        match (self.remembered(name), caching) {
            (Some(child), Caching::Exclusive) => return child.ok_or(Errno::ENOENT),
            (Some(Some(child)), Caching::Shared | Caching::None) => {
                if child.is_mountpoint() || caching == Caching::Shared && self.inode.revalidate(name, &child.inode) {
                    return Ok(child);
                }
                self.forget(name);
            }
            _ => {}
        }
        match self.inode.clone().lookup(name) {
            Ok(inode) => self.add(name, inode),
            Err(Errno::ENOENT) => {
                if caching == Caching::Exclusive {
                    self.children.write().set(name, None);
                }
                Err(Errno::ENOENT)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Remembers a new child, unless it is of those that must be looked up each time. Under the directory's lock.
    pub(crate) fn add(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let dentry = Self::new(self.superblock.clone(), inode, name, Some(self.clone()))?;
        if self.inode.caching() != Caching::None {
            self.children.write().set(name, Some(dentry.clone()));
            cache::added(&dentry);
        }
        Ok(dentry)
    }

    /// A file without a name (`O_TMPFILE`).
    pub(crate) fn nameless(self: &Arc<Self>, inode: Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let name = format!("#{}", inode.attr()?.ino);
        self.unlinked(name.as_bytes(), inode)
    }

    /// A file that has no name any more, and never had: `name` is only shown.
    ///
    /// # Errors
    /// What the inode says of its attributes.
    pub fn unlinked(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let dentry = Self::new(self.superblock.clone(), inode, name, Some(self.clone()))?;
        dentry.unlinked.store(true, Ordering::Release);
        Ok(dentry)
    }

    /// Remembers a child even where names are looked up each time: something gets mounted on it.
    pub(crate) fn pin_in_parent(self: &Arc<Self>) {
        if let Some((parent, name)) = self.parent_and_name()
            && parent.inode.caching() == Caching::None
            && !self.is_unlinked()
        {
            parent.children.write().set(&name, Some(self.clone()));
        }
    }

    /// The child called `name` is gone for whoever asks from now on. Those who hold it keep it.
    pub(crate) fn removed(&self, name: &[u8], child: &Self) {
        child.unlinked.store(true, Ordering::Release);
        let exclusive = self.inode.caching() == Caching::Exclusive;
        let mut children = self.children.write();
        let old = if exclusive { children.set(name, None) } else { children.remove(name) };
        drop(children);
        drop(old);
    }

    /// A name has changed without us, or can't be relied on.
    fn forget(&self, name: &[u8]) {
        let old = self.children.write().remove(name);
        if let Some(old) = old {
            old.unlinked.store(true, Ordering::Release);
        }
    }

    /// `child` is called `new_name` in `new_dir` from now on; `whiteout`: its old name is something else.
    pub(crate) fn moved(self: &Arc<Self>, name: &[u8], child: &Arc<Self>, new_dir: &Arc<Self>, new_name: &[u8], whiteout: bool) {
        let exclusive = self.inode.caching() == Caching::Exclusive && !whiteout;
        let mut children = self.children.write();
        if exclusive {
            children.set(name, None)
        } else {
            children.remove(name)
        };
        drop(children);
        child.become_child(new_dir, new_name);
    }

    /// Two names change places.
    pub(crate) fn exchanged(
        self: &Arc<Self>,
        name: &[u8],
        child: &Arc<Self>,
        dir: &Arc<Self>,
        other_name: &[u8],
        other: &Arc<Self>,
    ) {
        child.become_child(dir, other_name);
        other.become_child(self, name);
    }

    fn become_child(self: &Arc<Self>, dir: &Arc<Self>, name: &[u8]) {
        let old = std::mem::replace(&mut *self.names.lock(), Names { name: name.into(), parent: Some(dir.clone()) });
        let replaced = dir.children.write().set(name, Some(self.clone()));
        drop((old, replaced));
    }

    /// Forgets the child if nobody but the cache holds it. Returns whether it did.
    pub(crate) fn evict(self: Arc<Self>) -> bool {
        self.children.write().forget_missing();
        let Some((parent, name)) = self.parent_and_name() else { return false };
        let mut children = parent.children.write();
        let idle = |child: &Arc<Self>| Arc::ptr_eq(child, &self) && Arc::strong_count(child) == 2 && !child.is_mountpoint();
        if !children.map.get(&name).and_then(Option::as_ref).is_some_and(idle) {
            return false;
        }
        let old = children.remove(&name);
        drop(children);
        drop(old);
        true
    }

    /// Forgets all that is below, when a filesystem is no longer mounted: children and parents hold each other.
    pub(crate) fn shrink(self: &Arc<Self>) {
        let mut all = vec![self.clone()];
        let mut at = 0;
        while let Some(dentry) = all.get(at).cloned() {
            all.extend(dentry.children.read().map.values().flatten().cloned());
            at += 1;
        }
        for dentry in all.into_iter().rev() {
            let children = std::mem::take(&mut *dentry.children.write());
            drop(children);
        }
    }

    /// Forgets all children, whatever they are: the directory's own filesystem says that they are no longer what they were.
    pub fn invalidate(&self) {
        let mut children = self.children.write();
        children.map.retain(|_, child| child.as_ref().is_some_and(|child| child.is_mountpoint()));
        children.missing = 0;
    }
}

impl Drop for Dentry {
    /// A chain of parents that nobody else holds is given up one by one: its length is the guest's choice, the stack isn't.
    fn drop(&mut self) {
        let mut parent = self.names.get_mut().parent.take();
        while let Some(dentry) = parent.and_then(Arc::into_inner) {
            let mut dentry = dentry;
            parent = dentry.names.get_mut().parent.take();
        }
    }
}
