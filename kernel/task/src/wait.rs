//! Waiting for children (wait4(2), waitid(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};

use crate::current::Current;
use crate::group::Group;
use crate::jobs::Jobs;
use crate::tasks::Task;
use crate::usage::Used;

/// Which children are waited for.
pub enum Who {
    Any,
    /// By the number that the caller has for it.
    Process(i32),
    /// By the kernel's number.
    ProcessGroup(i32),
    /// The one behind a pidfd.
    Exactly(Arc<Group>),
}

/// What a child has come to.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    pub pid: i32,
    /// Its real user, as the caller's user namespace has it.
    pub uid: u32,
    /// As wait4(2) stores it.
    pub status: i32,
    /// `CLD_*` and its value, as waitid(2) stores them.
    pub code: i32,
    pub value: i32,
    /// What it and the children it has waited for have used.
    pub used: Used,
}

impl Waited {
    /// `counted`: somebody wants to know what it has used, which takes a while to find out.
    fn new(group: &Group, status: i32, viewer: &Current, counted: bool) -> Self {
        let (code, value) = match (status & 0xff, status >> 8 & 0xff) {
            (0, code) => (c::CLD_EXITED, code),
            (0x7f, signo) => (c::CLD_STOPPED, signo),
            (0xff, _) => (c::CLD_CONTINUED, c::SIGCONT),
            (signo, _) if signo & 0x80 != 0 => (c::CLD_DUMPED, signo & 0x7f),
            (signo, _) => (c::CLD_KILLED, signo),
        };
        let mut used = Used::default();
        if counted {
            used = group.used();
            used += group.usage.lock().children;
        }
        let uid = group.credentials().map_or(0, |who| viewer.credentials().user_ns.from_kuid_munged(who.ruid));
        Self { pid: group.pid_in(viewer.pid_ns()), uid, status, code, value, used }
    }
}

impl Waited {
    /// A tracee that stands still, or has ended.
    fn of_tracee(tracee: &Task, status: i32, viewer: &Current, counted: bool) -> Self {
        let mut waited = Self::new(&tracee.group, status, viewer, counted);
        waited.pid = tracee.number_in(viewer.pid_ns());
        if status & 0xff == 0x7f {
            (waited.code, waited.value) = (c::CLD_TRAPPED, status >> 8);
        }
        waited
    }
}

impl Current {
    /// Whether a tracee of this process is one that this call waits for.
    fn waits_for_tracee(&self, tracee: &Task, who: &Who, options: i32) -> bool {
        let named = match who {
            Who::Any => true,
            Who::Process(pid) => tracee.number_in(self.pid_ns()) == *pid,
            Who::ProcessGroup(pgid) => tracee.group.pgid() == *pgid,
            Who::Exactly(group) => Arc::ptr_eq(group, &tracee.group) && tracee.is_leader(),
        };
        named && (options & c::__WNOTHREAD == 0 || tracee.tracer().is_some_and(|tracer| Arc::ptr_eq(&tracer, &self.task)))
    }

    /// What a tracee that fits has come to, if one has; and whether there is one at all that may yet.
    fn look_for_tracee(&self, jobs: &mut Jobs, who: &Who, options: i32, counted: bool) -> (Option<Waited>, bool) {
        let own = &self.task.group;
        let tracees: Vec<_> =
            own.tracees.lock().iter().filter(|task| self.waits_for_tracee(task, who, options)).cloned().collect();
        let mut any = false;
        for tracee in &tracees {
            let end = tracee.lock().traced.as_ref().and_then(|traced| traced.end);
            match end {
                // A leader's end is told with that of the last thread.
                Some(_) if tracee.is_leader() && !tracee.group.is_zombie() => any = true,
                Some(end) if options & c::WEXITED != 0 => {
                    let status = tracee.group.ending().unwrap_or(end);
                    let waited = Waited::of_tracee(tracee, status, self, true);
                    if options & c::WNOWAIT == 0 {
                        if tracee.is_leader() && self.is_parent_of(&tracee.group) {
                            own.usage.lock().children += waited.used;
                        }
                        self.task.kernel.reap_tracee(jobs, own, tracee);
                    }
                    return (Some(waited), true);
                }
                Some(_) => {}
                None => {
                    any = true;
                    if let Some(code) = tracee.tracee_news(options & c::WNOWAIT != 0) {
                        return (Some(Waited::of_tracee(tracee, code << 8 | 0x7f, self, counted)), true);
                    }
                }
            }
        }
        (None, any)
    }

    fn is_parent_of(&self, group: &Group) -> bool {
        group.parent.lock().upgrade().is_some_and(|parent| Arc::ptr_eq(&parent, &self.task.group))
    }

    /// Whether `child`, a child of this process, is one that this call waits for.
    fn waits_for(&self, child: &Group, who: &Who, options: i32) -> bool {
        let named = match who {
            Who::Any => true,
            Who::Process(pid) => child.pid_in(self.pid_ns()) == *pid,
            Who::ProcessGroup(pgid) => child.pgid() == *pgid,
            Who::Exactly(group) => std::ptr::eq(&raw const **group, child),
        };
        let unusual = child.exit_signal.load(Ordering::Relaxed) != c::SIGCHLD;
        let kind = options & c::__WALL != 0 || unusual == (options & c::__WCLONE != 0);
        let own = options & c::__WNOTHREAD == 0 || child.parent_tid.load(Ordering::Relaxed) == self.task.tid();
        named && kind && own
    }

    /// Waits for a child that has ended, stopped or continued, as `options` say. `None` when there is none yet and `WNOHANG` is set.
    /// `counted`: the caller wants to know what a child that lives has used.
    ///
    /// # Errors
    /// `ECHILD` when there is no child that could fit, `ERESTARTSYS`.
    pub fn wait_child(&self, who: &Who, options: i32, counted: bool) -> SysResult<Option<Waited>> {
        let queue = &self.task.group.child_queue;
        self.block_on(Some(queue), PollEvents::IN, None, || {
            let (found, any) = self.look_for_child(who, options, counted);
            match found {
                Some(waited) => Ok(Some(waited)),
                None if !any => Err(Errno::ECHILD),
                None if options & c::WNOHANG != 0 => Ok(None),
                None => Err(Errno::EAGAIN),
            }
        })
    }

    /// What a child that fits has come to, if one has; and whether there is one at all that may yet.
    fn look_for_child(&self, who: &Who, options: i32, counted: bool) -> (Option<Waited>, bool) {
        let own = &self.task.group;
        let kernel = &self.task.kernel;
        let mut jobs = kernel.jobs.lock();
        let mut any = false;
        if !own.tracees.lock().is_empty() {
            match self.look_for_tracee(&mut jobs, who, options, counted) {
                (None, there) => any = there,
                found => return found,
            }
        }
        let children: Vec<_> = own.children.lock().iter().filter(|child| self.waits_for(child, who, options)).cloned().collect();
        for child in &children {
            let tracer = child.leader_tracer.lock().upgrade();
            if let Some(tracer) = tracer {
                // Its own tracee has been looked at as such; somebody else's is theirs to wait for first.
                let own_tracee = Arc::ptr_eq(&tracer, own);
                any |= !own_tracee && (!child.is_zombie() || options & (c::WEXITED | c::WCONTINUED) != 0);
                let kinds = if own_tracee { options & !c::WSTOPPED } else { options };
                if let Some(status) = child.take_news(kinds) {
                    return (Some(Waited::new(child, status, self, counted)), true);
                }
                continue;
            }
            if child.is_zombie() {
                if options & c::WEXITED == 0 {
                    continue;
                }
                let waited = Waited::new(child, child.ending().unwrap_or(0), self, true);
                if options & c::WNOWAIT == 0 {
                    own.usage.lock().children += waited.used;
                    kernel.reap(&mut jobs, Some(own), child);
                }
                return (Some(waited), true);
            }
            any = true;
            if let Some(status) = child.take_news(options) {
                return (Some(Waited::new(child, status, self, counted)), true);
            }
        }
        (None, any)
    }
}

impl Group {
    /// Wait status of a stop or continuation that hasn't been told. Told now, unless `WNOWAIT`.
    fn take_news(&self, options: i32) -> Option<i32> {
        let keep = options & c::WNOWAIT != 0;
        let mut signals = self.signals.lock();
        let jobs = &mut signals.jobs;
        if options & c::WSTOPPED != 0 && jobs.stopped && jobs.code != 0 {
            let code = if keep { jobs.code } else { std::mem::take(&mut jobs.code) };
            return Some(code << 8 | 0x7f);
        }
        if options & c::WCONTINUED != 0 && jobs.continued {
            jobs.continued = keep;
            return Some(0xffff);
        }
        None
    }
}
