//! Credentials of tasks: how they change, and what one task may do to another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::{Capability, Charge, Counted, Credentials, ExecFile, ExecOutcome, FileCaps, Kgid, Kuid, Unsafe};
use mm::Dumpable;
use vfs::Path;

use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;
use crate::tasks::Task;

/// As whom a task looks into another (ptrace(2), "Ptrace access mode checking").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By files, as those of /proc: the file system user, effective capabilities.
    Files,
    /// By system calls: the real user, permitted capabilities.
    Real,
}

impl Task {
    /// Who it is now.
    #[must_use]
    pub fn credentials(&self) -> Arc<Credentials> {
        self.lock().credentials.clone()
    }

    /// Whether it may look into `target`: read its memory, trace it, follow its links in /proc.
    #[must_use]
    pub fn may_access(&self, target: &Self, access: Access) -> bool {
        if Arc::ptr_eq(&self.group, &target.group) {
            return true;
        }
        let who = self.credentials();
        let (other, mm) = {
            let shared = target.lock();
            (shared.credentials.clone(), shared.mm.clone())
        };
        // Who has given something up must not get at those who haven't.
        if vfs::landlock::Domain::of(&who).is_some_and(|own| !own.holds(vfs::landlock::Domain::of(&other))) {
            return false;
        }
        let (uid, gid, caps) = match access {
            Access::Files => (who.fsuid, who.fsgid, who.effective),
            Access::Real => (who.ruid, who.rgid, who.permitted),
        };
        let same = [other.ruid, other.euid, other.suid] == [uid; 3] && [other.rgid, other.egid, other.sgid] == [gid; 3];
        let traces = |ns: &auth::UserNamespace| who.has_capability_in(ns, Capability::SYS_PTRACE);
        if !same && !traces(&other.user_ns) {
            return false;
        }
        if mm.is_some_and(|mm| mm.dumpable() != Dumpable::User && !traces(mm.user_ns())) {
            return false;
        }
        Arc::ptr_eq(&who.user_ns, &other.user_ns) && caps.contains(other.permitted) || traces(&other.user_ns)
    }

    /// A place among the tasks of a user.
    ///
    /// # Errors
    /// `EAGAIN` when there are as many as RLIMIT_NPROC allows.
    pub(crate) fn charge_process(who: &Credentials, limit: u64) -> SysResult<Charge> {
        let limit = if exempt(who) { u64::MAX } else { limit };
        who.user.charge(Counted::Processes, 1, limit).ok_or(Errno::EAGAIN)
    }
}

/// Whether RLIMIT_NPROC doesn't hold for somebody.
fn exempt(who: &Credentials) -> bool {
    who.user_ns.level() == 0 && who.ruid == Kuid::ROOT
        || who.has_capability(Capability::SYS_RESOURCE)
        || who.has_capability(Capability::SYS_ADMIN)
}

impl Group {
    /// Who the process is: its first task, or the last when it has ended.
    #[must_use]
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        let task = self.tasks.lock().first().cloned();
        task.map(|task| task.credentials()).or_else(|| self.last_credentials.get().cloned())
    }
}

/// What a program's file gives to who runs it.
pub(crate) fn exec_file(file: &Path) -> SysResult<ExecFile> {
    let attr = file.inode().attr()?;
    let nosuid = file.mount.has(c::MS_NOSUID);
    let caps = if nosuid { None } else { file_caps(file)? };
    Ok(ExecFile { mode: attr.mode, uid: Kuid(attr.uid), gid: Kgid(attr.gid), caps, nosuid })
}

impl Current {
    /// Who runs.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Makes the task somebody else from now on.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        self.commit_credentials(credentials);
        self.task.tell_identity();
    }

    /// As [`Self::set_credentials`], without telling the platform.
    pub(crate) fn commit_credentials(&mut self, new: Credentials) {
        let old = std::mem::replace(&mut self.credentials, Arc::new(new));
        let new = self.credentials.clone();
        let raised = new.is_raised_from(&old);
        if raised {
            self.mm.set_dumpable(Dumpable::No);
        }
        let moves = !Arc::ptr_eq(&old.user, &new.user);
        // Too many is told by the next execve(2): programs don't expect setuid(2) to fail for that.
        let charge = moves.then(|| new.user.charge(Counted::Processes, 1, u64::MAX)).flatten();
        let mut shared = self.task.lock();
        shared.credentials = new.clone();
        if raised {
            shared.pdeath_signal = 0;
        }
        let given_back = charge.is_some().then(|| std::mem::replace(&mut shared.charge, charge));
        drop(shared);
        drop(given_back);
        if moves {
            self.too_many = !exempt(&new) && new.user.used(Counted::Processes) > self.task.group.limit(c::RLIMIT_NPROC);
        }
    }

    /// Who the program in a file would be.
    ///
    /// # Errors
    /// `EPERM` when it needs capabilities that it can't get; `EAGAIN` when its user has too many processes.
    pub(crate) fn exec_credentials(&self, file: &Path) -> SysResult<ExecOutcome> {
        let over = || self.credentials.user.used(Counted::Processes) > self.task.group.limit(c::RLIMIT_NPROC);
        if self.too_many && over() {
            return Err(Errno::EAGAIN);
        }
        let no_new_privs = self.task.no_new_privs.load(Ordering::SeqCst);
        self.credentials
            .exec(&exec_file(file)?, Unsafe { no_new_privs, shares_fs: self.shares_fs(), traced: self.traced_by_somebody_weak() })
    }

    /// Whether root and working directory are another process's, too (`CLONE_FS`): it could change them under a program with more rights.
    pub(crate) fn shares_fs(&self) -> bool {
        // Each task holds it twice: here and in its shared state.
        if Arc::strong_count(&self.fs) <= 2 {
            return false;
        }
        let tasks: Vec<_> = self.task.kernel.tasks.lock().values().cloned().collect();
        tasks.iter().any(|task| !Arc::ptr_eq(&task.group, &self.task.group) && Arc::ptr_eq(&task.lock().fs, &self.fs))
    }
}

impl Kernel {
    /// A thread has ended that was `who`: the children that it has made and that want to know are told, and belong to its process's thread
    /// `heir` from now on, if there is one.
    pub(crate) fn tell_children(&self, group: &Group, tid: i32, heir: Option<i32>, who: &Credentials) {
        if group.children.lock().is_empty() {
            return;
        }
        let _jobs = self.jobs.lock();
        let children = group.children.lock().clone();
        for child in children.iter().filter(|child| child.parent_tid.load(Ordering::Relaxed) == tid) {
            child.parent_tid.store(heir.unwrap_or(0), Ordering::Relaxed);
            for task in child.threads() {
                let (signo, other) = {
                    let shared = task.lock();
                    (shared.pdeath_signal, shared.credentials.clone())
                };
                if signo != 0 && who.may_signal(&other) {
                    let uid = other.user_ns.from_kuid_munged(who.ruid);
                    child.signal(SigInfo::from_process(signo, c::SI_USER, group.pid_in(child.pid_ns()), uid));
                }
            }
        }
    }
}

/// The capabilities that a file gives to who runs it (`security.capability`).
fn file_caps(file: &Path) -> SysResult<Option<FileCaps>> {
    match file.inode().get_xattr(b"security.capability") {
        Ok(value) => FileCaps::parse(&value).map(Some),
        Err(_) => Ok(None),
    }
}
