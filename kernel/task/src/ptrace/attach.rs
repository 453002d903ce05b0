//! Who traces whom: how it begins and how it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, SysResult, c};
use auth::Capability;

use super::{EXITKILL, OPTIONS, Resume, Tracee, debug};
use crate::credentials::Access;
use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;
use crate::tasks::Task;

/// What `kernel.yama.ptrace_scope` says at first: only descendants are attached to, and who has asked for it (prctl(2), `PR_SET_PTRACER`).
const RESTRICTED: i64 = 1;
/// Who isn't restricted; who has the capability; nobody.
const CLASSIC: i64 = 0;
const PRIVILEGED: i64 = 2;

/// Who may attach to a process besides its ancestors (prctl(2), `PR_SET_PTRACER`).
#[derive(Clone, Default)]
pub enum Ptracer {
    #[default]
    Nobody,
    Anybody,
    /// Until it ends.
    Task(std::sync::Weak<Task>),
}

/// `ESRCH` for one that ends.
fn memory_guard(task: &Task) -> SysResult<mm::Traced> {
    let alone = task.group.tasks.lock().len() == 1;
    let mm = task.lock().mm.clone().ok_or(Errno::ESRCH)?;
    Ok(mm.begin_trace(alone))
}

impl Tracee {
    fn new(tracer: &Arc<Task>, options: u32, seized: bool, memory: mm::Traced) -> Box<Self> {
        Box::new(Self {
            tracer: Arc::downgrade(tracer),
            seized,
            options,
            resume: Resume::Cont,
            message: 0,
            news: None,
            trap: false,
            notify: false,
            listening: false,
            end: None,
            debug: debug::DebugRegs::default(),
            memory: Some(memory),
        })
    }

    /// One that is traced as its maker is.
    fn of_child(&self, memory: mm::Traced) -> Option<Box<Self>> {
        let mut tracee = Self::new(&self.tracer.upgrade()?, self.options, self.seized, memory);
        tracee.trap = self.seized;
        Some(tracee)
    }
}

impl Task {
    /// Has calls go by the tracer's eyes, and nothing be answered without it.
    fn watch(&self, on: bool) {
        self.set_traced(on);
        self.tell_identity();
    }

    /// Whether it may attach to a task (ptrace(2), "Ptrace access mode checking", and Yama).
    #[must_use]
    pub fn may_attach(&self, target: &Self, access: Access) -> bool {
        let privileged = || self.has_ptrace_over(target);
        let in_scope = || match self.kernel.setting("ptrace_scope", RESTRICTED) {
            CLASSIC => true,
            RESTRICTED => self.is_in_scope_of(target) || privileged(),
            PRIVILEGED => privileged(),
            _ => false,
        };
        self.may_access(target, access) && (Arc::ptr_eq(&self.group, &target.group) || in_scope())
    }

    fn has_ptrace_over(&self, target: &Self) -> bool {
        self.credentials().has_capability_in(&target.credentials().user_ns, Capability::SYS_PTRACE)
    }

    /// Whether it is an ancestor, or the target has let it.
    fn is_in_scope_of(&self, target: &Self) -> bool {
        let traces = target.tracer().is_some_and(|tracer| Arc::ptr_eq(&tracer.group, &self.group));
        if traces || descends(&target.group, &self.group) {
            return true;
        }
        let exception = target.group.ptracer.lock().clone();
        match exception {
            Ptracer::Nobody => false,
            Ptracer::Anybody => true,
            Ptracer::Task(task) => {
                let alive = |task: &Arc<Self>| self.kernel.task(task.tid()).is_some_and(|now| Arc::ptr_eq(&now, task));
                task.upgrade().filter(alive).is_some_and(|task| descends(&self.group, &task.group))
            }
        }
    }
}

/// Whether a process is another, or a descendant of it.
fn descends(from: &Arc<Group>, ancestor: &Arc<Group>) -> bool {
    let mut at = Some(from.clone());
    while let Some(group) = at {
        if Arc::ptr_eq(&group, ancestor) {
            return true;
        }
        at = group.parent.lock().upgrade();
    }
    false
}

/// The leader of a process among somebody's tracees.
fn leader_among(tracer: &Group, group: &Arc<Group>) -> Option<Arc<Task>> {
    tracer.tracees.lock().iter().find(|task| Arc::ptr_eq(&task.group, group) && task.is_leader()).cloned()
}

/// Enters a tracee in its tracer's list. Under the lock of [`Kernel::jobs`].
fn link(tracer: &Task, tracee: &Arc<Task>) {
    if tracee.is_leader() {
        *tracee.group.leader_tracer.lock() = Arc::downgrade(&tracer.group);
    }
    tracer.group.tracees.lock().push(tracee.clone());
}

/// Takes a tracee out of a process's list. Under the lock of [`Kernel::jobs`].
fn unlink(tracer: &Group, tracee: &Arc<Task>) {
    tracer.tracees.lock().retain(|other| !Arc::ptr_eq(other, tracee));
    if tracee.is_leader() {
        *tracee.group.leader_tracer.lock() = std::sync::Weak::new();
    }
}

impl Current {
    /// `PTRACE_TRACEME`: the parent traces this task from now on.
    ///
    /// # Errors
    /// `EPERM` when it is traced already, or the parent may not.
    pub fn trace_me(&self) -> SysResult<()> {
        let kernel = &self.task.kernel;
        let memory = memory_guard(&self.task)?;
        let _jobs = kernel.jobs.lock();
        let parent = self.task.group.parent.lock().upgrade().ok_or(Errno::EPERM)?;
        let tid = self.task.group.parent_tid.load(Ordering::Relaxed);
        let tracer = kernel.task(tid).or_else(|| parent.tasks.lock().first().cloned()).ok_or(Errno::EPERM)?;
        let in_scope = match kernel.setting("ptrace_scope", RESTRICTED) {
            CLASSIC | RESTRICTED => true,
            PRIVILEGED => tracer.has_ptrace_over(&self.task),
            _ => false,
        };
        if !in_scope || !tracer.may_access(&self.task, Access::Real) {
            return Err(Errno::EPERM);
        }
        {
            let mut shared = self.task.lock();
            if shared.traced.is_some() {
                return Err(Errno::EPERM);
            }
            shared.traced = Some(Tracee::new(&tracer, 0, false, memory));
        }
        link(&tracer, &self.task);
        self.task.watch(true);
        Ok(())
    }

    /// `PTRACE_ATTACH`; `PTRACE_SEIZE` with its options.
    ///
    /// # Errors
    /// `EPERM` when it may not, the target is one of its own threads, traced already, or ends; `EIO` for unknown options.
    pub fn attach(&self, target: &Arc<Task>, seize: Option<u64>) -> SysResult<()> {
        let options = seize.map_or(Ok(0), |options| u32::try_from(options).map_err(|_| Errno::EIO))?;
        if options & !OPTIONS != 0 {
            return Err(Errno::EIO);
        }
        if Arc::ptr_eq(&target.group, &self.task.group) || !self.task.may_attach(target, Access::Real) {
            return Err(Errno::EPERM);
        }
        let memory = memory_guard(target).map_err(|_| Errno::EPERM)?;
        let jobs = self.task.kernel.jobs.lock();
        let was_stopped = {
            let signals = target.group.signals.lock();
            let mut shared = target.lock();
            if shared.traced.is_some() || shared.mm.is_none() || signals.end.is_some() {
                return Err(Errno::EPERM);
            }
            let mut tracee = Tracee::new(&self.task, options, seize.is_some(), memory);
            // Stopped by job control: from now on by ptrace.
            let was_stopped = std::mem::take(&mut shared.halt.stopped);
            tracee.trap = was_stopped;
            shared.traced = Some(tracee);
            was_stopped
        };
        link(&self.task, target);
        target.watch(true);
        drop(jobs);
        if seize.is_none() {
            target.signal(SigInfo::kernel(c::SIGSTOP));
        }
        if was_stopped {
            target.kick();
            // The tracer must find it stopped.
            let there = || if target.is_trapped() || target.lock().mm.is_none() { Ok(()) } else { Err(Errno::EAGAIN) };
            let _ = self.block_killable(&self.task.group.child_queue, there);
        }
        Ok(())
    }

    /// prctl(2), `PR_SET_PTRACER`.
    pub fn set_ptracer(&self, ptracer: Ptracer) {
        *self.task.group.ptracer.lock() = ptracer;
    }

    /// `PTRACE_DETACH`: it goes on without a tracer.
    ///
    /// # Errors
    /// `ESRCH` when it doesn't stand still, `EIO` when `signo` is no signal.
    pub fn detach(&self, tracee: &Arc<Task>, signo: u64) -> SysResult<()> {
        let signo = super::is_signal(signo)?;
        let jobs = self.task.kernel.jobs.lock();
        self.with_stop(tracee, |stop, _| {
            stop.answer = Some(signo);
            Ok(())
        })?;
        self.task.kernel.let_go(&self.task.group, tracee);
        drop(jobs);
        Ok(())
    }

    /// A new task, which nobody else knows of yet, is traced by who traces this one.
    pub(crate) fn trace_child(&self, child: &Arc<Task>) {
        let Ok(memory) = memory_guard(child) else { return };
        let _jobs = self.task.kernel.jobs.lock();
        let tracee = self.task.lock().traced.as_ref().and_then(|tracee| tracee.of_child(memory));
        let Some(tracee) = tracee else { return };
        let Some(tracer) = tracee.tracer.upgrade() else { return };
        {
            let mut shared = child.lock();
            if !tracee.seized {
                shared.pending.mark(c::SIGSTOP);
            }
            shared.traced = Some(tracee);
        }
        link(&tracer, child);
        child.set_traced(true);
    }

    /// It has a new address space.
    pub(crate) fn trace_memory(&self) {
        let memory = self.mm.begin_trace(true);
        let mut shared = self.task.lock();
        let old = shared.traced.as_mut().and_then(|tracee| tracee.memory.replace(memory));
        drop(shared);
        drop(old);
    }

    /// Whether who traces it, if anybody, may not do so with a program that has more rights.
    pub(crate) fn traced_by_somebody_weak(&self) -> bool {
        self.task.is_traced()
            && self.task.tracer().is_some_and(|tracer| {
                !tracer.credentials().has_capability_in(&self.credentials().user_ns, Capability::SYS_PTRACE)
            })
    }
}

impl Kernel {
    /// A tracee has no tracer any more. A stop that job control has decided takes it over. Under the lock of [`Kernel::jobs`].
    fn let_go(&self, tracer: &Group, tracee: &Arc<Task>) {
        unlink(tracer, tracee);
        let old = {
            let signals = tracee.group.signals.lock();
            let mut shared = tracee.lock();
            shared.halt.stopped |= signals.end.is_none() && signals.jobs.stopped && shared.stop.is_some();
            if let Some(stop) = shared.stop.as_deref_mut() {
                stop.answer.get_or_insert(0);
            }
            shared.traced.take()
        };
        tracee.watch(false);
        tracee.kick();
        drop(old);
    }

    /// A tracer ends: its tracees are free, or killed if it wants that.
    pub(crate) fn free_tracees(&self, tracer: &Arc<Task>) {
        let mut jobs = self.jobs.lock();
        let own = |task: &&Arc<Task>| {
            task.lock().traced.as_ref().is_none_or(|traced| std::ptr::eq(traced.tracer.as_ptr(), Arc::as_ptr(tracer)))
        };
        let tracees: Vec<_> = tracer.group.tracees.lock().iter().filter(own).cloned().collect();
        for tracee in &tracees {
            let kill = tracee.lock().traced.as_ref().is_some_and(|traced| traced.options & EXITKILL != 0);
            self.let_go(&tracer.group, tracee);
            if kill {
                tracee.group.end(c::SIGKILL);
            }
            // Its parent has waited for this.
            if tracee.is_leader() && tracee.group.is_zombie() {
                self.end_is_parents(&mut jobs, &tracer.group, &tracee.group);
            }
        }
    }

    /// A process whose leader was traced has ended and its tracer is done with it: its parent's turn.
    pub(crate) fn end_is_parents(&self, jobs: &mut crate::jobs::Jobs, tracer: &Arc<Group>, group: &Arc<Group>) {
        let parent = group.parent.lock().upgrade();
        match parent {
            Some(parent) if Arc::ptr_eq(&parent, tracer) => {}
            Some(_) => self.tell_end(jobs, group),
            None => self.reap(jobs, None, group),
        }
    }

    /// A tracee has ended: its tracer hears of it. Under the lock of [`Kernel::jobs`].
    pub(crate) fn tell_tracer_of_end(&self, tracer: &Group, tracee: &Task, status: i32) {
        let ns = tracer.pid_ns();
        let (code, value) = match status & 0x7f {
            0 => (c::CLD_EXITED, status >> 8 & 0xff),
            signo if status & 0x80 != 0 => (c::CLD_DUMPED, signo),
            signo => (c::CLD_KILLED, signo),
        };
        tracer.signal(SigInfo::child(code, tracee.number_in(ns), 0, value));
        tracer.child_queue.wake(PollEvents::IN);
    }

    /// A thread that was traced has ended, and isn't the leader of its process, whose end is told with the last thread's.
    pub(crate) fn traced_thread_ended(&self, task: &Task, status: i32) {
        let _jobs = self.jobs.lock();
        let Some(tracer) = task.tracer() else { return };
        self.tell_tracer_of_end(&tracer.group, task, status);
    }

    /// Nobody waits for a tracee any more that hasn't run, or whose number another thread gets.
    pub(crate) fn forget_tracee(&self, tracee: &Arc<Task>) {
        let _jobs = self.jobs.lock();
        if let Some(tracer) = tracee.tracer() {
            unlink(&tracer.group, tracee);
        }
        let old = tracee.lock().traced.take();
        drop(old);
    }

    /// The leader of a process, which has ended, gives its number to another thread (execve(2)).
    pub(crate) fn forget_leader(&self, group: &Arc<Group>) {
        let leader = group.leader_tracer.lock().upgrade().and_then(|tracer| leader_among(&tracer, group));
        if let Some(leader) = leader {
            self.forget_tracee(&leader);
        }
    }

    /// A tracer has waited for the end of a tracee. Under the lock of [`Kernel::jobs`].
    pub(crate) fn reap_tracee(&self, jobs: &mut crate::jobs::Jobs, tracer: &Arc<Group>, tracee: &Arc<Task>) {
        unlink(tracer, tracee);
        let old = tracee.lock().traced.take();
        drop(old);
        let group = &tracee.group;
        if !tracee.is_leader() {
            return;
        }
        let parent = group.parent.lock().upgrade();
        if parent.is_some_and(|parent| Arc::ptr_eq(&parent, tracer)) {
            self.reap(jobs, Some(tracer), group);
        } else {
            self.end_is_parents(jobs, tracer, group);
        }
    }

    /// The last task of a process has ended whose leader has a tracer that isn't its parent. Under the lock of [`Kernel::jobs`].
    pub(crate) fn tell_leaders_tracer(&self, group: &Arc<Group>) {
        let tracer = group.leader_tracer.lock().upgrade();
        if let Some(tracer) = tracer
            && let Some(leader) = leader_among(&tracer, group)
        {
            self.tell_tracer_of_end(&tracer, &leader, group.ending().unwrap_or(0));
        }
    }

    /// The tracer of a task that has just become the leader of its process.
    pub(crate) fn retrace_leader(&self, task: &Arc<Task>) {
        let _jobs = self.jobs.lock();
        if let Some(tracer) = task.tracer() {
            *task.group.leader_tracer.lock() = Arc::downgrade(&tracer.group);
        }
    }
}

/// Signals that a tracer wants to see though nobody handles them: all.
pub(crate) fn shows(shared: &crate::tasks::Shared, signo: i32) -> bool {
    shared.traced.is_some() && !SigSet::of(c::SIGKILL).contains(signo)
}
