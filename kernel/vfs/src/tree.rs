//! Changes of the mount tree: mount(2), umount2(2), pivot_root(2) and their newer kin.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use abi::{Errno, SysResult};

use crate::dentry::Dentry;
use crate::mount::{Mount, mounted_on, topology};
use crate::namespace::MountNamespace;
use crate::path::Path;
use crate::propagation::{self, Copy, Kind};

/// Mounts of one namespace at most (fs.mount-max).
pub const MAX_MOUNTS: usize = 100_000;

/// A copy of the tree from `root` in `top` on. Mounts that may not be bound are left out unless `all`. Under the topology lock.
///
/// # Errors
/// `ENOSPC` when `room` isn't enough.
pub(crate) fn copy_tree(top: &Arc<Mount>, root: &Arc<Dentry>, copy: Copy, all: bool, room: &mut usize) -> SysResult<Arc<Mount>> {
    let mut copies: HashMap<u64, Arc<Mount>> = HashMap::new();
    let mut one = |mount: &Arc<Mount>, root: &Arc<Dentry>| {
        *room = room.checked_sub(1).ok_or(Errno::ENOSPC)?;
        let made = Mount::new(root.clone(), mount.source(), mount.flags());
        made.inherit_locks(mount);
        made.copy_propagation(mount, copy);
        Ok::<_, Errno>(made)
    };
    let copied = one(top, root)?;
    copies.insert(top.id(), copied.clone());
    for mount in top.tree().into_iter().skip(1) {
        let Some(at) = mount.mountpoint() else { continue };
        let Some(parent) = copies.get(&at.mount.id()).cloned() else { continue };
        let outside = Arc::ptr_eq(&at.mount, top) && !at.dentry.is_below(root);
        if outside || !all && mount.is_unbindable() {
            continue;
        }
        let made = one(&mount, mount.root())?;
        made.set_locked(mount.is_locked());
        made.attach(&Path { mount: parent, dentry: at.dentry });
        copies.insert(mount.id(), made);
    }
    Ok(copied)
}

/// Puts a tree at a place, and copies of it wherever the place's mount is seen (mount_namespaces(7)). Under the topology lock.
fn attach_tree(source: &Arc<Mount>, at: &Path) -> SysResult<()> {
    let namespace = at.mount.namespace();
    let count = source.tree().len();
    let mut room = match &namespace {
        Some(namespace) => MAX_MOUNTS.saturating_sub(namespace.count()).checked_sub(count).ok_or(Errno::ENOSPC)?,
        None => MAX_MOUNTS,
    };
    if at.mount.is_shared() {
        source.tree().iter().for_each(|mount| mount.set_propagation(Kind::Shared));
    }
    let copies = propagation::copies(source, at, &mut room)?;
    place(source, at);
    for (at, copy) in copies {
        let there = at.mount.namespace();
        if namespace.as_ref().zip(there).is_some_and(|(here, there)| there.owned_by_others(here)) {
            // What hides something in it can only go as a whole.
            copy.tree().iter().for_each(|mount| mount.lock_down());
            copy.set_locked(false);
        }
        place(&copy, &at);
    }
    Ok(())
}

/// Puts a tree at a place; what is there already goes on top of it.
fn place(tree: &Arc<Mount>, at: &Path) {
    let namespace = at.mount.namespace();
    let all = tree.tree();
    all.iter().for_each(|mount| mount.set_namespace(namespace.clone()));
    if let Some(namespace) = &namespace {
        namespace.changed(all.len().cast_signed());
    }
    let before = at.mount.child_at(&at.dentry);
    if let Some(before) = &before {
        before.detach();
    }
    tree.attach(at);
    if let Some(before) = before {
        let mut top = Path::root_of(tree);
        top.enter_mounts();
        before.attach(&top);
    }
}

/// The place where something is to be mounted: on top of all that is there; in a tree that is at no place only if `detached`. Under the
/// topology lock.
fn mountable(at: &Path, namespace: &MountNamespace, detached: bool) -> SysResult<Path> {
    let mut at = at.clone();
    at.enter_mounts();
    let fits = at.mount.is_in(namespace) || detached && at.mount.namespace().is_none() && !at.mount.has_ended();
    if !fits {
        return Err(Errno::EINVAL);
    }
    if at.dentry.is_unlinked() { Err(Errno::ENOENT) } else { Ok(at) }
}

impl MountNamespace {
    /// Mounts a new mount (which is at no place) or a tree made by [`Self::copy_of`].
    ///
    /// # Errors
    /// `EINVAL` for a place of another namespace, `ENOENT` for one that is removed, `ENOTDIR` unless both are or neither is a directory,
    /// `EBUSY` for the same filesystem on itself, `ENOSPC`.
    pub fn mount(&self, mount: &Arc<Mount>, at: &Path) -> SysResult<()> {
        let _topology = topology();
        let at = mountable(at, self, false)?;
        if mount.root().is_dir() != at.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        attach_tree(mount, &at)
    }

    /// Whether mounting `root` at `at` would mount a filesystem on its own root.
    #[must_use]
    pub fn is_repeated(root: &Arc<Dentry>, at: &Path) -> bool {
        let mut at = at.clone();
        at.enter_mounts();
        Arc::ptr_eq(at.mount.superblock(), root.superblock()) && Arc::ptr_eq(&at.dentry, at.mount.root())
    }

    /// A copy of what is at a place, with all that is mounted below if `recursive`.
    ///
    /// # Errors
    /// `EINVAL` for a place of another namespace, for one that may not be bound, and where it would uncover what locked mounts hide.
    pub fn copy_of(&self, from: &Path, recursive: bool) -> SysResult<Arc<Mount>> {
        let _topology = topology();
        let strange = !from.mount.is_in(self) && from.mount.namespace().is_some();
        if strange || from.mount.has_ended() || from.mount.is_unbindable() {
            return Err(Errno::EINVAL);
        }
        let mut room = MAX_MOUNTS;
        let hides =
            |child: &Arc<Mount>| child.is_locked() && child.mountpoint().is_some_and(|at| at.dentry.is_below(&from.dentry));
        if !recursive && from.mount.children().iter().any(hides) {
            return Err(Errno::EINVAL);
        }
        if recursive {
            let copy = copy_tree(&from.mount, &from.dentry, Copy::Peer, false, &mut room)?;
            copy.set_locked(false);
            return Ok(copy);
        }
        let copy = Mount::new(from.dentry.clone(), from.mount.source(), from.mount.flags());
        copy.inherit_locks(&from.mount);
        copy.copy_propagation(&from.mount, Copy::Peer);
        Ok(copy)
    }

    /// Moves a mount and all that is on it.
    ///
    /// # Errors
    /// `EINVAL` for what isn't the root of a mount of this namespace (or of none), for a locked one, one on a shared mount, and when one
    /// of them may not be bound and the new place is shared; `ELOOP` for a place below itself; `ENOENT`.
    pub fn move_mount(&self, from: &Path, to: &Path) -> SysResult<()> {
        let _topology = topology();
        let to = mountable(to, self, true)?;
        let mount = &from.mount;
        let detached = mount.namespace().is_none() && mount.parent().is_none() && !mount.has_ended();
        let attached = mount.is_in(self) && mount.parent().is_some();
        let directories = from.dentry.is_dir() == to.dentry.is_dir();
        if !Arc::ptr_eq(&from.dentry, mount.root()) || mount.is_locked() || !detached && !attached || !directories {
            return Err(Errno::EINVAL);
        }
        if mount.parent().is_some_and(|parent| parent.is_shared())
            || to.mount.is_shared() && mount.tree().iter().any(|mount| mount.is_unbindable())
        {
            return Err(Errno::EINVAL);
        }
        let mut up = Some(to.mount.clone());
        while let Some(at) = up {
            if Arc::ptr_eq(&at, mount) {
                return Err(Errno::ELOOP);
            }
            up = at.parent();
        }
        let count = mount.tree().len().cast_signed();
        let Some(old) = mount.detach() else { return attach_tree(mount, &to) };
        self.changed(-count);
        let moved = attach_tree(mount, &to);
        if moved.is_err() {
            mount.attach(&old);
            self.changed(count);
        }
        moved
    }

    /// umount2(2): `lazy` (`MNT_DETACH`) takes a tree that is in use, and makes single mounts of it. The caller holds `at` and no other
    /// reference to the mount.
    ///
    /// # Errors
    /// `EINVAL` for what isn't the root of a mount of this namespace, and for a locked one; `EBUSY`.
    pub fn unmount(&self, at: &Path, lazy: bool) -> SysResult<()> {
        let gone = {
            let _topology = topology();
            let mount = &at.mount;
            let top = mount.parent().is_none();
            if !Arc::ptr_eq(&at.dentry, mount.root()) || !mount.is_in(self) || mount.is_locked() || top {
                return Err(Errno::EINVAL);
            }
            if !lazy && (mount.is_busy(1) || copies_busy(mount)) {
                return Err(Errno::EBUSY);
            }
            unmount_tree(mount, if lazy { Unmount::LAZY } else { Unmount::NOW })
        };
        drop(gone);
        Ok(())
    }

    /// Marks a mount for `MNT_EXPIRE`, or unmounts it if it is marked.
    ///
    /// # Errors
    /// `EAGAIN` when it has been marked now; as [`Self::unmount`].
    pub fn expire(&self, at: &Path) -> SysResult<()> {
        if !Arc::ptr_eq(&at.dentry, at.mount.root()) || !at.mount.is_in(self) || at.mount.parent().is_none() {
            return Err(Errno::EINVAL);
        }
        if at.mount.is_busy(1) {
            return Err(Errno::EBUSY);
        }
        if !at.mount.expire() {
            return Err(Errno::EAGAIN);
        }
        self.unmount(at, false)
    }

    /// Changes what a mount (and with `recursive` all below) tells and is told.
    ///
    /// # Errors
    /// `EINVAL` for what isn't the root of a mount of this namespace.
    pub fn set_propagation(&self, at: &Path, kind: Kind, recursive: bool) -> SysResult<()> {
        let _topology = topology();
        if !Arc::ptr_eq(&at.dentry, at.mount.root()) || !at.mount.is_in(self) && at.mount.namespace().is_some() {
            return Err(Errno::EINVAL);
        }
        let all = if recursive { at.mount.tree() } else { vec![at.mount.clone()] };
        all.iter().for_each(|mount| mount.set_propagation(kind));
        self.changed(0);
        Ok(())
    }

    /// mount_setattr(2): sets and clears flags (`MS_*`) of a mount, and with `recursive` of all below, or of none.
    ///
    /// # Errors
    /// `EINVAL` for what isn't the root of a mount of this namespace; as [`Mount::set_flags`].
    pub fn set_attributes(&self, at: &Path, recursive: bool, set: u64, clear: u64, kind: Option<Kind>) -> SysResult<()> {
        let _topology = topology();
        if !Arc::ptr_eq(&at.dentry, at.mount.root()) || !at.mount.is_in(self) && at.mount.namespace().is_some() {
            return Err(Errno::EINVAL);
        }
        let all = if recursive { at.mount.tree() } else { vec![at.mount.clone()] };
        let flags = |mount: &Mount| mount.flags() & !clear | set;
        all.iter().try_for_each(|mount| mount.may_set_flags(flags(mount)))?;
        for mount in &all {
            mount.store_flags(flags(mount));
            if let Some(kind) = kind {
                mount.set_propagation(kind);
            }
        }
        self.changed(0);
        Ok(())
    }

    /// pivot_root(2): `new` becomes the root of the tree, the old `root` is mounted on `put_old`.
    ///
    /// # Errors
    /// As pivot_root(2): `EBUSY`, `EINVAL`, `ENOENT`.
    pub fn pivot_root(&self, root: &Path, new: &Path, put_old: &Path) -> SysResult<()> {
        let _topology = topology();
        let old = mountable(put_old, self, false)?;
        let shared = |mount: Option<Arc<Mount>>| mount.is_some_and(|mount| mount.is_shared());
        if shared(Some(old.mount.clone())) || shared(new.mount.parent()) || shared(root.mount.parent()) {
            return Err(Errno::EINVAL);
        }
        if !root.mount.is_in(self) || !new.mount.is_in(self) || new.mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if new.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&old.mount, &root.mount) {
            return Err(Errno::EBUSY);
        }
        let is_root = |path: &Path| Arc::ptr_eq(&path.dentry, path.mount.root()) && path.mount.parent().is_some();
        if !is_root(root) || !is_root(new) || !old.is_below(new) || !new.is_below(root) {
            return Err(Errno::EINVAL);
        }
        new.mount.detach();
        let Some(top) = root.mount.detach() else { return Err(Errno::EINVAL) };
        if root.mount.is_locked() {
            new.mount.set_locked(true);
            root.mount.set_locked(false);
        }
        root.mount.attach(&old);
        new.mount.attach(&top);
        self.changed(0);
        Ok(())
    }
}

/// Whether copies of a mount that would go with it are in use.
fn copies_busy(mount: &Arc<Mount>) -> bool {
    let Some(at) = mount.mountpoint() else { return false };
    at.mount
        .receivers()
        .iter()
        .any(|other| other.child_at(&at.dentry).is_some_and(|copy| !copy.has_children() && copy.is_busy(1)))
}

/// How a tree is taken off.
#[derive(Clone, Copy)]
pub(crate) struct Unmount {
    /// What has been made of it elsewhere goes with it.
    propagates: bool,
    /// Mounts that are locked to the one below stay on it, so that who holds that doesn't see what they hide.
    keeps_locked: bool,
    /// All mounts stay where they are in the tree.
    whole: bool,
}

impl Unmount {
    /// umount2(2).
    pub const NOW: Self = Self { propagates: true, keeps_locked: false, whole: false };
    /// umount2(2) with `MNT_DETACH`.
    pub const LAZY: Self = Self { propagates: true, keeps_locked: true, whole: false };
    /// The end of a namespace.
    pub const NAMESPACE: Self = Self { propagates: false, keeps_locked: true, whole: false };
    /// The end of a tree that is at no place, or whose place is gone.
    pub const TREE: Self = Self { propagates: false, keeps_locked: true, whole: true };

    fn takes_off(self, mount: &Mount, top: bool) -> bool {
        top || !(self.whole || self.keeps_locked && mount.is_locked())
    }
}

/// Copies of mounts that have been made where others are told of them, and go when those go.
fn copies_of(gone: &[Arc<Mount>]) -> Vec<Arc<Mount>> {
    let mut known: HashSet<u64> = gone.iter().map(|mount| mount.id()).collect();
    let mut copies = Vec::new();
    // Mounts on one name in mounts that are peers have the same copies.
    let mut done = HashSet::new();
    for mount in gone {
        let Some(at) = mount.mountpoint() else { continue };
        let Some(group) = at.mount.propagation.lock().group() else { continue };
        if !done.insert((Arc::as_ptr(&group).addr(), Arc::as_ptr(&at.dentry).addr())) {
            continue;
        }
        for other in propagation::told(&group) {
            if let Some(copy) = other.child_at(&at.dentry)
                && !copy.is_locked()
                && known.insert(copy.id())
            {
                copies.push(copy);
            }
        }
    }
    // What carries mounts that stay, stays, and so does what carries that.
    let mut check: Vec<_> = copies.clone();
    let going: HashSet<u64> = copies.iter().map(|copy| copy.id()).collect();
    while let Some(copy) = check.pop() {
        if known.contains(&copy.id()) && !copy.children().iter().all(|child| known.contains(&child.id())) {
            known.remove(&copy.id());
            check.extend(copy.parent().filter(|parent| going.contains(&parent.id())));
        }
    }
    copies.retain(|copy| known.contains(&copy.id()));
    copies
}

/// Takes a tree off, with what has been made of it elsewhere. Under the topology lock; the result is to be dropped outside of it.
pub(crate) fn unmount_tree(top: &Arc<Mount>, how: Unmount) -> Vec<Arc<Mount>> {
    let mut gone = top.tree();
    if how.propagates {
        let copies = copies_of(&gone);
        gone.extend(copies);
    }
    let all: HashSet<u64> = gone.iter().map(|mount| mount.id()).collect();
    for mount in &gone {
        mount.end();
        let inner = mount.parent().is_some_and(|parent| all.contains(&parent.id()));
        if how.takes_off(mount, !inner) {
            mount.detach();
        }
        if let Some(namespace) = mount.namespace() {
            namespace.changed(-1);
        }
        mount.set_namespace(None);
        mount.set_propagation(Kind::Private);
    }
    gone
}

/// A name is gone: what is mounted on it in whatever namespace goes with it.
pub(crate) fn detach_mounts(dentry: &Arc<Dentry>) {
    if !dentry.is_mountpoint() {
        return;
    }
    let gone: Vec<_> = {
        let _topology = topology();
        mounted_on(dentry).iter().flat_map(|mount| unmount_tree(mount, Unmount::TREE)).collect()
    };
    drop(gone);
}

/// Ends a tree that is at no place (a descriptor of open_tree(2) is closed).
pub fn dissolve(top: &Arc<Mount>) {
    let gone = {
        let _topology = topology();
        if top.namespace().is_some() || top.parent().is_some() || top.has_ended() {
            return;
        }
        unmount_tree(top, Unmount::TREE)
    };
    drop(gone);
}
