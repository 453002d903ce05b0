//! Changes to names on behalf of a filesystem that lies over others: nobody's permission is asked for, it is the upper one that checks.

use std::sync::Arc;

use abi::{Errno, SysResult};

use crate::dentry::Dentry;
use crate::inode::{NewNode, Rename};
use crate::names::{is_used, lock_two};

impl Dentry {
    /// Makes a node called `name` in this directory.
    ///
    /// # Errors
    /// `EEXIST`; what the filesystem says.
    pub fn make(self: &Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<Self>> {
        let _guard = self.lock();
        match self.lookup_locked(name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => self.add(name, self.inode().clone().create(name, node)?),
            Err(errno) => Err(errno),
        }
    }

    /// Makes another name for `target`, or gives a file without a name its first.
    ///
    /// # Errors
    /// `EEXIST`; what the filesystem says.
    pub fn make_link(self: &Arc<Self>, name: &[u8], target: &Arc<Self>) -> SysResult<Arc<Self>> {
        let _guard = self.lock();
        match self.lookup_locked(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.inode().link(name, target.inode())?;
        self.add(name, target.inode().clone())
    }

    /// Makes a file without a name in this directory's filesystem.
    ///
    /// # Errors
    /// `EOPNOTSUPP`; what the filesystem says.
    pub fn make_nameless(self: &Arc<Self>, node: &NewNode) -> SysResult<Arc<Self>> {
        let inode = self.inode().clone().tmpfile(node)?;
        self.nameless(inode)
    }

    /// Removes a name: of an empty directory if `dir`, of something else if not.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY`, `ENOTEMPTY`.
    pub fn remove(self: &Arc<Self>, name: &[u8], dir: bool) -> SysResult<()> {
        let _guard = self.lock();
        let child = self.lookup_locked(name)?;
        if child.is_mountpoint() {
            return Err(Errno::EBUSY);
        }
        let _below = dir.then(|| child.lock());
        self.inode().unlink(name, child.inode(), dir, is_used(&child))?;
        self.removed(name, &child);
        Ok(())
    }

    /// Moves a name within the filesystem, replacing what is there; `flags`: `RENAME_EXCHANGE`.
    ///
    /// # Errors
    /// `ENOENT`; what the filesystem says.
    pub fn rename_to(self: &Arc<Self>, name: &[u8], new_dir: &Arc<Self>, new_name: &[u8], flags: u32) -> SysResult<()> {
        let _locks = lock_two(self, new_dir);
        let child = self.lookup_locked(name)?;
        let target = match new_dir.lookup_locked(new_name) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.rename_locked(name, &child, new_dir, new_name, target.as_ref(), flags)
    }

    /// The filesystem's rename, and what is remembered of it. Both directories are locked.
    pub(crate) fn rename_locked(
        self: &Arc<Self>,
        name: &[u8],
        child: &Arc<Self>,
        new_dir: &Arc<Self>,
        new_name: &[u8],
        target: Option<&Arc<Self>>,
        flags: u32,
    ) -> SysResult<()> {
        let exchange = flags & abi::c::RENAME_EXCHANGE != 0;
        let _replaced = target.filter(|target| target.is_dir() && !exchange).map(|target| target.lock());
        self.inode().rename(&Rename {
            name,
            child: child.inode(),
            new_dir: new_dir.inode(),
            new_name,
            target: target.map(|target| target.inode()),
            target_used: target.is_some_and(is_used),
            flags,
        })?;
        match target {
            Some(target) if exchange => self.exchanged(name, child, new_dir, new_name, target),
            target => {
                if let Some(target) = target {
                    new_dir.removed(new_name, target);
                }
                self.moved(name, child, new_dir, new_name, flags & abi::c::RENAME_WHITEOUT != 0);
            }
        }
        Ok(())
    }
}
