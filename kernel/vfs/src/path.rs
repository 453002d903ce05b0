//! Places: a name as a mount shows it, and what a process has of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::mount::Mount;

/// A place in the tree: a name, and the mount through which it is seen.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The root of a mount.
    #[must_use]
    pub fn root_of(mount: &Arc<Mount>) -> Self {
        Self { mount: mount.clone(), dentry: mount.root().clone() }
    }

    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }

    /// Another name in the same mount.
    #[must_use]
    pub fn with(&self, dentry: Arc<Dentry>) -> Self {
        Self { mount: self.mount.clone(), dentry }
    }

    /// Goes down to the root of what is mounted here, and on that, and so on.
    pub fn enter_mounts(&mut self) {
        while self.dentry.is_mountpoint() {
            let Some(mount) = self.mount.child_at(&self.dentry) else { break };
            *self = Self::root_of(&mount);
        }
    }

    /// Goes up to the directory that this is in, not beyond `root`. Returns whether it crossed a mount.
    pub(crate) fn go_up(&mut self, root: &Self) -> bool {
        let mut crossed = false;
        loop {
            if self.same(root) {
                break;
            }
            if Arc::ptr_eq(&self.dentry, self.mount.root()) {
                let Some(below) = self.mount.mountpoint() else { break };
                *self = below;
                crossed = true;
                continue;
            }
            if let Some(parent) = self.dentry.parent() {
                self.dentry = parent;
            }
            break;
        }
        if self.dentry.is_mountpoint() {
            let before = self.mount.clone();
            self.enter_mounts();
            crossed |= !Arc::ptr_eq(&before, &self.mount);
        }
        crossed
    }

    /// Whether it is `root`, or can be reached from there by going down.
    #[must_use]
    pub fn is_below(&self, root: &Self) -> bool {
        let mut at = self.clone();
        while !at.same(root) {
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                let Some(below) = at.mount.mountpoint() else { return false };
                at = below;
                continue;
            }
            let Some(parent) = at.dentry.parent() else { return false };
            at.dentry = parent;
        }
        true
    }

    /// The path from `root` (d_path). What isn't below `root` begins with another mount's root.
    #[must_use]
    pub fn text(&self, root: &Self) -> PathText {
        let mut parts: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let mut reachable = true;
        loop {
            if at.same(root) {
                break;
            }
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                let Some(below) = at.mount.mountpoint() else {
                    // A tree of its own, or a root outside of the caller's.
                    reachable = false;
                    break;
                };
                at = below;
                continue;
            }
            let Some((parent, name)) = at.dentry.parent_and_name() else {
                reachable = false;
                break;
            };
            parts.push(name);
            at.dentry = parent;
        }
        let mut text = Vec::new();
        for part in parts.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(part);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        PathText { text, reachable, deleted: self.dentry.is_unlinked() }
    }

    /// The path from `root` as /proc shows it: ` (deleted)` behind it when the name is gone.
    #[must_use]
    pub fn show(&self, root: &Self) -> Vec<u8> {
        let mut text = self.text(root);
        if text.deleted {
            text.text.extend_from_slice(b" (deleted)");
        }
        text.text
    }
}

/// A path as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathText {
    pub text: Vec<u8>,
    /// It starts at the root that was asked for.
    pub reachable: bool,
    /// The last name has been removed.
    pub deleted: bool,
}

/// Root and working directory.
#[derive(Clone)]
pub struct Places {
    pub root: Path,
    pub cwd: Path,
}

/// Root, working directory and file mode mask of tasks (what Linux calls `fs_struct`).
pub struct FsContext {
    places: Mutex<Arc<Places>>,
    umask: AtomicU32,
}

impl FsContext {
    #[must_use]
    pub fn new(root: Path, umask: u32) -> Self {
        let places = Places { cwd: root.clone(), root };
        Self { places: Mutex::new(Arc::new(places)), umask: AtomicU32::new(umask) }
    }

    /// A copy for a new process.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { places: Mutex::new(self.places()), umask: AtomicU32::new(self.umask()) }
    }

    /// Root and working directory as they are now.
    #[must_use]
    pub fn places(&self) -> Arc<Places> {
        self.places.lock().clone()
    }

    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the mask; returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }

    /// chdir(2).
    ///
    /// # Errors
    /// `ENOTDIR`
    pub fn set_cwd(&self, cwd: Path) -> SysResult<()> {
        if !cwd.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.update(|places| places.cwd = cwd);
        Ok(())
    }

    /// chroot(2).
    ///
    /// # Errors
    /// `ENOTDIR`
    pub fn set_root(&self, root: Path) -> SysResult<()> {
        if !root.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.update(|places| places.root = root);
        Ok(())
    }

    /// Changes both at once.
    pub fn update(&self, change: impl FnOnce(&mut Places)) {
        let mut places = self.places.lock();
        let mut new = (**places).clone();
        change(&mut new);
        let old = std::mem::replace(&mut *places, Arc::new(new));
        drop(places);
        drop(old);
    }
}
