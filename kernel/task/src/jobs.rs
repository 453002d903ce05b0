//! Sessions and process groups (credentials(7), setsid(2), setpgid(2)).
//!
//! [`Jobs`] is the lock over who belongs to which process group and who is whose parent: what it holds changes together.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use sync::Mutex;

use crate::group::Group;
use crate::kernel::Kernel;
use crate::ns::Pid;

/// What a session's controlling terminal is for the kernel.
pub trait Terminal: Send + Sync {
    /// Its device number, for /proc.
    fn rdev(&self) -> u64;

    /// Number of the process group in the foreground, for /proc.
    fn foreground(&self) -> i32;

    /// The session's leader ends or gives it up: the foreground process group hears of it, and the session has no terminal any more.
    fn leader_gone(&self, session: &Arc<Session>, ends: bool);

    /// Access to the concrete type.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A session.
pub struct Session {
    pub sid: i32,
    /// Nobody else has this number as long as there is the session.
    number: Arc<Pid>,
    groups: Mutex<Vec<Weak<ProcessGroup>>>,
    /// Who was in the foreground when its terminal was hung up.
    left: Mutex<Weak<ProcessGroup>>,
}

impl Session {
    /// The processes in it, zombies included.
    #[must_use]
    pub fn processes(&self) -> Vec<Arc<Group>> {
        let groups: Vec<_> = self.groups.lock().iter().filter_map(Weak::upgrade).collect();
        groups.iter().flat_map(|group| group.members()).collect()
    }

    /// Its terminal is hung up; who is in its foreground hears of that when the leader ends.
    pub fn lose_terminal(&self, foreground: Option<&Arc<ProcessGroup>>) {
        *self.left.lock() = foreground.map(Arc::downgrade).unwrap_or_default();
    }

    /// The leader ends, and had no terminal any more.
    pub(crate) fn leader_gone(&self) {
        let left = std::mem::take(&mut *self.left.lock()).upgrade();
        if let Some(group) = left {
            group.signal(SigInfo::kernel(c::SIGHUP));
            group.signal(SigInfo::kernel(c::SIGCONT));
        }
    }
}

/// A process group, which always belongs to one session.
pub struct ProcessGroup {
    pub pgid: i32,
    number: Arc<Pid>,
    pub session: Arc<Session>,
    members: Mutex<Vec<Weak<Group>>>,
}

impl Session {
    /// Its numbers.
    #[must_use]
    pub fn number(&self) -> &Arc<Pid> {
        &self.number
    }
}

impl ProcessGroup {
    /// Its numbers.
    #[must_use]
    pub fn number(&self) -> &Arc<Pid> {
        &self.number
    }

    /// The processes in it, zombies included.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Group>> {
        self.members.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Sends all of them a signal; returns whether there were any.
    pub fn signal(&self, info: SigInfo) -> bool {
        let members = self.members();
        members.iter().for_each(|group| group.signal(info));
        !members.is_empty()
    }

    /// Whether no member (but `leaving`, who is about to end or has just changed parents) has a parent in another group of the session:
    /// nobody is there to continue it when it stops. Somebody outside may be there too (`Group::on_stop`).
    fn orphaned_without(&self, leaving: Option<&Group>) -> bool {
        let guarded = |member: &Arc<Group>| {
            if member.is_zombie() || leaving.is_some_and(|leaving| std::ptr::eq(leaving, &raw const **member)) {
                return false;
            }
            let Some(parent) = member.parent.lock().upgrade() else { return member.on_stop.get().is_some() };
            let job = parent.job();
            job.pgid != self.pgid && Arc::ptr_eq(&job.session, &self.session)
        };
        !self.members().iter().any(guarded)
    }

    /// Whether it is orphaned (setpgid(2)). Call without locks.
    #[must_use]
    pub fn orphaned(&self, kernel: &Kernel) -> bool {
        let _jobs = kernel.jobs.lock();
        self.orphaned_without(None)
    }

    /// Looks whether this group becomes orphaned because `child`, a member, loses its parent: because it `ends` itself, or because the
    /// parent does. If so and a member is stopped, continues all and tells them that nobody else will. Call with [`Jobs`] locked.
    pub(crate) fn check_orphaned(&self, parent: &Group, child: &Group, ends: bool) {
        let job = parent.job();
        if job.pgid == self.pgid || !Arc::ptr_eq(&job.session, &self.session) || !self.orphaned_without(ends.then_some(child)) {
            return;
        }
        let members = self.members();
        if members.iter().any(|member| member.is_stopped()) {
            for member in &members {
                member.signal(SigInfo::kernel(c::SIGHUP));
                member.signal(SigInfo::kernel(c::SIGCONT));
            }
        }
    }
}

/// All process groups and sessions by number, and the lock over who belongs where and who is whose parent.
#[derive(Default)]
pub struct Jobs {
    groups: BTreeMap<i32, Weak<ProcessGroup>>,
    sessions: BTreeMap<i32, Weak<Session>>,
}

impl Jobs {
    /// The process group with this number.
    #[must_use]
    pub fn group(&self, pgid: i32) -> Option<Arc<ProcessGroup>> {
        self.groups.get(&pgid)?.upgrade()
    }

    /// Whether there is a process group or session with this number.
    fn uses(&self, number: i32) -> bool {
        let alive = |session: &Weak<Session>| session.strong_count() > 0;
        self.group(number).is_some() || self.sessions.get(&number).is_some_and(alive)
    }

    /// A new session with a group of the same number.
    pub(crate) fn new_session(&mut self, number: &Arc<Pid>) -> Arc<ProcessGroup> {
        let sid = number.global();
        let session = Arc::new(Session { sid, number: number.clone(), groups: Mutex::default(), left: Mutex::default() });
        self.sessions.retain(|_, session| session.strong_count() > 0);
        self.sessions.insert(sid, Arc::downgrade(&session));
        self.new_group(number, session)
    }

    fn new_group(&mut self, number: &Arc<Pid>, session: Arc<Session>) -> Arc<ProcessGroup> {
        let pgid = number.global();
        let group = Arc::new(ProcessGroup { pgid, number: number.clone(), session: session.clone(), members: Mutex::default() });
        self.groups.insert(pgid, Arc::downgrade(&group));
        let mut groups = session.groups.lock();
        groups.retain(|group| group.strong_count() > 0);
        groups.push(Arc::downgrade(&group));
        drop(groups);
        group
    }

    /// Makes a process a member of its group.
    pub(crate) fn join(&mut self, process: &Arc<Group>) {
        process.job().members.lock().push(Arc::downgrade(process));
    }

    /// Takes a process out of its group, which ends with its last member.
    pub(crate) fn leave(&mut self, process: &Group) {
        let job = process.job();
        let mut members = job.members.lock();
        members.retain(|member| !std::ptr::eq(member.as_ptr(), process) && member.strong_count() > 0);
        if members.is_empty() {
            self.groups.remove(&job.pgid);
        }
    }

    fn move_to(&mut self, process: &Arc<Group>, job: Arc<ProcessGroup>) {
        self.leave(process);
        process.set_job(job.clone());
        job.members.lock().push(Arc::downgrade(process));
    }
}

impl Kernel {
    /// setsid(2) of a process; returns the session's number.
    ///
    /// # Errors
    /// `EPERM` when it leads a process group already.
    pub fn setsid(&self, process: &Arc<Group>) -> SysResult<i32> {
        let mut jobs = self.jobs.lock();
        if jobs.uses(process.pid) {
            return Err(Errno::EPERM);
        }
        let job = jobs.new_session(&process.number);
        jobs.move_to(process, job);
        *process.terminal.lock() = None;
        Ok(process.pid)
    }

    /// setpgid(2) by `caller`; 0 stands for its own number, a `pgid` of 0 for the target's.
    ///
    /// # Errors
    /// `EINVAL` for negative numbers and for threads; `ESRCH` when `pid` is neither the caller nor a child of it; `EACCES` when the child
    /// has called execve(2); `EPERM` across sessions, for session leaders and groups that aren't there.
    pub fn setpgid(&self, caller: &Arc<Group>, pid: i32, pgid: i32) -> SysResult<()> {
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let mut jobs = self.jobs.lock();
        let target = if pid == 0 { Some(caller.clone()) } else { self.group(pid) };
        let target = match target {
            Some(target) => target,
            // A thread's number.
            None if self.task(pid).is_some() => return Err(Errno::EINVAL),
            None => return Err(Errno::ESRCH),
        };
        let pgid = if pgid == 0 { target.pid } else { pgid };
        let session = target.job().session.clone();
        let is_child = target.parent.lock().upgrade().is_some_and(|parent| Arc::ptr_eq(&parent, caller));
        if is_child {
            if !Arc::ptr_eq(&session, &caller.job().session) {
                return Err(Errno::EPERM);
            }
            if target.has_execed() {
                return Err(Errno::EACCES);
            }
        } else if !Arc::ptr_eq(&target, caller) {
            return Err(Errno::ESRCH);
        }
        if session.sid == target.pid {
            return Err(Errno::EPERM);
        }
        let job = match jobs.group(pgid) {
            Some(job) if Arc::ptr_eq(&job.session, &session) => job,
            None if pgid == target.pid => jobs.new_group(&target.number, session),
            _ => return Err(Errno::EPERM),
        };
        if !Arc::ptr_eq(&job, &target.job()) {
            jobs.move_to(&target, job);
        }
        Ok(())
    }

    /// The process group with this number.
    #[must_use]
    pub fn process_group(&self, pgid: i32) -> Option<Arc<ProcessGroup>> {
        self.jobs.lock().group(pgid)
    }
}
