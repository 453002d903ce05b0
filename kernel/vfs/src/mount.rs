//! Mounts, and the tree that they make.
//!
//! The tree is changed under one lock ([`topology`]), whatever namespaces are concerned. A walk takes only the lock of the mount that it crosses.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use abi::{Errno, SysResult, c};
use sync::{Mutex, MutexGuard, RwLock};

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::namespace::{MountNamespace, NamespaceState};
use crate::path::Path;
use crate::propagation::Propagation;
use crate::superblock::SuperBlock;
use crate::writers::Writing;

/// Flags that belong to a mount (`MS_*`).
pub const MOUNT_FLAGS: u64 =
    c::MS_RDONLY | c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC | c::MS_NOATIME | c::MS_NODIRATIME | c::MS_RELATIME | MS_NOSYMFOLLOW;
/// `MS_NOSYMFOLLOW`
pub const MS_NOSYMFOLLOW: u64 = 1 << 8;

static TOPOLOGY: Mutex<()> = Mutex::new(());

/// Takes the lock under which the tree changes (Linux's `namespace_sem`). Outside of all locks of directories.
pub(crate) fn topology() -> MutexGuard<'static, ()> {
    TOPOLOGY.lock()
}

/// Where a mount is.
struct Place {
    parent: Weak<Mount>,
    dentry: Arc<Dentry>,
}

/// A filesystem's tree, or a part of it, at a place.
pub struct Mount {
    id: u64,
    superblock: Arc<SuperBlock>,
    root: Arc<Dentry>,
    source: Box<[u8]>,
    /// `MS_*` of [`MOUNT_FLAGS`].
    flags: AtomicU64,
    /// Flags that may not be taken back: a more privileged namespace has set them.
    locked_flags: AtomicU64,
    /// It may not be unmounted alone, so that what is below stays hidden.
    locked: AtomicBool,
    /// `MNT_EXPIRE` has been asked for, and nobody has used it since.
    expiring: AtomicBool,
    place: Mutex<Option<Place>>,
    /// By address of the dentry: mounted on each is one.
    children: RwLock<HashMap<usize, Arc<Mount>>>,
    pub(crate) propagation: Mutex<Propagation>,
    namespace: Mutex<Option<Arc<NamespaceState>>>,
    /// Files open for writing through it.
    writers: AtomicU32,
    /// It has been unmounted: whoever holds it can use it, but not mount it again.
    ended: AtomicBool,
}

/// Mounts by number, which is the order in which they were made.
pub(crate) type Numbered = BTreeMap<u64, Weak<Mount>>;

/// The mounts on each name, in whatever namespace, by address of the name.
static MOUNTED: LazyLock<Mutex<HashMap<usize, Numbered>>> = LazyLock::new(Mutex::default);

/// The mounts on a name, in whatever namespace.
pub(crate) fn mounted_on(dentry: &Arc<Dentry>) -> Vec<Arc<Mount>> {
    if !dentry.is_mountpoint() {
        return Vec::new();
    }
    MOUNTED.lock().get(&key(dentry)).map(|all| all.values().filter_map(Weak::upgrade).collect()).unwrap_or_default()
}

/// The mount called `id` is no longer among those on its name.
fn left(dentry: &Arc<Dentry>, id: u64) {
    dentry.mounts().fetch_sub(1, Ordering::SeqCst);
    let mut all = MOUNTED.lock();
    if let Entry::Occupied(mut entry) = all.entry(key(dentry)) {
        entry.get_mut().remove(&id);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

impl Mount {
    /// A mount of the tree below `root`, at no place yet.
    #[must_use]
    pub fn new(root: Arc<Dentry>, source: &[u8], flags: u64) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(20);
        let superblock = root.superblock().clone();
        superblock.mounted();
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            superblock,
            root,
            source: source.into(),
            flags: AtomicU64::new(flags & MOUNT_FLAGS),
            locked_flags: AtomicU64::new(0),
            locked: AtomicBool::new(false),
            expiring: AtomicBool::new(false),
            place: Mutex::default(),
            children: RwLock::default(),
            propagation: Mutex::default(),
            namespace: Mutex::default(),
            writers: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// As statx(2) and mountinfo have it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn superblock(&self) -> &Arc<SuperBlock> {
        &self.superblock
    }

    #[must_use]
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// What was given as its source: a device, a directory, any word.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// `MS_*`
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn no_symfollow(&self) -> bool {
        self.flags() & MS_NOSYMFOLLOW != 0
    }

    /// Whether it has the flag (`MS_*`).
    #[must_use]
    pub fn has(&self, flag: u64) -> bool {
        self.flags() & flag != 0
    }

    /// Replaces the flags.
    ///
    /// # Errors
    /// `EPERM` for one that is locked; `EBUSY` when it would become read-only and files are open for writing.
    pub fn set_flags(&self, flags: u64) -> SysResult<()> {
        let _topology = topology();
        self.may_set_flags(flags)?;
        self.store_flags(flags);
        Ok(())
    }

    pub(crate) fn may_set_flags(&self, flags: u64) -> SysResult<()> {
        let (flags, locked) = (flags & MOUNT_FLAGS, self.locked_flags.load(Ordering::Relaxed));
        if (flags ^ self.flags()) & locked & (c::MS_NOATIME | c::MS_NODIRATIME | c::MS_RELATIME) != 0
            || self.flags() & locked & !flags & !(c::MS_NOATIME | c::MS_NODIRATIME | c::MS_RELATIME) != 0
        {
            return Err(Errno::EPERM);
        }
        if flags & c::MS_RDONLY != 0 && !self.has(c::MS_RDONLY) && self.writers.load(Ordering::SeqCst) > 0 {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    pub(crate) fn store_flags(&self, flags: u64) {
        self.flags.store(flags & MOUNT_FLAGS, Ordering::SeqCst);
    }

    /// A file has been read through it: its access time changes if the flags say so (mount(8), `noatime` and its kin).
    pub fn accessed(&self, inode: &Arc<dyn Inode>, dir: bool) {
        let flags = self.flags();
        if flags & c::MS_NOATIME != 0 || dir && flags & c::MS_NODIRATIME != 0 || self.check_writable().is_err() {
            return;
        }
        inode.accessed(flags & c::MS_RELATIME == 0);
    }

    /// Whether names and files may be changed through it.
    ///
    /// # Errors
    /// `EROFS`
    pub fn check_writable(&self) -> SysResult<()> {
        if self.has(c::MS_RDONLY) || self.superblock.read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Keeps it from becoming read-only, and the inode from being run, for as long as the result lives.
    ///
    /// # Errors
    /// `EROFS`, `ETXTBSY`.
    pub fn write_access(self: &Arc<Self>, inode: &Arc<dyn Inode>) -> SysResult<WriteAccess> {
        let access = WriteAccess::new(self, Writing::new(inode)?);
        self.check_writable()?;
        Ok(access)
    }

    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_locked(&self, locked: bool) {
        self.locked.store(locked, Ordering::Relaxed);
    }

    /// Locks it and its flags: a less privileged namespace gets it.
    pub(crate) fn lock_down(&self) {
        let atime = c::MS_NOATIME | c::MS_NODIRATIME | c::MS_RELATIME;
        let once = c::MS_RDONLY | c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC;
        self.locked_flags.fetch_or(atime | self.flags() & once, Ordering::Relaxed);
        self.set_locked(true);
    }

    /// A copy keeps what is locked.
    pub(crate) fn inherit_locks(&self, original: &Self) {
        self.locked_flags.store(original.locked_flags.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It has been used: `MNT_EXPIRE` starts over.
    pub(crate) fn used(&self) {
        if self.expiring.load(Ordering::Relaxed) {
            self.expiring.store(false, Ordering::SeqCst);
        }
    }

    /// Asks for its end when it is unused; returns whether it had been asked before.
    pub(crate) fn expire(&self) -> bool {
        self.expiring.swap(true, Ordering::SeqCst)
    }

    /// The mount that it is on.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().as_ref()?.parent.upgrade()
    }

    /// The place that it is on.
    #[must_use]
    pub fn mountpoint(&self) -> Option<Path> {
        let place = self.place.lock();
        let place = place.as_ref()?;
        Some(Path { mount: place.parent.upgrade()?, dentry: place.dentry.clone() })
    }

    /// What is mounted on a name of it.
    #[must_use]
    pub fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Self>> {
        self.children.read().get(&key(dentry)).cloned()
    }

    /// What is mounted on names of it, in order of mounting.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Self>> {
        let mut all: Vec<_> = self.children.read().values().cloned().collect();
        all.sort_unstable_by_key(|child| child.id);
        all
    }

    pub(crate) fn has_children(&self) -> bool {
        !self.children.read().is_empty()
    }

    /// It and all that is mounted below; parents first.
    #[must_use]
    pub fn tree(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut all = vec![self.clone()];
        let mut at = 0;
        while let Some(mount) = all.get(at) {
            let children = mount.children();
            all.extend(children);
            at += 1;
        }
        all
    }

    /// The namespace that it is in.
    #[must_use]
    pub fn namespace(&self) -> Option<Arc<NamespaceState>> {
        self.namespace.lock().clone()
    }

    pub(crate) fn set_namespace(&self, namespace: Option<Arc<NamespaceState>>) {
        *self.namespace.lock() = namespace;
    }

    /// Whether it is in a namespace.
    #[must_use]
    pub fn belongs_to(&self, namespace: &MountNamespace) -> bool {
        self.is_in(namespace)
    }

    pub(crate) fn is_in(&self, namespace: &MountNamespace) -> bool {
        self.namespace.lock().as_ref().is_some_and(|own| Arc::ptr_eq(own, namespace.state()))
    }

    /// Puts it on a place where nothing is mounted. Under the topology lock.
    pub(crate) fn attach(self: &Arc<Self>, at: &Path) {
        at.dentry.pin_in_parent();
        at.dentry.mounts().fetch_add(1, Ordering::SeqCst);
        MOUNTED.lock().entry(key(&at.dentry)).or_default().insert(self.id, Arc::downgrade(self));
        *self.place.lock() = Some(Place { parent: Arc::downgrade(&at.mount), dentry: at.dentry.clone() });
        at.mount.children.write().insert(key(&at.dentry), self.clone());
    }

    /// Takes it off its place, which is returned. Under the topology lock.
    pub(crate) fn detach(&self) -> Option<Path> {
        let place = self.place.lock().take()?;
        left(&place.dentry, self.id);
        let parent = place.parent.upgrade()?;
        let old = parent.children.write().remove(&key(&place.dentry));
        drop(old);
        Some(Path { mount: parent, dentry: place.dentry })
    }

    /// Whether it has been unmounted.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether anybody but the tree and the caller, who holds it `held` times, uses it.
    pub(crate) fn is_busy(self: &Arc<Self>, held: usize) -> bool {
        let tree = usize::from(self.place.lock().is_some());
        self.has_children() || Arc::strong_count(self) > tree + held
    }
}

impl Drop for Mount {
    /// What is mounted below and isn't held otherwise goes one by one: how deep it is nested is the guest's choice, the stack isn't.
    fn drop(&mut self) {
        let mut gone: Vec<Arc<Self>> = self.children.get_mut().drain().map(|(_, child)| child).collect();
        while let Some(child) = gone.pop() {
            if let Some(place) = child.place.lock().take() {
                left(&place.dentry, child.id);
            }
            if let Some(mut child) = Arc::into_inner(child) {
                gone.extend(child.children.get_mut().drain().map(|(_, child)| child));
            }
        }
        let id = self.id;
        self.propagation.get_mut().leave(id);
        self.superblock.unmounted(&self.root);
    }
}

/// Keeps a mount and its filesystem from becoming read-only, and a file on it from being run.
pub struct WriteAccess(Arc<Mount>, #[expect(dead_code, reason = "held for its end")] Writing);

impl WriteAccess {
    fn new(mount: &Arc<Mount>, writing: Writing) -> Self {
        mount.writers.fetch_add(1, Ordering::SeqCst);
        mount.superblock.writers.fetch_add(1, Ordering::SeqCst);
        Self(mount.clone(), writing)
    }
}

impl Drop for WriteAccess {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::SeqCst);
        self.0.superblock.writers.fetch_sub(1, Ordering::SeqCst);
    }
}
