//! Leaving namespaces for new ones and entering others' (unshare(2), setns(2)).

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, UserNamespace};
use vfs::MountNamespace;

use super::{Namespace, Namespaces};
use crate::current::Current;

const fn bits(flags: i32) -> u64 {
    flags as u32 as u64
}

/// What unshare(2) knows.
const KNOWN: u64 = bits(
    c::CLONE_THREAD
        | c::CLONE_FS
        | c::CLONE_SIGHAND
        | c::CLONE_VM
        | c::CLONE_FILES
        | c::CLONE_SYSVSEM
        | c::CLONE_NEWNS
        | c::CLONE_NEWUTS
        | c::CLONE_NEWIPC
        | c::CLONE_NEWNET
        | c::CLONE_NEWUSER
        | c::CLONE_NEWPID
        | c::CLONE_NEWCGROUP,
);

/// What a task is in once it has entered namespaces.
struct Next {
    /// Those of somebody in another user namespace.
    credentials: Option<Credentials>,
    ns: Namespaces,
    mounts: Option<Arc<MountNamespace>>,
}

impl Current {
    /// unshare(2): what `flags` (`CLONE_*`) name is the task's own from now on, namespaces are new.
    ///
    /// # Errors
    /// `EINVAL` for other flags, and for what threads of one process can't differ in; `EPERM`, `ENOSPC` for namespaces.
    pub fn unshare(&mut self, mut flags: u64) -> SysResult<()> {
        if flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let has = |flags: u64, flag: i32| flags & bits(flag) != 0;
        if has(flags, c::CLONE_NEWUSER) {
            flags |= bits(c::CLONE_THREAD | c::CLONE_FS);
        }
        if has(flags, c::CLONE_NEWNS) {
            flags |= bits(c::CLONE_FS);
        }
        if flags & bits(c::CLONE_THREAD | c::CLONE_SIGHAND | c::CLONE_VM) != 0 && self.task.group.tasks.lock().len() > 1 {
            return Err(Errno::EINVAL);
        }
        // Everything that can be refused comes first.
        let credentials = match has(flags, c::CLONE_NEWUSER) {
            true => Some(self.in_new_user_namespace()?),
            false => None,
        };
        let ns = self.task.lock().ns.clone();
        let who = credentials.as_ref().unwrap_or(self.credentials());
        let ns = ns.renew(flags, who)?;
        let fs = if has(flags, c::CLONE_FS) { Arc::new(self.fs.fork()) } else { self.fs.clone() };
        let mount_ns = match has(flags, c::CLONE_NEWNS) {
            true => self.mount_ns().copy(&fs, who.user_ns.clone())?,
            false => self.mount_ns(),
        };
        if flags & bits(c::CLONE_SYSVSEM | c::CLONE_NEWIPC) != 0 {
            self.leave_undo_list();
        }
        self.fs = fs;
        if has(flags, c::CLONE_FILES) {
            self.fds = self.fds.unshare();
        }
        let old = {
            let mut shared = self.task.lock();
            let fds = std::mem::replace(&mut shared.fds, self.fds.clone());
            let fs = std::mem::replace(&mut shared.fs, self.fs.clone());
            (fds, fs, std::mem::replace(&mut shared.ns, ns), std::mem::replace(&mut shared.mount_ns, mount_ns))
        };
        drop(old);
        if let Some(credentials) = credentials {
            self.set_credentials(credentials);
        }
        Ok(())
    }

    /// The task in a user namespace of its own.
    ///
    /// # Errors
    /// `EPERM` in a chroot(2): inside, it could be left; as [`UserNamespace::child`].
    pub(crate) fn in_new_user_namespace(&self) -> SysResult<Credentials> {
        if !self.fs.places().root.same(&self.mount_ns().root()) {
            return Err(Errno::EPERM);
        }
        Ok(self.credentials().in_new_namespace(UserNamespace::child(self.credentials())?))
    }

    /// setns(2): enters namespaces of different kinds, all or none of them; a user namespace comes first, and its rights count for the rest.
    ///
    /// # Errors
    /// `EPERM` without the capabilities; `EINVAL` where one can't be entered from here: a pid namespace around the caller's, a user namespace
    /// that is the caller's own, or with threads or a working directory that others use.
    pub fn enter(&mut self, namespaces: &[Namespace]) -> SysResult<()> {
        let mut next = Next { credentials: None, ns: self.task.lock().ns.clone(), mounts: None };
        for namespace in namespaces {
            self.prepare(namespace, namespaces.len() > 1, &mut next)?;
        }
        if namespaces.iter().any(|namespace| matches!(namespace, Namespace::Ipc(_))) {
            // What it would undo is in the namespace that it leaves.
            self.leave_undo_list();
        }
        let old = {
            let mut shared = self.task.lock();
            let mounts = next.mounts.clone().map(|mounts| std::mem::replace(&mut shared.mount_ns, mounts));
            (std::mem::replace(&mut shared.ns, next.ns), mounts)
        };
        if let Some(mounts) = next.mounts {
            let root = mounts.root();
            self.fs.update(|places| (places.cwd, places.root) = (root.clone(), root));
        }
        if let Some(credentials) = next.credentials {
            self.set_credentials(credentials);
        }
        drop(old);
        Ok(())
    }

    /// Puts one namespace into what the task is to be in, if it may.
    fn prepare(&self, namespace: &Namespace, among_others: bool, next: &mut Next) -> SysResult<()> {
        let who = self.credentials();
        let may = |ns: &UserNamespace, capability| match who.has_capability_in(ns, capability) {
            true => Ok(()),
            false => Err(Errno::EPERM),
        };
        // Root and working directory are to be nobody else's.
        let alone = || self.task.group.tasks.lock().len() == 1 && !self.shares_fs();
        if let Namespace::User(ns) = namespace {
            if Arc::ptr_eq(ns, &who.user_ns) || !alone() {
                return Err(Errno::EINVAL);
            }
            may(ns, Capability::SYS_ADMIN)?;
            next.credentials = Some(who.in_new_namespace(ns.clone()));
            return Ok(());
        }
        let own = next.credentials.as_ref().map_or(&who.user_ns, |credentials| &credentials.user_ns);
        may(namespace.owner().ok_or(Errno::EPERM)?, Capability::SYS_ADMIN)?;
        may(own, Capability::SYS_ADMIN)?;
        match namespace {
            Namespace::User(_) => {}
            Namespace::Mount(mounts) => {
                may(own, Capability::SYS_CHROOT)?;
                // With others, the places are made anew in any case.
                if !among_others && !alone() {
                    return Err(Errno::EINVAL);
                }
                next.mounts = Some(mounts.clone());
            }
            Namespace::Uts(uts) => next.ns.uts = uts.clone(),
            Namespace::Ipc(ipc) => next.ns.ipc = ipc.clone(),
            Namespace::Net(net) => next.ns.net = net.clone(),
            Namespace::Cgroup(cgroup) => next.ns.cgroup = cgroup.clone(),
            // Only inwards: a process must not get out of sight of its ancestors.
            Namespace::Pid(pid) if self.pid_ns().holds(pid) => next.ns.pid_for_children = pid.clone(),
            Namespace::Pid(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}
