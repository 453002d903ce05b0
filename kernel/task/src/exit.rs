//! The end of tasks and processes (exit(2), exit_group(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::c;
use abi::poll::PollEvents;
use abi::signal::{SIG_IGN, SigSet};

use crate::current::Current;
use crate::group::Group;
use crate::jobs::Jobs;
use crate::kernel::Kernel;
use crate::tasks::Task;

impl Task {
    /// Lets a vfork(2) parent go on.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.released_queue.wake(PollEvents::IN);
    }
}

impl Current {
    /// exit(2): ends this task alone. The process ends with its last task.
    pub fn exit(&mut self, status: i32) {
        self.lone_exit = Some(status);
        self.task.attention.store(true, Ordering::SeqCst);
    }

    /// The last thing a task's thread does.
    pub(crate) fn leave(mut self, status: i32) {
        let task = self.task.clone();
        trace_end(&task, status);
        let (kernel, group) = (task.kernel.clone(), task.group.clone());
        group.leave_stop(&task);
        // Who waits for this thread's end may unmap its area. With the last one everything goes.
        if Arc::strong_count(&self.mm) > 2 {
            self.end_rseq();
        }
        self.release_futexes(true);
        self.leave_undo_list();
        let mm = self.mm.clone();
        let who = self.credentials.clone();
        let fds = std::mem::take(&mut self.fds);
        // The shared state keeps nothing alive that others wait for the end of.
        let (gone, traced) = {
            let mut shared = task.lock();
            let traced = shared.traced.as_deref_mut().map(|tracee| tracee.ended(status));
            (shared.mm, shared.bell, shared.exe, shared.fds) = (None, None, None, Arc::default());
            shared.pending.discard(SigSet(u64::MAX));
            ((shared.charge.take(), shared.filters.take()), traced)
        };
        drop(gone);
        let was_traced = traced.is_some();
        drop(traced);
        // Its own and this one.
        if Arc::strong_count(&mm) == 2 {
            mm.let_go();
        }
        fds.leave();
        task.release();
        let heir = {
            let mut tasks = group.tasks.lock();
            group.keep_used(&task);
            tasks.retain(|other| !Arc::ptr_eq(other, &task));
            if tasks.is_empty() {
                group.leave_memory(&mm);
                let _ = group.last_credentials.set(who.clone());
                let mut signals = group.signals.lock();
                // The last one's status is the process's, unless that has been told to end (exit_group(2)).
                signals.end.get_or_insert(status);
                signals.pending.discard(SigSet(u64::MAX));
                group.doomed.store(true, Ordering::SeqCst);
            }
            tasks.first().map(|task| task.tid())
        };
        kernel.tasks.lock().remove(&task.tid());
        if !group.tracees.lock().is_empty() {
            kernel.free_tracees(&task);
        }
        kernel.tell_children(&group, task.tid(), heir, &who);
        if was_traced && !task.is_leader() {
            kernel.traced_thread_ended(&task, status);
        }
        if heir.is_none() {
            if group.is_init() && group.pid != 1 {
                kernel.end_namespace(&group, &task.parker);
            }
            kernel.group_ended(&group);
        }
        // execve(2) of another thread waits for this one's end.
        group.child_queue.wake(PollEvents::IN);
        // Stub and memory go when everybody has been told: that takes longer than all the rest.
        drop((self, mm));
    }
}

impl Kernel {
    /// Who adopts a process's children: the nearest ancestor that asked for it (`PR_SET_CHILD_SUBREAPER`), or the first process, of the
    /// same pid namespace.
    fn reaper(&self, group: &Group) -> Option<Arc<Group>> {
        let mut at = group.parent.lock().upgrade();
        let ns = group.pid_ns();
        while let Some(ancestor) = at.filter(|ancestor| Arc::ptr_eq(ancestor.pid_ns(), ns)) {
            if ancestor.child_subreaper.load(Ordering::SeqCst) && !ancestor.doomed.load(Ordering::SeqCst) {
                return Some(ancestor);
            }
            at = ancestor.parent.lock().upgrade();
        }
        ns.init().and_then(|init| self.group(init)).or_else(|| self.group(1))
    }

    /// A process has no task left: its parent hears of it, its children get a new one.
    fn group_ended(&self, group: &Arc<Group>) {
        self.leave_cgroup(group);
        if group.pid == 1 {
            // Nobody outlives the first process.
            let all: Vec<_> = self.groups.lock().values().cloned().collect();
            all.iter().filter(|other| other.pid != 1).for_each(|other| other.end(c::SIGKILL));
            self.init_ended(group.ending().unwrap_or(0));
            return;
        }
        let terminal = group.terminal.lock().take();
        if group.leads_session() {
            let session = &group.job().session;
            match terminal {
                Some(terminal) => terminal.leader_gone(session, true),
                None => session.leader_gone(),
            }
        }
        let mut jobs = self.jobs.lock();
        let orphans = std::mem::take(&mut *group.children.lock());
        if !orphans.is_empty()
            && let Some(reaper) = self.reaper(group)
        {
            orphans.iter().for_each(|orphan| self.adopt(&mut jobs, group, orphan, &reaper));
        }
        let parent = group.parent.lock().upgrade();
        if let Some(parent) = &parent {
            group.job().check_orphaned(parent, group, true);
        }
        let told = group.set_zombie();
        if group.has_other_tracer(parent.as_ref()) {
            self.tell_leaders_tracer(group);
        } else if parent.is_some() {
            self.tell_end(&mut jobs, group);
        } else {
            // Started from outside: nobody inside waits for it.
            self.reap(&mut jobs, None, group);
        }
        drop(jobs);
        told.into_iter().for_each(|f| f(group.ending().unwrap_or(0)));
        group.exit_queue.wake(PollEvents::READABLE);
    }

    /// Gives the child of a process that ends a new parent.
    fn adopt(&self, jobs: &mut Jobs, father: &Arc<Group>, orphan: &Arc<Group>, reaper: &Arc<Group>) {
        *orphan.parent.lock() = Arc::downgrade(reaper);
        let tid = reaper.tasks.lock().first().map_or(reaper.pid, |task| task.tid());
        orphan.parent_tid.store(tid, Ordering::Relaxed);
        orphan.exit_signal.store(c::SIGCHLD, Ordering::Relaxed);
        orphan.threads().iter().for_each(|task| task.tell_identity());
        reaper.children.lock().push(orphan.clone());
        if orphan.is_zombie() {
            self.tell_end(jobs, orphan);
        }
        orphan.job().check_orphaned(father, orphan, false);
    }

    /// Tells a process's parent that it has ended. A parent that doesn't care for its children leaves nothing of it.
    pub(crate) fn tell_end(&self, jobs: &mut Jobs, group: &Arc<Group>) {
        let Some(parent) = group.parent.lock().upgrade() else { return };
        // That comes first.
        if group.has_other_tracer(Some(&parent)) {
            return;
        }
        let traced = group.leader_tracer.lock().upgrade().is_some();
        let status = group.ending().unwrap_or(0);
        let (code, value) = match status & 0x7f {
            0 => (c::CLD_EXITED, status >> 8 & 0xff),
            signo if status & 0x80 != 0 => (c::CLD_DUMPED, signo),
            signo => (c::CLD_KILLED, signo),
        };
        let exit_signal = group.exit_signal.load(Ordering::Relaxed);
        let action = parent.action(c::SIGCHLD);
        let ignored = exit_signal == c::SIGCHLD && action.handler == SIG_IGN;
        let reaped = !traced && (ignored || exit_signal == c::SIGCHLD && action.flags & c::SA_NOCLDWAIT as u64 != 0);
        if !ignored && (1..=64).contains(&exit_signal) {
            parent.signal(group.child_info(exit_signal, code, value));
        }
        if reaped {
            self.reap(jobs, Some(&parent), group);
        }
        parent.child_queue.wake(PollEvents::IN);
    }

    /// Forgets a process that has ended.
    pub(crate) fn reap(&self, jobs: &mut Jobs, parent: Option<&Group>, group: &Arc<Group>) {
        if let Some(parent) = parent {
            parent.children.lock().retain(|child| !Arc::ptr_eq(child, group));
        }
        self.groups.lock().remove(&group.pid);
        jobs.leave(group);
        group.exit_queue.wake(PollEvents::READABLE | PollEvents::HUP);
        for ns in group.pid_ns().outwards().filter(|ns| ns.level() > 0) {
            ns.queue.wake(PollEvents::IN);
        }
    }
}

/// Writes the end of a task to the trace, as strace(1) does.
fn trace_end(task: &Task, status: i32) {
    let trace = &task.kernel.trace;
    if !trace.is_on() {
        return;
    }
    let how = match status & 0x7f {
        0 => format!("exited with {}", status >> 8 & 0xff),
        signo if status & 0x80 != 0 => format!("killed by {} (core dumped)", abi::signal::name(signo)),
        signo => format!("killed by {}", abi::signal::name(signo)),
    };
    trace.note(task.tid(), &format!("+++ {how} +++"));
}
