//! clone(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::{Capability, Charge, Credentials};
use ipc::UndoList;
use mm::MemoryManager;
use platform::UserRegs;
use usermem::UserMemoryExt;
use vfs::{File, FsContext, MountNamespace};

use crate::cgroup::{Actor, Cgroup};
use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;
use crate::ns::{Namespaces, Pid, PidNamespace};
use crate::pidfd::PidFd;
use crate::ptrace::Event;
use crate::tasks::Task;

/// What clone(2) and clone3(2) ask for.
#[derive(Clone, Default)]
pub struct CloneRequest {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    pub exit_signal: i32,
    /// Stack pointer of the child; 0 keeps the parent's.
    pub stack: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    /// Where the descriptor for `CLONE_PIDFD` is written.
    pub pidfd: u64,
    pub tls: u64,
    /// Numbers that the child is to have, in its own pid namespace first; any where there is none.
    pub set_tid: Vec<i32>,
    /// Where a new process is to be (`CLONE_INTO_CGROUP`); where the caller is if `None`.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// `CLONE_CLEAR_SIGHAND`, of clone3(2) only.
pub const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
/// `CLONE_INTO_CGROUP`, of clone3(2) only.
pub const CLONE_INTO_CGROUP: u64 = 1 << 33;

const fn bits(flags: i32) -> u64 {
    flags as u32 as u64
}

/// Flags that are implemented, or ask for nothing that there is here.
const KNOWN: u64 = CLONE_CLEAR_SIGHAND
    | CLONE_INTO_CGROUP
    | bits(
        c::CLONE_VM
            | c::CLONE_FS
            | c::CLONE_FILES
            | c::CLONE_SIGHAND
            | c::CLONE_THREAD
            | c::CLONE_PARENT
            | c::CLONE_SYSVSEM
            | c::CLONE_SETTLS
            | c::CLONE_PARENT_SETTID
            | c::CLONE_CHILD_CLEARTID
            | c::CLONE_CHILD_SETTID
            | c::CLONE_DETACHED
            | c::CLONE_UNTRACED
            | c::CLONE_PTRACE
            | c::CLONE_IO
            | c::CLONE_PIDFD
            | c::CLONE_NEWNS
            | c::CLONE_NEWUSER
            | c::CLONE_NEWUTS
            | c::CLONE_NEWIPC
            | c::CLONE_NEWNET
            | c::CLONE_NEWPID
            | c::CLONE_NEWCGROUP
            | c::CLONE_VFORK,
    );

/// End of user addresses on Linux (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;

/// Who and where a task is.
pub(crate) struct Surroundings {
    pub credentials: Arc<Credentials>,
    pub ns: Namespaces,
    pub fs: Arc<FsContext>,
    pub mount_ns: Arc<MountNamespace>,
}

impl CloneRequest {
    fn has(&self, flag: i32) -> bool {
        self.flags & bits(flag) != 0
    }

    /// # Errors
    /// `EINVAL` for flags that don't go together or aren't implemented.
    fn check(&self) -> SysResult<()> {
        let (thread, vm, sighand) = (self.has(c::CLONE_THREAD), self.has(c::CLONE_VM), self.has(c::CLONE_SIGHAND));
        let clear = self.flags & CLONE_CLEAR_SIGHAND != 0;
        // What threads of one process, or two with one working directory, can't differ in.
        if thread && (self.has(c::CLONE_NEWUSER) || self.has(c::CLONE_NEWPID))
            || self.has(c::CLONE_FS) && (self.has(c::CLONE_NEWUSER) || self.has(c::CLONE_NEWNS))
        {
            return Err(Errno::EINVAL);
        }
        if self.has(c::CLONE_PIDFD) && (thread || self.has(c::CLONE_DETACHED)) {
            return Err(Errno::EINVAL);
        }
        if self.has(c::CLONE_SYSVSEM) && self.has(c::CLONE_NEWIPC) {
            return Err(Errno::EINVAL);
        }
        if self.flags & !KNOWN != 0 || thread && !sighand || sighand && !vm || sighand && clear {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

impl Current {
    /// The list of what is undone in semaphores when this task ends, made when it is first needed.
    #[must_use]
    pub fn undo_list(&self) -> Arc<UndoList> {
        let pid = self.task.group.own_pid();
        self.task.lock().undo.get_or_insert_with(|| UndoList::new(pid)).clone()
    }

    /// Shares it with nobody any more, and undoes what is in it if nobody else has it (unshare(2), `CLONE_SYSVSEM`; the end of a task).
    pub fn leave_undo_list(&self) {
        let list = self.task.lock().undo.take();
        drop(list);
    }

    /// Makes a task; returns its number.
    ///
    /// # Errors
    /// `EINVAL` for flags that don't go together or aren't implemented, `EAGAIN`, `ENOMEM`, `EEXIST` for a number in use, `EPERM` for
    /// an FS base outside of user addresses, and for namespaces and numbers that it may not ask for, `ERESTARTNOINTR` when a signal is to be handled first.
    pub fn clone_task(&mut self, request: CloneRequest) -> SysResult<u64> {
        request.check()?;
        if request.has(c::CLONE_SETTLS) && request.tls >= USER_END {
            return Err(Errno::EPERM);
        }
        // A signal for both must be handled before, or the child would never have it.
        if self.task.signal_pending() {
            return Err(Errno::ERESTARTNOINTR);
        }
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::EAGAIN);
        }
        let kernel = self.task.kernel.clone();
        let own = self.task.group.cgroup(&kernel);
        match &request.cgroup {
            Some(cgroup) if !request.has(c::CLONE_THREAD) => {
                let actor = Actor { who: self.credentials().clone(), ns: self.task.lock().ns.cgroup.clone() };
                kernel.may_fork_into(&self.task.group, cgroup, &actor)?;
            }
            Some(_) => return Err(Errno::EINVAL),
            None => {}
        }
        kernel.may_add_task(request.cgroup.as_ref().unwrap_or(&own))?;
        let surroundings = self.for_child(&request)?;
        let charge = Task::charge_process(&surroundings.credentials, self.task.group.limit(c::RLIMIT_NPROC))?;
        let number = kernel.new_pid(&surroundings.ns.pid_for_children, &request.set_tid)?;
        let mut regs: UserRegs = self.regs;
        regs.rax = 0;
        if request.stack != 0 {
            regs.rsp = request.stack;
        }
        let alone = self.task.group.tasks.lock().len() == 1;
        let mm = if request.has(c::CLONE_VM) { self.mm.clone() } else { self.mm.fork(alone)? };
        let tls = if request.has(c::CLONE_SETTLS) { request.tls } else { regs.fs_base };
        regs.fs_base = 0;
        let ctx = mm.aspace().clone().new_context(&regs, Some(&self.ctx.fp()))?;
        regs.fs_base = tls;
        let group = if request.has(c::CLONE_THREAD) { self.task.group.clone() } else { self.new_group(&number, &request, &mm)? };
        if request.has(c::CLONE_THREAD) {
            group.has_had_threads.store(true, Ordering::Relaxed);
        }
        let task = self.new_task(number.clone(), &group, &mm, charge, surroundings, &request);
        let discard = || {
            let fds = std::mem::take(&mut task.lock().fds);
            fds.leave();
        };
        let pidfd = self.give_pidfd(&request, &group).inspect_err(|_| discard())?;
        // A new thread must not miss that its process stops or ends.
        kernel.enlist_unless(&task, !request.has(c::CLONE_THREAD), || self.task.signal_pending()).inspect_err(|_| {
            discard();
            let _ = pidfd.map(|fd| self.fds.close(fd));
        })?;
        task.inherit_seccomp(&self.task);
        let event = self.event_of(&request);
        if event.is_some() || request.has(c::CLONE_PTRACE) && self.task.is_traced() {
            self.trace_child(&task);
        }
        let tid = number.number_in(self.pid_ns());
        if request.has(c::CLONE_PARENT_SETTID) {
            // As on Linux, a bad address is nobody's error.
            let _ = self.mm.write_obj(request.parent_tid, &tid);
        }
        if request.has(c::CLONE_CHILD_SETTID) {
            let _ = mm.write_obj(request.child_tid, &number.number_in(number.namespace()));
        }
        if !request.has(c::CLONE_THREAD) {
            kernel.watch_cpu_limit(&group);
        }
        if let Err(errno) = Self::start(task.clone(), ctx, regs) {
            kernel.forget_tracee(&task);
            kernel.delist(&task);
            return Err(errno);
        }
        let number_for_tracer = self.number_for_tracer(&task);
        if let Some(event) = event {
            self.stop_at_event(event, number_for_tracer);
        }
        if request.has(c::CLONE_VFORK) {
            // Signals wait until the child lets go of the memory. Only the end of this task comes before.
            let released = || if task.released.load(Ordering::SeqCst) { Ok(()) } else { Err(Errno::EAGAIN) };
            let _ = self.block_killable(&task.released_queue, released);
            self.stop_at_event(Event::VforkDone, number_for_tracer);
        }
        Ok(tid.cast_unsigned().into())
    }

    /// What the tracer hears a clone as, if it wants to.
    fn event_of(&self, request: &CloneRequest) -> Option<Event> {
        let event = match request.exit_signal {
            _ if request.has(c::CLONE_VFORK) => Event::Vfork,
            c::SIGCHLD => Event::Fork,
            _ => Event::Clone,
        };
        (!request.has(c::CLONE_UNTRACED) && self.task.wants(event)).then_some(event)
    }

    /// `CLONE_PIDFD`: the descriptor of a new process, which only the caller has.
    fn give_pidfd(&self, request: &CloneRequest, group: &Arc<Group>) -> SysResult<Option<i32>> {
        if !request.has(c::CLONE_PIDFD) {
            return Ok(None);
        }
        let file = File::new(Arc::new(PidFd(group.clone())), None, c::O_RDWR);
        let fd = self.fds.install(file, true, 0, self.task.group.limit(c::RLIMIT_NOFILE))?;
        let written = self.mm.write_obj(request.pidfd, &fd);
        if written.is_err() {
            let _ = self.fds.close(fd);
        }
        written.map(|()| Some(fd))
    }

    /// Who a new task is, and which namespaces it has.
    fn for_child(&self, request: &CloneRequest) -> SysResult<Surroundings> {
        let credentials =
            if request.has(c::CLONE_NEWUSER) { Arc::new(self.in_new_user_namespace()?) } else { self.credentials().clone() };
        let own = self.task.lock().ns.clone();
        // Threads have their numbers where their process has its.
        if request.has(c::CLONE_THREAD) && !Arc::ptr_eq(&own.pid_for_children, self.pid_ns()) {
            return Err(Errno::EINVAL);
        }
        let ns = own.renew(request.flags, &credentials)?;
        let may_number = |ns: &Arc<PidNamespace>| {
            let has = |capability| credentials.has_capability_in(&ns.user_ns, capability);
            has(Capability::SYS_ADMIN) || has(Capability::CHECKPOINT_RESTORE)
        };
        if request.set_tid.len() > ns.pid_for_children.level() + 1 {
            return Err(Errno::EINVAL);
        }
        if !ns.pid_for_children.outwards().take(request.set_tid.len()).all(may_number) {
            return Err(Errno::EPERM);
        }
        let fs = if request.has(c::CLONE_FS) { self.fs.clone() } else { Arc::new(self.fs.fork()) };
        let mut mount_ns = self.mount_ns();
        if request.has(c::CLONE_NEWNS) {
            mount_ns = mount_ns.copy(&fs, credentials.user_ns.clone())?;
        }
        Ok(Surroundings { credentials, ns, fs, mount_ns })
    }

    /// A process for a new task.
    fn new_group(&self, number: &Arc<Pid>, request: &CloneRequest, mm: &MemoryManager) -> SysResult<Arc<Group>> {
        let own = &self.task.group;
        let (parent, parent_tid, exit_signal) = if request.has(c::CLONE_PARENT) {
            // The first process of a namespace must not have siblings in it: nobody would wait for them.
            let parent = own.parent.lock().upgrade().filter(|_| !own.is_init()).ok_or(Errno::EINVAL)?;
            (parent, own.parent_tid.load(Ordering::Relaxed), own.exit_signal.load(Ordering::Relaxed))
        } else {
            (own.clone(), self.task.tid(), request.exit_signal)
        };
        let group = Group::new(number.clone(), Some((&parent, parent_tid)), Some(own), own.job(), exit_signal);
        for (new, old) in [(&group.oom_score_adj, &own.oom_score_adj), (&group.oom_score_adj_min, &own.oom_score_adj_min)] {
            new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if request.cgroup.is_some() {
            group.cgroup.lock().clone_from(&request.cgroup);
        }
        if request.has(c::CLONE_VM) {
            own.shares_memory.store(true, Ordering::Relaxed);
            group.shares_memory.store(true, Ordering::Relaxed);
            group.usage.lock().inherited = mm.aspace().cpu_time();
        }
        if request.has(c::CLONE_SIGHAND) {
            group.signals.lock().actions = own.signals.lock().actions.clone();
        } else if request.flags & CLONE_CLEAR_SIGHAND != 0 {
            group.signals.lock().reset_handlers();
        }
        Ok(group)
    }

    fn new_task(
        &self,
        number: Arc<Pid>,
        group: &Arc<Group>,
        mm: &Arc<MemoryManager>,
        charge: Charge,
        surroundings: Surroundings,
        request: &CloneRequest,
    ) -> Arc<Task> {
        let fds = if request.has(c::CLONE_FILES) { self.fds.share() } else { self.fds.fork() };
        let undo = request.has(c::CLONE_SYSVSEM).then(|| self.undo_list());
        let (mempolicy, rseq) = {
            let shared = self.task.lock();
            (shared.mempolicy, shared.rseq)
        };
        let (comm, exe, mask, altstack, slack, scheduling, personality) = {
            let shared = self.task.lock();
            (
                shared.comm.clone(),
                shared.exe.clone(),
                shared.mask,
                shared.altstack,
                shared.timer_slack,
                shared.scheduling.for_child(),
                shared.personality,
            )
        };
        let task = Task::new(&self.task.kernel, number, group, mm.clone(), charge, fds, surroundings, &comm);
        let mut shared = task.lock();
        (shared.exe, shared.mask) = (exe, mask);
        (shared.timer_slack, shared.default_timer_slack) = (slack, slack);
        (shared.scheduling, shared.personality) = (scheduling, personality);
        (shared.mempolicy, shared.undo) = (mempolicy, undo);
        if !request.has(c::CLONE_VM) || request.has(c::CLONE_VFORK) {
            shared.altstack = altstack;
        }
        if !request.has(c::CLONE_VM) {
            shared.rseq = rseq;
        }
        if request.has(c::CLONE_CHILD_CLEARTID) {
            shared.clear_child_tid = request.child_tid;
        }
        drop(shared);
        task
    }
}

impl Kernel {
    /// Makes a new task, and its process if that is new, too, known to all.
    pub(crate) fn enlist(&self, task: &Arc<Task>, new_process: bool) {
        // Who asks is nobody that could be interrupted.
        let _ = self.enlist_unless(task, new_process, || false);
    }

    /// As [`Self::enlist`], unless `interrupted` says so when nobody can end or stop the process meanwhile.
    ///
    /// # Errors
    /// `ERESTARTNOINTR`
    fn enlist_unless(&self, task: &Arc<Task>, new_process: bool, interrupted: impl FnOnce() -> bool) -> SysResult<()> {
        let group = &task.group;
        let mut jobs = new_process.then(|| self.jobs.lock());
        {
            // Who ends or stops the process holds this lock.
            let mut tasks = group.tasks.lock();
            if interrupted() {
                return Err(Errno::ERESTARTNOINTR);
            }
            tasks.push(task.clone());
        }
        self.forks.fetch_add(1, Ordering::Relaxed);
        self.tasks.lock().insert(task.tid(), task.clone());
        if let Some(jobs) = &mut jobs {
            self.enter_cgroup(group);
            self.groups.lock().insert(group.pid, group.clone());
            self.freeze_newcomer(group);
            jobs.join(group);
            if let Some(parent) = group.parent.lock().upgrade() {
                parent.children.lock().push(group.clone());
            }
        }
        Ok(())
    }

    /// Undoes it for a task that could not be started.
    pub(crate) fn delist(&self, task: &Arc<Task>) {
        let group = &task.group;
        let fds = std::mem::take(&mut task.lock().fds);
        fds.leave();
        self.tasks.lock().remove(&task.tid());
        let mut tasks = group.tasks.lock();
        tasks.retain(|other| !Arc::ptr_eq(other, task));
        let empty = tasks.is_empty();
        drop(tasks);
        if empty {
            self.leave_cgroup(group);
            let mut jobs = self.jobs.lock();
            let parent = group.parent.lock().upgrade();
            self.reap(&mut jobs, parent.as_deref(), group);
        }
        group.child_queue.wake(PollEvents::IN);
    }
}
