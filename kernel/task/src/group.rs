//! Processes: what the threads of one share.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::c;
use abi::signal::{SIG_DFL, SIG_IGN, SigAction};
use abi::structs::Rlimit;
use auth::Credentials;
use sync::{Mutex, WaitQueue, monotonic_ns};

use crate::cgroup::Cgroup;
use crate::core::Dump;
use crate::jobs::{ProcessGroup, Terminal};
use crate::kernel::{OnExit, OnStop};
use crate::ns::Pid;
use crate::pending::Pending;
use crate::ptrace::Ptracer;
use crate::stop::JobControl;
use crate::tasks::Task;
use crate::timers::ProcessTimers;
use crate::usage::Usage;

/// What is done with each signal, by number.
pub type Actions = [SigAction; 65];

/// Signals of a process. Locked before a task's own state.
pub struct Signals {
    /// Shared with other processes after clone(2) with `CLONE_SIGHAND`.
    pub(crate) actions: Arc<Mutex<Actions>>,
    pub pending: Pending,
    pub(crate) jobs: JobControl,
    /// Wait status once it is ending.
    pub(crate) end: Option<i32>,
    /// The task that ends all others to run a new program.
    pub(crate) execer: Option<Weak<Task>>,
}

/// A process.
pub struct Group {
    /// Its number in the first namespace: how the kernel calls it.
    pub pid: i32,
    /// Its numbers.
    pub number: Arc<Pid>,
    pub parent: Mutex<Weak<Group>>,
    /// The thread of the parent that made it, or has taken it over.
    pub(crate) parent_tid: AtomicI32,
    pub children: Mutex<Vec<Arc<Group>>>,
    /// Tasks that its threads trace, those that have ended but weren't waited for, too.
    pub(crate) tracees: Mutex<Vec<Arc<Task>>>,
    /// Who traces its leader.
    pub(crate) leader_tracer: Mutex<Weak<Group>>,
    /// Who may attach to it besides its ancestors.
    pub(crate) ptracer: Mutex<Ptracer>,
    job: Mutex<Arc<ProcessGroup>>,
    /// The controlling terminal.
    pub terminal: Mutex<Option<Arc<dyn Terminal>>>,
    pub tasks: Mutex<Vec<Arc<Task>>>,
    pub signals: Mutex<Signals>,
    pub limits: Mutex<[Rlimit; 16]>,
    /// It is ending: a hint, [`Group::ending`] says how.
    pub(crate) doomed: AtomicBool,
    /// A SIGKILL has come while it was ending.
    pub(crate) killed: AtomicBool,
    /// A core dump under way.
    pub(crate) dump: Dump,
    /// No task is left.
    zombie: AtomicBool,
    /// Another process lives or has lived in the same memory (vfork(2)).
    pub(crate) shares_memory: AtomicBool,
    execed: AtomicBool,
    /// It has, or has had, more than one thread: its CPU time isn't its only thread's.
    pub(crate) has_had_threads: AtomicBool,
    /// Orphans among its descendants become its children (prctl(2), `PR_SET_CHILD_SUBREAPER`).
    pub child_subreaper: AtomicBool,
    /// How likely it is to go when memory is up (proc_pid_oom_score_adj(5)), and how unlikely it can make itself.
    pub oom_score_adj: AtomicI32,
    pub oom_score_adj_min: AtomicI32,
    /// Who it was at its end.
    pub(crate) last_credentials: OnceLock<Arc<Credentials>>,
    /// Who outside is told of its end.
    on_exit: Mutex<Vec<OnExit>>,
    /// Who outside is told when it is stopped, and will continue it.
    pub(crate) on_stop: OnceLock<OnStop>,
    /// Where its wait4(2) waits for children.
    pub child_queue: WaitQueue,
    /// Woken at its end (pidfd_open(2)).
    pub(crate) exit_queue: WaitQueue,
    /// Woken when a signal comes (signalfd(2)).
    /// What its end is told the parent by: `SIGCHLD` after adoption or execve(2), whatever clone(2) had said.
    pub exit_signal: AtomicI32,
    pub(crate) timers: OnceLock<Box<ProcessTimers>>,
    pub started: u64,
    /// Its control group, the root's if there is none; whether it is counted there, and whether that is frozen.
    pub(crate) cgroup: Mutex<Option<Arc<Cgroup>>>,
    pub(crate) counted: AtomicBool,
    pub(crate) frozen: AtomicBool,
    /// As whom it has logged in, and how often somebody had by then (/proc/pid/loginuid, sessionid); -1: nobody has.
    pub login: Mutex<(u32, u32)>,
    pub usage: Mutex<Usage>,
}

/// The limits of the first process.
fn first_limits() -> [Rlimit; 16] {
    let mut limits = [Rlimit { cur: u64::MAX, max: u64::MAX }; 16];
    let defaults = [
        (c::RLIMIT_STACK, 8 << 20, u64::MAX),
        (c::RLIMIT_CORE, 0, u64::MAX),
        (c::RLIMIT_NOFILE, 1024, 1 << 20),
        (c::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
        (c::RLIMIT_SIGPENDING, 16384, 16384),
        (c::RLIMIT_MSGQUEUE, 819_200, 819_200),
        (c::RLIMIT_NICE, 0, 0),
        (c::RLIMIT_RTPRIO, 0, 0),
    ];
    for (index, cur, max) in defaults {
        if let Some(limit) = limits.get_mut(index as usize) {
            *limit = Rlimit { cur, max };
        }
    }
    limits
}

impl Group {
    /// A process without tasks, child of `parent` (made by its thread `parent_tid`), in the process group `job`.
    pub(crate) fn new(
        number: Arc<Pid>,
        parent: Option<(&Arc<Self>, i32)>,
        model: Option<&Self>,
        job: Arc<ProcessGroup>,
        exit_signal: i32,
    ) -> Arc<Self> {
        let actions = model.map_or([SigAction::default(); 65], |model| *model.signals.lock().actions.lock());
        let signals = Signals {
            actions: Arc::new(Mutex::new(actions)),
            pending: Pending::default(),
            jobs: JobControl::default(),
            end: None,
            execer: None,
        };
        Arc::new(Self {
            pid: number.global(),
            number,
            parent: Mutex::new(parent.map(|(parent, _)| Arc::downgrade(parent)).unwrap_or_default()),
            parent_tid: AtomicI32::new(parent.map_or(0, |(_, tid)| tid)),
            children: Mutex::default(),
            job: Mutex::new(job),
            terminal: Mutex::new(model.and_then(|model| model.terminal.lock().clone())),
            tasks: Mutex::default(),
            signals: Mutex::new(signals),
            limits: Mutex::new(model.map_or_else(first_limits, |model| *model.limits.lock())),
            doomed: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            dump: Dump::default(),
            zombie: AtomicBool::new(false),
            tracees: Mutex::default(),
            leader_tracer: Mutex::default(),
            ptracer: Mutex::default(),
            shares_memory: AtomicBool::new(false),
            execed: AtomicBool::new(parent.is_none()),
            has_had_threads: AtomicBool::new(false),
            child_subreaper: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(0),
            oom_score_adj_min: AtomicI32::new(0),
            last_credentials: OnceLock::new(),
            on_exit: Mutex::default(),
            on_stop: OnceLock::new(),
            child_queue: WaitQueue::default(),
            exit_queue: WaitQueue::default(),
            exit_signal: AtomicI32::new(exit_signal),
            timers: OnceLock::new(),
            started: monotonic_ns(),
            cgroup: Mutex::new(model.and_then(|model| model.cgroup.lock().clone())),
            counted: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            login: Mutex::new(model.map_or((u32::MAX, u32::MAX), |model| *model.login.lock())),
            usage: Mutex::default(),
        })
    }

    /// Number of the parent, as the process itself sees it; 0 when it doesn't see one.
    pub fn parent_pid(&self) -> i32 {
        self.parent.lock().upgrade().map_or(0, |parent| parent.number.number_in(self.pid_ns()))
    }

    /// The children that its thread `tid` has made, or has been given.
    #[must_use]
    pub fn children_of(&self, tid: i32) -> Vec<Arc<Self>> {
        let children = self.children.lock();
        children.iter().filter(|child| child.parent_tid.load(Ordering::Relaxed) == tid).cloned().collect()
    }

    /// Its process group.
    #[must_use]
    pub fn job(&self) -> Arc<ProcessGroup> {
        self.job.lock().clone()
    }

    pub(crate) fn set_job(&self, job: Arc<ProcessGroup>) {
        *self.job.lock() = job;
    }

    /// Number of its process group.
    #[must_use]
    pub fn pgid(&self) -> i32 {
        self.job.lock().pgid
    }

    /// Number of its session.
    #[must_use]
    pub fn sid(&self) -> i32 {
        self.job.lock().session.sid
    }

    /// Whether it leads its session.
    #[must_use]
    pub fn leads_session(&self) -> bool {
        self.sid() == self.pid
    }

    /// It runs another program now than the one it was forked with.
    pub(crate) fn note_exec(&self) {
        self.execed.store(true, Ordering::Relaxed);
        self.exit_signal.store(c::SIGCHLD, Ordering::Relaxed);
    }

    pub(crate) fn has_execed(&self) -> bool {
        self.execed.load(Ordering::Relaxed)
    }

    /// What is done with a signal.
    #[must_use]
    pub fn action(&self, signo: i32) -> SigAction {
        self.signals.lock().action(signo)
    }

    /// Changes what is done with a signal; returns what it was. What is ignored now is forgotten where it waits.
    pub fn set_action(&self, signo: i32, new: SigAction) -> SigAction {
        let tasks = self.tasks.lock();
        let mut signals = self.signals.lock();
        let old = signals.action(signo);
        signals.change(signo, |action| *action = new);
        if new.handler == SIG_IGN || new.handler == SIG_DFL && crate::signal::ignored_by_default(signo) {
            let set = abi::signal::SigSet::of(signo);
            signals.pending.discard(set);
            tasks.iter().for_each(|task| task.lock().pending.discard(set));
        }
        old
    }

    /// Whether somebody else than its parent traces its leader: its end is theirs first.
    pub(crate) fn has_other_tracer(&self, parent: Option<&Arc<Self>>) -> bool {
        let tracer = self.leader_tracer.lock().upgrade();
        tracer.is_some_and(|tracer| !parent.is_some_and(|parent| Arc::ptr_eq(parent, &tracer)))
    }

    /// The wait status if it is ending.
    #[must_use]
    pub fn ending(&self) -> Option<i32> {
        if self.doomed.load(Ordering::SeqCst) { self.signals.lock().end } else { None }
    }

    /// Has `f` called with the wait status when it has ended, or now if it has.
    pub fn on_exit(&self, f: OnExit) {
        let mut told = self.on_exit.lock();
        if self.is_zombie() {
            drop(told);
            f(self.ending().unwrap_or(0));
        } else {
            told.push(f);
        }
    }

    /// Has `f` called with the signal when it has been stopped: somebody outside takes a parent's part in job control, once and for all. Its
    /// process group isn't orphaned therefore.
    pub fn on_stop(&self, f: OnStop) {
        let _ = self.on_stop.set(f);
    }

    /// No task is left. Returns who is to be told.
    pub(crate) fn set_zombie(&self) -> Vec<OnExit> {
        let mut told = self.on_exit.lock();
        self.zombie.store(true, Ordering::SeqCst);
        std::mem::take(&mut *told)
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.zombie.load(Ordering::SeqCst)
    }

    /// Whether all its tasks are stopped by job control.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.signals.lock().jobs.stopped
    }

    /// A limit, by `RLIMIT_*`.
    #[must_use]
    pub fn limit(&self, index: u32) -> u64 {
        self.limits.lock().get(index as usize).map_or(u64::MAX, |limit| limit.cur)
    }

    /// Its threads, oldest first.
    #[must_use]
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }
}

impl Signals {
    /// What is done with a signal.
    #[must_use]
    pub fn action(&self, signo: i32) -> SigAction {
        let index = usize::try_from(signo).unwrap_or(0);
        self.actions.lock().get(index).copied().unwrap_or_default()
    }

    /// All actions, by number.
    #[must_use]
    pub fn actions(&self) -> Actions {
        *self.actions.lock()
    }

    /// Gives a signal its default action.
    pub(crate) fn set_default(&self, signo: i32) {
        self.change(signo, |action| action.handler = SIG_DFL);
    }

    fn change(&self, signo: i32, f: impl FnOnce(&mut SigAction)) {
        let index = usize::try_from(signo).unwrap_or(0);
        if let Some(action) = self.actions.lock().get_mut(index) {
            f(action);
        }
    }

    /// Handlers are gone with the program that had them; what was ignored stays so (execve(2)).
    pub(crate) fn reset_handlers(&mut self) {
        let mut actions = *self.actions.lock();
        for action in &mut actions {
            if action.handler != SIG_IGN {
                action.handler = SIG_DFL;
            }
            (action.flags, action.mask) = (0, abi::signal::SigSet(0));
        }
        self.actions = Arc::new(Mutex::new(actions));
    }
}
