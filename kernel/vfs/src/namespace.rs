//! Mount namespaces (mount_namespaces(7)).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use abi::{Errno, SysResult, c};
use auth::UserNamespace;
use sync::Changes;

use crate::dentry::Dentry;
use crate::file::FileOps;
use crate::inode::{Attr, Inode, new_dev};
use crate::mount::{Mount, topology};
use crate::path::{FsContext, Path};
use crate::propagation::Copy;
use crate::superblock::{Plain, SuperBlock};
use crate::tree::{MAX_MOUNTS, Unmount, copy_tree, unmount_tree};

/// What a namespace's mounts know of it.
pub struct NamespaceState {
    id: u64,
    /// Whose administrators may change it.
    owner: Arc<UserNamespace>,
    mounts: AtomicIsize,
    /// Of the mounts (poll(2) on /proc/self/mounts).
    pub changes: Changes,
}

/// A tree of mounts. It ends with the last process in it.
pub struct MountNamespace {
    state: Arc<NamespaceState>,
    /// What the root that processes see is mounted on (Linux's rootfs): pivot_root(2) needs a place for it.
    base: Arc<Mount>,
}

impl NamespaceState {
    /// Whether others may change it than may change `other`.
    pub(crate) fn owned_by_others(&self, other: &Self) -> bool {
        !Arc::ptr_eq(&self.owner, &other.owner)
    }

    /// Mounts in it.
    pub(crate) fn count(&self) -> usize {
        usize::try_from(self.mounts.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn changed(&self, mounts: isize) {
        self.mounts.fetch_add(mounts, Ordering::Relaxed);
        self.changes.note();
    }
}

/// The one directory of the filesystem below all others.
struct Rootfs {
    dev: u64,
}

impl Inode for Rootfs {
    fn attr(&self) -> SysResult<Attr> {
        Ok(Attr { dev: self.dev, ino: 1, nlink: 2, mode: c::S_IFDIR | 0o755, ..Attr::default() })
    }

    fn lookup(self: Arc<Self>, _: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Err(Errno::ENOENT)
    }

    fn open(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::EISDIR)
    }
}

impl MountNamespace {
    /// A namespace whose root is `root`.
    ///
    /// # Errors
    /// What the root says of its attributes.
    pub fn new(root: &Arc<Mount>, owner: Arc<UserNamespace>) -> SysResult<Arc<Self>> {
        let dev = new_dev();
        let dentry = Dentry::root(SuperBlock::new("rootfs", dev, Box::new(Plain)), Arc::new(Rootfs { dev }))?;
        let base = Mount::new(dentry, b"rootfs", 0);
        let _topology = topology();
        root.attach(&Path::root_of(&base));
        Ok(Self::of(base, owner))
    }

    /// The namespace whose tree begins with `base`.
    fn of(base: Arc<Mount>, owner: Arc<UserNamespace>) -> Arc<Self> {
        let all = base.tree();
        let state = Arc::new(NamespaceState {
            id: auth::new_inum(),
            owner,
            mounts: AtomicIsize::new(all.len().cast_signed()),
            changes: Changes::default(),
        });
        all.iter().for_each(|mount| mount.set_namespace(Some(state.clone())));
        Arc::new(Self { state, base })
    }

    /// Number of its file in /proc/PID/ns.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.state.id
    }

    /// What outlives it.
    #[must_use]
    pub fn state(&self) -> &Arc<NamespaceState> {
        &self.state
    }

    #[must_use]
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.state.owner
    }

    pub(crate) fn changed(&self, mounts: isize) {
        self.state.changed(mounts);
    }

    /// Tells those who wait for changes that flags are others.
    pub fn announce(&self) {
        self.changed(0);
    }

    /// The filesystems that are mounted in it.
    #[must_use]
    pub fn superblocks(&self) -> Vec<Arc<SuperBlock>> {
        let mut all: Vec<Arc<SuperBlock>> = Vec::new();
        for mount in self.base.tree() {
            if !all.iter().any(|known| Arc::ptr_eq(known, mount.superblock())) {
                all.push(mount.superblock().clone());
            }
        }
        all
    }

    /// The root that a process sees that joins it.
    #[must_use]
    pub fn root(&self) -> Path {
        let mut root = Path::root_of(&self.base);
        root.enter_mounts();
        root
    }

    /// A copy for `CLONE_NEWNS`; `fs` moves into it. If another user namespace owns the copy, what happens in the copy isn't told the
    /// original, and its mounts are locked together.
    ///
    /// # Errors
    /// `ENOSPC` when there are too many mounts.
    pub fn copy(&self, fs: &FsContext, owner: Arc<UserNamespace>) -> SysResult<Arc<Self>> {
        let _topology = topology();
        let less_privileged = !Arc::ptr_eq(&owner, self.owner());
        let how = if less_privileged { Copy::Slave } else { Copy::Peer };
        let mut room = MAX_MOUNTS;
        let copied = copy_tree(&self.base, self.base.root(), how, true, &mut room)?;
        let (old, new) = (self.base.tree(), copied.tree());
        if less_privileged {
            new.iter().for_each(|mount| mount.lock_down());
        }
        // Both are in the same order: what was mounted earlier comes first among siblings.
        let map: HashMap<u64, &Arc<Mount>> = old.iter().map(|mount| mount.id()).zip(&new).collect();
        fs.update(|places| {
            for path in [&mut places.root, &mut places.cwd] {
                if let Some(mount) = map.get(&path.mount.id()) {
                    path.mount = (*mount).clone();
                }
            }
        });
        Ok(Self::of(copied, owner))
    }

    /// All mounts that can be reached from `root`, in order of mounting, each with the path of its place.
    #[must_use]
    pub fn list(&self, root: &Path) -> Vec<(Arc<Mount>, Vec<u8>)> {
        let mut all = self.base.tree();
        all.sort_unstable_by_key(|mount| mount.id());
        let shown = |mount: Arc<Mount>| {
            let place = Path::root_of(&mount).text(root);
            place.reachable.then_some((mount, place.text))
        };
        all.into_iter().filter_map(shown).collect()
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let gone = {
            let _topology = topology();
            unmount_tree(&self.base, Unmount::NAMESPACE)
        };
        drop(gone);
    }
}
