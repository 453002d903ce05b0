//! Control groups, version 2 (cgroups(7)): a tree of groups that processes are in.
//!
//! The root shows the limits of the sandbox, which nobody inside can change. The groups below limit how many tasks they hold (pids), freeze
//! and end them. How many processes live in a group is counted there and in those above, so that who waits for its end hears of it.

mod control;
mod devices;
mod fs;
mod xattr;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use abi::{Errno, SysResult, c};
use auth::Credentials;
use sync::{Changes, Mutex};
use vfs::{Access, Attr, Dentry, new_ino};

use crate::group::Group;
use crate::kernel::Kernel;
use crate::ns::CgroupNamespace;

pub use devices::Attached;
pub(crate) use devices::may_use_device;
pub use fs::CgroupFs;

/// Groups within each other, and all together, at most.
const MAX_DEPTH: usize = 32;
const MAX_GROUPS: usize = 8192;
/// No limit.
pub(crate) const MAX: u64 = u64::MAX;

/// Who owns a directory or file of a group, and what they may: mode, user, group.
type Owner = (u32, u32, u32);

/// Who acts on groups: with which rights, and what it sees of them.
pub(crate) struct Actor {
    pub who: Arc<Credentials>,
    pub ns: Arc<CgroupNamespace>,
}

/// A control group.
pub struct Cgroup {
    pub(crate) ino: u64,
    name: Box<[u8]>,
    parent: Option<Arc<Self>>,
    children: Mutex<BTreeMap<Box<[u8]>, Arc<Self>>>,
    /// Removed: nothing can be done with it any more.
    gone: AtomicBool,
    /// Living processes in it, and in it and below.
    own: AtomicUsize,
    live: AtomicUsize,
    /// Groups below it limit their tasks.
    delegates_pids: AtomicBool,
    max_tasks: AtomicU64,
    /// How often somebody met that limit.
    refused: AtomicU64,
    max_depth: AtomicU64,
    max_descendants: AtomicU64,
    freeze: AtomicBool,
    /// CPU time, in nanoseconds, of processes that have ended in it: user and system.
    used: [AtomicU64; 2],
    /// Of `cgroup.events`; and whether who watches that file (inotify(7)) is about to be told.
    changes: Changes,
    announced: Arc<AtomicBool>,
    /// Extended attributes of the directory and its files.
    xattrs: Mutex<xattr::Attributes>,
    /// Owners that have been set; by the name of a file, empty for the directory.
    owners: Mutex<BTreeMap<&'static str, Owner>>,
    /// Programs that decide who in it may use devices.
    devices: Mutex<Attached>,
}

/// All groups of a sandbox.
pub struct Cgroups {
    pub root: Arc<Cgroup>,
    /// Held while a group is made or removed, and while a process comes, goes or moves (`Group::counted`). How many groups there are.
    turn: Mutex<usize>,
    /// Programs for devices that are attached to groups.
    guards: AtomicUsize,
    /// Options that the tree was last mounted with from the first namespace: bits for [`fs::OPTIONS`].
    options: AtomicU32,
    /// The directory of the root.
    tree: OnceLock<Arc<Dentry>>,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self {
            root: Cgroup::new(b"", None),
            turn: Mutex::new(1),
            guards: AtomicUsize::new(0),
            options: AtomicU32::new(0),
            tree: OnceLock::new(),
        }
    }
}

impl Cgroup {
    fn new(name: &[u8], parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            ino: new_ino(),
            name: name.into(),
            parent,
            children: Mutex::default(),
            gone: AtomicBool::new(false),
            own: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            delegates_pids: AtomicBool::new(false),
            max_tasks: AtomicU64::new(MAX),
            refused: AtomicU64::new(0),
            max_depth: AtomicU64::new(MAX),
            max_descendants: AtomicU64::new(MAX),
            freeze: AtomicBool::new(false),
            used: Default::default(),
            changes: Changes::default(),
            announced: Arc::default(),
            xattrs: Mutex::default(),
            owners: Mutex::default(),
            devices: Mutex::default(),
        })
    }

    /// It, and those above it.
    fn upwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |at| at.parent.as_deref())
    }

    fn is_within(&self, other: &Self) -> bool {
        self.upwards().any(|at| std::ptr::eq(at, other))
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// How it is called in a namespace whose root is `root` (cgroup_namespaces(7)).
    #[must_use]
    pub fn path_from(&self, root: &Self) -> Vec<u8> {
        let common = self.upwards().find(|at| root.is_within(at));
        let ups = root.upwards().take_while(|at| common.is_none_or(|common| !std::ptr::eq(*at, common))).count();
        let mut path = b"/..".repeat(ups);
        let names: Vec<_> = self.upwards().take_while(|at| common.is_none_or(|common| !std::ptr::eq(*at, common))).collect();
        for at in names.into_iter().rev() {
            path.push(b'/');
            path.extend(&at.name[..]);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if self.is_gone() {
            path.extend(b" (deleted)");
        }
        path
    }

    /// Whether tasks in it are to stand still.
    fn is_frozen(&self) -> bool {
        self.upwards().any(|at| at.freeze.load(Ordering::SeqCst))
    }

    /// Names on the way to it.
    fn names(&self) -> Vec<Box<[u8]>> {
        let mut names: Vec<_> = self.upwards().filter(|at| at.parent.is_some()).map(|at| at.name.clone()).collect();
        names.reverse();
        names
    }

    /// A process more lives in it.
    fn add(&self, kernel: &Kernel) {
        self.own.fetch_add(1, Ordering::SeqCst);
        let first = self.upwards().filter(|at| at.live.fetch_add(1, Ordering::SeqCst) == 0);
        first.for_each(|at| kernel.cgroup_changed(at));
    }

    /// A process less.
    fn remove(&self, kernel: &Kernel) {
        self.own.fetch_sub(1, Ordering::SeqCst);
        let last = self.upwards().filter(|at| at.live.fetch_sub(1, Ordering::SeqCst) == 1);
        last.for_each(|at| kernel.cgroup_changed(at));
    }

    /// Groups below it.
    fn descendants(&self) -> Vec<Arc<Self>> {
        let mut all: Vec<Arc<Self>> = self.children.lock().values().cloned().collect();
        let mut at = 0;
        while let Some(next) = all.get(at).cloned() {
            all.extend(next.children.lock().values().cloned());
            at += 1;
        }
        all
    }

    /// Owner and mode of a file or, without a name, of the directory; `usual` mode.
    fn owner(&self, name: &'static str, usual: u32) -> Owner {
        self.owners.lock().get(name).copied().unwrap_or((usual, 0, 0))
    }

    /// Whether somebody may move processes into and out of it.
    ///
    /// # Errors
    /// `EACCES`
    fn may_move(&self, who: &Credentials) -> SysResult<()> {
        let (mode, uid, gid) = self.owner(control::PROCS, 0o644);
        let attr = Attr { mode: c::S_IFREG | mode, uid, gid, ..Attr::default() };
        vfs::generic_permission(who, &attr, None, Access::WRITE)
    }
}

impl Group {
    /// The control group that it is in.
    #[must_use]
    pub fn cgroup(&self, kernel: &Kernel) -> Arc<Cgroup> {
        self.cgroup.lock().clone().unwrap_or_else(|| kernel.cgroups.root.clone())
    }
}

impl Kernel {
    /// What `cgroup.events` says of a group has changed. Who watches the file is told by the worker: locks are held here that are taken after
    /// those of directories.
    fn cgroup_changed(&self, at: &Cgroup) {
        at.changes.note();
        let Some(tree) = self.cgroups.tree.get().filter(|_| vfs::notify::active()) else { return };
        if at.is_gone() || at.announced.swap(true, Ordering::SeqCst) {
            return;
        }
        let (tree, names, announced) = (tree.clone(), at.names(), at.announced.clone());
        self.worker.start();
        self.worker.add(move || {
            announced.store(false, Ordering::SeqCst);
            let events = names.iter().map(|name| &**name).chain([control::EVENTS.as_bytes()]);
            // A group that is gone by now has nobody to be told.
            if let Ok(file) = events.into_iter().try_fold(tree, |at, name| at.lookup(name)) {
                vfs::notify::modified(&file);
            }
        });
    }

    /// Whether the groups' namespaces are borders: what is at their roots belongs to who is outside (`nsdelegate`).
    fn has_borders(&self) -> bool {
        self.cgroups.options.load(Ordering::Relaxed) & fs::NSDELEGATE != 0
    }

    /// Whether somebody sees both ends of a move, where that matters.
    ///
    /// # Errors
    /// `ENOENT`
    fn sees_move(&self, from: &Cgroup, to: &Cgroup, ns: &CgroupNamespace) -> SysResult<()> {
        let root = ns.root(self);
        let contained = !self.has_borders() || from.is_within(&root) && to.is_within(&root);
        if contained { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// A new process lives: it is counted where it is, or where its parent is if that is gone.
    pub(crate) fn enter_cgroup(&self, group: &Group) {
        let turn = self.cgroups.turn.lock();
        let mut at = group.cgroup(self);
        while let Some(parent) = at.parent.clone().filter(|_| at.is_gone()) {
            at = parent;
        }
        *group.cgroup.lock() = Some(at.clone());
        group.counted.store(true, Ordering::SeqCst);
        at.add(self);
        drop(turn);
    }

    /// A new process can be found: it is frozen if its group is. Who freezes that from now on finds it.
    pub(crate) fn freeze_newcomer(&self, group: &Group) {
        group.frozen.store(group.cgroup(self).is_frozen(), Ordering::SeqCst);
    }

    /// A process has ended.
    pub(crate) fn leave_cgroup(&self, group: &Group) {
        let used = group.used();
        let turn = self.cgroups.turn.lock();
        if !group.counted.swap(false, Ordering::SeqCst) {
            return;
        }
        let at = group.cgroup(self);
        for at in at.upwards() {
            let [user, system] = &at.used;
            user.fetch_add(used.user, Ordering::Relaxed);
            system.fetch_add(used.system, Ordering::Relaxed);
        }
        at.remove(self);
        drop(turn);
    }

    /// Moves a process, unless it has ended and stays where it was; who asks for it is `actor`.
    ///
    /// # Errors
    /// `EACCES`; `ENODEV` for groups that are gone, `ENOENT` for those out of the actor's sight.
    fn move_process(&self, group: &Group, to: &Arc<Cgroup>, actor: &Actor) -> SysResult<()> {
        let turn = self.cgroups.turn.lock();
        if to.is_gone() {
            return Err(Errno::ENODEV);
        }
        let from = group.cgroup(self);
        common(&from, to).may_move(&actor.who)?;
        self.sees_move(&from, to, &actor.ns)?;
        if !group.counted.load(Ordering::SeqCst) || Arc::ptr_eq(&from, to) {
            return Ok(());
        }
        from.remove(self);
        *group.cgroup.lock() = Some(to.clone());
        to.add(self);
        group.frozen.store(to.is_frozen(), Ordering::SeqCst);
        drop(turn);
        group.threads().iter().for_each(|task| task.kick());
        Ok(())
    }

    /// Whether `actor`, in `from`, may make a process in `to` (clone3(2), `CLONE_INTO_CGROUP`).
    ///
    /// # Errors
    /// `ENOENT` for groups that are gone or out of sight; `EACCES`.
    pub(crate) fn may_fork_into(&self, from: &Group, to: &Cgroup, actor: &Actor) -> SysResult<()> {
        if to.is_gone() {
            return Err(Errno::ENOENT);
        }
        let from = from.cgroup(self);
        to.may_move(&actor.who)?;
        common(&from, to).may_move(&actor.who)?;
        self.sees_move(&from, to, &actor.ns)
    }

    /// Whether there may be one task more in a group.
    ///
    /// # Errors
    /// `EAGAIN`
    pub(crate) fn may_add_task(&self, to: &Cgroup) -> SysResult<()> {
        for at in to.upwards() {
            let max = at.max_tasks.load(Ordering::Relaxed);
            if max != MAX && self.tasks_in(at) >= max {
                at.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    /// Tasks in a group and below.
    fn tasks_in(&self, cgroup: &Cgroup) -> u64 {
        let tasks: Vec<_> = self.tasks.lock().values().cloned().collect();
        tasks.iter().filter(|task| task.group.cgroup(self).is_within(cgroup)).count() as u64
    }

    /// Processes in a group, or also below it.
    fn processes_in(&self, cgroup: &Cgroup, below: bool) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.groups.lock().values().cloned().collect();
        groups.retain(|group| {
            let at = group.cgroup(self);
            !group.is_zombie() && (std::ptr::eq(&raw const *at, cgroup) || below && at.is_within(cgroup))
        });
        groups
    }

    /// Makes a group.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` in one that is gone; `EAGAIN` when there are too many, or too many within each other.
    fn make_cgroup(&self, parent: &Arc<Cgroup>, name: &[u8], owner: Owner) -> SysResult<Arc<Cgroup>> {
        let mut count = self.cgroups.turn.lock();
        if parent.is_gone() {
            return Err(Errno::ENOENT);
        }
        if control::is_one(name) || parent.children.lock().contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if *count >= MAX_GROUPS || parent.upwards().count() >= MAX_DEPTH {
            return Err(Errno::EAGAIN);
        }
        for (depth, at) in (1..).zip(parent.upwards()) {
            let full = || at.descendants().len() as u64 >= at.max_descendants.load(Ordering::Relaxed);
            if depth > at.max_depth.load(Ordering::Relaxed) || at.max_descendants.load(Ordering::Relaxed) != MAX && full() {
                return Err(Errno::EAGAIN);
            }
        }
        let new = Cgroup::new(name, Some(parent.clone()));
        {
            let mut owners = new.owners.lock();
            owners.insert("", owner);
            for (file, mode) in control::files() {
                owners.insert(file, (mode, owner.1, owner.2));
            }
        }
        parent.children.lock().insert(name.into(), new.clone());
        *count += 1;
        Ok(new)
    }

    /// Removes a group that nobody is in.
    ///
    /// # Errors
    /// `EBUSY`, `ENOENT`.
    fn remove_cgroup(&self, parent: &Cgroup, name: &[u8]) -> SysResult<()> {
        let mut count = self.cgroups.turn.lock();
        let mut children = parent.children.lock();
        let child = children.get(name).cloned().ok_or(Errno::ENOENT)?;
        if child.live.load(Ordering::SeqCst) > 0 || !child.children.lock().is_empty() {
            return Err(Errno::EBUSY);
        }
        child.gone.store(true, Ordering::SeqCst);
        children.remove(name);
        *count -= 1;
        drop(children);
        self.detach_all(&child);
        self.cgroup_changed(&child);
        Ok(())
    }

    /// Stops the tasks of a group and those below, or lets them go on.
    fn freeze_cgroup(&self, cgroup: &Cgroup, freeze: bool) {
        let turn = self.cgroups.turn.lock();
        if cgroup.freeze.swap(freeze, Ordering::SeqCst) == freeze {
            return;
        }
        let groups = self.processes_in(cgroup, true);
        for group in &groups {
            group.frozen.store(group.cgroup(self).is_frozen(), Ordering::SeqCst);
        }
        drop(turn);
        groups.iter().flat_map(|group| group.threads()).for_each(|task| task.kick());
        self.cgroup_changed(cgroup);
        cgroup.descendants().iter().for_each(|below| self.cgroup_changed(below));
    }
}

/// The nearest group that both are in.
fn common<'a>(a: &'a Cgroup, b: &Cgroup) -> &'a Cgroup {
    a.upwards().find(|at| b.is_within(at)).unwrap_or(a)
}
