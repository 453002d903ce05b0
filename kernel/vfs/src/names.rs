//! Making, linking, removing and renaming names.
//!
//! Directories are locked while names in them change: the ancestor first, then, of two directories neither of which is above the other,
//! the one at the lower address; then what is removed or replaced, if that is a directory. Renames between directories of a filesystem take
//! turns, so that who is above whom stays true.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials};
use sync::MutexGuard;

use crate::acl;
use crate::caller::Caller;
use crate::dentry::{Dentry, NAME_MAX};
use crate::devices;
use crate::inode::NewNode;
use crate::landlock;
use crate::mount::mounted_on;
use crate::notify;
use crate::path::Path;
use crate::permission::{may_create, may_delete, owns, strip_sgid};
use crate::tree::detach_mounts;
use crate::walk::{Last, Lookup};

/// Attributes of a node that the caller makes in a directory, as Linux's `inode_init_owner` and access control lists have it.
pub(crate) fn new_node(caller: &Caller, dir: &Dentry, mode: u32, rdev: u64, target: Vec<u8>) -> SysResult<NewNode> {
    let (who, inode) = (&caller.who, dir.inode());
    let (above, default) = (inode.attr()?, inode.acl(true)?);
    let inherited = acl::inherit(default, mode, caller.umask);
    let (mut mode, mut gid) = (inherited.mode, who.fsgid.0);
    if above.mode & c::S_ISGID != 0 {
        gid = above.gid;
        if mode & c::S_IFMT == c::S_IFDIR {
            mode |= c::S_ISGID;
        } else if mode & (c::S_ISGID | c::S_IXGRP) == c::S_ISGID | c::S_IXGRP {
            mode = strip_sgid(who, &above, mode);
        }
    }
    Ok(NewNode { mode, uid: who.fsuid.0, gid, rdev, target, acl: inherited.access, default_acl: inherited.default })
}

/// Makes a node. The directory is locked and has nothing of this name.
pub(crate) fn create_locked(
    caller: &Caller,
    dir: &Arc<Dentry>,
    name: &[u8],
    mode: u32,
    rdev: u64,
    target: Vec<u8>,
) -> SysResult<Arc<Dentry>> {
    may_create(&caller.who, dir)?;
    let node = new_node(caller, dir, mode, rdev, target)?;
    let inode = dir.inode().clone().create(name, &node)?;
    let made = dir.add(name, inode)?;
    notify::created(dir, &made, name);
    Ok(made)
}

/// Whether a name is one that can't be made or removed.
fn check_name(name: &[u8]) -> SysResult<()> {
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

impl Caller {
    /// Makes a node at a place where a walk found none: mkdir(2), mknod(2), symlink(2), bind(2).
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EROFS`, `EACCES`, `EPERM` for devices without the right to make them, `EOPNOTSUPP`.
    pub fn create(&self, at: &Lookup<'_>, mode: u32, rdev: u64, target: Vec<u8>) -> SysResult<Path> {
        let kind = mode & c::S_IFMT;
        if at.last != Last::Name {
            return Err(Errno::EEXIST);
        }
        check_name(&at.name)?;
        let dir = &at.parent.dentry;
        let _guard = dir.lock();
        match dir.lookup_locked(&at.name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        if at.slash && kind != c::S_IFDIR {
            return Err(Errno::ENOENT);
        }
        at.parent.mount.check_writable()?;
        landlock::may_make(&self.who, &at.parent, kind)?;
        // The device that overlays hide names by (whiteouts) is nobody's.
        let device = kind == c::S_IFBLK || kind == c::S_IFCHR && rdev != 0;
        if device {
            may_create(&self.who, dir)?;
            if !self.who.has_capability(Capability::MKNOD) {
                return Err(Errno::EPERM);
            }
            devices::may_make(kind, rdev)?;
        }
        Ok(at.parent.with(create_locked(self, dir, &at.name, mode, rdev, target)?))
    }

    /// link(2): another name for what is at `source`.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, source: &Path, at: &Lookup<'_>) -> SysResult<()> {
        if at.last != Last::Name {
            return Err(Errno::EEXIST);
        }
        check_name(&at.name)?;
        let dir = &at.parent.dentry;
        let _guard = dir.lock();
        match dir.lookup_locked(&at.name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) if at.slash => return Err(Errno::ENOENT),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        if !Arc::ptr_eq(&source.mount, &at.parent.mount) {
            return Err(Errno::EXDEV);
        }
        at.parent.mount.check_writable()?;
        let parent = source.dentry.parent().map(|parent| source.with(parent));
        if let Some(parent) = parent {
            landlock::may_refer(&self.who, (&parent, source.dentry.kind()), (&at.parent, None), false, false)?;
        }
        self.may_link(source)?;
        may_create(&self.who, dir)?;
        if !Arc::ptr_eq(source.dentry.superblock(), dir.superblock()) {
            return Err(Errno::EXDEV);
        }
        if source.dentry.is_dir() {
            return Err(Errno::EPERM);
        }
        dir.inode().link(&at.name, source.inode())?;
        dir.add(&at.name, source.inode().clone())?;
        notify::linked(dir, &source.dentry, &at.name);
        Ok(())
    }

    /// Whether the caller may link to a file that isn't its own (fs.protected_hardlinks, which is 1 nearly everywhere).
    fn may_link(&self, source: &Path) -> SysResult<()> {
        let attr = source.inode().attr()?;
        if owns(&self.who, &attr) {
            return Ok(());
        }
        let risky = attr.kind() != c::S_IFREG
            || attr.mode & c::S_ISUID != 0
            || attr.mode & (c::S_ISGID | c::S_IXGRP) == c::S_ISGID | c::S_IXGRP;
        let usable = source.inode().permission(&self.who, crate::Access::READ | crate::Access::WRITE).is_ok();
        if risky || !usable { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// unlink(2), rmdir(2).
    ///
    /// # Errors
    /// As those.
    pub fn unlink(&self, at: &Lookup<'_>, rmdir: bool) -> SysResult<()> {
        match (at.last, rmdir) {
            (Last::Name, _) => {}
            (Last::Dot, true) => return Err(Errno::EINVAL),
            (Last::DotDot, true) => return Err(Errno::ENOTEMPTY),
            (Last::Root, true) => return Err(Errno::EBUSY),
            (_, false) => return Err(Errno::EISDIR),
        }
        let dir = &at.parent.dentry;
        at.parent.mount.check_writable()?;
        let guard = dir.lock();
        let child = dir.lookup_locked(&at.name)?;
        if at.slash && !rmdir {
            return Err(if child.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        landlock::may_remove(&self.who, &at.parent, if rmdir { c::S_IFDIR } else { c::S_IFREG })?;
        may_delete(&self.who, dir, &child, rmdir)?;
        let below = rmdir.then(|| child.lock());
        if self.mounted_here(&child) {
            return Err(Errno::EBUSY);
        }
        dir.inode().unlink(&at.name, child.inode(), rmdir, is_used(&child))?;
        dir.removed(&at.name, &child);
        notify::removed(dir, &child, &at.name);
        drop((below, guard));
        detach_mounts(&child);
        Ok(())
    }

    /// rename(2); `flags`: `RENAME_*`.
    ///
    /// # Errors
    /// As renameat2(2).
    pub fn rename(&self, from: &Lookup<'_>, to: &Lookup<'_>, flags: u32) -> SysResult<()> {
        let known = c::RENAME_NOREPLACE | c::RENAME_EXCHANGE | c::RENAME_WHITEOUT;
        let exchange = flags & c::RENAME_EXCHANGE != 0;
        if flags & !known != 0 || exchange && flags & (c::RENAME_NOREPLACE | c::RENAME_WHITEOUT) != 0 {
            return Err(Errno::EINVAL);
        }
        if !Arc::ptr_eq(&from.parent.mount, &to.parent.mount) {
            return Err(Errno::EXDEV);
        }
        if from.last != Last::Name || to.last != Last::Name {
            return Err(if flags & c::RENAME_NOREPLACE != 0 && from.last == Last::Name { Errno::EEXIST } else { Errno::EBUSY });
        }
        check_name(&to.name)?;
        from.parent.mount.check_writable()?;
        let (dir, new_dir) = (&from.parent.dentry, &to.parent.dentry);
        let locks = lock_two(dir, new_dir);
        let child = dir.lookup_locked(&from.name)?;
        let target = match new_dir.lookup_locked(&to.name) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        check_targets(from, to, &child, target.as_ref(), flags)?;
        // Neither may become its own descendant.
        if new_dir.is_below(&child) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && dir.is_below(target)
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target.as_ref().is_some_and(|target| same_inode(&child, target)) {
            return Ok(());
        }
        let replaced = target.as_ref().map(|target| target.kind());
        landlock::may_refer(&self.who, (&from.parent, child.kind()), (&to.parent, replaced), true, exchange)?;
        self.may_rename(dir, &child, new_dir, target.as_ref(), exchange)?;
        if self.mounted_here(&child) || target.as_ref().is_some_and(|target| self.mounted_here(target)) {
            return Err(Errno::EBUSY);
        }
        if flags & c::RENAME_WHITEOUT != 0 && !self.who.has_capability(Capability::MKNOD) {
            return Err(Errno::EPERM);
        }
        let flags = flags & !c::RENAME_NOREPLACE;
        dir.rename_locked(&from.name, &child, new_dir, &to.name, target.as_ref(), flags)?;
        notify::moved((dir, &from.name), (new_dir, &to.name), &child, target.as_ref().filter(|_| !exchange));
        let Some(target) = target else { return Ok(()) };
        if exchange {
            notify::moved((new_dir, &to.name), (dir, &from.name), &target, None);
        } else {
            drop(locks);
            detach_mounts(&target);
        }
        Ok(())
    }

    /// Whether something is mounted on a name that the caller would miss. In other namespaces it would go with the name.
    fn mounted_here(&self, dentry: &Arc<Dentry>) -> bool {
        let here = self.places.root.mount.namespace();
        let same = |mount: Arc<crate::Mount>| {
            let there = mount.namespace();
            there.zip(here.clone()).is_some_and(|(there, here)| Arc::ptr_eq(&there, &here))
        };
        mounted_on(dentry).into_iter().any(same)
    }

    fn may_rename(
        &self,
        dir: &Dentry,
        child: &Dentry,
        new_dir: &Dentry,
        target: Option<&Arc<Dentry>>,
        exchange: bool,
    ) -> SysResult<()> {
        let who: &Credentials = &self.who;
        may_delete(who, dir, child, child.is_dir())?;
        match target {
            None => may_create(who, new_dir)?,
            Some(target) => may_delete(who, new_dir, target, if exchange { target.is_dir() } else { child.is_dir() })?,
        }
        // A directory that moves has its `..` changed.
        if !std::ptr::eq(dir, new_dir) {
            for moved in [Some(child), target.filter(|_| exchange).map(|target| &**target)].into_iter().flatten() {
                if moved.is_dir() {
                    moved.inode().permission(who, crate::Access::WRITE)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether others than the cache hold a name. The caller holds it once.
pub(crate) fn is_used(dentry: &Arc<Dentry>) -> bool {
    Arc::strong_count(dentry) > 2
}

fn same_inode(a: &Dentry, b: &Dentry) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a.inode()), Arc::as_ptr(b.inode()))
}

/// What must be there, must not, and must be a directory.
fn check_targets(
    from: &Lookup<'_>,
    to: &Lookup<'_>,
    child: &Arc<Dentry>,
    target: Option<&Arc<Dentry>>,
    flags: u32,
) -> SysResult<()> {
    if flags & c::RENAME_NOREPLACE != 0 && target.is_some() {
        return Err(Errno::EEXIST);
    }
    if flags & c::RENAME_EXCHANGE != 0 {
        let target = target.ok_or(Errno::ENOENT)?;
        if to.slash && !target.is_dir() {
            return Err(Errno::ENOTDIR);
        }
    }
    if !child.is_dir() && (from.slash || to.slash && flags & c::RENAME_EXCHANGE == 0) {
        return Err(Errno::ENOTDIR);
    }
    Ok(())
}

/// Locks two directories, or one that is both.
pub(crate) fn lock_two<'a>(
    a: &'a Arc<Dentry>,
    b: &'a Arc<Dentry>,
) -> (Option<MutexGuard<'a, ()>>, MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>) {
    if Arc::ptr_eq(a, b) {
        return (None, a.lock(), None);
    }
    let turn = a.superblock().renaming.lock();
    let a_first = if b.is_below(a) {
        true
    } else if a.is_below(b) {
        false
    } else {
        Arc::as_ptr(a) < Arc::as_ptr(b)
    };
    let (first, second) = if a_first { (a, b) } else { (b, a) };
    let first = first.lock();
    (Some(turn), first, Some(second.lock()))
}
